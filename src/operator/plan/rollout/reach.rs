//! Relays that no other relay has reached since their replacement.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::Node,
    jiff::{SignedDuration, Timestamp},
};
use kube::ResourceExt;

use crate::{
    crd::{RelayNode, probe::Verified},
    operator::probes::ProbeResults,
};

/// Time after which the roll-out no longer waits for a relay that is not reached. Cloud load
/// balancers take a few minutes to send to a new pod. A closed firewall is reported by a separate
/// condition.
const LIMIT: SignedDuration = SignedDuration::from_mins(5);
/// Taints of nodes that do not respond.
const DEAD: [&str; 3] = [
    "node.kubernetes.io/unreachable",
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/out-of-service",
];

/// The reports of a PeerRelay's relays and the state of their nodes.
pub(super) struct Reach<'a> {
    now: Timestamp,
    relays: &'a [Arc<RelayNode>],
    probes: ProbeResults<'a>,
    alive: HashSet<String>,
}

impl<'a> Reach<'a> {
    /// Collects the nodes of the cluster and the reports of one PeerRelay's relays.
    pub(super) fn new(nodes: &[Arc<Node>], relays: &'a [Arc<RelayNode>], now: Timestamp) -> Self {
        let answers = |node: &&Arc<Node>| {
            let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
            let mut taints = taints.into_iter().flatten();
            !taints.any(|taint| DEAD.contains(&&*taint.key))
        };
        Self {
            now,
            relays,
            probes: ProbeResults::new(relays),
            alive: nodes.iter().filter(answers).map(|n| n.name_any()).collect(),
        }
    }

    /// Returns whether a node is gone or does not respond.
    pub(super) fn is_dead(&self, node: &str) -> bool {
        !self.alive.contains(node)
    }

    /// Returns the nodes with a relay of `region` that the roll-out waits for, with the remaining
    /// time.
    pub(super) fn unreached(&self, region: &str) -> impl Iterator<Item = (String, Duration)> {
        let mut newest: BTreeMap<&str, &RelayNode> = BTreeMap::new();
        for relay in self.relays.iter().filter(|r| r.spec.region == region) {
            let latest = newest.entry(&relay.spec.node_name).or_insert(relay);
            if created(relay) >= created(latest) {
                *latest = relay;
            }
        }
        let alive = newest.into_iter().filter(|(node, _)| !self.is_dead(node));
        alive.filter_map(|(node, relay)| Some((node.to_owned(), self.remaining(relay)?)))
    }

    /// Returns the remaining time that the roll-out waits until another relay reaches that of
    /// `region` on `node`. `None` if one has reached it, if no other relay can probe it, or if the
    /// time is over.
    pub(super) fn awaited(&self, region: &str, node: &str) -> Option<Duration> {
        let here =
            |relay: &&Arc<RelayNode>| relay.spec.region == region && relay.spec.node_name == node;
        let of_pod = self.relays.iter().filter(here);
        self.remaining(of_pod.max_by_key(|relay| created(relay))?)
    }

    /// Returns the remaining time for the relay of this report, the newest on its node.
    fn remaining(&self, relay: &RelayNode) -> Option<Duration> {
        let node = &relay.spec.node_name;
        let probed = |relay: &RelayNode| {
            let status = relay.status.as_ref();
            status.is_some_and(|status| status.probe_key.is_some())
        };
        let tries = |other: &&Arc<RelayNode>| {
            probed(other) && other.spec.node_name != *node && !self.is_dead(&other.spec.node_name)
        };
        if !probed(relay) || !self.relays.iter().any(|other| tries(&other)) {
            return None;
        }
        let mut endpoints = relay.status.iter().flat_map(|status| &status.endpoints);
        let reached = endpoints.any(|endpoint| {
            let verification = self.probes.verify(relay, &endpoint.address);
            verification.verified == Verified::True
        });
        let age = self.now.duration_since(created(relay)?);
        let remaining = LIMIT.checked_sub(age)?;
        (!reached && remaining.is_positive())
            .then(|| remaining.unsigned_abs().min(LIMIT.unsigned_abs()))
    }
}

fn created(relay: &RelayNode) -> Option<Timestamp> {
    relay.creation_timestamp().map(|time| time.0)
}
