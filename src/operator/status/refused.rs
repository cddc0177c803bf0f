//! What refused objects make of the conditions.

use super::{LONGEST_MESSAGE, Verdict, cut};
use crate::operator::refusal::Summary;

/// Lets `verdicts` say what was refused: relays that run are not all that is wanted.
///
/// A refusal that passes leaves a problem that needs the user in the first place.
pub(super) fn tell(verdicts: &mut Vec<Verdict>, refused: &Summary) {
    let stalled = verdicts.iter().any(|verdict| verdict.kind == "Stalled");
    let needs_user = refused.cause.needs_user();
    if stalled && !needs_user {
        return;
    }
    verdicts.retain(|verdict| !matches!(verdict.kind, "Ready" | "Stalled" | "Reconciling"));
    let message = cut(&refused.message, LONGEST_MESSAGE);
    let verdict = |kind, status| Verdict::new(kind, status, refused.cause.reason(), &message);
    let detail = match needs_user {
        true => "Stalled",
        false => "Reconciling",
    };
    verdicts.splice(0..0, [verdict("Ready", "False"), verdict(detail, "True")]);
}
