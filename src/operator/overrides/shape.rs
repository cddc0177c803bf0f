//! Parts of the pods of a region that a patch may refer to.

use serde_json::{Map, Value};

use super::{OverrideError, PREPARE_STATE, RELAY, VOLUMES, items, named};
use crate::names;

/// Shape of the pods of a region before they are patched.
#[derive(Debug, Clone, Copy)]
pub struct Shape<'a> {
    /// Name of the region.
    pub region: &'a str,
    /// True if they use the network of their nodes: only these prepare a directory there.
    pub on_host: bool,
}

/// Checks that a patch that passed [`check`](super::check) changes only parts that pods of this
/// shape have. The API server would refuse other pods, because a patch of a missing item creates an
/// incomplete one.
///
/// # Errors
/// The first item that these pods do not have.
pub fn check_shape(patch: &Map<String, Value>, shape: Shape<'_>) -> Result<(), OverrideError> {
    let volumes = items(patch, "volumes")?;
    for item in &volumes {
        let name = named(item, "volumes", "name")?;
        check_name(item, name, format!("volumes[{name}]"))?;
    }
    let added = |name: &str| {
        let adds = |item: &&Map<String, Value>| item["name"] == name && !deletes(item);
        volumes.iter().any(adds)
    };
    for list in ["containers", "initContainers"] {
        for item in items(patch, list)? {
            let name = named(item, list, "name")?;
            let at = format!("{list}[{name}]");
            if deletes(item) {
                continue;
            }
            check_name(item, name, at.clone())?;
            check_container(item, (list, name), shape)?;
            for mount in items(item, "volumeMounts")? {
                let path = named(mount, "volumeMounts", "mountPath")?;
                if deletes(mount) {
                    continue;
                }
                let volume = named(mount, &format!("{at}.volumeMounts"), "name")?;
                let own = VOLUMES.contains(&volume) && has_volume(volume, shape);
                if !own && !added(volume) {
                    return Err(OverrideError::NoVolume {
                        at: format!("{at}.volumeMounts[{path}]"),
                        volume: volume.to_owned(),
                        region: shape.region.to_owned(),
                    });
                }
            }
        }
    }
    Ok(())
}

/// Returns whether pods of this shape have one of the operator's own volumes, whichever their data path.
fn has_volume(volume: &str, shape: Shape<'_>) -> bool {
    match volume {
        "sessions" => shape.on_host,
        // Only relays with the kernel path have it.
        "bpf" => false,
        _ => true,
    }
}

/// A container must be one that pods of this shape have, or a whole one.
fn check_container(
    container: &Map<String, Value>,
    which: (&str, &str),
    shape: Shape<'_>,
) -> Result<(), OverrideError> {
    let (list, name) = which;
    let at = || format!("{list}[{name}]");
    let absent = |why| OverrideError::Absent {
        item: at(),
        region: shape.region.to_owned(),
        why,
    };
    match which {
        RELAY => Ok(()),
        PREPARE_STATE if shape.on_host => Ok(()),
        PREPARE_STATE => Err(absent(
            ", as only relays on the network of their nodes have it",
        )),
        (_, "relay") => Err(absent(" in that list: it is in containers")),
        (_, "prepare-state") => Err(absent(" in that list: it is in initContainers")),
        _ => match container.get("image").and_then(Value::as_str) {
            None | Some("") => Err(OverrideError::NoImage(at())),
            Some(_) => Ok(()),
        },
    }
}

fn check_name(item: &Map<String, Value>, name: &str, at: String) -> Result<(), OverrideError> {
    let is_label = names::device(name) == name && !name.is_empty();
    match is_label || deletes(item) {
        true => Ok(()),
        false => Err(OverrideError::Name(at)),
    }
}

/// Returns whether an item of a patch removes the item with its name.
fn deletes(item: &Map<String, Value>) -> bool {
    item.get("$patch").is_some_and(|verb| verb == "delete")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::json;

    use super::{super::check, *};

    #[test]
    fn what_pods_do_not_have_is_refused_by_its_name() {
        let mount = |list: &str, name: &str, volume: &str| {
            let mounts = json!([{"name": volume, "mountPath": "/x"}]);
            json!({list: [{"name": name, "image": "i", "volumeMounts": mounts}]})
        };
        let cases = [
            (
                json!({"initContainers": [{"name": "prepare-state", "resources": {}}]}),
                "initContainers[prepare-state], which relays of region office do not have",
            ),
            (
                json!({"containers": [{"name": "prepare-state", "image": "i"}]}),
                "it is in initContainers",
            ),
            (
                json!({"initContainers": [{"name": "relay", "image": "i"}]}),
                "it is in containers",
            ),
            (
                json!({"containers": [{"name": "side"}]}),
                "containers[side] has no image",
            ),
            (
                mount("containers", "side", "absent"),
                "containers[side].volumeMounts[/x] is of volume absent",
            ),
            (
                mount("containers", "side", "sessions"),
                "is of volume sessions",
            ),
            (
                json!({"containers": [{"name": "side", "image": "i", "volumeMounts": [
                    {"mountPath": "/x"},
                ]}]}),
                "an item of containers[side].volumeMounts has no name",
            ),
            (
                json!({"containers": [{"name": "Side_Car", "image": "i"}]}),
                "containers[Side_Car] cannot have that name",
            ),
            (
                json!({"volumes": [{"name": "a.b", "emptyDir": {}}]}),
                "volumes[a.b] cannot have that name",
            ),
        ];
        for (patch, message) in cases {
            let patch = patch.as_object().unwrap();
            assert_eq!(check(patch), Ok(()), "{patch:?}");
            let said = check_shape(patch, shape(false)).unwrap_err().to_string();
            assert!(said.contains(message), "{said}");
        }
    }

    #[test]
    fn what_pods_have_may_be_changed_and_whole_things_added() {
        let patch = json!({
            "initContainers": [{"name": "prepare-state", "resources": {"limits": {"cpu": "1"}}}],
            "containers": [
                {"name": "relay", "volumeMounts": [{"name": "extra", "mountPath": "/x"}]},
                {"name": "side", "image": "i", "volumeMounts": [
                    {"name": "sessions", "mountPath": "/y"},
                ]},
                {"name": "gone", "$patch": "delete"},
            ],
            "volumes": [{"name": "extra", "emptyDir": {}}],
        });
        let patch = patch.as_object().unwrap();
        assert_eq!(check(patch), Ok(()));
        assert_eq!(check_shape(patch, shape(true)), Ok(()));
        assert!(check_shape(patch, shape(false)).is_err());
    }

    const fn shape(on_host: bool) -> Shape<'static> {
        Shape {
            region: "office",
            on_host,
        }
    }
}
