//! State of the relays of a PeerRelay, collected from DaemonSets, pods and reports.

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
    Pass,
    condition::{LONGEST_MESSAGE, cut},
    credential, grants, pods,
    regions::{self, Vacancy},
    review,
};
use crate::{
    crd::{PeerRelay, RelayNode, peer_relay::RegionStatus, relay_reason::RelayReason},
    firewall, names,
    operator::{
        credential::CredentialProblem,
        daemon_sets,
        host_ports::{Taken, is_unscheduled},
        plan::{Region, Waiting, withdrawal::Leaving},
        view::ClusterView,
    },
};

/// Maximum number of endpoints in the printed column.
const SHOWN_ENDPOINTS: usize = 10;
/// Longest address in the printed column, in characters. Reports may contain longer texts.
const LONGEST_ENDPOINT: usize = 64;
/// Longest reason taken from a relay, in characters.
const LONGEST_REASON: usize = 64;

/// State of the relays of a PeerRelay, collected from its regions.
#[derive(Default)]
pub(super) struct Observed {
    pub(super) regions: Vec<RegionStatus>,
    pub(super) counts: Counts,
    pub(super) progress: Progress,
    /// Regions without a relay.
    pub(super) vacancies: regions::Vacancies,
    /// First addresses of relays.
    pub(super) endpoints: Vec<String>,
    /// Relays that got another device name because theirs was in use, with the new names.
    pub(super) renamed: Vec<String>,
    pub(super) grants: Vec<grants::RegionVerdict>,
    problems: Problems,
}

/// Numbers of relays and sessions over all regions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) desired: i32,
    pub(super) ready: i32,
    pub(super) reports: usize,
    pub(super) sessions: i64,
}

/// Remaining work until the cluster matches the plan.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) rolling_out: bool,
    /// First condition that relays wait for.
    pub(super) waiting: Option<Waiting>,
    /// Relays that will be removed.
    pub(super) leaving: Option<Leaving>,
    /// Sentence about relays that wait to be replaced.
    deferred: Option<String>,
    /// Numbers of regions with fewer ready relays than they should have.
    incomplete: String,
}

/// Problems by reason, each with its message and the number of relays.
#[derive(Default)]
struct Problems {
    /// Problems that relays report.
    relays: BTreeMap<String, (String, usize)>,
    /// Problems that keep pods from running.
    pods: pods::Troubles,
    /// Problem of the credential, if a relay waits for an auth key because of it.
    credential: Option<CredentialProblem>,
}

impl Observed {
    /// Collects the state of the planned relays.
    pub(super) fn new(
        relay: &PeerRelay,
        pass: Pass<'_>,
        view: &ClusterView,
        now: Timestamp,
    ) -> Self {
        let mut observed = Self::default();
        // Stores have no order, and a status with another order would be written again.
        let mut reports: Vec<&RelayNode> = view.reports.iter().map(AsRef::as_ref).collect();
        reports.sort_by_key(|report| report.name_any());
        let pods = PodsView::new(view);
        for region in pass.regions() {
            let reports = reports.iter().copied();
            let reports = reports.filter(|report| report.spec.region == region.name);
            let mut summary = summary(pass, region);
            let waiting = region.plan.start.waiting.clone();
            observed.progress.waiting = observed.progress.waiting.or(waiting);
            for name in region.daemon_sets() {
                let mut sets = view.daemon_sets.iter().map(AsRef::as_ref);
                let set = sets.find(|set: &&DaemonSet| set.name_any() == name);
                observed.record_daemon_set(set, &mut summary);
                let changed = pass.objects.stage.changed_sets.contains(&name);
                observed.progress.rolling_out |= changed;
                // Until the DaemonSet controller has observed a change, the pods have the previous
                // spec, and their problem may be fixed already.
                if let Some(set) = set.filter(|set| !changed && daemon_sets::is_observed(set)) {
                    observed.record_pods(set, &region.name, &pods);
                }
            }
            let grant = grants::judge(&region.grant, reports.clone());
            summary.grant = grant.state;
            observed.grants.push(grant);
            summary.clients = clients(relay, pass, region, reports.clone(), now);
            reports.for_each(|report| observed.record_report(report, &mut summary));
            if let Some(vacancy) = Vacancy::of(region, summary.desired) {
                observed.vacancies.record(vacancy, region);
            }
            observed.regions.push(summary);
        }
        let failed = view.issuing.last.clone().and_then(Result::err);
        observed.problems.credential = failed.filter(|_| credential::is_waiting(pass));
        let progress = &mut observed.progress;
        progress.leaving.clone_from(&pass.plan.leaving);
        progress.deferred.clone_from(&pass.objects.deferred.message);
        progress.rolling_out |= progress.deferred.is_some();
        progress.incomplete = regions::incomplete(&observed.regions);
        observed
    }

