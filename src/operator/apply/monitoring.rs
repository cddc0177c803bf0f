//! Objects of kinds that may not be installed in the cluster.

use kube::{
    Api, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
};

use super::{Applier, Fault};
use crate::{
    names,
    operator::{
        kinds::MonitoringKind,
        objects::{MonitoringObject, checksum},
        refusal::Subject,
        stores::monitoring::Monitoring,
    },
};

/// Applies `objects` whose kinds are installed in the cluster.
pub(super) async fn apply(
    applier: &mut Applier<'_>,
    seen: &Monitoring,
    objects: Vec<MonitoringObject>,
) {
    for wanted in objects {
        let MonitoringObject {
            kind,
            is_known,
            object,
        } = wanted;
        if applier.is_over() {
            return;
        }
        if !is_known {
            seen.forget(kind);
            if object.is_none() {
                continue;
            }
        }
        let subject = Subject {
            kind: kind.resource().kind,
            name: names::metrics(&applier.owner.name),
            region: None,
        };
        // A newly installed kind is another reason to try.
        let sum = checksum(&(&applier.owner.reference.uid, &object));
        let tried = format!("{sum} {is_known}");
        let done = applier
            .monitor(seen, (kind, object), &subject, sum, &tried)
            .await;
        applier.record(subject, &tried, done);
    }
}

impl Applier<'_> {
    async fn monitor(
        &mut self,
        seen: &Monitoring,
        (kind, wanted): (MonitoringKind, Option<DynamicObject>),
        subject: &Subject,
        sum: String,
        tried: &str,
    ) -> Result<(), Fault> {
        let (namespace, name) = (&self.owner.namespace, &subject.name);
        if seen.is_done(kind, namespace, name, &sum) {
            return Ok(());
        }
        if let Some(refusal) = self.attempts.waiting(subject, tried) {
            return Err(Fault::Waiting(refusal));
        }
        let resource = kind.resource();
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), namespace, &resource);
        // Read and not watched, because a watch of a kind that is not installed would fail without end.
        let live = api.get_opt(name).await.map_err(Fault::api("read"))?;
        let ours = |object: &DynamicObject| {
            let mut owners = object.owner_references().iter();
            owners.any(|owner| owner.uid == self.owner.reference.uid)
        };
        match (live, wanted) {
            (Some(live), _) if !ours(&live) => return Err(Fault::NameTaken),
            (Some(live), Some(_))
                if live.annotations().get(names::APPLIED_ANNOTATION) == Some(&sum) => {}
            (_, Some(mut object)) => {
                let note = (names::APPLIED_ANNOTATION.to_owned(), sum.clone());
                object.annotations_mut().extend([note]);
                let params = PatchParams::apply(names::OPERATOR).force();
                let patched = api.patch(name, &params, &Patch::Apply(&object)).await;
                patched.map_err(Fault::api("apply"))?;
                self.changes.applied += 1;
            }
            (Some(_), None) => {
                let deleted = api.delete(name, &DeleteParams::default()).await;
                deleted.map_err(Fault::api("remove"))?;
                self.changes.pruned += 1;
            }
            (None, None) => {}
        }
        seen.record(kind, namespace, name, sum);
        Ok(())
    }
}
