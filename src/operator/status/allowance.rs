//! Condition `WithinQuota`: the number of relays compared with the number that the tailnet's plan
//! allows.

use super::{
    Pass,
    condition::{ConditionUpdate, LONGEST_MESSAGE, cut, some},
};
use crate::operator::tailnet::Neighbour;

/// Nodes or PeerRelays that are named in a message.
const NAMED: usize = 10;

/// Returns `WithinQuota`, if a total applies. The relays of `neighbours` are in the same tailnet,
/// and the greatest total of all PeerRelays applies to the tailnet.
pub(super) fn update(pass: Pass<'_>, neighbours: &[Neighbour]) -> Option<ConditionUpdate> {
    let own_most = usize::from(pass.spec.max_relays?);
    let chosen = pass.plan.regions.iter().map(|r| r.nodes.chosen.as_ref());
    // Nothing is known before nodes have been looked at.
    let planned: usize = chosen.map(|nodes| nodes.map(Vec::len)).sum::<Option<_>>()?;
    let limits = neighbours.iter().filter_map(|other| other.limit);
    let most = limits.map(usize::from).fold(own_most, usize::max);
    let all = planned + neighbours.iter().map(|other| other.relays).sum::<usize>();
    let excess = pass.regions().flat_map(|region| {
        let named = move |node| format!("{} on {node}", region.name);
        region.plan.nodes.excess.iter().map(named)
    });
    let excess: Vec<_> = excess.collect();
    let within = excess.is_empty() && planned <= own_most && all <= most;
    let mut message = format!("{all} relays, at most {most} in total");
    if !neighbours.is_empty() {
        let mut shares = vec![format!("{planned} of this PeerRelay")];
        let of = |other: &Neighbour| format!("{} of {}", other.relays, other.name);
        shares.extend(neighbours.iter().map(of));
        message += &format!(
            " in the tailnet: {}",
            some(
                &shares,
                NAMED,
                "of other PeerRelays that share its control server and credential"
            )
        );
    }
    if planned > own_most || all > most {
        message += "; those that run are not stopped";
    }
    if !excess.is_empty() {
        message += &format!("; not scheduled: {}", some(&excess, NAMED, ""));
    }
    if !within {
        message += "; raise maxRelays if your plan allows more";
    }
    message += "; relays outside of this cluster, or with other credentials, are not known here";
    Some(ConditionUpdate {
        kind: "WithinQuota",
        status: if within { "True" } else { "False" },
        reason: if within {
            "WithinAllowance"
        } else {
            "AllowanceExceeded"
        }
        .to_owned(),
        message: cut(&message, LONGEST_MESSAGE),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::json;

    use super::*;
    use crate::operator::{
        fixtures::{Fixture, undecided},
        status::Outcome,
    };

    #[test]
    fn excess_is_named_and_bounded() {
        let mut relay = undecided(json!({}));
        relay.plan.regions[0].nodes.chosen = Some(vec!["n1".into(), "n2".into()]);
        let update = update_of(&relay, &[]).unwrap();
        assert_eq!(
            (update.status, &*update.reason),
            ("True", "WithinAllowance")
        );
        relay.plan.regions[0].nodes.excess = (3..5_000).map(|n| format!("n{n}")).collect();
        let update = update_of(&relay, &[]).unwrap();
        assert_eq!(
            (update.status, &*update.reason),
            ("False", "AllowanceExceeded")
        );
        let wanted = "2 relays, at most 2 in total; not scheduled: office on n3, office on n4,";
        assert!(update.message.starts_with(wanted), "{}", update.message);
        assert!(
            update.message.contains("and 4987 more"),
            "{}",
            update.message
        );
    }

    #[test]
    fn more_running_relays_than_allowed_are_said() {
        let mut relay = undecided(json!({"maxRelays": 1}));
        relay.plan.regions[0].nodes.chosen = Some(vec!["n1".into(), "n2".into()]);
        let update = update_of(&relay, &[]).unwrap();
        assert_eq!(update.status, "False");
        assert!(update.message.contains("not stopped"), "{}", update.message);
    }

    #[test]
    fn a_control_server_of_ones_own_has_no_quota() {
        let tailnet = json!({
            "authKey": {"secretName": "a"}, "controlURL": "https://control.example.net",
        });
        assert!(update_of(&undecided(json!({"tailnet": tailnet})), &[]).is_none());
    }

    #[test]
    fn relays_of_others_in_the_tailnet_count_and_are_named() {
        let mut relay = undecided(json!({}));
        relay.plan.regions[0].nodes.chosen = Some(vec!["n1".into(), "n2".into()]);
        let other = |relays, limit| Neighbour {
            name: "lab/other".into(),
            relays,
            limit,
        };
        let alone = update_of(&relay, &[other(0, Some(2))]).unwrap();
        assert_eq!(alone.status, "True", "{}", alone.message);
        let both = update_of(&relay, &[other(2, Some(2))]).unwrap();
        assert_eq!(both.status, "False");
        for part in [
            "4 relays, at most 2 in total in the tailnet: 2 of this PeerRelay, 2 of lab/other",
            "not stopped",
            "raise maxRelays",
            "relays outside of this cluster",
        ] {
            assert!(both.message.contains(part), "{}", both.message);
        }
        let raised = update_of(&relay, &[other(2, Some(4))]).unwrap();
        assert_eq!(raised.status, "True", "{}", raised.message);
        let many: Vec<_> = (0..5_000).map(|_| other(1, None)).collect();
        let many = update_of(&relay, &many).unwrap().message;
        assert!(many.contains("and 4991 more of other PeerRelays"), "{many}");
    }

    fn update_of(relay: &Fixture, neighbours: &[Neighbour]) -> Option<ConditionUpdate> {
        let Outcome::Applied(pass) = relay.outcome() else {
            return None;
        };
        super::update(pass, neighbours)
    }
}
