//! The status of a PeerRelay, from what the relays and their DaemonSets say. Pure.

mod disabled;
mod endpoints;
mod grants;
pub mod pods;
mod quota;
mod refused;
mod regions;
mod review;
mod verified;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{Event, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::ResourceExt;

use self::regions::Vacancy;
use super::{
    build::grants_status,
    host_ports::Taken,
    plan::Waiting,
    refusal::{Cause, Summary},
    tailnet::{self, Neighbour},
    validate::ValidatedRelay,
    withdrawal::Leaving,
};
use crate::{
    crd::{
        PeerRelay, PeerRelayStatus, RelayNode, exposure::ExposureType, peer_relay::RegionStatus,
    },
    firewall, names,
    relay::state::Reason as RelayReason,
};

/// Endpoints in the column for people.
const SHOWN_ENDPOINTS: usize = 10;
/// Longest message of a condition that is made of other messages, in characters.
const LONGEST_MESSAGE: usize = 1_024;

/// Longest address in the column for people, in characters; relays write what they like.
const LONGEST_ENDPOINT: usize = 64;
/// Longest reason taken from a relay, in characters.
const LONGEST_REASON: usize = 64;

/// Relays are in the tailnet under other names than they asked for.
const DEVICE_NAME_TAKEN: &str = "DeviceNameTaken";
/// Devices that are named in a message.
const NAMED_DEVICES: usize = 5;

/// Reasons that the operator finds itself; those of relays are in [`RelayReason`], those of pods in
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
struct Verdict {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

impl Verdict {
    fn new(kind: &'static str, status: &'static str, reason: &str, message: &str) -> Self {
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
    validated: Option<&ValidatedRelay>,
    seen: &Seen,
    outcome: Outcome<'_>,
    now: Timestamp,
) -> PeerRelayStatus {
    let mut observed = match validated {
        Some(_) => Observed::new(validated, seen),
        None => Observed::unchanged(relay, seen),
    };
    observed.review(relay, validated, seen, now);
    let generation = relay.metadata.generation.unwrap_or_default();
    let old = relay
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.conditions);
    let applied = matches!(outcome, Outcome::Applied | Outcome::Refused(_));
    let off = applied && observed.off;
    let mut verdicts = match off {
        true => disabled::verdicts(&observed),
        false => progress(&observed, outcome),
    };
    if !off {
        verdicts.extend(serving(&observed));
    }
    if applied && !off {
        verdicts.push(grants::condition(&observed.grants));
        verdicts.push(verified::verified(&seen.nodes));
        verdicts.push(endpoints::published(
            seen.nodes.iter().map(AsRef::as_ref),
            validated,
        ));
        verdicts.extend(validated.and_then(|relay| quota::verdict(relay, &seen.neighbours)));
    }
    if let Outcome::Refused(summary) = outcome {
        refused::tell(&mut verdicts, summary);
    }
    let mut conditions: Vec<_> = verdicts
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
    waiting: Option<Waiting>,
    /// `spec.enabled` is false.
    off: bool,
    leaving: Option<Leaving>,
    /// Regions without a relay.
    vacancies: regions::Vacancies,
    /// Regions with fewer relays ready than they should have, for people.
    incomplete: String,
    /// Relays that wait to be replaced, and for whom.
    held_back: Option<String>,
    endpoints: Vec<String>,
    sessions: i64,
    reports: usize,
    /// Relays whose device name another device has, and the names that they got.
    renamed: Vec<String>,
    grants: Vec<grants::RegionVerdict>,
    /// Problems by reason: message, and how many relays have it.
    problems: BTreeMap<String, (String, usize)>,
    /// The same for what keeps pods from running.
    troubles: pods::Troubles,
}

impl Observed {
    fn new(validated: Option<&ValidatedRelay>, seen: &Seen) -> Self {
        let mut observed = Self {
            off: validated.is_some_and(|relay| !relay.enabled),
            leaving: validated.and_then(|relay| relay.leaving.clone()),
            ..Self::default()
        };
        // Stores have no order, and a status that only changes its order would be written again.
        let mut nodes: Vec<&RelayNode> = seen.nodes.iter().map(AsRef::as_ref).collect();
        nodes.sort_by_key(|node| node.name_any());
        let refusals: Vec<&Event> = seen.refusals.iter().map(AsRef::as_ref).collect();
        let taken = Taken::new(&seen.rivals);
        for region in validated.map_or(&[][..], |relay| &relay.regions) {
            let nodes = nodes.iter().filter(|n| n.spec.region == region.name);
            let mut summary = RegionStatus {
                name: region.name.clone(),
                tag: region.tag.clone(),
                exposure: region.exposure.kind.as_str().to_owned(),
                nodes: count(region.plan.fitting),
                excess: count(region.plan.excess.len()),
                firewall: firewall::line(validated.map_or(0, |relay| relay.port), region),
                ..RegionStatus::default()
            };
            let waiting = region.plan.waiting.clone();
            observed.waiting = observed.waiting.or(waiting);
            for name in region.daemon_sets() {
                let mut sets = seen.daemon_sets.iter().map(AsRef::as_ref);
                let set = sets.find(|set: &&DaemonSet| set.name_any() == name);
                observed.note_daemon_set(set, &mut summary);
                observed.rolling_out |= seen.changed_sets.contains(&name);
                if let Some(set) = set {
                    observed.note_pods(set, &region.name, &seen.pods, &refusals, &taken);
                }
            }
            let grant = grants::judge(&region.grant, nodes.clone().copied());
            summary.grant = grant.state;
            observed.grants.push(grant);
            nodes.for_each(|node| observed.note_node(node, &mut summary));
            if let Some(vacancy) = Vacancy::of(region, summary.desired) {
                observed.vacancies.note(vacancy, region);
            }
            observed.regions.push(summary);
        }
        let counts: Vec<_> = (observed.regions.iter())
            .map(|region| (region.ready, region.desired))
            .collect();
        observed.held_back = validated.and_then(|relay| relay.held_back.clone());
        observed.rolling_out |= observed.held_back.is_some();
        observed.incomplete =
            validated.map_or_else(String::new, |relay| regions::incomplete(relay, &counts));
        observed
    }

