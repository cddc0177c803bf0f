//! Whether the number of relays is what the tailnet's plan allows.

use super::Verdict;
use crate::operator::validate::ValidatedRelay;

/// Nodes that are named in a message.
const NAMED: usize = 10;

/// `WithinQuota`, where a total applies.
pub(super) fn verdict(relay: &ValidatedRelay) -> Option<Verdict> {
    let most = relay.max_relays?;
    let chosen = relay.regions.iter().map(|r| r.plan.chosen.as_ref());
    // Nothing is known before nodes have been looked at.
    let planned: usize = chosen.map(|nodes| nodes.map(Vec::len)).sum::<Option<_>>()?;
    let excess = relay.regions.iter().flat_map(|region| {
        let named = |node| format!("{} on {node}", region.name);
        region.plan.excess.iter().map(named)
    });
    let excess: Vec<_> = excess.collect();
    let within = excess.is_empty() && planned <= most.into();
    let mut message = format!("{planned} relays, at most {most} in total");
    if planned > most.into() {
        message += "; those that run are not stopped";
    }
    if !excess.is_empty() {
        let more = excess.len().saturating_sub(NAMED);
        message += &format!(
            "; not scheduled: {}",
            excess[..excess.len() - more].join(", ")
        );
        if more > 0 {
            message += &format!(" and {more} more");
        }
        message += "; raise maxRelays if your plan allows more";
    }
    Some(Verdict {
        kind: "WithinQuota",
        status: if within { "True" } else { "False" },
        reason: if within {
            "WithinAllowance"
        } else {
            "AllowanceExceeded"
        }
        .to_owned(),
        message,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::json;

    use super::*;
    use crate::operator::fixtures::validated;

    #[test]
    fn excess_is_named_and_bounded() {
        let mut relay = validated(json!({}));
        relay.regions[0].plan.chosen = Some(vec!["n1".into(), "n2".into()]);
        let verdict = verdict(&relay).unwrap();
        assert_eq!(
            (verdict.status, &*verdict.reason),
            ("True", "WithinAllowance")
        );
        relay.regions[0].plan.excess = (3..5_000).map(|n| format!("n{n}")).collect();
        let verdict = super::verdict(&relay).unwrap();
        assert_eq!(
            (verdict.status, &*verdict.reason),
            ("False", "AllowanceExceeded")
        );
        let wanted = "2 relays, at most 2 in total; not scheduled: office on n3, office on n4,";
        assert!(verdict.message.starts_with(wanted), "{}", verdict.message);
        assert!(
            verdict.message.contains("and 4987 more"),
            "{}",
            verdict.message
        );
    }

    #[test]
    fn more_running_relays_than_allowed_are_said() {
        let mut relay = validated(json!({"maxRelays": 1}));
        relay.regions[0].plan.chosen = Some(vec!["n1".into(), "n2".into()]);
        let verdict = verdict(&relay).unwrap();
        assert_eq!(verdict.status, "False");
        assert!(
            verdict.message.contains("not stopped"),
            "{}",
            verdict.message
        );
    }

    #[test]
    fn a_control_server_of_ones_own_has_no_quota() {
        let tailnet = json!({
            "authKey": {"secretName": "a"}, "controlURL": "https://control.example.net",
        });
        assert!(verdict(&validated(json!({"tailnet": tailnet}))).is_none());
    }
}
