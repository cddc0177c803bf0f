//! Replaces the relays of a region one after the other, where each has a DaemonSet of its own.
//! Pure. Where one DaemonSet has them all, Kubernetes does the same.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::apps::v1::DaemonSet;
use kube::ResourceExt;

use super::build::{checksum, is_off};
use crate::names;

/// Splits `wanted` into what may be applied now and the names of what has to wait.
///
/// New DaemonSets wait for nobody. Of those that change, one of each region may, and only while all
/// others of the region are ready; one that is not ready itself loses nothing and may at any time, and
/// so may one whose relay is turned off or on.
pub fn one_at_a_time(
    wanted: Vec<DaemonSet>,
    live: impl Fn(&str) -> Option<Arc<DaemonSet>>,
) -> (Vec<DaemonSet>, Vec<String>) {
    let mut regions: BTreeMap<Option<String>, Vec<DaemonSet>> = BTreeMap::new();
    for set in wanted {
        let region = set.labels().get(names::REGION_LABEL).cloned();
        regions.entry(region).or_default().push(set);
    }
    let (mut now, mut later) = (Vec::new(), Vec::new());
    for sets in regions.into_values() {
        let found: Vec<_> = sets.iter().map(|set| live(&set.name_any())).collect();
        let all_ready = found.iter().flatten().all(|set| is_ready(set));
        let mut turn_taken = sets.len() > 1 && !all_ready;
        for (set, found) in sets.into_iter().zip(found) {
            let replaces = found
                .as_ref()
                .is_some_and(|found| is_ready(found) && differs(found, &set))
                && !is_off(&set)
                && !found.as_deref().is_some_and(is_off);
            match replaces {
                true if turn_taken => later.push(set.name_any()),
                true => {
                    turn_taken = true;
                    now.push(set);
                }
                false => now.push(set),
            }
        }
    }
    (now, later)
}

/// Whether everything that was asked of it has happened.
fn is_ready(set: &DaemonSet) -> bool {
    set.status.as_ref().is_some_and(|status| {
        status.observed_generation == set.metadata.generation
            && status.updated_number_scheduled.unwrap_or(0) == status.desired_number_scheduled
            && status.number_ready >= status.desired_number_scheduled
    })
}

fn differs(live: &DaemonSet, wanted: &DaemonSet) -> bool {
    live.annotations().get(names::APPLIED_ANNOTATION) != Some(&checksum(wanted))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::json;

    use super::*;

    #[test]
    fn changed_relays_take_turns() {
        let live = [live("a", 1, true), live("b", 1, true)];
        assert_eq!(turn(&live, 2), (vec!["a".into()], vec!["b".into()]));
        let live = [self::live("a", 2, false), self::live("b", 1, true)];
        assert_eq!(turn(&live, 2), (vec!["a".into()], vec!["b".into()]));
        let live = [self::live("a", 2, true), self::live("b", 1, true)];
        assert_eq!(turn(&live, 2), (vec!["a".into(), "b".into()], vec![]));
    }

    #[test]
    fn who_is_not_ready_waits_for_nobody() {
        let live = [live("a", 1, true), live("b", 1, false)];
        assert_eq!(turn(&live, 2), (vec!["b".into()], vec!["a".into()]));
    }

    #[test]
    fn new_and_unchanged_ones_wait_for_nobody() {
        assert_eq!(turn(&[], 1).0.len(), 2);
        let live = [live("a", 1, true), live("b", 1, false)];
        assert_eq!(turn(&live, 1).0.len(), 2);
    }

    #[test]
    fn a_region_with_one_daemon_set_leaves_turns_to_it() {
        let live = Arc::new(live("a", 1, true));
        let (now, later) = one_at_a_time(vec![set("a", 2)], |_| Some(live.clone()));
        assert_eq!((now.len(), later.len()), (1, 0));
    }

    /// What may be applied, and what waits, when `a` and `b` are wanted in `version`.
    fn turn(live: &[DaemonSet], version: u8) -> (Vec<String>, Vec<String>) {
        let find = |name: &str| {
            live.iter()
                .find(|s| s.name_any() == name)
                .cloned()
                .map(Arc::new)
        };
        let (now, later) = one_at_a_time(vec![set("a", version), set("b", version)], find);
        (now.iter().map(ResourceExt::name_any).collect(), later)
    }

    fn set(name: &str, version: u8) -> DaemonSet {
        let labels = json!({names::REGION_LABEL: "office"});
        let note = json!({"version": version.to_string()});
        let metadata = json!({"name": name, "labels": labels, "annotations": note});
        serde_json::from_value(json!({"metadata": metadata})).unwrap()
    }

    fn live(name: &str, version: u8, ready: bool) -> DaemonSet {
        let mut live = set(name, version);
        let sum = checksum(&live);
        live.annotations_mut()
            .insert(names::APPLIED_ANNOTATION.into(), sum);
        live.metadata.generation = Some(version.into());
        live.status = serde_json::from_value(json!({
            "observedGeneration": version, "currentNumberScheduled": 1, "numberMisscheduled": 0,
            "desiredNumberScheduled": 1, "updatedNumberScheduled": 1,
            "numberReady": i32::from(ready),
        }))
        .unwrap();
        live
    }
}
