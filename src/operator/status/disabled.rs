//! Status of a PeerRelay whose `spec.enabled` is false, and of relays that will be removed.

use super::{condition::ConditionUpdate, observed::Observed};
use crate::operator::plan::withdrawal::Leaving;

/// Reason of a disabled PeerRelay without relays.
pub(super) const DISABLED: &str = "Disabled";
/// Reason while withdrawn relays wait for their clients to leave.
pub(super) const WITHDRAWING: &str = "RelaysWithdrawing";

/// Sentence about relays that will be removed.
pub(super) fn message(leaving: &Leaving) -> String {
    format!(
        "{} relay(s) give out no more sessions and are removed when clients have left them, at the \
         latest at {}",
        leaving.relays, leaving.until
    )
}

/// Returns the conditions of a disabled PeerRelay. It is ready when no relay runs, because this is
/// the requested state.
pub(super) fn updates(observed: &Observed) -> Vec<ConditionUpdate> {
    let off = "spec.enabled is false: no relay runs, everything else stays as it is";
    if observed.counts.desired == 0 && observed.progress.leaving.is_none() {
        return vec![
            ConditionUpdate::new("Ready", "True", DISABLED, off),
            ConditionUpdate::new("RelaysAvailable", "False", DISABLED, off),
        ];
    }
    let leaving = observed.progress.leaving.as_ref().map_or_else(
        || format!("{} relay(s) are being stopped", observed.counts.desired),
        message,
    );
    vec![
        ConditionUpdate::new("Ready", "False", WITHDRAWING, &leaving),
        ConditionUpdate::new("Reconciling", "True", WITHDRAWING, &leaving),
        ConditionUpdate::new("RelaysAvailable", "False", DISABLED, &leaving),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::sync::Arc;

    use serde_json::json;

    use super::super::status;
    use crate::operator::{fixtures, plan::withdrawal::Leaving, view::ClusterView};

    fn conditions(desired: i32, leaving: Option<Leaving>) -> Vec<String> {
        let spec = json!({"enabled": false});
        let mut relay = fixtures::undecided(spec.clone());
        relay.plan.leaving = leaving;
        let set = json!({
            "metadata": {"name": "edge-office", "generation": 2},
            "status": {
                "observedGeneration": 2, "desiredNumberScheduled": desired,
                "numberReady": desired, "updatedNumberScheduled": desired,
                "currentNumberScheduled": desired, "numberMisscheduled": 0,
            },
        });
        let view = ClusterView {
            daemon_sets: vec![Arc::new(serde_json::from_value(set).unwrap())],
            ..ClusterView::default()
        };
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let status = status(&fixtures::relay(spec), &view, relay.outcome(), now);
        assert_eq!(status.grants.unwrap().config_map, "edge-grants");
        let text = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            format!("{}={}/{}", c.type_, c.status, c.reason)
        };
        status.conditions.iter().map(text).collect()
    }

    #[test]
    fn without_relays_it_is_ready() {
        assert_eq!(
            conditions(0, None),
            ["Ready=True/Disabled", "RelaysAvailable=False/Disabled"]
        );
    }

    #[test]
    fn while_relays_run_it_is_not() {
        let wanted = [
            "Ready=False/RelaysWithdrawing",
            "Reconciling=True/RelaysWithdrawing",
            "RelaysAvailable=False/Disabled",
        ];
        assert_eq!(conditions(1, None), wanted);
        let until = "2026-01-01T00:02:00Z".parse().unwrap();
        assert_eq!(conditions(1, Some(Leaving::for_tests(1, until))), wanted);
    }
}
