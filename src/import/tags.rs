//! Tags of the relays of a region. A relay of this operator has one tag, on which its grant depends.

use super::note::{Notes, Place};
use crate::names;

/// Tag that all devices of Tailscale's operator have by default.
const SHARED: &str = "tag:k8s";
/// Maximum length of a tag.
const LONGEST: usize = 64;
/// Name of a region whose PeerRelay has a name that regions must not have.
const REGION: &str = "main";

/// Returns the name of the region for a PeerRelay. The default tag contains it.
pub(super) fn region(peer_relay: &str) -> String {
    match names::is_region_name(peer_relay) {
        true => peer_relay.to_owned(),
        false => REGION.to_owned(),
    }
}

/// Chooses the tag of the region. Returns nothing if the region's default tag is used.
pub(super) fn choose(
    tags: &[String],
    region: &str,
    place: &Place,
    notes: &mut Notes,
) -> Option<String> {
    let (valid, invalid): (Vec<_>, Vec<_>) = tags.iter().partition(|tag| is_tag(tag));
    if !invalid.is_empty() {
        notes.lost(
            place.clone(),
            "a tag is invalid: tags are tag: and at most 60 letters, digits and dashes, and begin \
             with a letter",
        );
    }
    let chosen = valid.iter().find(|tag| ***tag != SHARED);
    if chosen.is_none() {
        notes.changed(
            place.clone(),
            format!(
                "the relays get tag:relay-{region}: clients try every device of the tag in a \
                 grant as a relay, and tag:k8s is on all devices of Tailscale's operator. Merge \
                 the output of 'peerrelay grants' into the tailnet policy before the auth key is \
                 created"
            ),
        );
    }
    if valid.iter().any(|tag| Some(tag) != chosen) && valid.len() > 1 {
        notes.lost(
            place.clone(),
            "a relay has one tag, the first that is not tag:k8s: rules of the tailnet policy for the \
             others do not apply to the new relays",
        );
    }
    chosen.map(|tag| (*tag).clone())
}

fn is_tag(text: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
    text.len() <= LONGEST
        && text.strip_prefix("tag:").is_some_and(|name| {
            name.starts_with(|letter: char| letter.is_ascii_alphabetic()) && name.chars().all(plain)
        })
}
