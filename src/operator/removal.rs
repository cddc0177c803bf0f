//! The next step of the deletion of a PeerRelay whose tailnet devices are deleted first. Pure.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::{
    devices::{Devices, has_pod},
    referred_credential::ReferenceError,
    validate::{ApiAccount, deletion_credential},
    view::ClusterView,
};
use crate::{
    crd::{PeerRelay, device::RelayDevice},
    names,
};

/// Time after which the deletion of a PeerRelay ends, whether its devices are deleted or not.
pub const DEADLINE: SignedDuration = SignedDuration::from_secs(120);
/// Finalizer of a deletion that keeps the relays (`kubectl delete --cascade=orphan`).
const ORPHAN: &str = "orphan";

/// A step of the deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The deletion ends, and these devices are left in the tailnet.
    End(Vec<RelayDevice>),
    /// Relays end and devices are deleted.
    Delete(Deletion),
}

/// The devices of a PeerRelay that is being deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// Credential of the devices' tailnet, or the reason why it is not known.
    pub credential: Result<ApiAccount, ReferenceError>,
    /// Devices that are not deleted yet.
    pub recorded: Vec<RelayDevice>,
    /// Devices of relays that have ended.
    pub due: Vec<RelayDevice>,
    /// Time at which the deletion ends.
    pub deadline: Timestamp,
}

/// Decides the next step for a PeerRelay that is being deleted.
pub fn next(relay: &PeerRelay, view: &ClusterView, now: Timestamp) -> Step {
    let is_orphaning = relay.finalizers().iter().any(|f| f == ORPHAN);
    let credential = deletion_credential(relay, &view.referred);
    let Some(credential) = credential.filter(|_| !is_orphaning) else {
        return Step::End(Vec::new());
    };
    let tag = |region: &str| {
        let mut regions = relay.spec.regions.iter();
        regions.find(|r| r.name == region).map(|r| r.tag())
    };
    let devices = Devices::new(&view.devices, &view.reports, &view.deleting.done, tag);
    let recorded = devices.into_records();
    let since = relay.metadata.deletion_timestamp.as_ref();
    let deadline = since.and_then(|since| since.0.checked_add(DEADLINE).ok());
    let deadline = deadline.unwrap_or(now);
    if recorded.is_empty() || deadline <= now {
        return Step::End(recorded);
    }
    let ended = |device: &&RelayDevice| !has_pod(device, &view.own_pods);
    Step::Delete(Deletion {
        credential,
        due: recorded.iter().filter(ended).cloned().collect(),
        recorded,
        deadline,
    })
}

/// Returns whether a PeerRelay has the finalizer of the operator.
pub fn is_held(relay: &PeerRelay) -> bool {
    let mut finalizers = relay.finalizers().iter();
    finalizers.any(|finalizer| finalizer == names::FINALIZER)
}

#[cfg(test)]
mod tests;
