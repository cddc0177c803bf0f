//! The status of a PeerRelay, from what the relays and their DaemonSets say. Pure.

mod allowance;
mod disabled;
mod endpoints;
mod grants;
mod observed;
pub mod pods;
mod refused;
mod regions;
mod review;
mod verified;

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{Event, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::Serialize;
use serde_json::{Value, json};

use self::observed::Observed;
use super::{
    build::grants_status,
    plan::Waiting,
    refusal::{Cause, Summary},
    tailnet::{self, Neighbour},
    validate::ValidSpec,
};
use crate::{
    crd::{
        PeerRelay, PeerRelayStatus, RelayNode, exposure::ExposureType, peer_relay::RegionStatus,
    },
    names,
};

/// Longest message of a condition that is made of other messages, in characters.
const LONGEST_MESSAGE: usize = 1_024;

/// Relays are in the tailnet under other names than they asked for.
const DEVICE_NAME_TAKEN: &str = "DeviceNameTaken";
/// Devices that are named in a message.
const NAMED_DEVICES: usize = 5;

/// Reasons that the operator finds itself; those of relays are in
/// [`RelayReason`](crate::crd::relay_reason::RelayReason), those of pods in
/// [`pods::Trouble`].
pub const REASONS: &[&str] = &[
    "RelaysReady",
    "RelaysStarting",
    "NoNodes",
    "NodesTaken",
    "NoRelayReady",
    "Connected",
    DEVICE_NAME_TAKEN,
    "NoReport",
    "NodePortPending",
    "LoadBalancerPending",
    "ElasticIPMissing",
    "WithinAllowance",
    "AllowanceExceeded",
    "Paused",
    disabled::DISABLED,
    disabled::WITHDRAWING,
    "InvalidSpec",
    Cause::NameTaken.reason(),
    Cause::Rejected.reason(),
    Cause::Failed.reason(),
    grants::EFFECTIVE,
    grants::MISSING,
    grants::TOO_BROAD,
    grants::INCOMPLETE,
    grants::TAG_SHARED,
    grants::UNSEEN,
    grants::NOT_REPORTED,
    "Published",
    "NoEndpoints",
    "InvalidAnnotation",
    "Verified",
    "StaticEndpointUnreachable",
    "EndpointUnreachable",
    "NoOtherRelay",
    "NotTried",
];

/// What status is about.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// Everything was applied.
    Applied,
    /// Some objects were refused; the others were applied.
    Refused(&'a Summary),
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
pub(super) struct ConditionUpdate {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

impl ConditionUpdate {
    pub(super) fn new(
        kind: &'static str,
        status: &'static str,
        reason: &str,
        message: &str,
    ) -> Self {
        Self {
            kind,
            status,
            reason: reason.to_owned(),
            message: message.to_owned(),
        }
    }
}

/// What the cluster says about a PeerRelay, in any order.
#[derive(Debug, Default)]
pub struct Seen {
    /// DaemonSets of its namespace.
    pub daemon_sets: Vec<Arc<DaemonSet>>,
    /// Names of those that were changed a moment ago and may be seen as they were before.
    pub changed_sets: BTreeSet<String>,
    /// Reports of its relays.
    pub nodes: Vec<Arc<RelayNode>>,
    /// Pods of its relays.
    pub pods: Vec<Arc<Pod>>,
    /// Pods of all relays of the cluster, while a pod of this one waits for a node.
    pub rivals: Vec<Arc<Pod>>,
    /// Why pods of its namespace could not be made.
    pub refusals: Vec<Arc<Event>>,
    /// Other PeerRelays in the same tailnet.
    pub neighbours: Vec<Neighbour>,
}

/// Computes the status that `relay` should have.
pub fn status(
    relay: &PeerRelay,
    validated: Option<&ValidSpec>,
    seen: &Seen,
    outcome: Outcome<'_>,
    now: Timestamp,
) -> PeerRelayStatus {
    let observed = match validated {
        Some(validated) => {
            let mut observed = Observed::new(validated, seen);
            observed.review(relay, validated, seen, now);
            observed
        }
        None => Observed::unchanged(relay, seen),
    };
    let generation = relay.metadata.generation.unwrap_or_default();
    let old = relay
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.conditions);
    let applied = matches!(outcome, Outcome::Applied | Outcome::Refused(_));
    let off = applied && observed.off;
    let mut updates = match off {
        true => disabled::updates(&observed),
        false => progress(&observed, outcome),
    };
    if !off {
        updates.extend(serving(&observed));
    }
    if applied && !off {
        updates.push(grants::condition(&observed.grants));
        updates.push(verified::verified(&seen.nodes));
        updates.push(endpoints::published(
            seen.nodes.iter().map(AsRef::as_ref),
            validated,
        ));
        updates.extend(validated.and_then(|relay| allowance::update(relay, &seen.neighbours)));
    }
    if let Outcome::Refused(summary) = outcome {
        refused::apply(&mut updates, summary);
    }
    let mut conditions: Vec<_> = updates
        .into_iter()
        .map(|v| condition(v, old, generation, now))
        .collect();
    if validated.is_none() {
        keep_others(&mut conditions, old);
    }
    PeerRelayStatus {
        observed_generation: generation,
        conditions,
        relays: format!("{}/{}", observed.ready, observed.desired),
        region_names: relay
            .spec
            .regions
            .iter()
            .map(|r| &*r.name)
            .collect::<Vec<_>>()
            .join(","),
        exposure: exposure(relay),
        endpoints: observed.endpoints.join(","),
        sessions: observed.sessions,
        tailnet: tailnet::domain(seen.nodes.iter().map(AsRef::as_ref)),
        regions: observed.regions,
        grants: match validated {
            Some(validated) => grants_status(validated),
            None => relay.status.as_ref().and_then(|last| last.grants.clone()),
        },
    }
}

/// The request that gives this very PeerRelay the status `new`, and no other one of its name.
pub(super) fn patch(relay: &ObjectMeta, new: &impl Serialize) -> (PatchParams, Patch<Value>) {
    let patch = json!({
        "apiVersion": PeerRelay::api_version(&()),
        "kind": PeerRelay::kind(&()),
        "metadata": {"name": relay.name, "uid": relay.uid},
        "status": new,
    });
    let params = PatchParams::apply(names::STATUS_MANAGER).force();
    (params, Patch::Apply(patch))
}

/// Keeps what was found for an earlier spec, where nothing is found for this one. Why relays were
/// not ready then says nothing now.
fn keep_others(conditions: &mut Vec<Condition>, old: &[Condition]) {
    let is_judged = |all: &[Condition], type_: &str| {
        let mut all = all.iter();
        matches!(type_, "Ready" | "Stalled" | "Reconciling") || all.any(|c| c.type_ == type_)
    };
    let others = old.iter().filter(|c| !is_judged(conditions, &c.type_));
    let others: Vec<_> = others.cloned().collect();
    conditions.extend(others);
}

/// Every type of exposure once, for people.
fn exposure(relay: &PeerRelay) -> String {
    let kinds = relay.spec.regions.iter().map(|region| {
        let exposure = region.exposure.as_ref();
        exposure.map_or_else(ExposureType::default, |exposure| exposure.kind)
    });
    let kinds: BTreeSet<_> = kinds.collect();
    let texts: Vec<_> = kinds.into_iter().map(ExposureType::as_str).collect();
    texts.join(",")
}

/// Whether relays are ready, and why not.
fn progress(observed: &Observed, outcome: Outcome<'_>) -> Vec<ConditionUpdate> {
    let desired = observed.desired;
    let count = observed.count();
    let mut updates = Vec::new();
    let mut push = |kind, status, reason: &str, message: &str| {
        updates.push(ConditionUpdate::new(kind, status, reason, message));
    };
    match outcome {
        Outcome::Paused => {
            let message = "spec.paused is set: nothing is changed until it is false";
            push("Ready", "Unknown", "Paused", message);
            return updates;
        }
        Outcome::Blocked { reason, message } => {
            push("Ready", "False", reason, message);
            push("Stalled", "True", reason, message);
            return updates;
        }
        Outcome::Applied | Outcome::Refused(_) => {}
    }
    let problem = observed.problem();
    let stalled = problem.as_ref().filter(|problem| problem.needs_user);
    let leaving = observed.leaving.as_ref().map(disabled::message);
    let settled = !observed.rolling_out && observed.waiting.is_none() && leaving.is_none();
    let vacancy = observed.vacancies.first().filter(|_| settled);
    let complete = |region: &RegionStatus| region.ready >= region.desired;
    let complete = desired > 0 && observed.regions.iter().all(complete);
    let all_ready = complete && settled && vacancy.is_none();
    if all_ready {
        push("Ready", "True", "RelaysReady", &count);
    } else if let Some(problem) = &problem {
        push("Ready", "False", problem.reason, &problem.message);
    } else if let Some(Waiting { reason, message }) = &observed.waiting {
        push("Ready", "False", reason, message);
    } else if let Some(message) = leaving.as_ref().filter(|_| !observed.rolling_out) {
        push("Ready", "False", disabled::WITHDRAWING, message);
    } else if let Some((vacancy, message)) = &vacancy {
        push("Ready", "False", vacancy.as_str(), message);
    } else {
        push("Ready", "False", "RelaysStarting", &count);
    }
    if !all_ready {
        match stalled {
            Some(problem) => push("Stalled", "True", problem.reason, &problem.message),
            None if leaving.is_some() && !observed.rolling_out => {
                let message = leaving.as_deref().unwrap_or_default();
                push("Reconciling", "True", disabled::WITHDRAWING, message);
            }
            None if vacancy
                .as_ref()
                .is_some_and(|(vacancy, _)| vacancy.passes())
                || observed.rolling_out
                || desired > 0 && !(complete && settled) =>
            {
                push("Reconciling", "True", "RelaysStarting", &count);
            }
            None => {
                if let Some((vacancy, message)) = vacancy.filter(|(v, _)| v.needs_user()) {
                    push("Stalled", "True", vacancy.as_str(), &message);
                }
            }
        }
    }
    updates
}

/// What serves, whatever is wanted.
fn serving(observed: &Observed) -> Vec<ConditionUpdate> {
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
        None if observed.reports == 0 => {
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
    match observed.ready {
        0 => push("RelaysAvailable", "False", "NoRelayReady", &count),
        _ => push("RelaysAvailable", "True", "RelaysReady", &count),
    }
    updates
}

/// One sentence about relays that are in the tailnet under other names than they asked for.
fn renamed(names: &[String]) -> String {
    format!(
        "all relays that report are connected; other devices of the tailnet have the names of {} \
         of them: {}; remove the other devices, or set tailnet.hostnamePrefix to something that is \
         unique",
        names.len(),
        some(names, NAMED_DEVICES, "")
    )
}

/// The first `most` of `names`, and how many more there are of `what`.
fn some<T: AsRef<str>>(names: &[T], most: usize, what: &str) -> String {
    let (shown, more) = names.split_at(names.len().min(most));
    let shown: Vec<_> = shown.iter().map(AsRef::as_ref).collect();
    let mut text = shown.join(", ");
    if !more.is_empty() {
        text += format!(" and {} more {what}", more.len()).trim_end();
    }
    text
}

fn cut(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

pub(super) fn condition(
    update: ConditionUpdate,
    old: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Condition {
    let ConditionUpdate {
        kind,
        status,
        reason,
        message,
    } = update;
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
    node.metadata.namespace == relay.metadata.namespace
        && Some(&node.spec.peer_relay) == relay.metadata.name.as_ref()
}

/// Whether a report is of a pod that is not among those with these UIDs. Kubernetes removes such
/// reports, but may take its time: for half a minute after it has learned of RelayNodes it forgets
/// them.
pub fn has_lost_its_pod(node: &RelayNode, pods: &HashSet<&str>) -> bool {
    let mut owners = node.owner_references().iter();
    let pod = owners.find(|owner| owner.kind == "Pod");
    pod.is_some_and(|pod| !pods.contains(&*pod.uid))
}

#[cfg(test)]
mod tests;
