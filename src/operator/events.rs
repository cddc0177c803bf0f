//! Events about changes of the conditions of a PeerRelay.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube_runtime::events::{Event, EventType};

use super::{
    apply::{CLASS, FAMILIES},
    objects::Replaced,
};
use crate::{
    crd::{PeerRelay, device::RelayDevice},
    names::CREDENTIAL_EXPIRING,
};

/// Reason of the event about a replaced Service.
pub const SERVICE_REPLACED: &str = "ServiceReplaced";
/// Reason of the event about devices that a deleted PeerRelay has left in the tailnet.
pub const DEVICES_LEFT: &str = "DevicesLeft";
/// Reason of the event about a device that is not deleted because it lacks the tag of its relay.
pub const DEVICE_KEPT: &str = "DeviceKept";
/// Reason of the event about entries that a deleted PeerRelay has left in the tailnet policy.
pub const ENTRIES_LEFT: &str = "PolicyEntriesLeft";
/// Longest note that the API server accepts, in bytes.
// `NoteLengthLimit` of k8s.io/kubernetes/pkg/apis/core/validation.
const LONGEST_NOTE: usize = 1_024;
/// Devices that an event names.
const MOST_NAMED: usize = 8;
/// Reasons of conditions that are not `True` while relays start. They are no problem.
const STARTING: &[&str] = &[
    "AuthKeyPending",
    "RelaysStarting",
    "NoRelayReady",
    "NodePortPending",
    "LoadBalancerPending",
];

/// Returns an event for each condition that has changed.
///
/// `Stalled` and `Reconciling` explain why `Ready` is not true, and have no event of their own.
pub fn transitions(before: &[Condition], now: &[Condition]) -> Vec<Event> {
    let find = |type_: &str| before.iter().find(|c| c.type_ == type_);
    let stalled = |all: &[Condition]| all.iter().any(|c| c.type_ == "Stalled" && is_true(c));
    let stalls = stalled(now) && !stalled(before);
    let new = now.iter().filter(|condition| {
        let is_detail = matches!(&*condition.type_, "Stalled" | "Reconciling");
        !is_detail && is_new(condition, find(&condition.type_), stalls)
    });
    new.map(|condition| {
        let is_ready = condition.type_ == "Ready";
        let is_expiring = condition.type_ == CREDENTIAL_EXPIRING && is_true(condition);
        let problem = match is_expiring || is_ready && stalled(now) {
            true => true,
            false => condition.status == "False" && !is_start(condition, find(&condition.type_)),
        };
        let note = match is_ready {
            true => condition.message.clone(),
            false => format!("{}: {}", condition.type_, condition.message),
        };
        Event {
            type_: match problem {
                true => EventType::Warning,
                false => EventType::Normal,
            },
            reason: condition.reason.clone(),
            note: Some(cut(note)),
            action: "Reconcile".into(),
            secondary: None,
        }
    })
    .collect()
}

/// The event about a Service that is replaced.
pub fn replaced(replaced: &Replaced) -> Event {
    let Replaced { name, field } = replaced;
    let note = format!(
        "Service {name} is replaced, as Kubernetes does not change {field} of one: it may get another \
         address"
    );
    Event {
        type_: EventType::Normal,
        reason: SERVICE_REPLACED.into(),
        note: Some(cut(note)),
        // Kubernetes merges events with the same reason and action, and keeps the first note.
        action: match *field {
            CLASS => "ChangeClass",
            FAMILIES => "ChangeFamilies",
            _ => "ReleasePort",
        }
        .into(),
        secondary: None,
    }
}

