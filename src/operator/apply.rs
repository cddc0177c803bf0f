//! Applies the objects of a PeerRelay: one request per changed object, none for an unchanged one.
//!
//! If the API server refuses an object, only objects that depend on it wait.

mod attempts;
mod drift;
mod monitoring;
mod services;
mod withdrawal;

use std::{
    collections::{BTreeSet, HashSet},
    fmt::Debug,
    sync::Arc,
};

use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
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
    withdrawal::withdraw_relays,
};
use self::{attempts::RelayAttempts, drift::drift};
use super::{
    kinds::{Child, child_kinds, kind},
    objects::{Applied, Changes, Objects, Owner, Prepared, Replaced, checksum},
    refusal::{Refusal, Subject, Summary},
    stores::Stores,
};
use crate::{crd::PeerRelay, names};

/// Number of temporary failures in a row before the status reports them. Most end immediately.
const REPORTED_FAILURES: u32 = 2;

/// Applies every object, and removes other objects of the PeerRelay.
///
/// While an object is refused, objects of its region that need it do not change.
pub async fn apply(
    client: &Client,
    stores: &Stores,
    attempts: &Attempts,
    objects: Objects<Prepared>,
) -> Objects<Applied> {
    let Objects {
        owner,
        deferred,
        stage,
    } = objects;
    let key = ObjectRef::new(&owner.name).within(&owner.namespace);
    let earlier = attempts.take(&key, &owner.reference.uid);
    let mut applier = Applier::new(client, &owner, &deferred.names, earlier);
    let services = &stores.children.services;
    applier.release_ports(services, &stage.services).await;
    apply_children(&mut applier, stores, stage).await;
    let (applied, earlier) = applier.finish();
    attempts.keep(key, earlier);
    Objects {
        owner,
        deferred,
        stage: applied,
    }
}

