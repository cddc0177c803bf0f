//! What a `PeerRelay` becomes. Pure: no client, no clock, nothing that can fail.

mod config_map;
mod daemon_set;
mod data_path;
mod disruption;
mod grants;
mod load_balancer;
pub mod monitoring;
mod network_policy;
mod rbac;
mod service;
mod template;

use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
        rbac::v1::{Role, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use kube::ResourceExt;

use super::validate::{ValidRegion, ValidSpec};
use crate::names;

/// Every object that should exist.
#[derive(Debug, Default)]
pub struct Resources {
    /// Identity of the relays towards the API server.
    pub service_accounts: Vec<ServiceAccount>,
    /// What that identity may do.
    pub roles: Vec<Role>,
    /// Gives it to them.
    pub role_bindings: Vec<RoleBinding>,
    /// Configuration of the relays.
    pub config_maps: Vec<ConfigMap>,
    /// Ways to the relays.
    pub services: Vec<Service>,
    /// What may reach the relays.
    pub network_policies: Vec<NetworkPolicy>,
    /// How many relays may be evicted at a time.
    pub disruption_budgets: Vec<PodDisruptionBudget>,
    /// The relays.
    pub daemon_sets: Vec<DaemonSet>,
    /// Names of DaemonSets that are left as they are, whether they exist or not.
    pub deferred: Vec<String>,
}

/// Builds everything, region by region.
pub fn build(relay: &ValidSpec) -> Resources {
    let mut resources = Resources::default();
    for region in &relay.regions {
        let config = config_map::build(relay, region);
        let checksum = checksum(&config_map::started_with(relay, region));
        resources
            .service_accounts
            .push(rbac::service_account(relay, region));
        resources.roles.push(rbac::role(relay, region));
        resources
            .role_bindings
            .push(rbac::role_binding(relay, region));
        resources.config_maps.push(config);
        let budget = disruption::build(relay, region);
        resources.disruption_budgets.extend(budget);
        let policy = network_policy::build(relay, region);
        resources.network_policies.extend(policy);
        resources.services.extend(service::build(relay, region));
        for set in daemon_set::build(relay, region, &checksum) {
            match region
                .plan
                .waits(set.annotations().get(names::NODE_ANNOTATION))
            {
                true => resources.deferred.push(set.name_any()),
                false => resources.daemon_sets.push(set),
            }
        }
    }
    resources.config_maps.extend(grants::build(relay));
    resources.config_maps.extend(monitoring::dashboards(relay));
    resources.services.extend(monitoring::service(relay));
    resources
}

/// A short checksum of anything that serializes.
pub fn checksum(value: &impl serde::Serialize) -> String {
    let bytes = serde_json::to_vec(value).expect("Kubernetes objects are plain data");
    names::digest(bytes, 8)
}

pub use self::{daemon_set::is_off, grants::status as grants_status};

fn metadata(relay: &ValidSpec, region: &ValidRegion) -> ObjectMeta {
    ObjectMeta {
        name: Some(region.child.clone()),
        namespace: Some(relay.namespace.clone()),
        labels: Some(names::region_labels(&relay.name, &region.name)),
        owner_references: Some(vec![relay.owner.clone()]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod children;
#[cfg(test)]
mod tests;
