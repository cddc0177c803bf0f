//! Makes the cluster hold what was built: one request per changed object, none for an unchanged one.

mod monitoring;

use std::fmt::Debug;

use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use kube_runtime::reflector::{ObjectRef, Store};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    build::{Resources, checksum},
    rollout,
    stores::Stores,
    validate::ValidatedRelay,
};
use crate::names;

/// Why the cluster could not be made to hold it.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server said no, or nothing.
    #[error("failed to {verb} {kind} {name}")]
    Api {
        /// What was tried.
        verb: &'static str,
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The name is taken by someone else's object, which is left alone.
    #[error(
        "{kind} {name} exists and does not belong to this PeerRelay: rename the region, or remove it"
    )]
    NameTaken {
        /// Kind of the object.
        kind: String,
        /// Name of the object.
        name: String,
    },
}

/// What was done, for the log and for tests that count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Objects created or changed.
    pub applied: usize,
    /// Objects removed.
    pub pruned: usize,
}

/// Applies everything and removes what belongs to the PeerRelay and is not wanted any more.
///
/// Relays come last, so that they start with their configuration and permissions in place.
///
/// # Errors
/// The first request that failed; what came before it stays, and the next attempt goes on.
pub async fn apply(
    client: &Client,
    stores: &Stores,
    relay: &ValidatedRelay,
    resources: Resources,
) -> Result<Changes, ApplyError> {
    let Resources {
        service_accounts,
        roles,
        role_bindings,
        config_maps,
        services,
        network_policies,
        disruption_budgets,
        daemon_sets,
        mut held,
    } = resources;
    let kept = held.clone();
    let mut applier = Applier {
        client,
        relay,
        changes: Changes::default(),
    };
    applier
        .kind_except(&kept, &stores.service_accounts, service_accounts)
        .await?;
    applier.kind_except(&kept, &stores.roles, roles).await?;
    applier
        .kind_except(&kept, &stores.role_bindings, role_bindings)
        .await?;
    applier
        .kind_except(&kept, &stores.config_maps, config_maps)
        .await?;
    applier
        .kind_except(&kept, &stores.services, services)
        .await?;
    applier
        .kind_except(&kept, &stores.network_policies, network_policies)
        .await?;
    applier
        .kind_except(&kept, &stores.disruption_budgets, disruption_budgets)
        .await?;
    let sets = &stores.daemon_sets;
    let live = |name: &str| sets.get(&ObjectRef::new(name).within(&relay.namespace));
    let (daemon_sets, waiting) = rollout::one_at_a_time(daemon_sets, live);
    held.extend(waiting);
    applier.kind_except(&held, sets, daemon_sets).await?;
    monitoring::apply(client, &stores.monitoring, relay, &mut applier.changes).await?;
    Ok(applier.changes)
}

struct Applier<'a> {
    client: &'a Client,
    relay: &'a ValidatedRelay,
    changes: Changes,
}

