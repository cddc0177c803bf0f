//! `template.podOverrides`: a strategic merge patch for the `spec` of the relays' pods. Pure.
//!
//! There is a list of allowed fields, not of forbidden ones. A new field of Kubernetes is refused
//! until it is added to the list.

mod shape;

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Map, Value, json};

pub use self::shape::{Shape, check_shape};
use crate::{
    config::{DEFAULT_STATE_DIR, POD_SESSION_DIR},
    logging,
};

/// Largest patch, as JSON.
const LARGEST: usize = 16 * 1024;
/// Fields of a pod that may be patched.
const POD: &[&str] = &[
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "initContainers",
    "overhead",
    "preemptionPolicy",
    "readinessGates",
    "runtimeClassName",
    "schedulerName",
    "securityContext",
    "terminationGracePeriodSeconds",
    "volumes",
];
/// Fields of a pod's security context that may be patched.
const POD_SECURITY: &[&str] = &[
    "appArmorProfile",
    "fsGroupChangePolicy",
    "seLinuxOptions",
    "supplementalGroups",
    "sysctls",
];
/// Fields of the operator's own containers that may be patched.
const OWN_CONTAINER: &[&str] = &[
    "env",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "readinessProbe",
    "resources",
    "startupProbe",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "volumeMounts",
];
/// Containers of the operator: their list and their name.
const RELAY: (&str, &str) = ("containers", "relay");
const PREPARE_STATE: (&str, &str) = ("initContainers", "prepare-state");
/// Volumes, variables and mounts of the operator.
const VOLUMES: &[&str] = &["auth", "bpf", "config", "sessions", "state"];
const VARIABLES: &[&str] = &["HOST_IP", "NODE_NAME", "POD_NAME", "POD_UID"];
/// Beginning of the names of the variables that are settings of the program.
const SETTINGS: &str = "PEERRELAY_";
const MOUNTS: &[&str] = &[
    "/etc/peerrelay",
    "/sys/fs/bpf",
    "/var/run/secrets/peerrelay.dev",
    DEFAULT_STATE_DIR,
    POD_SESSION_DIR,
];

/// The reason for which a patch is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverrideError {
    /// Larger than `LARGEST`.
    #[error("template.podOverrides has {0} bytes, 16384 at most: move large things to a ConfigMap")]
    Large(usize),
    /// Relays need the item, or another field sets it.
    #[error("template.podOverrides must not change {0}: remove it{1}")]
    Forbidden(String, &'static str),
    /// These relays do not have the item.
    #[error(
        "template.podOverrides changes {item}, which relays of region {region} do not have{why}: \
         remove it, or move the region to a PeerRelay of its own"
    )]
    Absent {
        /// Path of the item.
        item: String,
        /// Name of the region.
        region: String,
        /// Description of the relays that have it, if any do.
        why: &'static str,
    },
    /// A container that is added, and has nothing to run.
    #[error("template.podOverrides: {0} has no image: add it")]
    NoImage(String),
    /// A mount refers to a volume that does not exist.
    #[error(
        "template.podOverrides: {at} is of volume {volume}, which pods of region {region} do not \
         have: add it to template.podOverrides.volumes, or correct its name"
    )]
    NoVolume {
        /// Path of the mount.
        at: String,
        /// Name of the volume.
        volume: String,
        /// Name of the region.
        region: String,
    },
    /// A name that Kubernetes does not allow.
    #[error(
        "template.podOverrides: {0} cannot have that name: use at most 63 lower-case letters, \
         digits and dashes, with a letter or digit at both ends"
    )]
    Name(String),
    /// A list item lacks the name that identifies it.
    #[error("template.podOverrides: an item of {0} has no {1}: add it")]
    Unnamed(String, &'static str),
    /// The patched object is not a pod.
    #[error("template.podOverrides is no patch of a pod's spec: {0}")]
    Type(String),
    /// Pods do not have the field.
    #[error("template.podOverrides: pods have no {0}: check its spelling")]
    Unknown(String),
}

/// Checks that every patched pod of the operator is still a working relay.
pub fn check(patch: &Map<String, Value>) -> Result<(), OverrideError> {
    let size = Value::Object(patch.clone()).to_string().len();
    if size > LARGEST {
        return Err(OverrideError::Large(size));
    }
    only(patch, POD, "")?;
    if let Some(security) = patch.get("securityContext") {
        only(
            object(security, "securityContext")?,
            POD_SECURITY,
            "securityContext.",
        )?;
    }
    for list in ["containers", "initContainers"] {
        for item in items(patch, list)? {
            let name = named(item, list, "name")?;
            if [RELAY, PREPARE_STATE].contains(&(list, name)) {
                check_own_container(item, &format!("{list}[{name}]."))?;
            }
        }
    }
    for item in items(patch, "volumes")? {
        let name = named(item, "volumes", "name")?;
        if VOLUMES.contains(&name) {
            return Err(forbidden(format!("volumes[{name}]")));
        }
    }
    check_types(patch)
}

