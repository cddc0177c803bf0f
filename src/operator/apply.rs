//! Makes the cluster hold what was built: one request per changed object, none for an unchanged one.
//!
//! What the API server refuses holds up only what depends on it.

mod attempts;
mod drift;
mod monitoring;
mod services;

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Service, ServiceAccount},
        rbac::v1::{Role, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use kube_runtime::reflector::{ObjectRef, Store};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

pub use self::{
    attempts::Attempts,
    services::{CLASS, FAMILIES},
};
use self::{attempts::RelayAttempts, drift::drift};
use super::{
    build::{Resources, checksum},
    refusal::{Refusal, Subject},
    stores::Stores,
    validate::ValidSpec,
};
use crate::names;

/// Failures in a row of a kind that passes, before the status tells them: most pass at once.
const REPORTED_FAILURES: u32 = 2;

/// What was done, for the log and for tests that count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Objects created or changed.
    pub applied: usize,
    /// Objects removed.
    pub pruned: usize,
}

/// What came of applying.
#[derive(Debug, Default)]
pub struct Applied {
    /// What was done.
    pub changes: Changes,
    /// What was refused, now or a moment ago.
    pub refusals: Vec<Refusal>,
    /// Whether the status should tell the refusals. One that passes is first tried again.
    pub report: bool,
    /// The time until the next attempt.
    pub pause: Option<Duration>,
    /// Services that were removed, to be made anew.
    pub replaced: Vec<Replaced>,
    /// Names of the DaemonSets that were created or changed. The stores may show them as they were
    /// before.
    pub changed_sets: BTreeSet<String>,
}

/// A Service that was removed, to be made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Its name.
    pub name: String,
    /// What Kubernetes does not change of it.
    pub why: &'static str,
}

/// Applies everything and removes what belongs to the PeerRelay and is not wanted any more.
///
/// Relays come last, so that they start with their configuration and permissions in place; those of
/// a region that could not get these are left as they are.
pub async fn apply(
    client: &Client,
    stores: &Stores,
    attempts: &Attempts,
    relay: &ValidSpec,
    resources: Resources,
) -> Applied {
    let Resources {
        service_accounts,
        roles,
        role_bindings,
        config_maps,
        services,
        network_policies,
        disruption_budgets,
        daemon_sets,
        mut deferred,
    } = resources;
    let key = ObjectRef::new(&relay.name).within(&relay.namespace);
    let relay_attempts = attempts.take(&key, &relay.owner.uid);
    let mut applier = Applier::new(client, relay, relay_attempts);
    let kept = deferred.clone();
    applier
        .kind_except(&kept, &stores.service_accounts, service_accounts)
        .await;
    applier.kind_except(&kept, &stores.roles, roles).await;
    // Without its role, a binding would be refused too.
    let (role_bindings, mut waiting) = applier.possible(role_bindings, &[kind::<Role>()]);
    waiting.extend(kept.clone());
    let bindings = &stores.role_bindings;
    applier.kind_except(&waiting, bindings, role_bindings).await;
    applier
        .kind_except(&kept, &stores.config_maps, config_maps)
        .await;
    applier
        .clear_ports(&kept, &stores.services, &services)
        .await;
    applier.kind_except(&kept, &stores.services, services).await;
    let policies = &stores.network_policies;
    applier.kind_except(&kept, policies, network_policies).await;
    let budgets = &stores.disruption_budgets;
    applier
        .kind_except(&kept, budgets, disruption_budgets)
        .await;
    let sets = &stores.daemon_sets;
    let needed = [
        kind::<ServiceAccount>(),
        kind::<Role>(),
        kind::<RoleBinding>(),
        kind::<ConfigMap>(),
    ];
    let (daemon_sets, waiting) = applier.possible(daemon_sets, &needed);
    deferred.extend(waiting);
    applier.kind_except(&deferred, sets, daemon_sets).await;
    monitoring::apply(&mut applier, &stores.monitoring).await;
    let (applied, relay_attempts) = applier.finish();
    attempts.keep(key, relay_attempts);
    applied
}

/// The reason for which one object is not as it should be.
enum Fault {
    /// The name is taken by someone else's object.
    NameTaken,
    /// It was refused a moment ago, and is not tried yet.
    Waiting(Refusal),
    /// A request failed.
    Api(&'static str, kube::Error),
}

impl Fault {
    fn api(verb: &'static str) -> impl FnOnce(kube::Error) -> Self {
        move |error| Self::Api(verb, error)
    }
}

struct Applier<'a> {
    client: &'a Client,
    relay: &'a ValidSpec,
    attempts: RelayAttempts,
    visited: HashSet<Subject>,
    changes: Changes,
    refusals: Vec<Refusal>,
    replaced: Vec<Replaced>,
    changed_sets: BTreeSet<String>,
}