    /// What runs of the regions that were there at the last look, as they are not looked at now.
    fn unchanged(relay: &PeerRelay, seen: &Seen) -> Self {
        let mut observed = Self::default();
        let mut nodes: Vec<&RelayNode> = seen.nodes.iter().map(AsRef::as_ref).collect();
        nodes.sort_by_key(|node| node.name_any());
        let name = relay.name_any();
        for last in relay.status.iter().flat_map(|status| &status.regions) {
            let mut summary = RegionStatus {
                desired: 0,
                ready: 0,
                granted_peers: 0,
                ..last.clone()
            };
            let labels = [
                (names::PEER_RELAY_LABEL, &name),
                (names::REGION_LABEL, &last.name),
            ];
            let sets = seen.daemon_sets.iter().filter(|set| {
                let mut labels = labels.iter();
                labels.all(|(label, value)| set.labels().get(*label) == Some(value))
            });
            sets.for_each(|set| observed.note_daemon_set(Some(set), &mut summary));
            let nodes = nodes.iter().filter(|n| n.spec.region == last.name);
            nodes.for_each(|node| observed.note_node(node, &mut summary));
            observed.regions.push(summary);
        }
        observed
    }

    /// Adds which clients of each region ask for sessions.
    fn review(
        &mut self,
        relay: &PeerRelay,
        validated: Option<&ValidatedRelay>,
        seen: &Seen,
        now: Timestamp,
    ) {
        let regions = validated.map_or(&[][..], |relay| &relay.regions);
        for (region, summary) in regions.iter().zip(&mut self.regions) {
            let nodes = seen.nodes.iter().map(AsRef::as_ref);
            let nodes = nodes.filter(|node: &&RelayNode| node.spec.region == region.name);
            let mut old = relay.status.iter().flat_map(|status| &status.regions);
            let old = old.find(|old| old.name == region.name);
            let old = old.map_or(&[][..], |old| &old.clients);
            let most = review::share(regions.len());
            summary.clients = review::review(&region.grant.clients, nodes, old, most, now);
        }
    }

    fn note_daemon_set(&mut self, set: Option<&DaemonSet>, summary: &mut RegionStatus) {
        let status = set.and_then(|set| set.status.as_ref());
        let Some((set, status)) = set.zip(status) else {
            self.rolling_out = true;
            return;
        };
        let (desired, ready) = (status.desired_number_scheduled, status.number_ready);
        summary.desired += desired;
        summary.ready += ready;
        self.desired += desired;
        self.ready += ready;
        let current = status.observed_generation == set.metadata.generation;
        let updated = status.updated_number_scheduled.unwrap_or(0) == desired;
        self.rolling_out |= !current || !updated || ready < desired;
    }