fn check_own_container(container: &Map<String, Value>, at: &str) -> Result<(), OverrideError> {
    only(container, OWN_CONTAINER, at)?;
    for item in items(container, "env")? {
        let name = named(item, "env", "name")?;
        if is_own_variable(name) {
            return Err(forbidden(format!("{at}env[{name}]")));
        }
    }
    for item in items(container, "volumeMounts")? {
        let path = named(item, "volumeMounts", "mountPath")?;
        let is_ours = |ours: &str| path == ours || path.starts_with(&format!("{ours}/"));
        if MOUNTS.iter().any(|ours| is_ours(ours)) {
            return Err(forbidden(format!("{at}volumeMounts[{path}]")));
        }
    }
    Ok(())
}

/// Returns whether an environment variable of relays is set by the operator, or takes precedence over what
/// the operator configures. The variables of the log are for users.
pub(super) fn is_own_variable(name: &str) -> bool {
    let is_setting = name.starts_with(SETTINGS) && !logging::VARIABLES.contains(&name);
    VARIABLES.contains(&name) || is_setting
}

/// Every field must exist in pods and have the correct type.
fn check_types(patch: &Map<String, Value>) -> Result<(), OverrideError> {
    let mut plain = Value::Object(patch.clone());
    strip(&mut plain);
    let mut pod = plain.clone();
    // A patch need not have the only field without which no pod can be parsed.
    if pod.get("containers").is_none() {
        pod["containers"] = json!([]);
    }
    let read: PodSpec =
        serde_json::from_value(pod).map_err(|error| OverrideError::Type(error.to_string()))?;
    let known = serde_json::to_value(read).expect("Kubernetes objects are plain data");
    lost(&plain, &known, "").map_or(Ok(()), |field| Err(OverrideError::Unknown(field)))
}

/// Returns the path of the first field of `patch` that is not in `known`. Empty lists and maps are
/// missing from `known`, because the parser drops them.
fn lost(patch: &Value, known: &Value, at: &str) -> Option<String> {
    match (patch, known) {
        (Value::Object(patch), Value::Object(known)) => patch.iter().find_map(|(key, value)| {
            let at = format!("{at}{key}");
            let is_empty = value.as_object().is_some_and(Map::is_empty)
                || value.as_array().is_some_and(Vec::is_empty);
            match known.get(key) {
                Some(known) => lost(value, known, &format!("{at}.")),
                None => (!is_empty).then_some(at),
            }
        }),
        (Value::Array(patch), Value::Array(known)) => patch
            .iter()
            .zip(known)
            .find_map(|(value, known)| lost(value, known, at)),
        _ => None,
    }
}

/// Removes parts that only a patch may have: null values and directives.
fn strip(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, value| !value.is_null() && key != "$patch");
            map.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

/// Applies `patch` to `pod`. Maps are merged, lists of named items are merged by name, and other
/// lists are replaced. Null removes a field, `$patch: delete` removes an item, and `$patch:
/// replace` replaces instead of merging.
pub fn merge(pod: &mut Value, patch: &Map<String, Value>) {
    let Value::Object(base) = pod else { return };
    for (key, value) in patch {
        match value {
            Value::Null => {
                base.remove(key);
            }
            Value::Object(map) if map.get("$patch").is_some_and(|verb| verb == "delete") => {
                base.remove(key);
            }
            Value::Object(map) => {
                let slot = base.entry(key).or_insert_with(|| json!({}));
                if !slot.is_object() || map.get("$patch").is_some_and(|verb| verb == "replace") {
                    *slot = json!({});
                }
                merge(slot, map);
            }
            Value::Array(items) => {
                let slot = base.entry(key).or_insert_with(|| json!([]));
                match (merge_key(key), slot.as_array_mut()) {
                    (Some(by), Some(list)) => items.iter().for_each(|item| put(list, by, item)),
                    _ => {
                        let mut plain = value.clone();
                        strip(&mut plain);
                        *slot = plain;
                    }
                }
            }
            _ if key == "$patch" => {}
            plain => {
                base.insert(key.clone(), plain.clone());
            }
        }
    }
}