impl<'a> Applier<'a> {
    fn new(client: &'a Client, relay: &'a ValidSpec, attempts: RelayAttempts) -> Self {
        Self {
            client,
            relay,
            attempts,
            visited: HashSet::new(),
            changes: Changes::default(),
            refusals: Vec::new(),
            replaced: Vec::new(),
            changed_sets: BTreeSet::new(),
        }
    }

    /// Whether the other objects would meet the same as the last one.
    fn is_over(&self) -> bool {
        self.refusals.iter().any(|refusal| refusal.concerns_all)
    }

    fn finish(mut self) -> (Applied, RelayAttempts) {
        if !self.is_over() {
            let visited = &self.visited;
            self.attempts.retain(|subject| visited.contains(subject));
        }
        let report = self.refusals.iter().any(|refusal| {
            refusal.cause.needs_user()
                || self.attempts.failures(&refusal.subject) >= REPORTED_FAILURES
        });
        let applied = Applied {
            changes: self.changes,
            pause: self.attempts.pause(),
            refusals: self.refusals,
            replaced: self.replaced,
            changed_sets: self.changed_sets,
            report,
        };
        (applied, self.attempts)
    }

    /// Splits objects into those that can be applied and the names of those that cannot, as an
    /// object of their region and one of these kinds was refused.
    fn possible<K: ResourceExt>(&self, wanted: Vec<K>, needs: &[String]) -> (Vec<K>, Vec<String>) {
        let refused = self
            .refusals
            .iter()
            .filter(|r| needs.contains(&r.subject.kind));
        let regions: BTreeSet<&str> = refused
            .filter_map(|r| r.subject.region.as_deref())
            .collect();
        let can = |object: &K| {
            let region = object.labels().get(names::REGION_LABEL);
            region.is_none_or(|region| !regions.contains(&**region))
        };
        let (now, later): (Vec<_>, Vec<_>) = wanted.into_iter().partition(can);
        (now, later.iter().map(ResourceExt::name_any).collect())
    }

