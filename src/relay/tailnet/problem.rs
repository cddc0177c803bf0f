//! Problems that keep the device out of the tailnet, each with its fix.

use url::Url;

use super::{
    control::ControlError,
    wire::{Node, RegisterResponse},
};
use crate::{crd::relay_reason::RelayReason, dial::DialError, relay::problem::Problem};

/// Facts about this device from the network map.
pub(super) struct DeviceFacts<'a> {
    /// The device as control has it.
    pub(super) own: &'a Node,
    /// Its node key has expired.
    pub(super) expired: bool,
    /// The policy disables its relay.
    pub(super) relay_disabled: bool,
    /// Tailnet Lock is enabled and has not signed its node key.
    pub(super) unsigned: bool,
}

/// Returns the problem of a device that is registered, if there is one. `tags` are those that it
/// requested, `sign` is the command that signs its node key.
pub(super) fn device_problem(
    facts: &DeviceFacts<'_>,
    tags: &[String],
    sign: impl FnOnce() -> String,
) -> Option<Problem> {
    let own = facts.own;
    if facts.expired {
        let message = "the device's node key has expired: renew it or disable key expiry for this \
                       device in the admin console";
        Some(Problem::new(RelayReason::KeyExpired, message))
    } else if !own.machine_authorized {
        Some(needs_approval())
    } else if facts.unsigned {
        let message = format!(
            "Tailnet Lock is enabled and has not signed this device, so clients ignore it: run `{}` \
             on a device with a trusted key",
            sign()
        );
        Some(Problem::new(RelayReason::TailnetLockUnsigned, message))
    } else if facts.relay_disabled {
        let fix = "the policy sets the node attribute disable-relay-server on this device";
        Some(Problem::new(RelayReason::RelayDisabledByPolicy, fix))
    } else {
        tag_missing(&own.tags, tags)
    }
}

fn tag_missing(own: &[String], wanted: &[String]) -> Option<Problem> {
    let missing = wanted.iter().find(|tag| !own.contains(tag))?;
    let own = match own {
        [] => "no tag".to_owned(),
        tags => tags.join(", "),
    };
    let message = format!(
        "the device has {own}, and not {missing}, so grants for {missing} do not reach it: put an \
         auth key that brings {missing} where the old one is (Headscale: preauthkeys create --tags \
         {missing}), and delete the device if it keeps its tags; or give it {missing} in the admin \
         console (Headscale: headscale nodes tag)"
    );
    Some(Problem::new(RelayReason::TagMissing, message))
}

/// The problem of a registration, if there is one.
pub(super) fn refusal(response: &RegisterResponse) -> Option<Problem> {
    let fix = "create a reusable, pre-approved auth key that may use the relay's tags, and put it \
               where the old one is";
    if !response.error.is_empty() {
        let message = format!("control refuses the auth key ({}): {fix}", response.error);
        return Some(Problem::new(RelayReason::AuthKeyInvalid, message));
    }
    if response.node_key_expired {
        let message =
            "the device's node key has expired: disable key expiry for it in the admin console";
        return Some(Problem::new(RelayReason::KeyExpired, message));
    }
    if !response.auth_url.is_empty() {
        let message = format!("control asks for a login, so the auth key was not accepted: {fix}");
        return Some(Problem::new(RelayReason::AuthKeyInvalid, message));
    }
    (!response.machine_authorized).then(needs_approval)
}

/// Returns whether control refuses the requested tags. Headscale refuses any from a device with an auth key.
pub(super) fn refuses_tags(response: &RegisterResponse) -> bool {
    // There is no code for it. The text is "requested tags [tag:a] are invalid or not permitted".
    let error = response.error.to_ascii_lowercase();
    error.contains("requested tags") && error.contains("not permitted")
}

fn needs_approval() -> Problem {
    let message = "an administrator must approve this device in the admin console; pre-approved \
                   auth keys need no approval";
    Problem::new(RelayReason::RegistrationNeedsApproval, message)
}

/// The problem that a failed connection to the control server is for the user.
pub(super) fn control_problem(error: &ControlError, url: &Url) -> Problem {
    let reason = match error {
        ControlError::Dial(DialError::Untrusted { .. }) => RelayReason::ControlCertificateInvalid,
        _ => RelayReason::ControlUnreachable,
    };
    let cause = std::error::Error::source(error)
        .map(|s| format!(": {s}"))
        .unwrap_or_default();
    Problem::new(reason, format!("{error}{cause} (control server {url})"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    const fn facts(own: &Node) -> DeviceFacts<'_> {
        DeviceFacts {
            own,
            expired: false,
            relay_disabled: false,
            unsigned: false,
        }
    }

    #[test]
    fn a_device_that_tailnet_lock_has_not_signed_is_reported_with_the_command() {
        let own = Node {
            machine_authorized: true,
            ..Node::default()
        };
        let unsigned = DeviceFacts {
            unsigned: true,
            relay_disabled: true,
            ..facts(&own)
        };
        let problem = device_problem(&unsigned, &[], || "tailscale lock sign X".into()).unwrap();
        assert_eq!(problem.reason, RelayReason::TailnetLockUnsigned);
        assert!(problem.message.contains("`tailscale lock sign X`"));
        let expired = DeviceFacts {
            expired: true,
            ..unsigned
        };
        let problem = device_problem(&expired, &[], String::new).unwrap();
        assert_eq!(
            problem.reason,
            RelayReason::KeyExpired,
            "its key is to be renewed first"
        );
    }

    #[test]
    fn a_device_without_a_tag_that_was_asked_for_is_told_with_the_remedy() {
        let reason = |own: &[&str], wanted: &[&str]| {
            let texts = |tags: &[&str]| tags.iter().map(|&tag| tag.to_owned()).collect::<Vec<_>>();
            let own = Node {
                machine_authorized: true,
                tags: texts(own),
                ..Node::default()
            };
            device_problem(&facts(&own), &texts(wanted), String::new)
        };
        assert_eq!(reason(&["tag:a"], &[]), None);
        assert_eq!(reason(&["tag:b", "tag:a"], &["tag:a"]), None);
        for (own, said) in [(&[][..], "no tag"), (&["tag:b"], "tag:b")] {
            let problem = reason(own, &["tag:a"]).unwrap();
            assert_eq!(problem.reason, RelayReason::TagMissing);
            assert!(problem.message.contains(&format!("has {said}")));
            assert!(problem.message.contains("brings tag:a"));
        }
    }

    #[test]
    fn tags_are_refused_in_the_words_of_tailscale_and_headscale() {
        let refused = |error: &str| {
            refuses_tags(&RegisterResponse {
                error: error.into(),
                ..RegisterResponse::default()
            })
        };
        assert!(refused(
            "requested tags [tag:x] are invalid or not permitted"
        ));
        assert!(refused(
            "handling register with auth key: requested tags [tag:x] are invalid or not permitted"
        ));
        assert!(!refused("invalid key: API key does not exist"));
        assert!(!refused(""));
    }
}
