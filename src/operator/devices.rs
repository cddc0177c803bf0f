//! Tailnet devices of a PeerRelay's relays: those that are recorded in its status, and those that
//! were deleted. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::credential::CredentialProblem;
use crate::{
    crd::{
        RelayNode,
        device::{LONGEST_NODE_ID, MOST_DEVICES, RelayDevice},
        relay_node::NodeTailnet,
    },
    names,
};

/// Results of the operator's attempts to delete devices of one PeerRelay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deleting {
    /// IDs of devices that are no longer in the tailnet, or that the operator must not delete.
    pub done: BTreeSet<String>,
    /// Reason why devices could not be deleted.
    pub problem: Option<CredentialProblem>,
}

/// The devices of a PeerRelay, by their IDs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// Devices of relays that report them.
    pub live: BTreeMap<String, RelayDevice>,
    /// Devices that no relay reports.
    pub unreported: BTreeMap<String, RelayDevice>,
}

impl Devices {
    /// Combines the devices that are recorded in a status with those of the reports, without those
    /// that are `done`. `tag` returns the tag of a region. A device of an unknown region is not added.
    pub fn new(
        recorded: &[RelayDevice],
        reports: &[Arc<RelayNode>],
        done: &BTreeSet<String>,
        tag: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let mut recorded: BTreeMap<_, _> = recorded
            .iter()
            .map(|device| (device.node_id.clone(), device.clone()))
            .collect();
        let mut reported: Vec<_> = reports.iter().filter_map(|r| device(r)).collect();
        reported.sort_by_key(|(_, device)| &device.node_id);
        let mut devices = Self::default();
        for (report, device) in reported {
            let earlier = recorded.remove(&device.node_id);
            let of_region = tag(&report.spec.region);
            // A device may keep the tag of an earlier specification.
            let tag = match earlier.map(|earlier| earlier.tag) {
                Some(tag) => of_region
                    .filter(|new| device.tags.contains(new))
                    .unwrap_or(tag),
                None => match of_region {
                    Some(tag) => tag,
                    None => continue,
                },
            };
            let record = RelayDevice {
                node_id: device.node_id.clone(),
                name: device.name.chars().take(names::LONGEST_NAME).collect(),
                region: report.spec.region.clone(),
                node: report.spec.node_name.clone(),
                tag,
                removed_since: None,
            };
            devices.live.insert(record.node_id.clone(), record);
        }
        recorded.retain(|id, _| !done.contains(id));
        devices.unreported = recorded;
        // The status has a limit. Devices that no relay reports come first, because only the record knows
        // of them.
        let room = MOST_DEVICES.saturating_sub(devices.unreported.len());
        while devices.live.len() > room {
            devices.live.pop_last();
        }
        devices
    }

    /// Returns whether a relay on the same node and of the same region has another device now.
    pub fn is_replaced(&self, device: &RelayDevice) -> bool {
        let mut live = self.live.values();
        live.any(|other| other.region == device.region && other.node == device.node)
    }

    /// All devices, ordered by their IDs.
    pub fn into_records(self) -> Vec<RelayDevice> {
        let mut all = self.unreported;
        all.extend(self.live);
        all.into_values().collect()
    }
}

/// Returns whether one of `pods` is a relay of the region and node of a device.
pub fn has_pod(device: &RelayDevice, pods: &[Arc<Pod>]) -> bool {
    pods.iter().any(|pod| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        node == Some(&device.node) && pod.labels().get(names::REGION_LABEL) == Some(&device.region)
    })
}

/// The device of a report. The relay writes the ID, so only those of the usual form count.
fn device(report: &RelayNode) -> Option<(&RelayNode, &NodeTailnet)> {
    let device = report.status.as_ref()?.tailnet.as_ref()?;
    let id = &device.node_id;
    let is_id = (1..=LONGEST_NODE_ID).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_id.then_some((report, device))
}
