//! Comment above an entry of a policy file which says that the entry is generated.
//!
//! A policy file has no place for data of other programs: control servers refuse unknown members.
//! They keep comments. The marker names the region and the tag of the entry. An entry is generated
//! only if it also has the tag of its marker. A marker that stays when its entry is moved or deleted
//! therefore does not apply to the next entry.

use super::document::{Child, Container, Document};

const PREFIX: &str = "Managed by peerrelay grants merge: ";

/// Identity of a generated entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Marker {
    /// Region, such as `region office of relays/edge`, and the cluster if it is named.
    pub(super) origin: String,
    /// Tag of the region's relays.
    pub(super) tag: String,
}

impl Marker {
    /// Parses a comment, including its `//` or `/* */`.
    pub(super) fn parse(comment: &str) -> Option<Self> {
        let text = match comment.strip_prefix("//") {
            Some(line) => line,
            None => comment.strip_prefix("/*")?.strip_suffix("*/")?,
        };
        let (origin, tag) = text.trim().strip_prefix(PREFIX)?.rsplit_once(", ")?;
        Some(Self {
            origin: origin.to_owned(),
            tag: tag.to_owned(),
        })
    }

    /// Returns the namespace, name and cluster of the PeerRelay.
    pub(super) fn peer_relay(&self) -> &str {
        peer_relay(&self.origin)
    }

    /// Returns a comment that extends to the end of its line.
    pub(super) fn line_comment(&self) -> String {
        format!("// {PREFIX}{}, {}", self.origin, self.tag)
    }

    /// Returns a comment that other text can follow on the same line.
    pub(super) fn block_comment(&self) -> String {
        format!("/* {PREFIX}{}, {} */", self.origin, self.tag)
    }
}

/// Returns the part of an origin that names the PeerRelay.
pub(super) fn peer_relay(origin: &str) -> &str {
    origin.split_once(" of ").map_or(origin, |(_, rest)| rest)
}

/// Returns the marker above a child, with its place among the children. Of several markers, the
/// nearest counts.
pub(super) fn above(
    document: &Document,
    container: &Container,
    child: usize,
) -> Option<(usize, Marker)> {
    let before = container.children[..child].iter().enumerate().rev();
    before
        .take_while(|(_, child)| !matches!(child, Child::Comma(_) | Child::Entry(_)))
        .find_map(|(at, child)| match child {
            Child::Comment(range) => Some((at, Marker::parse(document.slice(range))?)),
            _ => None,
        })
}
