//! Tailnet devices to keep in the status, and those to delete. Pure.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp, Unit};
use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::Time};

use super::NodePlan;
use crate::{
    crd::device::RelayDevice,
    operator::{
        devices::{Devices, has_pod},
        validate::ValidSpec,
        view::ClusterView,
    },
};

/// Time after which a device is deleted whose node is gone, or has no relay any more.
pub(super) const GRACE: SignedDuration = SignedDuration::from_secs(120);

/// The devices of a PeerRelay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DevicePlan {
    /// True if the operator deletes the devices of removed relays.
    pub deletes: bool,
    /// Devices for the status.
    pub recorded: Vec<RelayDevice>,
    /// Devices to delete now.
    pub due: Vec<RelayDevice>,
    /// Time at which another device is to be deleted.
    pub next: Option<Timestamp>,
}

/// Plans the devices of a PeerRelay. None is recorded if devices are not deleted.
pub(super) fn plan(
    spec: &ValidSpec,
    nodes: &[NodePlan],
    view: &ClusterView,
    now: Timestamp,
) -> DevicePlan {
    if spec.tailnet.deletion_credential.is_none() {
        return DevicePlan::default();
    }
    let tag = |region: &str| {
        let mut regions = spec.regions.iter();
        regions.find(|r| r.name == region).map(|r| r.tag.clone())
    };
    let mut devices = Devices::new(&view.devices, &view.reports, &view.deleting.done, tag);
    let by_name: HashMap<_, &Node> = (view.nodes.iter())
        .filter_map(|node| Some((node.metadata.name.as_deref()?, &**node)))
        .collect();
    // The API stores whole seconds. With a fraction, the stored time would differ from this one.
    let now = now.round(Unit::Second).unwrap_or(now);
    let mut plan = DevicePlan {
        deletes: true,
        ..DevicePlan::default()
    };
    let mut unreported = std::mem::take(&mut devices.unreported);
    for device in unreported.values_mut() {
        let node = by_name.get(&*device.node).copied();
        let is_replaced = devices.is_replaced(device);
        let grace = match grace(spec, nodes, device, node) {
            // Another device has its place, so it does not come back.
            _ if is_replaced => SignedDuration::ZERO,
            Some(grace) => grace,
            None => {
                device.removed_since = None;
                continue;
            }
        };
        let since = device.removed_since.get_or_insert(Time(now)).0;
        let at = since.saturating_add(grace).unwrap_or(now);
        if !is_replaced && has_pod(device, &view.own_pods) {
            // The end of the pod causes another pass.
        } else if at <= now {
            plan.due.push(device.clone());
        } else {
            plan.next = Some(plan.next.map_or(at, |next| next.min(at)));
        }
    }
    devices.unreported = unreported;
    plan.recorded = devices.into_records();
    plan
}

/// Returns the time for which the device of a removed relay is kept. `None` if the relay belongs to
/// the PeerRelay.
fn grace(
    spec: &ValidSpec,
    nodes: &[NodePlan],
    device: &RelayDevice,
    node: Option<&Node>,
) -> Option<SignedDuration> {
    let mut regions = spec.regions.iter().zip(nodes);
    let Some((region, nodes)) = regions.find(|(region, _)| region.name == device.region) else {
        return Some(SignedDuration::ZERO);
    };
    // Relays of a PeerRelay that is not enabled return as the same devices.
    let is_wanted = node.is_some_and(|node| !spec.enabled || nodes.wants(region, node));
    (!is_wanted).then_some(GRACE)
}

#[cfg(test)]
mod tests;
