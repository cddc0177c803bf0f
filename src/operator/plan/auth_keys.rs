//! The auth keys of relays that request one: those that exist, and those that are to be created.
//! Pure.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::{
    config::issued_keys::{ISSUED_KEYS_KEY, IssuedKeys},
    crd::RelayNode,
    names,
    operator::{
        validate::{Credential, ValidRegion, ValidSpec},
        view::ClusterView,
    },
};

/// Most auth keys of a region that wait for their relays: a ConfigMap has a limit.
const MOST_WAITING: usize = 1_000;
/// Length of a request, a public key in hex.
const REQUEST_LEN: usize = 64;

/// A relay that requests an auth key, which does not exist yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedKey {
    /// Name of the relay's RelayNode and pod.
    pub relay: String,
    /// Node of the relay.
    pub node: String,
    /// Public key to which the auth key is sealed.
    pub request: String,
    /// Tag of the relay's device.
    pub tag: String,
    /// True if the relay's device is ephemeral.
    pub ephemeral: bool,
}

/// The auth keys of a region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegionKeys {
    /// Auth keys that relays have not used yet.
    pub issued: IssuedKeys,
    /// Auth keys to create.
    pub wanted: Vec<WantedKey>,
}

/// Plans the auth keys of a region's relays. A key whose relay no longer requests it is left out:
/// the relay has used it, or is gone.
pub(super) fn plan(spec: &ValidSpec, region: &ValidRegion, view: &ClusterView) -> RegionKeys {
    let mut keys = RegionKeys::default();
    if !matches!(spec.tailnet.credential, Credential::Api(_)) {
        return keys;
    }
    let stored: IssuedKeys = view.entry(&region.child, ISSUED_KEYS_KEY);
    let pods: HashMap<String, &Pod> = view
        .own_pods
        .iter()
        .map(|pod| (pod.name_any(), &**pod))
        .collect();
    let mut reports: BTreeMap<String, (&RelayNode, &str)> = BTreeMap::new();
    for report in &view.reports {
        let pod = pods.get(&report.name_any());
        if let Some(request) = request(report)
            && pod.is_some_and(|pod| runs(pod, report, region))
            && reports.len() < MOST_WAITING
        {
            reports.insert(report.name_any(), (report, request));
        }
    }
    for (relay, (report, request)) in reports {
        let answer = stored.answer(&relay, request).cloned();
        let answer = answer.or_else(|| view.issuing.issued.answer(&relay, request).cloned());
        match answer {
            Some(issued) => drop(keys.issued.0.insert(relay, issued)),
            None => keys.wanted.push(WantedKey {
                node: report.spec.node_name.clone(),
                request: request.to_owned(),
                tag: region.tag.clone(),
                ephemeral: spec.is_ephemeral(region),
                relay,
            }),
        }
    }
    keys
}

/// The request of a relay for an auth key.
fn request(report: &RelayNode) -> Option<&str> {
    let request = report.status.as_ref()?.auth_key_request.as_deref()?;
    let is_key = request.len() == REQUEST_LEN && request.bytes().all(|b| b.is_ascii_hexdigit());
    is_key.then_some(request)
}

/// Returns whether a report is that of a pod of the region. Without the admission policy, a relay
/// could write a report about another region, and would get an auth key with its tag.
fn runs(pod: &Pod, report: &RelayNode, region: &ValidRegion) -> bool {
    let own_region = |name: &String| *name == region.name && report.spec.region == region.name;
    let owners = report.owner_references();
    pod.labels()
        .get(names::REGION_LABEL)
        .is_some_and(own_region)
        && owners
            .iter()
            .any(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref())
}

#[cfg(test)]
mod tests;