/// The event about devices that are left in the tailnet after the deletion of their PeerRelay.
pub fn devices_left(devices: &[RelayDevice], problem: Option<&str>) -> Event {
    let because = problem.map_or_else(String::new, |problem| format!(" ({problem})"));
    let names: Vec<_> = devices.iter().map(described).collect();
    let shown = names.len().min(MOST_NAMED);
    let more = match names.len() - shown {
        0 => String::new(),
        more => format!(" and {more} more, which the operator's log names"),
    };
    let note = format!(
        "delete these devices in the admin console of the tailnet, or with DELETE /api/v2/device/ID: \
         {}{more}. The PeerRelay is deleted, and they could not be deleted in time{because}",
        names[..shown].join(", ")
    );
    Event {
        type_: EventType::Warning,
        reason: DEVICES_LEFT.into(),
        note: Some(cut(note)),
        action: "Delete".into(),
        secondary: None,
    }
}

/// The event about entries that are left in the tailnet policy after the deletion of their PeerRelay.
pub fn entries_left(relay: &PeerRelay, problem: Option<&str>) -> Event {
    let because = problem.map_or_else(String::new, |problem| format!(" ({problem})"));
    let (namespace, name) = (relay.namespace().unwrap_or_default(), relay.name_any());
    let note = format!(
        "remove the entries of {namespace}/{name} from the tailnet policy: those below a comment with \
         'of {namespace}/{name}'. The PeerRelay is deleted, and they could not be removed in \
         time{because}"
    );
    Event {
        type_: EventType::Warning,
        reason: ENTRIES_LEFT.into(),
        note: Some(cut(note)),
        action: "Delete".into(),
        secondary: None,
    }
}

/// The event about a device that lacks the tag of its relay.
pub fn device_kept(device: &RelayDevice) -> Event {
    let note = format!(
        "device {} is not deleted, because it does not have {}: delete it in the admin console if it \
         was the relay of region {} on node {}",
        described(device),
        device.tag,
        device.region,
        device.node
    );
    Event {
        type_: EventType::Warning,
        reason: DEVICE_KEPT.into(),
        note: Some(cut(note)),
        // Kubernetes merges events with the same reason and action, and keeps the first note.
        action: format!("Keep-{}", device.node_id),
        secondary: None,
    }
}

/// Name and ID of a device.
fn described(device: &RelayDevice) -> String {
    format!("{} (ID {})", device.name, device.node_id)
}

/// Returns whether a change of a condition needs an event. A new condition that is `Unknown` or
/// starting needs none, except `Ready`.
fn is_new(now: &Condition, before: Option<&Condition>, stalls: bool) -> bool {
    let is_ready = now.type_ == "Ready";
    match before {
        Some(before) => {
            (before.status != now.status || before.reason != now.reason) || is_ready && stalls
        }
        None => is_ready || now.status == "True" || !is_start(now, None) && now.status == "False",
    }
}

/// Returns whether relays only start. Lost relays are a problem.
fn is_start(now: &Condition, before: Option<&Condition>) -> bool {
    let lost = now.type_ == "RelaysAvailable" && before.is_some_and(is_true);
    STARTING.contains(&&*now.reason) && !lost
}

fn is_true(condition: &Condition) -> bool {
    condition.status == "True"
}

