//! The status of a PeerRelay, from what the relays and their DaemonSets say. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::apps::v1::DaemonSet,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::ResourceExt;

use super::validate::ValidatedRelay;
use crate::{
    crd::{PeerRelay, PeerRelayStatus, RelayNode, peer_relay::RegionStatus},
    relay::state::Reason as RelayReason,
};

/// Endpoints in the column for people.
const SHOWN_ENDPOINTS: usize = 10;
/// Longest message of a condition that is made of other messages, in characters.
const LONGEST_MESSAGE: usize = 1_024;

/// Reasons that the operator finds itself; those of relays are in [`RelayReason`].
pub const REASONS: &[&str] = &[
    "RelaysReady",
    "RelaysStarting",
    "NoNodes",
    "NoRelayReady",
    "Connected",
    "NoReport",
    "Paused",
    "InvalidSpec",
    "NameTaken",
];

/// What status is about.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// Everything was applied.
    Applied,
    /// `spec.paused` is set; nothing was looked at.
    Paused,
    /// Something only the user can solve.
    Blocked {
        /// In CamelCase, documented.
        reason: &'static str,
        /// One sentence that names the fix.
        message: &'a str,
    },
}

/// Type, status, reason and message of a condition.
struct Verdict {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

/// Computes the status that `relay` should have.
pub fn status(
    relay: &PeerRelay,
    validated: Option<&ValidatedRelay>,
    daemon_sets: &[impl AsRef<DaemonSet>],
    nodes: &[impl AsRef<RelayNode>],
    outcome: Outcome<'_>,
    now: Timestamp,
) -> PeerRelayStatus {
    let observed = Observed::new(validated, daemon_sets, nodes);
    let generation = relay.metadata.generation.unwrap_or_default();
    let old = relay
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.conditions);
    let verdicts = verdicts(&observed, outcome);
    PeerRelayStatus {
        observed_generation: generation,
        conditions: verdicts
            .into_iter()
            .map(|v| condition(v, old, generation, now))
            .collect(),
        relays: format!("{}/{}", observed.ready, observed.desired),
        region_names: relay
            .spec
            .regions
            .iter()
            .map(|r| &*r.name)
            .collect::<Vec<_>>()
            .join(","),
        endpoints: observed.endpoints.join(","),
        sessions: observed.sessions,
        regions: observed.regions,
    }
}

/// The reason and message of `Ready`, to tell in an event when they change.
pub fn ready(status: &PeerRelayStatus) -> Option<&Condition> {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
}

#[derive(Default)]
struct Observed {
    regions: Vec<RegionStatus>,
    desired: i32,
    ready: i32,
    rolling_out: bool,
    endpoints: Vec<String>,
    sessions: i64,
    reports: usize,
    /// Problems by reason: message, and how many relays have it.
    problems: BTreeMap<String, (String, usize)>,
}

impl Observed {
    fn new(
        validated: Option<&ValidatedRelay>,
        daemon_sets: &[impl AsRef<DaemonSet>],
        nodes: &[impl AsRef<RelayNode>],
    ) -> Self {
        let mut observed = Self::default();
        // Stores have no order, and a status that only changes its order would be written again.
        let mut nodes: Vec<&RelayNode> = nodes.iter().map(AsRef::as_ref).collect();
        nodes.sort_by_key(|node| node.name_any());
        for region in validated.map_or(&[][..], |relay| &relay.regions) {
            let set = daemon_sets
                .iter()
                .map(AsRef::as_ref)
                .find(|d| d.name_any() == region.child);
            let nodes = nodes.iter().filter(|n| n.spec.region == region.name);
            let mut summary = RegionStatus {
                name: region.name.clone(),
                tag: region.tag.clone(),
                ..RegionStatus::default()
            };
            observed.note_daemon_set(set, &mut summary);
            nodes.for_each(|node| observed.note_node(node, &mut summary));
            observed.regions.push(summary);
        }
        observed.endpoints.truncate(SHOWN_ENDPOINTS);
        observed
    }

    fn note_daemon_set(&mut self, set: Option<&DaemonSet>, summary: &mut RegionStatus) {
        let status = set.and_then(|set| set.status.as_ref());
        let Some((set, status)) = set.zip(status) else {
            self.rolling_out = true;
            return;
        };
        summary.desired = status.desired_number_scheduled;
        summary.ready = status.number_ready;
        self.desired += summary.desired;
        self.ready += summary.ready;
        let current = status.observed_generation == set.metadata.generation;
        let updated = status.updated_number_scheduled.unwrap_or(0) == summary.desired;
        self.rolling_out |= !current || !updated || summary.ready < summary.desired;
    }