    fn note_pods(
        &mut self,
        set: &DaemonSet,
        region: &str,
        pods: &[Arc<Pod>],
        events: &[&Event],
        taken: &Taken,
    ) {
        let of_region = |pod: &&Pod| {
            let label = pod.labels().get(names::REGION_LABEL);
            let same_set =
                pod.labels().get(names::RELAY_LABEL) == set.labels().get(names::RELAY_LABEL);
            label.is_some_and(|label| label == region) && same_set
        };
        let mut pods: Vec<&Pod> = pods.iter().map(AsRef::as_ref).filter(of_region).collect();
        pods.sort_by_key(|pod| pod.name_any());
        for (trouble, (message, count)) in pods::troubles(set, &pods, events, taken) {
            self.troubles.entry(trouble).or_insert((message, 0)).1 += count;
        }
    }

    fn note_node(&mut self, node: &RelayNode, summary: &mut RegionStatus) {
        let Some(status) = &node.status else { return };
        self.reports += 1;
        self.sessions += status.sessions.open;
        summary.granted_peers = summary.granted_peers.max(status.granted_peers);
        if self.endpoints.len() < SHOWN_ENDPOINTS {
            let first = status.endpoints.first();
            self.endpoints
                .extend(first.map(|e| cut(&e.address, LONGEST_ENDPOINT)));
        }
        if let Some(device) = &status.tailnet
            && let Some(wanted) = &device.taken_name
        {
            let name = device.name.split('.').next().unwrap_or_default();
            let name = cut(name, names::LONGEST_LABEL);
            let wanted = cut(wanted, names::LONGEST_LABEL);
            self.renamed.push(format!("{name} instead of {wanted}"));
        }
        if let Some(reason) = &status.reason {
            let message = status.message.clone().unwrap_or_default();
            self.problems
                .entry(cut(reason, LONGEST_REASON))
                .or_insert((message, 0))
                .1 += 1;
        }
    }

    fn count(&self) -> String {
        let Self { desired, ready, .. } = self;
        let mut count = format!("{ready} of {desired} relays are ready");
        if !self.incomplete.is_empty() {
            count += &format!(" ({})", self.incomplete);
        }
        if let Some(held_back) = &self.held_back {
            count += &format!("; {held_back}");
        }
        cut(&count, LONGEST_MESSAGE)
    }

    /// The problem of most weight: one that needs the user, before one that passes.
    fn problem(&self) -> Option<Problem<'_>> {
        let troubles = self.troubles.iter().map(|(trouble, (message, count))| {
            (trouble.needs_user(), *count, trouble.as_str(), message)
        });
        self.relay_problems()
            .chain(troubles)
            .max()
            .map(Problem::new)
    }

    /// The same of what relays report.
    fn relay_problem(&self) -> Option<Problem<'_>> {
        self.relay_problems().max().map(Problem::new)
    }

    fn relay_problems(&self) -> impl Iterator<Item = (bool, usize, &str, &String)> {
        let needs_user = |reason: &str| {
            RelayReason::ALL
                .iter()
                .any(|r| r.as_str() == reason && r.needs_user())
        };
        self.problems.iter().map(move |(reason, (message, count))| {
            (needs_user(reason), *count, reason.as_str(), message)
        })
    }
}

/// Why relays are not ready.
struct Problem<'a> {
    reason: &'a str,
    message: String,
    needs_user: bool,
}

impl<'a> Problem<'a> {
    fn new((needs_user, count, reason, message): (bool, usize, &'a str, &String)) -> Self {
        let message = format!("{count} relay(s): {message}");
        Self {
            reason,
            message: cut(&message, LONGEST_MESSAGE),
            needs_user,
        }
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Whether relays are ready, and why not.
fn progress(observed: &Observed, outcome: Outcome<'_>) -> Vec<Verdict> {
    let desired = observed.desired;
    let count = observed.count();
    let mut verdicts = Vec::new();
    let mut push = |kind, status, reason: &str, message: &str| {
        verdicts.push(Verdict::new(kind, status, reason, message));
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
    verdicts
}

/// What serves, whatever is wanted.
fn serving(observed: &Observed) -> Vec<Verdict> {
    let count = observed.count();
    let mut verdicts = Vec::new();
    let mut push = |kind, status, reason: &str, message: &str| {
        verdicts.push(Verdict::new(kind, status, reason, message));
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
    verdicts
}

/// One sentence about relays that are in the tailnet under other names than they asked for.
fn renamed(names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED_DEVICES);
    let mut text = format!(
        "all relays that report are connected; other devices of the tailnet have the names of {} \
         of them: {}",
        names.len(),
        names[..names.len() - more].join(", ")
    );
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text + "; remove the other devices, or set tailnet.hostnamePrefix to something that is unique"
}

fn cut(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
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
