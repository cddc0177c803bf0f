//! `DevicesDeleted`: devices of removed relays that the operator cannot delete.

use super::{
    Pass,
    condition::{ConditionUpdate, LONGEST_MESSAGE, cut, some},
};
use crate::operator::devices::Deleting;

/// Devices that the message names.
const NAMED: usize = 5;

/// `DevicesDeleted`, if devices are to be deleted and cannot be.
pub(super) fn update(pass: Pass<'_>, deleting: &Deleting) -> Option<ConditionUpdate> {
    let due = &pass.plan.devices.due;
    let problem = deleting.problem.as_ref().filter(|_| !due.is_empty())?;
    let names: Vec<_> = due.iter().map(|device| &device.name).collect();
    let names = some(&names, NAMED, "devices");
    let message = format!("{names}: {}", problem.message);
    let message = cut(&message, LONGEST_MESSAGE);
    let kind = "DevicesDeleted";
    Some(ConditionUpdate::new(
        kind,
        "False",
        problem.reason,
        &message,
    ))
}
