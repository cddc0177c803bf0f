//! The part of a tailnet policy that lets clients use relays. Pure: PeerRelays in, text out.
//!
//! Per region `src` is the clients and `dst` the region's tag. `tailscale.com/cap/relay-target` is
//! control's own companion of it and never written: a policy with it is refused as a whole. `via`
//! does not apply to peer relays.

mod render;
mod selector;

use serde::{Serialize, Serializer, ser::SerializeMap};

pub use self::{
    render::{hujson, json},
    selector::{Device, Kind, Selector, SelectorError, is_everyone, is_tailnet},
};

/// The capability that lets a source allocate sessions on a destination.
pub const CAPABILITY: &str = "tailscale.com/cap/relay";
/// Who may give the relays' tags to a device, unless the policy says otherwise.
const OWNER: &str = "autogroup:admin";
/// Ports of clients that a relay has no business with: remote shells, web interfaces.
const DENIED_PORTS: [u16; 2] = [22, 443];
/// Grant that allows all connections, as a policy file without `acls` and `grants` does.
const ALLOW_ALL: &str = r#"{"src": ["*"], "dst": ["*"], "ip": ["*"]}"#;

/// Warning about the first `grants` of a policy file. A file with neither `acls` nor `grants`
/// allows all connections; one with either allows only what it lists.
pub fn first_grants_warning() -> String {
    format!(
        "a policy file that has neither acls nor grants allows every connection, and adding the \
         first grants ends that: everybody would be cut off; if your file has neither, add the \
         grant {ALLOW_ALL} beside the ones for relays"
    )
}

/// What one region needs of the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionGrant {
    /// Names the region for people, such as `region office of relays/edge`.
    pub origin: String,
    /// Tag of the relays.
    pub tag: String,
    /// Who may use them.
    pub clients: Vec<Selector>,
    /// Whether devices with the tag may use each other, and themselves.
    pub self_relay: bool,
    /// Whether the policy tests that the relays cannot reach these clients.
    pub deny_tests: bool,
}

impl RegionGrant {
    /// The grant that makes it so.
    pub fn grant(&self) -> Grant {
        let clients = self.clients.iter().map(ToString::to_string);
        let own = self.self_relay.then(|| self.tag.clone());
        let mut src: Vec<String> = Vec::new();
        for source in clients.chain(own) {
            if !src.contains(&source) {
                src.push(source);
            }
        }
        Grant {
            src,
            dst: vec![self.tag.clone()],
            app: RelayCapability,
        }
    }
}

/// A grant of the relay capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// Who may allocate.
    pub src: Vec<String>,
    /// On which relays.
    pub dst: Vec<String>,
    app: RelayCapability,
}

impl Grant {
    /// The grant on one line, as it goes into `grants` of a policy file.
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("a grant is plain data")
    }
}

/// `{"tailscale.com/cap/relay": []}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RelayCapability;

impl Serialize for RelayCapability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(CAPABILITY, &[(); 0])?;
        map.end()
    }
}

/// A test of the policy: control refuses a policy that lets `src` reach one of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DenyTest {
    /// Tag of relays.
    pub src: String,
    /// `HOST:PORT`; a test can assert nothing else, in particular no capability.
    pub deny: Vec<String>,
}

/// The policy of some regions, with what is worth a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    regions: Vec<RegionGrant>,
}

impl Policy {
    /// The policy of these regions.
    pub const fn new(regions: Vec<RegionGrant>) -> Self {
        Self { regions }
    }

    /// Each relay tag once, in order.
    pub fn tags(&self) -> Vec<&str> {
        let mut tags: Vec<&str> = Vec::new();
        for region in &self.regions {
            if !tags.contains(&&*region.tag) {
                tags.push(&region.tag);
            }
        }
        tags
    }

    /// Tests by which control refuses a policy that lets relays reach clients, for the regions
    /// that ask for them.
    pub fn tests(&self) -> Vec<DenyTest> {
        let test = |tag: &str| {
            let mut deny = Vec::new();
            let is_tested = |region: &&RegionGrant| region.deny_tests && region.tag == tag;
            let regions = self.regions.iter().filter(is_tested);
            for client in regions.flat_map(|region| &region.clients) {
                // A tag always reaches itself or not by other rules than ours.
                if client.is_testable() && client.text() != tag {
                    let host = client.test_host();
                    deny.extend(DENIED_PORTS.map(|port| format!("{host}:{port}")));
                }
            }
            deny.sort();
            deny.dedup();
            let src = tag.to_owned();
            (!deny.is_empty()).then_some(DenyTest { src, deny })
        };
        self.tags().into_iter().filter_map(test).collect()
    }

    /// What works and is most likely not meant.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for region in &self.regions {
            let wide = region.clients.iter().filter(|client| client.is_everyone());
            warnings.extend(wide.map(|client| {
                format!(
                    "{}: the client '{client}' lets every device of the tailnet use these relays: \
                     name tags, groups or users instead",
                    region.origin
                )
            }));
            let outside = region.clients.iter().filter(|c| c.is_outside_tailnet());
            warnings.extend(outside.map(|client| {
                format!(
                    "{}: the client {client} is no tailnet address: grants match devices by their \
                     addresses in 100.64.0.0/10 and fd7a:115c:a1e0::/48",
                    region.origin
                )
            }));
        }
        for tag in self.tags() {
            let origins: Vec<_> = self
                .regions
                .iter()
                .filter(|region| region.tag == tag)
                .map(|region| &*region.origin)
                .collect();
            if origins.len() > 1 {
                warnings.push(format!(
                    "{tag} is the tag of more than one region ({}): each one's clients may use \
                     the relays of all; give each its own tag",
                    origins.join(", ")
                ));
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests;