    fn note_node(&mut self, node: &RelayNode, summary: &mut RegionStatus) {
        let Some(status) = &node.status else { return };
        self.reports += 1;
        self.sessions += status.sessions.open;
        summary.granted_peers = summary.granted_peers.max(status.granted_peers);
        self.endpoints
            .extend(status.endpoints.first().map(|e| e.address.clone()));
        if let Some(reason) = &status.reason {
            let message = status.message.clone().unwrap_or_default();
            self.problems
                .entry(reason.clone())
                .or_insert((message, 0))
                .1 += 1;
        }
    }

    /// The problem of most weight: one that needs the user, before one that passes.
    fn problem(&self) -> Option<(&str, String, bool)> {
        let needs_user = |reason: &str| {
            RelayReason::ALL
                .iter()
                .any(|r| r.as_str() == reason && r.needs_user())
        };
        let problems = self.problems.iter().map(|(reason, (message, count))| {
            (needs_user(reason), *count, reason.as_str(), message)
        });
        let (user, count, reason, message) = problems.max()?;
        let message: String = format!("{count} relay(s): {message}")
            .chars()
            .take(LONGEST_MESSAGE)
            .collect();
        Some((reason, message, user))
    }
}

fn verdicts(observed: &Observed, outcome: Outcome<'_>) -> Vec<Verdict> {
    let Observed { desired, ready, .. } = observed;
    let count = format!("{ready} of {desired} relays are ready");
    let mut verdicts = Vec::new();
    let mut push = |kind, status, reason: &str, message: &str| {
        let (reason, message) = (reason.to_owned(), message.to_owned());
        verdicts.push(Verdict {
            kind,
            status,
            reason,
            message,
        });
    };
    match outcome {
        Outcome::Paused => {
            let message = "spec.paused is set: nothing is changed until it is false";
            push("Ready", "Unknown", "Paused", message);
            return verdicts;
        }
        Outcome::Blocked { reason, message } => {
            push("Ready", "False", reason, message);
            push("Stalled", "True", reason, message);
            return verdicts;
        }
        Outcome::Applied => {}
    }
    let problem = observed.problem();
    let stalled = problem.as_ref().filter(|(.., user)| *user);
    let all_ready = *desired > 0 && ready >= desired && !observed.rolling_out;
    if all_ready {
        push("Ready", "True", "RelaysReady", &count);
    } else if let Some((reason, message, _)) = &problem {
        push("Ready", "False", reason, message);
    } else if *desired == 0 && !observed.rolling_out {
        let message = "no node fits: check placement.nodeSelector and tolerations of the regions";
        push("Ready", "False", "NoNodes", message);
    } else {
        push("Ready", "False", "RelaysStarting", &count);
    }
    if !all_ready {
        match stalled {
            Some((reason, message, _)) => push("Stalled", "True", reason, message),
            None if *desired > 0 || observed.rolling_out => {
                push("Reconciling", "True", "RelaysStarting", &count);
            }
            None => {}
        }
    }
    match &problem {
        Some((reason, message, _)) => push("TailnetConnected", "False", reason, message),
        None if observed.reports == 0 => {
            push(
                "TailnetConnected",
                "Unknown",
                "NoReport",
                "no relay has reported yet",
            );
        }
        None => push(
            "TailnetConnected",
            "True",
            "Connected",
            "all relays that report are connected",
        ),
    }
    match ready {
        0 => push("RelaysAvailable", "False", "NoRelayReady", &count),
        _ => push("RelaysAvailable", "True", "RelaysReady", &count),
    }
    verdicts
}

fn condition(verdict: Verdict, old: &[Condition], generation: i64, now: Timestamp) -> Condition {
    let Verdict {
        kind,
        status,
        reason,
        message,
    } = verdict;
    let same = old.iter().find(|c| c.type_ == kind && c.status == status);
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason,
        message,
        observed_generation: Some(generation),
        last_transition_time: same.map_or(Time(now), |c| c.last_transition_time.clone()),
    }
}

/// Whether a report is about a relay of this PeerRelay.
pub fn is_report_of(node: &RelayNode, relay: &PeerRelay) -> bool {
    node.namespace() == relay.namespace() && node.spec.peer_relay == relay.name_any()
}

#[cfg(test)]
mod tests;
