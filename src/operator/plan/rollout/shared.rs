//! Pause of the roll-out of a DaemonSet that has all relays of a region.

use std::time::Duration;

use k8s_openapi::{
    api::apps::v1::{DaemonSet, DaemonSetUpdateStrategy},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;

use super::{Absent, LiveSet};
use crate::operator::daemon_sets::{is_off, max_unavailable, only_node};

/// The effect on a roll-out of relays that are ready but not reached.
pub(super) struct Pause {
    /// Relays that no other relay has reached since their replacement.
    pub(super) absent: Vec<Absent>,
    /// Number of relays that have to wait: 0 when some may be replaced meanwhile.
    pub(super) waiting: usize,
}

/// Returns whether a DaemonSet has the relays of more than one node.
pub(super) fn is_shared(set: &DaemonSet) -> bool {
    only_node(set).is_none()
}

/// Changes the update strategy of `set` so that Kubernetes replaces no more relays than may be
/// absent, if ready but `unreached` relays count as absent too. `live` is the DaemonSet in the
/// cluster. Returns `None`, and does not change `set`, if there are no such relays.
///
/// `OnDelete` is the only strategy that replaces none at all. Kubernetes sees a new pod as available
/// after `minReadySeconds`, which leaves the operator time to pause the roll-out.
pub(super) fn pause(
    set: &mut DaemonSet,
    live: &LiveSet,
    unreached: &[(String, Duration)],
) -> Option<Pause> {
    let most = max_unavailable(set)?;
    if live.outdated == 0 || live.is_off || is_off(set) || unreached.is_empty() {
        return None;
    }
    let left = most.saturating_sub(unreached.len());
    let spec = set.spec.get_or_insert_default();
    let strategy = spec.update_strategy.get_or_insert_default();
    if left == 0 {
        *strategy = DaemonSetUpdateStrategy {
            type_: Some("OnDelete".to_owned()),
            rolling_update: None,
        };
    } else {
        let rolling = strategy.rolling_update.get_or_insert_default();
        rolling.max_unavailable = i32::try_from(left).ok().map(IntOrString::Int);
    }
    let name = set.name_any();
    let absent = |(node, remaining): &(String, Duration)| {
        Absent::unreached(name.clone(), node.clone(), *remaining)
    };
    Some(Pause {
        absent: unreached.iter().map(absent).collect(),
        waiting: if left == 0 { live.outdated } else { 0 },
    })
}