/// Merges `item` into the item of `list` with the same name, or adds it.
fn put(list: &mut Vec<Value>, by: &str, item: &Value) {
    let Value::Object(patch) = item else { return };
    let at = list.iter().position(|old| old[by] == item[by]);
    let verb = patch.get("$patch").and_then(Value::as_str);
    match (at, verb) {
        (Some(at), Some("delete")) => {
            list.remove(at);
        }
        (None, Some("delete")) => {}
        (Some(at), Some("replace")) => {
            list[at] = json!({});
            merge(&mut list[at], patch);
        }
        (Some(at), _) => merge(&mut list[at], patch),
        (None, _) => {
            let mut new = json!({});
            merge(&mut new, patch);
            list.push(new);
        }
    }
}

/// Returns the field that identifies the items of a list (`patchMergeKey` of Kubernetes' pods).
fn merge_key(list: &str) -> Option<&'static str> {
    match list {
        "containers" | "env" | "initContainers" | "volumes" => Some("name"),
        "hostAliases" => Some("ip"),
        "ports" => Some("containerPort"),
        "volumeDevices" => Some("devicePath"),
        "volumeMounts" => Some("mountPath"),
        _ => None,
    }
}

fn only(map: &Map<String, Value>, allowed: &[&str], at: &str) -> Result<(), OverrideError> {
    match map.keys().find(|key| !allowed.contains(&key.as_str())) {
        Some(key) => Err(forbidden(format!("{at}{key}"))),
        None => Ok(()),
    }
}

fn forbidden(field: String) -> OverrideError {
    let fix = match field.rsplit('.').next().unwrap_or_default() {
        "nodeSelector" | "affinity" | "tolerations" => ", and use regions[].placement",
        "image" | "imagePullSecrets" | "priorityClassName" => ", and use spec.template",
        "hostNetwork" | "ports" => ", and use regions[].exposure and spec.port",
        _ => "",
    };
    OverrideError::Forbidden(field, fix)
}

fn object<'a>(value: &'a Value, at: &str) -> Result<&'a Map<String, Value>, OverrideError> {
    let map = value.as_object();
    map.ok_or_else(|| OverrideError::Type(format!("{at} must be an object")))
}

fn items<'a>(
    map: &'a Map<String, Value>,
    list: &str,
) -> Result<Vec<&'a Map<String, Value>>, OverrideError> {
    let Some(value) = map.get(list) else {
        return Ok(Vec::new());
    };
    let items = value.as_array();
    let items = items.ok_or_else(|| OverrideError::Type(format!("{list} must be a list")))?;
    items.iter().map(|item| object(item, list)).collect()
}