macro_rules! define_apply_children {
    ($($(#[$doc:meta])* $field:ident: $kind:ident, needs [$($need:ident),*];)*) => {
        /// Applies the objects kind by kind.
        async fn apply_children(applier: &mut Applier<'_>, stores: &Stores, objects: Prepared) {
            $(applier.kind::<$kind>(&stores.children.$field, objects.$field).await;)*
            monitoring::apply(applier, &stores.of_cluster.monitoring, objects.monitoring).await;
        }
    };
}
child_kinds!(define_apply_children);

/// Reason why an object could not be applied.
enum Fault {
    /// An object of another owner has the name.
    NameTaken,
    /// The object was refused before, and the next attempt is not due yet.
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
    owner: &'a Owner,
    /// Names of objects that are neither applied nor removed.
    deferred: &'a [String],
    /// Results of earlier passes.
    attempts: RelayAttempts,
    visited: HashSet<Subject>,
    changes: Changes,
    refusals: Vec<Refusal>,
    replaced: Vec<Replaced>,
    changed_sets: BTreeSet<String>,
}

impl<'a> Applier<'a> {
    fn new(
        client: &'a Client,
        owner: &'a Owner,
        deferred: &'a [String],
        attempts: RelayAttempts,
    ) -> Self {
        Self {
            client,
            owner,
            deferred,
            attempts,
            visited: HashSet::new(),
            changes: Changes::default(),
            refusals: Vec::new(),
            replaced: Vec::new(),
            changed_sets: BTreeSet::new(),
        }
    }

    /// Returns whether the other objects would fail for the same reason as the last one.
    fn is_over(&self) -> bool {
        self.refusals.iter().any(|refusal| refusal.concerns_all)
    }

    fn finish(mut self) -> (Applied, RelayAttempts) {
        // A pass that was cut short has not visited all objects that exist.
        if !self.is_over() {
            let visited = &self.visited;
            self.attempts.retain(|subject| visited.contains(subject));
        }
        let report_refused = self.refusals.iter().any(|refusal| {
            refusal.cause.needs_user()
                || self.attempts.failures(&refusal.subject) >= REPORTED_FAILURES
        });
        let applied = Applied {
            changes: self.changes,
            pause: self.attempts.pause(),
            refused: Summary::new(&self.refusals),
            replaced: self.replaced,
            changed_sets: self.changed_sets,
            report_refused,
        };
        (applied, self.attempts)
    }

    /// Splits objects into those that can be applied and the names of the others. These need an
    /// object of their region that was refused.
    fn possible<K: Child>(&self, wanted: Vec<K>) -> (Vec<K>, Vec<String>) {
        let needs = K::needs();
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

    /// Applies the objects of a kind, and removes the others of the PeerRelay.
    async fn kind<K: Child>(&mut self, store: &Store<K>, wanted: Vec<K>) {
        let (wanted, mut keep) = self.possible(wanted);
        keep.extend_from_slice(self.deferred);
        keep.extend(wanted.iter().map(ResourceExt::name_any));
        let namespace = &self.owner.namespace;
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        for object in wanted {
            let subject = subject(&object);
            let wanted = stamp(object);
            let sum = sum(&wanted).to_owned();
            if self.is_over() {
                return;
            }
            let done = self.one((&api, store), &subject, wanted, &sum).await;
            self.record(subject, &sum, done);
        }
        let ours = |object: &K| {
            object.namespace().as_deref() == Some(namespace)
                && belongs_to(object.owner_references(), &self.owner.reference)
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

    /// Records the result for an object.
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

    async fn one<K: Child>(
        &mut self,
        (api, store): (&Api<K>, &Store<K>),
        subject: &Subject,
        mut wanted: Value,
        sum: &str,
    ) -> Result<(), Fault> {
        let name = &subject.name;
        let namespace = &self.owner.namespace;
        let waiting = self.attempts.waiting(subject, sum);
        let live: Option<Arc<K>> = match store.get(&ObjectRef::new(name).within(namespace)) {
            Some(live) => Some(live),
            None if waiting.is_some() => None,
            // The object has another owner, or the watch has not delivered it yet. Read it first.
            None => api
                .get_opt(name)
                .await
                .map_err(Fault::api("read"))?
                .map(Into::into),
        };
        let mut replaced_for = None;
        if let Some(live) = &live {
            // Applying with force would take the object away from its owner.
            if !belongs_to(live.owner_references(), &self.owner.reference) {
                return Err(Fault::NameTaken);
            }
            // It is created again when it is gone.
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
        if let (Some(live), Some(field)) = (&live, replaced_for) {
            return self.replace(api, &**live, field).await;
        }
        // With force: a field that was edited by hand belongs to another manager, and is set back.
        let params = PatchParams::apply(names::OPERATOR).force();
        let patched = api.patch(name, &params, &Patch::Apply(&wanted)).await;
        let patched = patched.map_err(Fault::api("apply"))?;
        tracing::info!(kind = subject.kind, name, namespace, "applied");
        self.changes.applied += 1;
        if subject.kind == kind::<DaemonSet>() {
            self.changed_sets.insert(name.clone());
        }
        // A difference that is there at once comes from a webhook: applying again would change nothing.
        let difference = drift(&plain(&patched), &wanted);
        self.attempts.applied(subject, sum, difference);
        Ok(())
    }

    /// Removes Services that have a node port of a wanted Service. Deferred Services keep their
    /// ports, and the wanted Service is refused until they are removed.
    async fn release_ports(&mut self, store: &Store<Service>, wanted: &[Service]) {
        let namespace = &self.owner.namespace;
        let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let ours = store.state_filter(|service| {
            service.namespace().as_ref() == Some(namespace)
                && belongs_to(service.owner_references(), &self.owner.reference)
                && service.metadata.deletion_timestamp.is_none()
                && !self.deferred.contains(&service.name_any())
        });
        let found = services::in_the_way(ours.iter().map(AsRef::as_ref), wanted);
        for service in ours.iter().filter(|s| found.contains(&s.name_any())) {
            if self.is_over() {
                return;
            }
            let done = self.replace(&api, service, services::NODE_PORT).await;
            // If the removal fails, the refusal of the wanted Service reports it.
            if let Err(Fault::Api(verb, error)) = done {
                let subject = subject(&**service);
                self.refusals.push(Refusal::new(subject, verb, &error));
            }
        }
    }

    /// Removes an object that cannot be changed as wanted. It is created again when it is gone,
    /// because its removal may take time: a cloud first removes the load balancer.
    async fn replace<K>(&mut self, api: &Api<K>, live: &K, field: &'static str) -> Result<(), Fault>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        if delete(api, live).await.map_err(Fault::api("replace"))? {
            let (name, namespace) = (live.name_any(), &self.owner.namespace);
            tracing::info!(kind = kind::<K>(), name, namespace, field, "replaced");
            self.changes.pruned += 1;
            self.replaced.push(Replaced { name, field });
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
            tracing::info!(kind, name, namespace = self.owner.namespace, "removed");
            self.changes.pruned += 1;
        }
        Ok(())
    }
}

/// Removes the DaemonSets of a PeerRelay that is being deleted, before its other objects.
///
/// # Errors
/// A request failed.
pub async fn remove_relays(
    client: &Client,
    relay: &PeerRelay,
    sets: &[Arc<DaemonSet>],
) -> Result<(), Box<kube::Error>> {
    let namespace = relay.namespace().unwrap_or_default();
    let api: Api<DaemonSet> = Api::namespaced(client.clone(), &namespace);
    let uid = relay.uid().unwrap_or_default();
    let is_own = |set: &&Arc<DaemonSet>| {
        let mut owners = set.owner_references().iter();
        set.metadata.deletion_timestamp.is_none() && owners.any(|owner| owner.uid == uid)
    };
    // The garbage collector removes children only when the PeerRelay is gone, and that waits for the
    // devices of these relays (decision 0022).
    for set in sets.iter().filter(is_own) {
        if delete(&api, &**set).await? {
            tracing::info!(
                name = set.name_any(),
                namespace,
                "removed with its PeerRelay"
            );
        }
    }
    Ok(())
}

/// Deletes exactly this object, and no other object with its name. Returns whether it existed.
///
/// # Errors
/// A request failed. A conflict is an error too, because another object may have the name now.
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

/// Returns the object as it is sent, with a checksum. The checksum shows that a field is no longer
/// wanted.
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
