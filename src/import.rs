//! Conversion of relays that run Tailscale's own software into PeerRelays.
//!
//! The sources are `PeerRelay` objects of the group `tailscale.com`, with the `ProxyClass` and
//! `Tailnet` objects that they name, and the preferences of hosts on which `tailscaled` is a relay.
//! Every setting that is not converted unchanged has a [`Note`]. Notes name fields, but do not
//! quote values, because a value may be a secret.

mod draft;
mod elastic_ips;
mod endpoints;
mod fields;
mod host;
mod metadata;
mod note;
mod overrides;
mod peer_relay;
mod proxy_class;
mod tags;
mod tailnet;
mod yaml;

use std::collections::BTreeMap;

use serde_json::Value;

pub use self::note::{Effect, Note, Place};
use self::{fields::Fields, note::Notes};

/// API group of Tailscale's own operator.
pub const GROUP: &str = "tailscale.com";
/// API version of the objects that are converted.
pub const VERSION: &str = "v1alpha1";

/// Values that a source does not contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Namespace of the PeerRelays. The objects of Tailscale's operator have none.
    pub namespace: String,
    /// Clients of each region. If empty, a placeholder is used, and a note says so.
    pub clients: Vec<String>,
    /// Name of the Secret with the auth key.
    pub auth_key_secret: String,
    /// Name of the Kubernetes node that replaces a host. If empty, the name of the host is used.
    pub node: Option<String>,
    /// Zones of AWS subnets, by the ID of the subnet.
    pub zones: BTreeMap<String, String>,
}

/// Result of a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Converted relays, in the order of their sources.
    pub relays: Vec<Imported>,
    /// Documents that are no relays and that no relay names.
    pub unused: Vec<Unused>,
}

/// PeerRelay that was converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Index of the source among the documents.
    pub document: usize,
    /// Name of the PeerRelay.
    pub name: String,
    /// Differences between the source and the PeerRelay.
    pub notes: Vec<Note>,
    /// YAML document, with the notes as comments.
    pub yaml: String,
}

/// Document that was not converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unused {
    /// Index of the document.
    pub document: usize,
    /// Reason for which it was not converted.
    pub reason: String,
}

/// Kind of a document, with the name of the object.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind<'a> {
    PeerRelay,
    ProxyClass(&'a str),
    Tailnet(&'a str),
    Host,
    Other(String),
}

/// Converts all relays among the documents. A document is one object or one output of
/// `tailscale debug prefs`.
pub fn import(documents: &[Value], options: &Options) -> Import {
    let kinds: Vec<_> = documents.iter().map(kind).collect();
    let others = Others { documents, kinds };
    let mut named = Vec::new();
    let mut relays = Vec::new();
    for (document, kind) in others.kinds.iter().enumerate() {
        let mut notes = Notes::default();
        let fields = Fields::of(&documents[document], document);
        let draft = match kind {
            Kind::PeerRelay => {
                peer_relay::convert(fields, &others, options, &mut notes, &mut named)
            }
            Kind::Host => match host::convert(fields, options, &mut notes) {
                Some(draft) => draft,
                None => continue,
            },
            Kind::ProxyClass(_) | Kind::Tailnet(_) | Kind::Other(_) => continue,
        };
        let describe = |document: usize| described(&documents[document]);
        let notes = notes.sorted();
        relays.push(Imported {
            document,
            name: draft.metadata.name.clone(),
            yaml: yaml::render(&draft, document, &notes, describe),
            notes,
        });
    }
    let unused = others.unused(&named);
    Import { relays, unused }
}

/// Returns the kind and the name of a document, for messages.
pub fn described(document: &Value) -> String {
    let text = |value: &Value| fields::shown(value.as_str().unwrap_or_default());
    match kind(document) {
        Kind::Host => "preferences of tailscaled".to_owned(),
        _ => {
            let words = [text(&document["kind"]), text(&document["metadata"]["name"])];
            words.join(" ").trim().to_owned()
        }
    }
}

/// All documents, with the objects that relays name.
struct Others<'a> {
    documents: &'a [Value],
    kinds: Vec<Kind<'a>>,
}

impl<'a> Others<'a> {
    /// Returns the object of a kind and name.
    fn find(&self, wanted: &Kind<'_>) -> Option<(usize, &'a Value)> {
        let document = self.kinds.iter().position(|kind| kind == wanted)?;
        Some((document, &self.documents[document]))
    }

    fn unused(&self, named: &[usize]) -> Vec<Unused> {
        let all = self.kinds.iter().enumerate();
        let reason = |(document, kind): (usize, &Kind<'_>)| {
            let reason = match kind {
                Kind::PeerRelay => return None,
                Kind::Host if host::is_relay(&self.documents[document]) => return None,
                Kind::Host => "RelayServerPort is not set: the host is no relay".to_owned(),
                Kind::ProxyClass(_) | Kind::Tailnet(_) if named.contains(&document) => return None,
                Kind::ProxyClass(_) | Kind::Tailnet(_) => "no PeerRelay names it".to_owned(),
                Kind::Other(reason) => reason.clone(),
            };
            Some(Unused { document, reason })
        };
        all.filter_map(reason).collect()
    }
}

fn kind(document: &Value) -> Kind<'_> {
    let text = |value: &'_ Value| value.as_str().map(str::to_owned).unwrap_or_default();
    let (version, kind) = (text(&document["apiVersion"]), text(&document["kind"]));
    let name = document["metadata"]["name"].as_str().unwrap_or_default();
    if version == format!("{GROUP}/{VERSION}") {
        return match &*kind {
            "PeerRelay" => Kind::PeerRelay,
            "ProxyClass" => Kind::ProxyClass(name),
            "Tailnet" => Kind::Tailnet(name),
            _ => Kind::Other("the kind runs no relays".to_owned()),
        };
    }
    if version.starts_with(&format!("{GROUP}/")) {
        return Kind::Other(format!("the version is not {VERSION}"));
    }
    if version.starts_with(&format!("{}/", crate::crd::GROUP)) {
        return Kind::Other("it is an object of this operator already".to_owned());
    }
    if !version.is_empty() || !kind.is_empty() {
        return Kind::Other("it is no object of Tailscale's operator".to_owned());
    }
    match host::is_prefs(document) {
        true => Kind::Host,
        false => Kind::Other(
            "it is neither an object of Tailscale's operator nor the output of 'tailscale debug \
             prefs' (without --pretty)"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests;
