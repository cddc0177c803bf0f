//! Withdrawal of all relays of a PeerRelay that is being deleted. The usual passes no longer write its
//! configuration.

use std::sync::Arc;

use k8s_openapi::{api::core::v1::ConfigMap, jiff::Timestamp};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    config::{
        CONFIG_KEY,
        withdrawals::{DELETED_KEY, EVERY_NODE, WITHDRAWALS_KEY, Withdrawals},
    },
    crd::PeerRelay,
    operator::plan::withdrawal,
};

/// Writes into the configuration of each region that no relay follows, before relays are removed: a relay
/// that expects another one leaves the kernel forwarding for longer (docs/decisions/0027). If `is_forgotten`,
/// relays remove their identity when they end, because their devices leave the tailnet.
///
/// # Errors
/// A request failed.
pub async fn withdraw_relays(
    client: &Client,
    relay: &PeerRelay,
    maps: &[Arc<ConfigMap>],
    is_forgotten: bool,
    now: Timestamp,
) -> Result<(), Box<kube::Error>> {
    let namespace = relay.namespace().unwrap_or_default();
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    for map in maps {
        let Some(patch) = patch(relay, map, is_forgotten, now) else {
            continue;
        };
        let patch = Patch::Merge(patch);
        match api
            .patch(&map.name_any(), &PatchParams::default(), &patch)
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(Box::new(error)),
        }
    }
    Ok(())
}

/// The change of a ConfigMap; `None` if it is not the configuration of a region of `relay`, or if it has
/// the withdrawal already.
fn patch(relay: &PeerRelay, map: &ConfigMap, is_forgotten: bool, now: Timestamp) -> Option<Value> {
    let uid = relay.uid()?;
    let data = map.data.as_ref()?;
    let is_own = map.owner_references().iter().any(|owner| owner.uid == uid);
    let present = data.get(WITHDRAWALS_KEY);
    let present = present.and_then(|text| serde_yaml::from_str::<Withdrawals>(text).ok());
    let is_withdrawn = present.is_some_and(|present| present.0.contains_key(EVERY_NODE));
    let is_done = is_withdrawn && (!is_forgotten || data.contains_key(DELETED_KEY));
    let withdrawals = Withdrawals([(EVERY_NODE.to_owned(), now)].into());
    let text = withdrawal::text(&withdrawals);
    (is_own && data.contains_key(CONFIG_KEY) && !is_done).then(|| {
        let mut data = json!({WITHDRAWALS_KEY: text});
        if is_forgotten {
            data[DELETED_KEY] = json!("true");
        }
        // With the UID, the API server refuses another object with this name.
        json!({"metadata": {"uid": map.meta().uid}, "data": data})
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use crate::operator::fixtures;

    fn map(owner: &str, data: Value) -> ConfigMap {
        let map = json!({
            "metadata": {
                "name": "edge-eu",
                "uid": "m1",
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "PeerRelay", "name": "edge", "uid": owner}
                ],
            },
            "data": data,
        });
        serde_json::from_value(map).unwrap()
    }

    #[test]
    fn each_region_of_a_deleted_peer_relay_is_withdrawn_once() {
        let relay = fixtures::relay(json!({}));
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let config = |owner| map(owner, json!({CONFIG_KEY: "port: 40000"}));
        let patch_of = |map: &ConfigMap| patch(&relay, map, false, now);
        assert_eq!(patch_of(&config("u-2")), None);
        assert_eq!(patch_of(&map("u-1", json!({"entries": ""}))), None);
        let change = patch_of(&config("u-1")).unwrap();
        assert_eq!(change["metadata"]["uid"], "m1");
        let text = change["data"][WITHDRAWALS_KEY].as_str().unwrap();
        let withdrawals: Withdrawals = serde_yaml::from_str(text).unwrap();
        assert!(withdrawals.since("any").is_some());
        let mut withdrawn = config("u-1");
        let data = withdrawn.data.as_mut().unwrap();
        data.insert(WITHDRAWALS_KEY.to_owned(), text.to_owned());
        assert_eq!(patch_of(&withdrawn), None);

        assert!(change["data"].get(DELETED_KEY).is_none());
        let forget = |map: &ConfigMap| patch(&relay, map, true, now);
        let change = forget(&withdrawn).unwrap();
        assert_eq!(change["data"][DELETED_KEY], "true");
        let data = withdrawn.data.as_mut().unwrap();
        data.insert(DELETED_KEY.to_owned(), "true".to_owned());
        assert_eq!(forget(&withdrawn), None);
    }
}