/// Shortens a note to the longest length of an event.
fn cut(mut note: String) -> String {
    if note.len() > LONGEST_NOTE {
        let end = note.floor_char_boundary(LONGEST_NOTE - '…'.len_utf8());
        note.truncate(end);
        note.push('…');
    }
    note
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_first_look_tells_ready_and_what_is_wrong() {
        let now = conditions(&[
            "Ready=False/RelaysStarting",
            "Reconciling=True/RelaysStarting",
            "TailnetConnected=Unknown/NoReport",
            "RelaysAvailable=False/NoRelayReady",
            "GrantsInForce=False/GrantsMissing",
        ]);
        assert_eq!(
            published(&[], &now),
            ["Normal RelaysStarting", "Warning GrantsMissing"]
        );
    }

    #[test]
    fn each_transition_is_told_once() {
        let starting = conditions(&[
            "Ready=False/RelaysStarting",
            "RelaysAvailable=False/NoRelayReady",
            "TailnetConnected=Unknown/NoReport",
        ]);
        let ready = conditions(&[
            "Ready=True/RelaysReady",
            "RelaysAvailable=True/RelaysReady",
            "TailnetConnected=True/Connected",
        ]);
        let good = [
            "Normal RelaysReady",
            "Normal RelaysReady",
            "Normal Connected",
        ];
        assert_eq!(published(&starting, &ready), good);
        assert!(published(&ready, &ready).is_empty());
        let lost = conditions(&[
            "Ready=False/RelaysStarting",
            "RelaysAvailable=False/NoRelayReady",
            "TailnetConnected=False/DerpUnreachable",
        ]);
        let bad = [
            "Normal RelaysStarting",
            "Warning NoRelayReady",
            "Warning DerpUnreachable",
        ];
        assert_eq!(published(&ready, &lost), bad);
    }

    #[test]
    fn a_credential_that_expires_is_one_warning() {
        let ready = conditions(&["Ready=True/RelaysReady"]);
        let expiring = conditions(&[
            "Ready=True/RelaysReady",
            "CredentialExpiring=True/NodeKeyExpiring",
        ]);
        assert_eq!(published(&ready, &expiring), ["Warning NodeKeyExpiring"]);
        assert!(published(&expiring, &expiring).is_empty());
        assert!(published(&expiring, &ready).is_empty());
    }

    #[test]
    fn what_stalls_is_one_warning() {
        let ready = conditions(&["Ready=True/RelaysReady"]);
        let refused = conditions(&["Ready=False/ApplyRejected", "Stalled=True/ApplyRejected"]);
        assert_eq!(published(&ready, &refused), ["Warning ApplyRejected"]);
        assert_eq!(published(&refused, &ready), ["Normal RelaysReady"]);
        let passing = conditions(&["Ready=False/ApplyFailed", "Reconciling=True/ApplyFailed"]);
        assert_eq!(published(&ready, &passing), ["Warning ApplyFailed"]);
        let crashing = conditions(&["Ready=False/CrashLooping"]);
        assert_eq!(published(&ready, &crashing), ["Warning CrashLooping"]);
        let paused = conditions(&["Ready=Unknown/Paused"]);
        assert_eq!(published(&ready, &paused), ["Normal Paused"]);
    }

    #[test]
    fn a_note_fits_into_an_event() {
        let note = cut("ä".repeat(2_000));
        assert!(note.len() <= LONGEST_NOTE && note.ends_with("ä…"));
        assert_eq!(cut("short".into()), "short");
    }

    #[test]
    fn devices_that_are_left_are_named_with_their_ids_and_the_fix() {
        let device = |n: usize| RelayDevice {
            node_id: format!("n{n}CNTRL"),
            name: format!("edge-n{n}.tail1.ts.net"),
            ..RelayDevice::default()
        };
        let devices: Vec<_> = (0..10).map(device).collect();
        let note = devices_left(&devices[..1], Some("no answer")).note.unwrap();
        for words in [
            "edge-n0.tail1.ts.net (ID n0CNTRL).",
            "DELETE /api/v2/device/ID",
            "(no answer)",
        ] {
            assert!(note.contains(words), "{note}");
        }
        let note = devices_left(&devices, None).note.unwrap();
        assert!(note.contains("n7CNTRL) and 2 more"), "{note}");
    }

    fn published(before: &[Condition], now: &[Condition]) -> Vec<String> {
        let events = transitions(before, now);
        let text = |event: Event| format!("{:?} {}", event.type_, event.reason);
        events.into_iter().map(text).collect()
    }

    fn conditions(all: &[&str]) -> Vec<Condition> {
        let condition = |text: &&str| {
            let (type_, rest) = text.split_once('=').unwrap();
            let (status, reason) = rest.split_once('/').unwrap();
            serde_json::from_value(json!({
                "type": type_, "status": status, "reason": reason, "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }))
            .unwrap()
        };
        all.iter().map(condition).collect()
    }
}
