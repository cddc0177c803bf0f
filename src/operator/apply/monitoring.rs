//! Objects of kinds that the cluster may not know.

use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, Patch, PatchParams},
};

use super::{ApplyError, Changes};
use crate::{
    names,
    operator::{
        build::{checksum, monitoring::MonitoringKind},
        stores::monitoring::Monitoring,
        validate::ValidatedRelay,
    },
};

/// Makes the cluster hold what the PeerRelay wants of these kinds, where it knows them.
pub(super) async fn apply(
    client: &Client,
    seen: &Monitoring,
    relay: &ValidatedRelay,
    changes: &mut Changes,
) -> Result<(), ApplyError> {
    let name = names::metrics(&relay.name);
    for kind in MonitoringKind::ALL {
        let wanted = kind.object(relay);
        if !relay.monitoring_kinds.contains(&kind) {
            seen.forget(kind);
            if wanted.is_none() {
                continue;
            }
        }
        let sum = checksum(&(&relay.owner.uid, &wanted));
        if seen.is_done(kind, &relay.namespace, &name, &sum) {
            continue;
        }
        let resource = kind.resource();
        let failed = |verb: &'static str| {
            let (kind, name) = (resource.kind.clone(), name.clone());
            move |source| ApplyError::Api {
                verb,
                kind,
                name,
                source: Box::new(source),
            }
        };
        let api: Api<DynamicObject> =
            Api::namespaced_with(client.clone(), &relay.namespace, &resource);
        let live = api.get_opt(&name).await.map_err(failed("read"))?;
        let ours = |object: &DynamicObject| {
            let mut owners = object.owner_references().iter();
            owners.any(|owner| owner.uid == relay.owner.uid)
        };
        match (live, wanted) {
            (Some(live), _) if !ours(&live) => {
                return Err(ApplyError::NameTaken {
                    kind: resource.kind,
                    name,
                });
            }
            (Some(live), Some(_))
                if live.annotations().get(names::APPLIED_ANNOTATION) == Some(&sum) => {}
            (_, Some(mut object)) => {
                let note = (names::APPLIED_ANNOTATION.to_owned(), sum.clone());
                object.annotations_mut().extend([note]);
                let params = PatchParams::apply(names::OPERATOR).force();
                let patched = api.patch(&name, &params, &Patch::Apply(&object)).await;
                patched.map_err(failed("apply"))?;
                changes.applied += 1;
            }
            (Some(_), None) => {
                let deleted = api.delete(&name, &DeleteParams::default()).await;
                deleted.map_err(failed("remove"))?;
                changes.pruned += 1;
            }
            (None, None) => {}
        }
        seen.note(kind, &relay.namespace, &name, sum);
    }
    Ok(())
}
