//! What refused objects make of the conditions.

use super::{ConditionUpdate, LONGEST_MESSAGE, cut};
use crate::operator::refusal::Summary;

/// Lets `updates` say what was refused: relays that run are not all that is wanted.
///
/// A refusal that passes leaves a problem that needs the user in the first place.
pub(super) fn apply(updates: &mut Vec<ConditionUpdate>, refused: &Summary) {
    let stalled = updates.iter().any(|update| update.kind == "Stalled");
    let needs_user = refused.cause.needs_user();
    if stalled && !needs_user {
        return;
    }
    updates.retain(|update| !matches!(update.kind, "Ready" | "Stalled" | "Reconciling"));
    let message = cut(&refused.message, LONGEST_MESSAGE);
    let update =
        |kind, status| ConditionUpdate::new(kind, status, refused.cause.reason(), &message);
    let detail = match needs_user {
        true => "Stalled",
        false => "Reconciling",
    };
    updates.splice(0..0, [update("Ready", "False"), update(detail, "True")]);
}
