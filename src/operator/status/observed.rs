//! The state of the relays of a PeerRelay, gathered from DaemonSets, pods and reports.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{Event, Pod},
    },
    jiff::Timestamp,
};
use kube::ResourceExt;

use super::{
    LONGEST_MESSAGE, Seen, cut, grants, pods,
    regions::{self, Vacancy},
    review,
};
use crate::{
    crd::{PeerRelay, RelayNode, peer_relay::RegionStatus, relay_reason::RelayReason},
    firewall, names,
    operator::{host_ports::Taken, plan::Waiting, validate::ValidSpec, withdrawal::Leaving},
};

/// Endpoints in the column for people.
const SHOWN_ENDPOINTS: usize = 10;
/// Longest address in the column for people, in characters; relays write what they like.
const LONGEST_ENDPOINT: usize = 64;
/// Longest reason taken from a relay, in characters.
const LONGEST_REASON: usize = 64;

/// The state of a PeerRelay's relays, gathered from its regions.
#[derive(Default)]
pub(super) struct Observed {
    pub(super) regions: Vec<RegionStatus>,
    pub(super) desired: i32,
    pub(super) ready: i32,
    pub(super) rolling_out: bool,
    pub(super) waiting: Option<Waiting>,
    /// `spec.enabled` is false.
    pub(super) off: bool,
    pub(super) leaving: Option<Leaving>,
    /// Regions without a relay.
    pub(super) vacancies: regions::Vacancies,
    /// Regions with fewer relays ready than they should have, for people.
    pub(super) incomplete: String,
    /// Relays that wait to be replaced, and for whom.
    pub(super) held_back: Option<String>,
    pub(super) endpoints: Vec<String>,
    pub(super) sessions: i64,
    pub(super) reports: usize,
    /// Relays whose device name another device has, and the names that they got.
    pub(super) renamed: Vec<String>,
    pub(super) grants: Vec<grants::RegionVerdict>,
    /// Problems by reason: message, and how many relays have it.
    pub(super) problems: BTreeMap<String, (String, usize)>,
    /// The same for what keeps pods from running.
    pub(super) troubles: pods::Troubles,
}

/// Whether the controller of DaemonSets has acted on the last change of `set`.
fn is_followed(set: &DaemonSet) -> bool {
    let observed = set.status.as_ref().and_then(|s| s.observed_generation);
    set.metadata.generation.is_none() || observed == set.metadata.generation
}

impl Observed {
    pub(super) fn new(relay: &ValidSpec, seen: &Seen) -> Self {
        let mut observed = Self {
            off: !relay.enabled,
            leaving: relay.leaving.clone(),
            ..Self::default()
        };
        // Stores have no order, and a status that only changes its order would be written again.
        let mut nodes: Vec<&RelayNode> = seen.nodes.iter().map(AsRef::as_ref).collect();
        nodes.sort_by_key(|node| node.name_any());
        let refusals: Vec<&Event> = seen.refusals.iter().map(AsRef::as_ref).collect();
        let taken = Taken::new(&seen.rivals);
        for region in &relay.regions {
            let nodes = nodes.iter().filter(|n| n.spec.region == region.name);
            let mut summary = RegionStatus {
                name: region.name.clone(),
                tag: region.tag.clone(),
                exposure: region.exposure.kind.as_str().to_owned(),
                nodes: count(region.plan.fitting),
                excess: count(region.plan.excess.len()),
                firewall: firewall::line(relay.port, region),
                ..RegionStatus::default()
            };
            let waiting = region.plan.waiting.clone();
            observed.waiting = observed.waiting.or(waiting);
            for name in region.daemon_sets() {
                let mut sets = seen.daemon_sets.iter().map(AsRef::as_ref);
                let set = sets.find(|set: &&DaemonSet| set.name_any() == name);
                observed.record_daemon_set(set, &mut summary);
                let changed = seen.changed_sets.contains(&name);
                observed.rolling_out |= changed;
                // Until its controller has seen a change, pods are those of the spec before, and what
                // keeps them from running may just have been mended.
                if let Some(set) = set.filter(|set| !changed && is_followed(set)) {
                    observed.record_pods(set, &region.name, &seen.pods, &refusals, &taken);
                }
            }
            let grant = grants::judge(&region.grant, nodes.clone().copied());
            summary.grant = grant.state;
            observed.grants.push(grant);
            nodes.for_each(|node| observed.record_node(node, &mut summary));
            if let Some(vacancy) = Vacancy::of(region, summary.desired) {
                observed.vacancies.record(vacancy, region);
            }
            observed.regions.push(summary);
        }
        let counts: Vec<_> = (observed.regions.iter())
            .map(|region| (region.ready, region.desired))
            .collect();
        observed.held_back = relay.held_back.clone();
        observed.rolling_out |= observed.held_back.is_some();
        observed.incomplete = regions::incomplete(relay, &counts);
        observed
    }

    /// What runs of the regions that were there at the last look, as they are not looked at now.
    pub(super) fn unchanged(relay: &PeerRelay, seen: &Seen) -> Self {
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
            sets.for_each(|set| observed.record_daemon_set(Some(set), &mut summary));
            let nodes = nodes.iter().filter(|n| n.spec.region == last.name);
            nodes.for_each(|node| observed.record_node(node, &mut summary));
            observed.regions.push(summary);
        }
        observed
    }

    /// Adds which clients of each region ask for sessions.
    pub(super) fn review(
        &mut self,
        relay: &PeerRelay,
        validated: &ValidSpec,
        seen: &Seen,
        now: Timestamp,
    ) {
        let regions = &validated.regions;
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

    fn record_daemon_set(&mut self, set: Option<&DaemonSet>, summary: &mut RegionStatus) {
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

    fn record_pods(
        &mut self,
        set: &DaemonSet,
        region: &str,
        pods: &[Arc<Pod>],
        events: &[&Event],
        taken: &Taken,
    ) {
        let pods = pods.iter().map(AsRef::as_ref);
        let mut pods: Vec<&Pod> = pods
            .filter(|pod| pods::is_pod_of(pod, set, region))
            .collect();
        pods.sort_by_key(|pod| pod.name_any());
        for (trouble, (message, count)) in pods::troubles(set, &pods, events, taken) {
            self.troubles.entry(trouble).or_insert((message, 0)).1 += count;
        }
    }

    fn record_node(&mut self, node: &RelayNode, summary: &mut RegionStatus) {
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

    pub(super) fn count(&self) -> String {
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
    pub(super) fn problem(&self) -> Option<Problem<'_>> {
        let troubles = self.troubles.iter().map(|(trouble, (message, count))| {
            (trouble.needs_user(), *count, trouble.as_str(), message)
        });
        self.relay_problems()
            .chain(troubles)
            .max()
            .map(Problem::new)
    }

    /// The same of what relays report.
    pub(super) fn relay_problem(&self) -> Option<Problem<'_>> {
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

/// The reason for which relays are not ready.
pub(super) struct Problem<'a> {
    pub(super) reason: &'a str,
    pub(super) message: String,
    pub(super) needs_user: bool,
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
