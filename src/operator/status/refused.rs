//! Effect of refused objects on the conditions.

use super::condition::{ConditionUpdate, LONGEST_MESSAGE, cut};
use crate::operator::refusal::Summary;

/// Adds refused objects to `updates`, because running relays alone do not fulfill the PeerRelay.
///
/// A temporary refusal does not replace a problem that needs the user.
pub(super) fn apply(mut updates: Vec<ConditionUpdate>, refused: &Summary) -> Vec<ConditionUpdate> {
    let stalled = updates.iter().any(|update| update.kind == "Stalled");
    let needs_user = refused.cause.needs_user();
    if stalled && !needs_user {
        return updates;
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
    updates
}
