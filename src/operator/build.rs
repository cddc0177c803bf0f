//! The objects of a PeerRelay. Pure: no client, no clock, nothing that can fail.

mod config_map;
mod daemon_set;
mod data_path;
mod disruption;
mod grants;
mod load_balancer;
mod monitoring;
mod network_policy;
mod rbac;
mod service;
mod template;

use k8s_openapi::{api::apps::v1::DaemonSet, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::ResourceExt;

pub use self::grants::status as grants_status;
use super::{
    daemon_sets,
    objects::{Deferred, Objects, Prepared, checksum},
    plan::{Plan, Region},
    validate::ValidSpec,
};
use crate::names;

/// Builds every object of `relay`, and defers those that `plan` lets wait.
pub fn build(relay: &ValidSpec, plan: &Plan) -> Objects<Prepared> {
    let regions = plan.regions(relay);
    let built = regions.map(|region| build_region(relay, region));
    let mut prepared = built.fold(Prepared::default(), Prepared::join);
    let known = &plan.monitoring_kinds;
    prepared.config_maps.extend(grants::build(relay, plan));
    prepared.config_maps.extend(monitoring::dashboards(relay));
    prepared.services.extend(monitoring::service(relay, known));
    prepared.monitoring = monitoring::objects(relay, known);
    let leaving = plan.leaving.iter();
    let kept = leaving.flat_map(|leaving| leaving.config_maps());
    prepared.config_maps.extend(kept);
    let (daemon_sets, deferred) = defer(relay, plan, prepared.daemon_sets);
    Objects {
        owner: relay.owner.clone(),
        deferred,
        stage: Prepared {
            daemon_sets,
            ..prepared
        },
    }
}

fn build_region(relay: &ValidSpec, region: Region<'_>) -> Prepared {
    let checksum = checksum(&config_map::started_with(relay, region));
    Prepared {
        service_accounts: vec![rbac::service_account(relay, region)],
        roles: vec![rbac::role(relay, region)],
        role_bindings: vec![rbac::role_binding(relay, region)],
        config_maps: vec![config_map::build(relay, region)],
        services: service::build(relay, region),
        network_policies: network_policy::build(relay, region).into_iter().collect(),
        disruption_budgets: disruption::build(relay, region).into_iter().collect(),
        daemon_sets: daemon_set::build(relay, region, &checksum),
        ..Prepared::default()
    }
}

/// Splits DaemonSets into those that are applied now and those that wait for an address, for relays
/// that will be removed, or for other relays of their region.
fn defer(relay: &ValidSpec, plan: &Plan, sets: Vec<DaemonSet>) -> (Vec<DaemonSet>, Deferred) {
    let starts = |set: &DaemonSet| {
        let own = |region: &Region<'_>| daemon_sets::region(set) == Some(&region.name);
        let region = plan.regions(relay).find(own);
        region.is_none_or(|region| !region.plan.start.waits(daemon_sets::only_node(set)))
    };
    let replaces_leaving = |set: &DaemonSet| {
        let leaving = plan.leaving.as_ref();
        leaving.is_some_and(|leaving| leaving.defers(set))
    };
    let may_apply = |set: &DaemonSet| starts(set) && !replaces_leaving(set);
    let (now, waiting): (Vec<_>, Vec<_>) = sets.into_iter().partition(may_apply);
    let admission = plan.rollout.admit(now);
    let leaving = plan.leaving.iter();
    let names = waiting.iter().map(ResourceExt::name_any);
    let names = names.chain(leaving.flat_map(|leaving| leaving.deferred()));
    let deferred = Deferred {
        message: admission.message(),
        recheck_after: admission.recheck_after,
        names: names.chain(admission.deferred).collect(),
    };
    (admission.now, deferred)
}

fn metadata(relay: &ValidSpec, region: Region<'_>) -> ObjectMeta {
    ObjectMeta {
        name: Some(region.child.clone()),
        namespace: Some(relay.owner.namespace.clone()),
        labels: Some(names::region_labels(&relay.owner.name, &region.name)),
        owner_references: Some(vec![relay.owner.reference.clone()]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod children;
#[cfg(test)]
mod tests;