    /// Collects the state of the relays from the last status, because this pass has no plan.
    pub(super) fn unchanged(relay: &PeerRelay, view: &ClusterView) -> Self {
        let mut observed = Self::default();
        let mut reports: Vec<&RelayNode> = view.reports.iter().map(AsRef::as_ref).collect();
        reports.sort_by_key(|report| report.name_any());
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
            let sets = view.daemon_sets.iter().filter(|set| {
                let mut labels = labels.iter();
                labels.all(|(label, value)| set.labels().get(*label) == Some(value))
            });
            sets.for_each(|set| observed.record_daemon_set(Some(set), &mut summary));
            let reports = reports.iter().filter(|r| r.spec.region == last.name);
            reports.for_each(|report| observed.record_report(report, &mut summary));
            observed.regions.push(summary);
        }
        observed
    }

    fn record_daemon_set(&mut self, set: Option<&DaemonSet>, summary: &mut RegionStatus) {
        let status = set.and_then(|set| set.status.as_ref());
        let Some((set, status)) = set.zip(status) else {
            self.progress.rolling_out = true;
            return;
        };
        let (desired, ready) = (status.desired_number_scheduled, status.number_ready);
        summary.desired += desired;
        summary.ready += ready;
        self.counts.desired += desired;
        self.counts.ready += ready;
        // Until the controller has observed a change, its numbers are about the previous specification.
        let current = status.observed_generation == set.metadata.generation;
        let updated = status.updated_number_scheduled.unwrap_or(0) == desired;
        self.progress.rolling_out |= !current || !updated || ready < desired;
    }

    fn record_pods(&mut self, set: &DaemonSet, region: &str, view: &PodsView<'_>) {
        let pods = view.own.iter().map(AsRef::as_ref);
        let mut pods: Vec<&Pod> = pods
            .filter(|pod| daemon_sets::has_pod(set, region, pod))
            .collect();
        pods.sort_by_key(|pod| pod.name_any());
        let troubles = pods::troubles(set, &pods, &view.refusals, &view.taken);
        for (trouble, (message, count)) in troubles {
            let entry = self.problems.pods.entry(trouble);
            entry.or_insert((message, 0)).1 += count;
        }
    }

    fn record_report(&mut self, report: &RelayNode, summary: &mut RegionStatus) {
        let Some(status) = &report.status else { return };
        self.counts.reports += 1;
        self.counts.sessions += status.sessions.open;
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
                .relays
                .entry(cut(reason, LONGEST_REASON))
                .or_insert((message, 0))
                .1 += 1;
        }
    }

    /// Returns a sentence with the number of ready relays and the missing ones.
    pub(super) fn count(&self) -> String {
        let Counts { desired, ready, .. } = self.counts;
        let mut count = format!("{ready} of {desired} relays are ready");
        if !self.progress.incomplete.is_empty() {
            count += &format!(" ({})", self.progress.incomplete);
        }
        if let Some(deferred) = &self.progress.deferred {
            count += &format!("; {deferred}");
        }
        cut(&count, LONGEST_MESSAGE)
    }

    /// Returns the most severe problem. Problems that need the user come before temporary ones.
    pub(super) fn problem(&self) -> Option<Problem<'_>> {
        let pods = self
            .problems
            .pods
            .iter()
            .map(|(trouble, (message, count))| {
                (trouble.needs_user(), *count, trouble.as_str(), message)
            });
        let credential = self.problems.credential.as_ref();
        if let Some(problem) = credential.filter(|problem| problem.needs_user) {
            return Some(Problem {
                reason: problem.reason,
                message: cut(&problem.message, LONGEST_MESSAGE),
                needs_user: true,
            });
        }
        self.relay_problems().chain(pods).max().map(Problem::new)
    }

    /// Returns the most severe problem that relays report.
    pub(super) fn relay_problem(&self) -> Option<Problem<'_>> {
        self.relay_problems().max().map(Problem::new)
    }

    fn relay_problems(&self) -> impl Iterator<Item = (bool, usize, &str, &String)> {
        let needs_user = |reason: &str| {
            RelayReason::ALL
                .iter()
                .any(|r| r.as_str() == reason && r.needs_user())
        };
        let problems = self.problems.relays.iter();
        problems.map(move |(reason, (message, count))| {
            (needs_user(reason), *count, reason.as_str(), message)
        })
    }
}

/// The pods of a PeerRelay, and the events and ports that explain why they do not run.
struct PodsView<'a> {
    own: &'a [Arc<Pod>],
    refusals: Vec<&'a Event>,
    /// Ports that relays have of nodes; empty unless a pod waits for a node.
    taken: Taken,
}

impl<'a> PodsView<'a> {
    fn new(view: &'a ClusterView) -> Self {
        let taken = match view.own_pods.iter().any(|pod| is_unscheduled(pod)) {
            true => Taken::new(&view.pods),
            false => Taken::default(),
        };
        Self {
            own: &view.own_pods,
            refusals: view.pod_refusals.iter().map(AsRef::as_ref).collect(),
            taken,
        }
    }
}

/// The status of a region before its relays are counted.
fn summary(pass: Pass<'_>, region: Region<'_>) -> RegionStatus {
    let assigned = region.plan.access.addresses.values().flatten();
    let ports = firewall::Ports {
        listens: pass.spec.port,
        relays: region.max_relays,
        exposure: &region.exposure,
        assigned: assigned.map(|address| address.port()).collect(),
    };
    RegionStatus {
        name: region.name.clone(),
        tag: region.tag.clone(),
        exposure: region.exposure.kind.as_str().to_owned(),
        nodes: count(region.plan.nodes.fitting),
        excess: count(region.plan.nodes.excess.len()),
        firewall: ports.summary(),
        ..RegionStatus::default()
    }
}

/// The clients of a region, with the time at which they last asked for a session.
fn clients<'a>(
    relay: &PeerRelay,
    pass: Pass<'_>,
    region: Region<'_>,
    reports: impl Iterator<Item = &'a RelayNode> + Clone,
    now: Timestamp,
) -> Vec<crate::crd::grants::ClientStatus> {
    let mut old = relay.status.iter().flat_map(|status| &status.regions);
    let old = old.find(|old| old.name == region.name);
    let old = old.map_or(&[][..], |old| &old.clients);
    let most = review::share(pass.spec.regions.len());
    review::review(&region.grant.clients, reports, old, most, now)
}

/// Returns the reason why relays are not ready.
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