fn named<'a>(
    item: &'a Map<String, Value>,
    list: &str,
    by: &'static str,
) -> Result<&'a str, OverrideError> {
    let name = item.get(by).and_then(Value::as_str);
    name.ok_or_else(|| OverrideError::Unnamed(list.to_owned(), by))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn named_items_are_merged_and_others_replaced() {
        let mut pod = json!({
            "containers": [{"name": "relay", "env": [{"name": "A", "value": "1"}], "image": "i"}],
            "dnsConfig": {"nameservers": ["192.0.2.1"], "searches": ["a"]},
            "terminationGracePeriodSeconds": 30,
        });
        let patch = json!({
            "containers": [
                {"name": "relay", "env": [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}]},
                {"name": "side", "image": "s"},
            ],
            "dnsConfig": {"nameservers": ["192.0.2.2"]},
            "terminationGracePeriodSeconds": null,
        });
        merge(&mut pod, patch.as_object().unwrap());
        assert_eq!(
            pod,
            json!({
                "containers": [
                    {"name": "relay", "image": "i", "env": [
                        {"name": "A", "value": "2"}, {"name": "B", "value": "3"},
                    ]},
                    {"name": "side", "image": "s"},
                ],
                "dnsConfig": {"nameservers": ["192.0.2.2"], "searches": ["a"]},
            })
        );
    }

    #[test]
    fn directives_delete_and_replace() {
        let base = || {
            json!({
                "containers": [{"name": "a", "image": "i"}, {"name": "b"}],
                "dnsConfig": {"searches": ["a"]},
            })
        };
        for (patch, wanted) in [
            (
                json!({"containers": [{"name": "b", "$patch": "delete"}]}),
                json!({"containers": [{"name": "a", "image": "i"}], "dnsConfig": {"searches": ["a"]}}),
            ),
            (
                json!({"containers": [{"name": "a", "$patch": "replace", "tty": true}]}),
                json!({
                    "containers": [{"name": "a", "tty": true}, {"name": "b"}],
                    "dnsConfig": {"searches": ["a"]},
                }),
            ),
            (
                json!({"dnsConfig": {"$patch": "replace", "nameservers": ["192.0.2.1"]}}),
                json!({
                    "containers": [{"name": "a", "image": "i"}, {"name": "b"}],
                    "dnsConfig": {"nameservers": ["192.0.2.1"]},
                }),
            ),
            (
                json!({"dnsConfig": {"$patch": "delete"}}),
                json!({"containers": [{"name": "a", "image": "i"}, {"name": "b"}]}),
            ),
        ] {
            let mut pod = base();
            merge(&mut pod, patch.as_object().unwrap());
            assert_eq!(pod, wanted, "{patch}");
        }
    }

    #[test]
    fn a_patch_applied_twice_is_the_patch_applied_once() {
        let patch = json!({
            "containers": [{"name": "relay", "env": [{"name": "A", "value": "2"}]}],
            "volumes": [{"name": "extra", "emptyDir": {}}],
            "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["a"]}],
        });
        let mut pod = json!({"containers": [{"name": "relay"}]});
        merge(&mut pod, patch.as_object().unwrap());
        let once = pod.clone();
        merge(&mut pod, patch.as_object().unwrap());
        assert_eq!(pod, once);
    }

    #[test]
    fn what_relays_need_cannot_be_changed() {
        for (patch, field) in [
            (json!({"hostNetwork": false}), "hostNetwork"),
            (json!({"hostPID": true}), "hostPID"),
            (
                json!({"serviceAccountName": "default"}),
                "serviceAccountName",
            ),
            (json!({"nodeSelector": {"a": "b"}}), "nodeSelector"),
            (
                json!({"securityContext": {"runAsUser": 0}}),
                "securityContext.runAsUser",
            ),
            (
                json!({"containers": [{"name": "relay", "image": "x"}]}),
                "containers[relay].image",
            ),
            (
                json!({"containers": [{"name": "relay", "args": []}]}),
                "containers[relay].args",
            ),
            (
                json!({"containers": [{"name": "relay", "securityContext": {"privileged": true}}]}),
                "containers[relay].securityContext",
            ),
            (
                json!({"containers": [{"name": "relay", "$patch": "delete"}]}),
                "containers[relay].$patch",
            ),
            (json!({"$patch": "replace"}), "$patch"),
            (
                json!({"volumes": [{"name": "auth", "emptyDir": {}}]}),
                "volumes[auth]",
            ),
            (
                json!({"containers": [{"name": "relay", "env": [{"name": "POD_UID", "value": "x"}]}]}),
                "containers[relay].env[POD_UID]",
            ),
            (
                json!({"containers": [{"name": "relay", "env": [{"name": "PEERRELAY_PORT", "value": "1"}]}]}),
                "containers[relay].env[PEERRELAY_PORT]",
            ),
            (
                json!({"containers": [{"name": "relay", "volumeMounts": [
                    {"name": "x", "mountPath": "/etc/peerrelay"},
                ]}]}),
                "containers[relay].volumeMounts[/etc/peerrelay]",
            ),
        ] {
            match check(patch.as_object().unwrap()) {
                Err(OverrideError::Forbidden(said, _)) => assert_eq!(said, field),
                other => panic!("{patch}: {other:?}"),
            }
        }
    }

    #[test]
    fn misspelled_and_mistyped_fields_are_named() {
        let said = |patch: Value| check(patch.as_object().unwrap()).unwrap_err().to_string();
        let patch = json!({"containers": [{"name": "side", "imag": "x"}]});
        assert!(said(patch).contains("containers.imag"));
        assert!(said(json!({"terminationGracePeriodSeconds": "long"})).contains("no patch"));
        assert!(said(json!({"containers": [{"image": "x"}]})).contains("no name"));
        assert!(said(json!({"containers": {"name": "x"}})).contains("must be a list"));
        let large = "x".repeat(20_000);
        assert!(said(json!({"schedulerName": large})).contains("16384 at most"));
    }

    #[test]
    fn what_users_want_is_allowed() {
        let patch = json!({
            "containers": [
                {"name": "relay", "env": [{"name": "PEERRELAY_LOG", "value": "debug"}], "lifecycle": null},
                {"name": "side", "image": "s", "volumeMounts": [{"name": "x", "mountPath": "/x"}]},
            ],
            "volumes": [{"name": "x", "emptyDir": {}}],
            "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["192.0.2.1"]},
            "securityContext": {"sysctls": [{"name": "a", "value": "b"}]},
        });
        assert_eq!(check(patch.as_object().unwrap()), Ok(()));
    }
}
