//! Pauses the roll-out of a DaemonSet that has all relays of a region.

use k8s_openapi::{
    api::apps::v1::{DaemonSet, DaemonSetUpdateStrategy},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt;

use super::{Absent, most_unavailable, reach::Reach};
use crate::{names, operator::build::is_off};

/// What relays that are ready but not reached do to a roll-out.
pub(super) struct Pause {
    /// Relays that no other relay has reached since they were replaced.
    pub(super) absent: Vec<Absent>,
    /// Number of relays that have to wait: 0 when some may be replaced meanwhile.
    pub(super) waiting: usize,
}

/// Whether a DaemonSet has the relays of more than one node.
pub(super) fn is_shared(set: &DaemonSet) -> bool {
    !set.annotations().contains_key(names::NODE_ANNOTATION)
}

/// Changes the update strategy of `set` so that Kubernetes replaces no more relays than may be absent,
/// when relays that are ready but not reached count as absent too. `live` is the DaemonSet as the API
/// server has it. Returns `None` and leaves `set` alone when there are no such relays.
///
/// `OnDelete` is the only strategy that replaces none at all. Kubernetes sees a new pod as available
/// after `minReadySeconds`, which leaves the operator time to pause the roll-out.
pub(super) fn pause(
    region: &str,
    set: &mut DaemonSet,
    live: &DaemonSet,
    reach: &Reach<'_>,
) -> Option<Pause> {
    let most = most_unavailable(set)?;
    let outdated = outdated(live);
    if outdated == 0 || is_off(set) || is_off(live) {
        return None;
    }
    let unreached: Vec<_> = reach.unreached(region).collect();
    if unreached.is_empty() {
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
    let absent = |(node, remaining)| Absent::unreached(name.clone(), node, remaining);
    Some(Pause {
        absent: unreached.into_iter().map(absent).collect(),
        waiting: if left == 0 { outdated } else { 0 },
    })
}

/// Number of relays that Kubernetes has not replaced yet.
fn outdated(live: &DaemonSet) -> usize {
    let Some(status) = &live.status else { return 0 };
    let updated = status.updated_number_scheduled.unwrap_or(0);
    usize::try_from(status.desired_number_scheduled - updated).unwrap_or(0)
}
