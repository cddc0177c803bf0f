//! The next step of the deletion of a PeerRelay whose tailnet devices are deleted, and whose entries in
//! the tailnet policy are removed, first. Pure.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::{
    devices::{Devices, has_pod},
    referred_credential::ReferenceError,
    validate::{ApiAccount, PolicyAccess, deletion_credential, policy_access},
    view::ClusterView,
};
use crate::{
    crd::{PeerRelay, device::RelayDevice},
    names,
};

/// Time after which the deletion of a PeerRelay ends, whether its devices and entries are removed or
/// not.
pub const DEADLINE: SignedDuration = SignedDuration::from_secs(120);
/// Finalizer of a deletion that keeps the relays (`kubectl delete --cascade=orphan`).
const ORPHAN: &str = "orphan";

/// A step of the deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The deletion ends.
    End(Left),
    /// Relays end, devices are deleted and entries are removed.
    Delete(Box<Deletion>),
}

/// The parts of the tailnet that a deleted PeerRelay leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left {
    /// Devices that are not deleted.
    pub devices: Vec<RelayDevice>,
    /// True if the policy may contain entries.
    pub has_entries: bool,
}

/// The devices and entries of a PeerRelay that is being deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// Access to the policy, if it may contain entries.
    pub policy: Option<PolicyAccess>,
    /// Credential of the devices' tailnet, or the reason why it is not known. `None` if there are no
    /// devices.
    pub credential: Option<Result<ApiAccount, ReferenceError>>,
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
    // The relays go on without their PeerRelay, and need their devices.
    if is_orphaning {
        return Step::End(Left::default());
    }
    let credential = deletion_credential(relay, &view.referred);
    let recorded = match credential {
        Some(_) => recorded(relay, view),
        None => Vec::new(),
    };
    let record = view.policy.as_ref().filter(|_| !view.syncing.is_removed);
    let has_entries = record.is_some_and(|policy| policy.has_entries);
    let policy = policy_access(relay, &view.referred).filter(|access| access.writes && has_entries);
    // This time survives restarts of the operator, so nothing that fails can extend the deletion.
    let since = relay.metadata.deletion_timestamp.as_ref();
    let deadline = since.and_then(|since| since.0.checked_add(DEADLINE).ok());
    let deadline = deadline.unwrap_or(now);
    if recorded.is_empty() && policy.is_none() || deadline <= now {
        return Step::End(Left {
            devices: recorded,
            has_entries: policy.is_some(),
        });
    }
    // A relay that still runs would notice that its device is gone, and would join again.
    let ended = |device: &&RelayDevice| !has_pod(device, &view.own_pods);
    Step::Delete(Box::new(Deletion {
        policy,
        credential: credential.filter(|_| !recorded.is_empty()),
        due: recorded.iter().filter(ended).cloned().collect(),
        recorded,
        deadline,
    }))
}

/// The devices that are not deleted yet.
fn recorded(relay: &PeerRelay, view: &ClusterView) -> Vec<RelayDevice> {
    let tag = |region: &str| {
        let mut regions = relay.spec.regions.iter();
        regions.find(|r| r.name == region).map(|r| r.tag())
    };
    let devices = Devices::new(&view.devices, &view.reports, &view.deleting.done, tag);
    devices.into_records()
}

/// Returns whether a PeerRelay has the finalizer of the operator.
pub fn is_held(relay: &PeerRelay) -> bool {
    let mut finalizers = relay.finalizers().iter();
    finalizers.any(|finalizer| finalizer == names::FINALIZER)
}

#[cfg(test)]
mod tests;
