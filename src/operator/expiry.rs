//! Expiry of credentials: those that end soon, and the time at which the next one will. Pure.

use std::sync::Arc;

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::plan::Plan;
use crate::crd::RelayNode;

/// Days before its expiry from which on a credential is reported. The alert about node keys has the
/// same number.
const NOTICE_DAYS: i64 = 14;
/// Longest time until the next look.
const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Returns whether a credential has expired, or will within two weeks.
pub fn is_soon(expiry: Timestamp, now: Timestamp) -> bool {
    expiry.duration_since(now) <= SignedDuration::from_hours(24 * NOTICE_DAYS)
}

/// Lists the relays whose node key expires, with the time.
pub fn node_keys(reports: &[Arc<RelayNode>]) -> impl Iterator<Item = (Timestamp, String)> {
    reports.iter().filter_map(|report| {
        let device = report.status.as_ref()?.tailnet.as_ref()?;
        let expiry = device.key_expiry.as_ref()?.0;
        Some((expiry, report.name_any()))
    })
}

/// Returns the time of the next look: when the next credential is to be reported, a day from `now` at
/// most. `None` if no credential expires that is not reported yet.
pub fn next(plan: &Plan, reports: &[Arc<RelayNode>], now: Timestamp) -> Option<Timestamp> {
    let keys = node_keys(reports).map(|(expiry, _)| expiry);
    let all = keys.chain(plan.policy.credential_expires());
    let later = all.filter(|expiry| !is_soon(*expiry, now)).min()?;
    let wait = later.duration_since(now) - SignedDuration::from_hours(24 * NOTICE_DAYS);
    Some(now + wait.min(DAY))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::json;

    use super::*;
    use crate::{monitoring, operator::plan::PolicyPlan};

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn relay(name: &str, expiry: Option<&str>) -> Arc<RelayNode> {
        let tailnet = json!({"name": name, "nodeID": "n1", "keyExpiry": expiry});
        let node = json!({
            "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
            "metadata": {"name": name, "namespace": "relays"},
            "spec": {"peerRelay": "edge", "region": "office", "nodeName": "n1"},
            "status": {"ready": true, "version": "1", "dataPath": "Socket", "tailnet": tailnet},
        });
        Arc::new(serde_json::from_value(node).unwrap())
    }

    #[test]
    fn the_next_look_is_when_the_next_credential_is_to_be_reported() {
        let now = time("2026-06-01T00:00:00Z");
        let next_of = |policy: Option<&str>, keys: &[Option<&str>]| {
            let status = json!({"credentialExpires": policy});
            let plan = Plan {
                policy: PolicyPlan {
                    status: Some(serde_json::from_value(status).unwrap()),
                    ..PolicyPlan::default()
                },
                ..Plan::default()
            };
            let reports: Vec<_> = keys.iter().map(|key| relay("edge-1", *key)).collect();
            next(&plan, &reports, now)
        };
        assert_eq!(next_of(None, &[None]), None);
        let reported = [Some("2026-06-15T00:00:00Z"), Some("2026-05-01T00:00:00Z")];
        assert_eq!(next_of(None, &reported), None);
        let later = [
            None,
            Some("2026-06-15T02:00:00Z"),
            Some("2026-07-01T00:00:00Z"),
        ];
        assert_eq!(next_of(None, &later), Some(time("2026-06-01T02:00:00Z")));
        let policy = Some("2026-06-15T01:00:00Z");
        assert_eq!(next_of(policy, &later), Some(time("2026-06-01T01:00:00Z")));
        let far = Some("9000-01-01T00:00:00Z");
        assert_eq!(next_of(far, &[]), Some(time("2026-06-02T00:00:00Z")));
    }

    #[test]
    fn the_alert_about_node_keys_fires_as_early() {
        let rules = monitoring::alerts(monitoring::Scope::Relays, "").to_string();
        assert!(
            rules.contains(&format!("< {NOTICE_DAYS} * 86400")),
            "{rules}"
        );
    }
}
