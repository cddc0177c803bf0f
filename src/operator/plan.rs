//! What the cluster decides about a PeerRelay: nodes, and the addresses that lead to its relays.
//! Pure: from what watches have seen to a plan that builders carry out.

mod addresses;
mod endpoints;
mod fit;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Node, Service};

use super::validate::ValidatedRelay;

/// What the cluster has, as far as it matters to a PeerRelay.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// Services of the operator in the PeerRelay's namespace.
    pub services: Vec<Arc<Service>>,
}

/// What the cluster decides about a region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Addresses that lead to each relay, by node; relays advertise them before all others.
    pub endpoints: BTreeMap<String, Vec<SocketAddr>>,
    /// Relays are not started before this is there.
    pub waiting: Option<Waiting>,
    /// Nodes whose annotation with endpoints cannot be read.
    pub bad_annotations: BTreeSet<String>,
}

/// What a region waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// In CamelCase, documented.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

/// Plans every region of `relay`.
pub fn plan(relay: &mut ValidatedRelay, seen: &Surroundings) {
    for region in &mut relay.regions {
        let (endpoints, waiting) = match endpoints::endpoints(region, seen) {
            Ok(endpoints) => (endpoints, None),
            Err(waiting) => (BTreeMap::new(), Some(waiting)),
        };
        region.plan = Plan {
            endpoints,
            waiting,
            ..Plan::default()
        };
        addresses::complete(region, seen);
    }
}
