//! Conditions `TailnetConnected` and `RelaysAvailable` of running relays.

use super::{
    condition::{ConditionUpdate, some},
    observed::Observed,
};

/// Reason of relays with other device names than requested.
pub(super) const DEVICE_NAME_TAKEN: &str = "DeviceNameTaken";
/// Most devices that a message names.
const NAMED_DEVICES: usize = 5;

/// Returns the conditions about running relays, regardless of the specification.
pub(super) fn updates(observed: &Observed) -> Vec<ConditionUpdate> {
    let count = observed.count();
    let mut updates = Vec::new();
    let mut push = |kind, status, reason: &str, message: &str| {
        updates.push(ConditionUpdate::new(kind, status, reason, message));
    };
    match &observed.relay_problem() {
        Some(problem) => push(
            "TailnetConnected",
            "False",
            problem.reason,
            &problem.message,
        ),
        None if observed.counts.reports == 0 => {
            push(
                "TailnetConnected",
                "Unknown",
                "NoReport",
                "no relay has reported yet",
            );
        }
        None if observed.renamed.is_empty() => push(
            "TailnetConnected",
            "True",
            "Connected",
            "all relays that report are connected",
        ),
        None => {
            let message = renamed(&observed.renamed);
            push("TailnetConnected", "True", DEVICE_NAME_TAKEN, &message);
        }
    }
    match observed.counts.ready {
        0 => push("RelaysAvailable", "False", "NoRelayReady", &count),
        _ => push("RelaysAvailable", "True", "RelaysReady", &count),
    }
    updates
}

/// Returns a sentence about relays with other device names than requested.
fn renamed(names: &[String]) -> String {
    format!(
        "all relays that report are connected; other devices of the tailnet have the names of {} \
         of them: {}; remove the other devices, or set tailnet.hostnamePrefix to something that is \
         unique",
        names.len(),
        some(names, NAMED_DEVICES, "")
    )
}
