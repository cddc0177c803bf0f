//! Generator of the tailnet policy that allows clients to use relays. It is pure: PeerRelays in,
//! text out.
//!
//! For each region, `src` is the list of clients and `dst` is the region's tag. The policy never
//! contains `tailscale.com/cap/relay-target`: the control server adds it, and refuses a policy that
//! has it. `via` does not apply to peer relays.

pub mod policy_file;
mod render;
mod selector;

use serde::{Serialize, Serializer, ser::SerializeMap};

pub use self::{
    render::{hujson, json},
    selector::{Device, Kind, Selector, SelectorError, is_everyone, is_tailnet},
};

/// Capability that allows a source to allocate sessions on a destination.
// `tailcfg.PeerCapabilityRelay`.
pub const CAPABILITY: &str = "tailscale.com/cap/relay";
/// Owner of the relays' tags in the generated policy.
const OWNER: &str = "autogroup:admin";
/// Ports of clients in the generated tests: remote shells and web interfaces.
// A test of a policy has single ports, no ranges.
const DENIED_PORTS: [u16; 2] = [22, 443];
/// Grant that allows all connections, as a policy file without `acls` and `grants` does.
const ALLOW_ALL: &str = r#"{"src": ["*"], "dst": ["*"], "ip": ["*"]}"#;

/// Returns the warning about the first `grants` of a policy file. A file with neither `acls` nor
/// `grants` allows all connections. A file with either allows only what it lists.
pub fn first_grants_warning() -> String {
    format!(
        "a policy file with neither acls nor grants allows all connections, and the first grant in \
         such a file denies everything else; if your file has neither, add the grant {ALLOW_ALL} \
         too, to keep all connections allowed"
    )
}

/// Grant that one region needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionGrant {
    /// Description of the region, such as `region office of relays/edge`.
    pub origin: String,
    /// Tag of the region's relays.
    pub tag: String,
    /// Clients that may use the relays.
    pub clients: Vec<Selector>,
    /// Allow devices with the relays' tag to use these relays too.
    pub self_relay: bool,
    /// Add tests that the relays cannot reach these clients.
    pub deny_tests: bool,
}

impl RegionGrant {
    /// Returns the grant for the policy.
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

/// Grant of the relay capability.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Grant {
    /// Sources: clients that may allocate sessions.
    pub src: Vec<String>,
    /// Destinations: tags of the relays.
    pub dst: Vec<String>,
    app: RelayCapability,
}

impl Grant {
    /// Returns the grant as one line of `grants` in a policy file.
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("a grant is plain data")
    }
}

/// Capability object `{"tailscale.com/cap/relay": []}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RelayCapability;

impl Serialize for RelayCapability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        // The capability has no parameters. Control servers read `[]` and `[{}]` as the same.
        map.serialize_entry(CAPABILITY, &[(); 0])?;
        map.end()
    }
}

/// Test of the policy. The control server refuses a policy that allows `src` to reach one of
/// `deny`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DenyTest {
    /// Tag of the relays.
    pub src: String,
    /// Addresses as `HOST:PORT`. A test can check nothing else, in particular no capability.
    pub deny: Vec<String>,
}

/// Policy for a list of regions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    regions: Vec<RegionGrant>,
}

impl Policy {
    /// Creates the policy of these regions.
    pub const fn new(regions: Vec<RegionGrant>) -> Self {
        Self { regions }
    }

    /// Returns each relay tag once, in order.
    pub fn tags(&self) -> Vec<&str> {
        let mut tags: Vec<&str> = Vec::new();
        for region in &self.regions {
            if !tags.contains(&&*region.tag) {
                tags.push(&region.tag);
            }
        }
        tags
    }

    /// Returns the tests of the regions that request them.
    pub fn tests(&self) -> Vec<DenyTest> {
        let test = |tag: &str| {
            let mut deny = Vec::new();
            let is_tested = |region: &&RegionGrant| region.deny_tests && region.tag == tag;
            let regions = self.regions.iter().filter(is_tested);
            for client in regions.flat_map(|region| &region.clients) {
                // Other rules decide whether a tag can reach itself.
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

    /// Returns warnings about grants that are valid and probably not intended.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for region in &self.regions {
            let wide = region.clients.iter().filter(|client| client.is_everyone());
            warnings.extend(wide.map(|client| {
                format!(
                    "{}: the client '{client}' allows every device of the tailnet to use these relays; \
                     use tags, groups or users instead",
                    region.origin
                )
            }));
            let outside = region.clients.iter().filter(|c| c.is_outside_tailnet());
            warnings.extend(outside.map(|client| {
                format!(
                    "{}: the client {client} is not a tailnet address; grants match devices by their \
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
                    "{tag} is the tag of several regions ({}), so their clients may use the relays of \
                     all these regions; set a different tag in each region",
                    origins.join(", ")
                ));
            }
        }
        warnings
    }
}

#[cfg(test)]
mod tests;