    /// Applies those that are wanted, and removes the others except for those that are `held`.
    async fn kind_except<K>(&mut self, deferred: &[String], store: &Store<K>, wanted: Vec<K>)
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
        keep.extend_from_slice(deferred);
        for object in wanted {
            let subject = subject(&object);
            let wanted = stamp(object);
            let sum = sum(&wanted).to_owned();
            if self.is_over() {
                return;
            }
            let done = self.one(&api, store, &subject, wanted, &sum).await;
            self.record(subject, &sum, done);
        }
        let ours = |object: &K| {
            object.namespace().as_deref() == Some(namespace)
                && belongs_to(object.owner_references(), &self.relay.owner)
                && !keep.contains(&object.name_any())
        };
        for object in store.state_filter(ours) {
            if self.is_over() {
                return;
            }
            let subject = subject(&*object);
            let done = self.prune(&api, &subject, &*object).await;
            self.record(subject, "", done);
        }
    }

    /// Notes what came of an object.
    fn record(&mut self, subject: Subject, sum: &str, done: Result<(), Fault>) {
        self.visited.insert(subject.clone());
        let refusal = match done {
            Ok(()) => return self.attempts.settled(&subject),
            Err(Fault::Waiting(refusal)) => return self.refusals.push(refusal),
            Err(Fault::NameTaken) => Refusal::name_taken(subject),
            Err(Fault::Api(verb, error)) => Refusal::new(subject, verb, &error),
        };
        self.attempts.refused(sum, &refusal);
        self.refusals.push(refusal);
    }

    async fn one<K>(
        &mut self,
        api: &Api<K>,
        store: &Store<K>,
        subject: &Subject,
        mut wanted: Value,
        sum: &str,
    ) -> Result<(), Fault>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let name = &subject.name;
        let namespace = &self.relay.namespace;
        let waiting = self.attempts.waiting(subject, sum);
        let live: Option<Arc<K>> = match store.get(&ObjectRef::new(name).within(namespace)) {
            Some(live) => Some(live),
            None if waiting.is_some() => None,
            // Not ours, or not seen yet: look before touching it.
            None => api
                .get_opt(name)
                .await
                .map_err(Fault::api("read"))?
                .map(Into::into),
        };
        let mut replaced_for = None;
        if let Some(live) = &live {
            if !belongs_to(live.owner_references(), &self.relay.owner) {
                return Err(Fault::NameTaken);
            }
            // It comes back once it is gone.
            if live.meta().deletion_timestamp.is_some() {
                return Ok(());
            }
            let is = plain(&**live);
            services::keep_families(&is, &mut wanted);
            match drift(&is, &wanted) {
                None => return Ok(()),
                Some(difference) if self.attempts.is_kept(subject, sum, difference) => {
                    return Ok(());
                }
                Some(_) => replaced_for = services::replaced_for(&is, &wanted),
            }
        }
        if let Some(refusal) = waiting {
            return Err(Fault::Waiting(refusal));
        }
        if let (Some(live), Some(why)) = (&live, replaced_for) {
            return self.replace(api, &**live, why).await;
        }
        let params = PatchParams::apply(names::OPERATOR).force();
        let patched = api.patch(name, &params, &Patch::Apply(&wanted)).await;
        let patched = patched.map_err(Fault::api("apply"))?;
        tracing::info!(kind = subject.kind, name, namespace, "applied");
        self.changes.applied += 1;
        if subject.kind == kind::<DaemonSet>() {
            self.changed_sets.insert(name.clone());
        }
        let difference = drift(&plain(&patched), &wanted);
        self.attempts.applied(subject, sum, difference);
        Ok(())
    }

    /// Removes the Services that have a port of the nodes which another one is to have. Those that
    /// are `held` go in their own time; the other one is refused until then.
    async fn clear_ports(
        &mut self,
        deferred: &[String],
        store: &Store<Service>,
        wanted: &[Service],
    ) {
        let namespace = &self.relay.namespace;
        let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let ours = store.state_filter(|service| {
            service.namespace().as_ref() == Some(namespace)
                && belongs_to(service.owner_references(), &self.relay.owner)
                && service.metadata.deletion_timestamp.is_none()
                && !deferred.contains(&service.name_any())
        });
        let found = services::in_the_way(ours.iter().map(AsRef::as_ref), wanted);
        for service in ours.iter().filter(|s| found.contains(&s.name_any())) {
            if self.is_over() {
                return;
            }
            let done = self.replace(&api, service, services::NODE_PORT).await;
            // One that cannot be removed is told when the other one is refused.
            if let Err(Fault::Api(verb, error)) = done {
                let subject = subject(&**service);
                self.refusals.push(Refusal::new(subject, verb, &error));
            }
        }
    }

    /// Removes an object that cannot become what it should be. It is made anew once it is gone,
    /// as it may take what it has with it: a cloud first gives its load balancer back.
    async fn replace<K>(&mut self, api: &Api<K>, live: &K, why: &'static str) -> Result<(), Fault>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        if delete(api, live).await.map_err(Fault::api("replace"))? {
            let (name, namespace) = (live.name_any(), &self.relay.namespace);
            tracing::info!(kind = kind::<K>(), name, namespace, why, "replaced");
            self.changes.pruned += 1;
            self.replaced.push(Replaced { name, why });
        }
        Ok(())
    }

    async fn prune<K>(&mut self, api: &Api<K>, subject: &Subject, object: &K) -> Result<(), Fault>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        if object.meta().deletion_timestamp.is_some() {
            return Ok(());
        }
        if let Some(refusal) = self.attempts.waiting(subject, "") {
            return Err(Fault::Waiting(refusal));
        }
        if delete(api, object).await.map_err(Fault::api("remove"))? {
            let Subject { kind, name, .. } = subject;
            tracing::info!(kind, name, namespace = self.relay.namespace, "removed");
            self.changes.pruned += 1;
        }
        Ok(())
    }
}

/// Deletes this very object, and no other one of its name; says whether it was still there.
///
/// # Errors
/// A request failed. A conflict is among them, and is tried again: the name may have another object
/// by now, or not.
async fn delete<K>(api: &Api<K>, object: &K) -> Result<bool, kube::Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let only = DeleteParams::background().preconditions(Preconditions {
        uid: object.uid(),
        resource_version: None,
    });
    match api.delete(&object.name_any(), &only).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
        Err(error) => Err(error),
    }
}

fn kind<K: Resource<DynamicType = ()>>() -> String {
    K::kind(&()).into_owned()
}

fn subject<K: Resource<DynamicType = ()>>(object: &K) -> Subject {
    Subject {
        kind: kind::<K>(),
        name: object.name_any(),
        region: object.labels().get(names::REGION_LABEL).cloned(),
    }
}

fn plain(object: &impl Serialize) -> Value {
    serde_json::to_value(object).expect("Kubernetes objects are plain data")
}

fn sum(stamped: &Value) -> &str {
    let note = &stamped["metadata"]["annotations"][names::APPLIED_ANNOTATION];
    note.as_str().unwrap_or_default()
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
    let mut value = plain(&object);
    value["apiVersion"] = K::api_version(&()).into();
    value["kind"] = K::kind(&()).into();
    value["metadata"]["annotations"][names::APPLIED_ANNOTATION] = checksum.into();
    value
}

#[cfg(test)]
mod tests {
    use super::*;

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
