//! Reports about unreadable objects: a PeerRelay in its status, a RelayNode in an event.

use std::{convert::Infallible, sync::Arc, time::Duration};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Condition, jiff::Timestamp};
use kube::{Api, Client, Resource};
use kube_runtime::{
    events::{Event, EventType, Recorder},
    reflector::ObjectRef,
};
use serde_json::{Value, json};

use super::{
    events::transitions,
    status::{
        self,
        condition::{ConditionUpdate, condition},
    },
    stores::guard::{Guarded, Unreadable, UnreadableObjects},
};
use crate::crd::{PeerRelay, RelayNode};

/// Wait after a failed report about an object.
const RETRY: Duration = Duration::from_secs(5);
/// Shortest time between two events about RelayNodes, because other users may write many of them.
const EVENT_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum number of conditions that are read from a status.
const MOST_CONDITIONS: usize = 16;
/// Reason of the event about a RelayNode.
pub const INVALID_REPORT: &str = "InvalidReport";

/// Reports PeerRelays: they are `InvalidSpec`, and their objects stay as they are.
pub async fn report_relays(
    client: &Client,
    recorder: &Recorder,
    objects: &UnreadableObjects,
) -> Infallible {
    loop {
        let object = objects.next().await;
        if let Err(error) = report_relay(client, recorder, &object).await {
            tracing::warn!(%error, "failed to report a PeerRelay that cannot be read");
            objects.report_again(&object);
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn report_relay(
    client: &Client,
    recorder: &Recorder,
    object: &Arc<Unreadable>,
) -> Result<(), Box<kube::Error>> {
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let Some((status, before, after)) = invalid(object, Timestamp::now()) else {
        return Ok(());
    };
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    // The response contains the same object, which cannot be parsed either.
    let api: Api<Guarded<PeerRelay>> = Api::namespaced(client.clone(), namespace);
    let (params, patch) = status::patch(&object.metadata, &status);
    match api.patch_status(name, &params, &patch).await {
        Ok(_) => {}
        // The object was deleted or replaced.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(()),
        Err(error) => return Err(Box::new(error)),
    }
    for event in transitions(&before, &after) {
        publish::<PeerRelay>(recorder, object, &event).await;
    }
    Ok(())
}

/// The status of a PeerRelay that cannot be read, and its conditions before and after; nothing if it
/// states so already. Everything else in it stays.
fn invalid(object: &Unreadable, now: Timestamp) -> Option<(Value, Vec<Condition>, Vec<Condition>)> {
    let generation = object.metadata.generation.unwrap_or_default();
    let last = object.status.clone().filter(Value::is_object);
    let last = last.unwrap_or_else(|| json!({}));
    let listed = last["conditions"].as_array().into_iter().flatten();
    let read = |condition: &Value| serde_json::from_value(condition.clone()).ok();
    let before: Vec<Condition> = listed.take(MOST_CONDITIONS).filter_map(read).collect();
    let message = format!(
        "this version of the operator cannot read it, and leaves its relays as they are: {}: \
         correct it, or upgrade the operator",
        object.error
    );
    let update = |kind, status| {
        let update = ConditionUpdate::new(kind, status, "InvalidSpec", &message);
        condition(update, &before, generation, now)
    };
    let mut after = vec![update("Ready", "False"), update("Stalled", "True")];
    let is_other = |c: &&Condition| !matches!(&*c.type_, "Ready" | "Stalled" | "Reconciling");
    after.extend(before.iter().filter(is_other).cloned());
    let mut status = last.clone();
    status["observedGeneration"] = generation.into();
    status["conditions"] = serde_json::to_value(&after).expect("conditions are plain data");
    (status != last).then_some((status, before, after))
}

/// Reports RelayNodes: they are left out, as if the relay had not reported.
pub async fn report_nodes(recorder: &Recorder, objects: &UnreadableObjects) -> Infallible {
    let mut reported = std::collections::BTreeMap::new();
    loop {
        let object = objects.next().await;
        let existing: std::collections::BTreeSet<_> = objects.all().iter().map(uid).collect();
        reported.retain(|uid, _| existing.contains(uid));
        // A relay writes its report repeatedly. The same error is reported once.
        if reported.insert(uid(&object), object.error.clone()) == Some(object.error.clone()) {
            continue;
        }
        let event = Event {
            type_: EventType::Warning,
            reason: INVALID_REPORT.into(),
            note: Some(format!(
                "this version of the operator cannot read it, and leaves it out: {}",
                object.error
            )),
            action: "Reconcile".into(),
            secondary: None,
        };
        publish::<RelayNode>(recorder, &object, &event).await;
        tokio::time::sleep(EVENT_INTERVAL).await;
    }
}

fn uid(object: &Arc<Unreadable>) -> String {
    object.metadata.uid.clone().unwrap_or_default()
}

/// A failure to write an event is only logged.
async fn publish<K>(recorder: &Recorder, object: &Unreadable, event: &Event)
where
    K: Resource<DynamicType = ()>,
{
    let mut about = ObjectRef::<K>::new(object.metadata.name.as_deref().unwrap_or_default());
    about.namespace.clone_from(&object.metadata.namespace);
    about.extra.uid.clone_from(&object.metadata.uid);
    if let Err(error) = recorder.publish(event, &about.into()).await {
        tracing::warn!(%error, "event not written");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    #[test]
    fn an_unreadable_spec_is_invalid_and_all_else_stays() {
        let condition = |type_: &str, status: &str| {
            json!({"type": type_, "status": status, "reason": "R", "message": "",
                   "lastTransitionTime": "2026-01-01T00:00:00Z"})
        };
        let mut object = Unreadable {
            metadata: ObjectMeta {
                generation: Some(4),
                ..ObjectMeta::default()
            },
            status: Some(json!({
                "observedGeneration": 3, "relays": "2/2", "newer": {"field": 1},
                "conditions": [
                    condition("Ready", "True"), condition("Reconciling", "True"),
                    condition("RelaysAvailable", "True"), {"type": 5},
                ],
            })),
            error: "unknown variant `Quantum`".into(),
        };
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let (status, before, after) = invalid(&object, now).unwrap();
        assert_eq!(before.len(), 3);
        let text = |c: &Condition| format!("{}={}/{}", c.type_, c.status, c.reason);
        let said: Vec<_> = after.iter().map(text).collect();
        let wanted = [
            "Ready=False/InvalidSpec",
            "Stalled=True/InvalidSpec",
            "RelaysAvailable=True/R",
        ];
        assert_eq!(said, wanted);
        assert!(after[0].message.contains("unknown variant `Quantum`"));
        assert_eq!(status["relays"], "2/2");
        assert_eq!(status["newer"]["field"], 1);
        assert_eq!(status["observedGeneration"], 4);
        object.status = Some(status);
        let later = Timestamp::from_second(1_900_000_000).unwrap();
        assert!(invalid(&object, later).is_none(), "told twice");
        object.status = None;
        assert!(invalid(&object, now).is_some());
    }
}