impl Applier<'_> {
    /// Applies those that are wanted, and removes the others except for those that are `held`.
    async fn kind_except<K>(
        &mut self,
        held: &[String],
        store: &Store<K>,
        wanted: Vec<K>,
    ) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let namespace = &self.relay.namespace;
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let mut keep: Vec<String> = wanted.iter().map(ResourceExt::name_any).collect();
        keep.extend_from_slice(held);
        for object in wanted {
            self.one(&api, store, object).await?;
        }
        let ours = |object: &K| {
            object.namespace().as_deref() == Some(namespace)
                && belongs_to(object.owner_references(), &self.relay.owner)
                && !keep.contains(&object.name_any())
        };
        for object in store.state_filter(ours) {
            self.prune(&api, &*object).await?;
        }
        Ok(())
    }

    async fn one<K>(&mut self, api: &Api<K>, store: &Store<K>, object: K) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let name = object.name_any();
        let key = ObjectRef::new(&name).within(&self.relay.namespace);
        let wanted = stamp(object);
        let live = match store.get(&key) {
            Some(live) => Some(live),
            // Not ours, or not seen yet: look before touching it.
            None => api
                .get_opt(&name)
                .await
                .map_err(failed::<K>("read", &name))?
                .map(Into::into),
        };
        if let Some(live) = live {
            if !belongs_to(live.owner_references(), &self.relay.owner) {
                return Err(ApplyError::NameTaken {
                    kind: K::kind(&()).into(),
                    name,
                });
            }
            let live = serde_json::to_value(&*live).expect("Kubernetes objects are plain data");
            if holds(&live, &wanted) {
                return Ok(());
            }
        }
        let params = PatchParams::apply(names::OPERATOR).force();
        let patched = api.patch(&name, &params, &Patch::Apply(&wanted)).await;
        patched.map_err(failed::<K>("apply", &name))?;
        tracing::info!(kind = %K::kind(&()), name, namespace = self.relay.namespace, "applied");
        self.changes.applied += 1;
        Ok(())
    }

    async fn prune<K>(&mut self, api: &Api<K>, object: &K) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        if object.meta().deletion_timestamp.is_some() {
            return Ok(());
        }
        let name = object.name_any();
        let preconditions = Preconditions {
            uid: object.uid(),
            resource_version: None,
        };
        let params = DeleteParams::background().preconditions(preconditions);
        match api.delete(&name, &params).await {
            Ok(_) => {
                tracing::info!(kind = %K::kind(&()), name, namespace = self.relay.namespace, "removed");
                self.changes.pruned += 1;
                Ok(())
            }
            // A conflict is tried again: it may be another object of the same name by now, or not.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(source) => Err(failed::<K>("remove", &name)(source)),
        }
    }
}

fn failed<K: Resource<DynamicType = ()>>(
    verb: &'static str,
    name: &str,
) -> impl FnOnce(kube::Error) -> ApplyError {
    let (kind, name) = (K::kind(&()).into_owned(), name.to_owned());
    move |source| ApplyError::Api {
        verb,
        kind,
        name,
        source: Box::new(source),
    }
}

fn belongs_to(owners: &[OwnerReference], owner: &OwnerReference) -> bool {
    owners
        .iter()
        .any(|o| o.uid == owner.uid && o.controller == Some(true))
}

/// The object as it is sent, with a checksum: it shows when a field is no longer wanted, which the
/// object alone does not.
fn stamp<K: Resource<DynamicType = ()> + Serialize>(object: K) -> Value {
    let checksum = checksum(&object);
    let mut value = serde_json::to_value(&object).expect("Kubernetes objects are plain data");
    value["apiVersion"] = K::api_version(&()).into();
    value["kind"] = K::kind(&()).into();
    value["metadata"]["annotations"][names::APPLIED_ANNOTATION] = checksum.into();
    value
}

/// Whether `live` has everything that `wanted` says; the API server adds defaults of its own.
fn holds(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().all(|(key, wanted)| {
            // Objects read through a watch do not repeat their type.
            matches!(key.as_str(), "apiVersion" | "kind") && !live.contains_key(key)
                || live.get(key).is_some_and(|live| holds(live, wanted))
        }),
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(l, w)| holds(l, w))
        }
        _ => live == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_of_the_server_are_no_drift_and_changes_are() {
        let wanted = json!({"spec": {"port": 1, "list": [{"name": "a"}]}});
        let live =
            json!({"spec": {"port": 1, "list": [{"name": "a", "x": 1}], "d": 0}, "status": {}});
        assert!(holds(&live, &wanted));
        for drifted in [
            json!({"spec": {"port": 2, "list": [{"name": "a"}]}}),
            json!({"spec": {"port": 1, "list": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"port": 1}}),
        ] {
            assert!(!holds(&drifted, &wanted), "{drifted}");
        }
    }

    #[test]
    fn only_the_controller_owns() {
        let owner = |uid: &str, controller| OwnerReference {
            uid: uid.into(),
            controller,
            ..OwnerReference::default()
        };
        let me = owner("u-1", Some(true));
        assert!(belongs_to(&[owner("u-0", None), me.clone()], &me));
        assert!(!belongs_to(&[owner("u-1", None)], &me));
        assert!(!belongs_to(&[owner("u-2", Some(true))], &me));
    }
}
