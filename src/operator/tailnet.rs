//! PeerRelays of the cluster that share a tailnet, and the allowed number of relays. Pure.

use kube::ResourceExt;

use crate::crd::{
    PeerRelay, RelayNode, control_server::ControlServer, credential::CredentialIdentity,
};

/// Longest DNS name, in characters. Reports may contain longer texts.
const LONGEST_DOMAIN: usize = 253;

/// Returns the maximum number of relays in total: the number that the user sets, or the one that
/// tailscale.com documents for every plan. Other control servers document no number.
pub fn limit(relay: &PeerRelay, server: Option<&ControlServer>) -> Option<u16> {
    let allowance = || server.and_then(ControlServer::allowance);
    relay.spec.max_relays.or_else(allowance)
}

/// Other PeerRelay of the cluster with relays in the same tailnet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Namespace and name.
    pub name: String,
    /// Number of relays that it requests.
    pub relays: usize,
    /// Maximum number of relays of the tailnet according to this PeerRelay.
    pub limit: Option<u16>,
}

/// The neighbours of `relay` among `all`, by name. `server` returns the control server of a
/// PeerRelay, if it is known.
///
/// Two PeerRelays are in the same tailnet if they have the control server and the credential in common,
/// or the control server and the domain that their relays report.
pub fn neighbours<'a>(
    relay: &PeerRelay,
    all: impl Iterator<Item = &'a PeerRelay>,
    server: impl Fn(&PeerRelay) -> Option<ControlServer>,
) -> Vec<Neighbour> {
    let is_self = |other: &PeerRelay| {
        other.namespace() == relay.namespace() && other.name_any() == relay.name_any()
    };
    let mut found: Vec<_> = all
        .filter(|other| !is_self(other) && other.metadata.deletion_timestamp.is_none())
        .filter(|other| shares_tailnet(relay, other, &server))
        .map(|other| Neighbour {
            name: format!(
                "{}/{}",
                other.namespace().unwrap_or_default(),
                other.name_any()
            ),
            relays: wanted(other),
            limit: limit(other, server(other).as_ref()),
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn shares_tailnet(
    relay: &PeerRelay,
    other: &PeerRelay,
    server: impl Fn(&PeerRelay) -> Option<ControlServer>,
) -> bool {
    let [credential, others] = [relay, other].map(identity);
    let domain = |relay: &PeerRelay| {
        let domain = relay.status.as_ref().map(|status| status.tailnet.clone());
        domain.filter(|domain| !domain.is_empty())
    };
    // The servers are compared last, because their URLs must be parsed.
    (credential == others || domain(relay).is_some_and(|own| domain(other) == Some(own)))
        && match (server(relay), server(other)) {
            (Some(server), Some(others)) => server == others,
            _ => true,
        }
}

fn identity(relay: &PeerRelay) -> CredentialIdentity<'_> {
    let namespace = relay.metadata.namespace.as_deref();
    relay.spec.tailnet.credential(namespace.unwrap_or_default())
}

/// Returns the number of relays that a PeerRelay requests, according to its status.
fn wanted(relay: &PeerRelay) -> usize {
    let regions = relay.status.iter().flat_map(|status| &status.regions);
    regions
        .map(|region| usize::try_from(region.desired).unwrap_or(0))
        .sum()
}

/// The facts about a PeerRelay that matter to its neighbours. A change of a TailnetCredential is
/// another event.
pub fn seen_by_neighbours(relay: &PeerRelay) -> impl PartialEq + Send + use<> {
    (
        ControlServer::of(relay.spec.tailnet.control_url.as_deref()),
        identity(relay).into_owned(),
        relay.status.as_ref().map(|status| status.tailnet.clone()),
        wanted(relay),
        relay.spec.max_relays,
        relay.metadata.deletion_timestamp.is_some(),
    )
}

/// The domain of the tailnet, from the names of its devices; empty when there is none.
pub fn domain<'a>(reports: impl Iterator<Item = &'a RelayNode>) -> String {
    let names = reports.filter_map(|node| Some(&*node.status.as_ref()?.tailnet.as_ref()?.name));
    let domains = names.filter_map(|name| name.split_once('.').map(|(_, domain)| domain));
    let first = domains.min().unwrap_or_default();
    first.chars().take(LONGEST_DOMAIN).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::json;

    use super::*;
    use crate::operator::{
        fixtures,
        referred_credential::{Referred, control_server},
    };

    fn server(relay: &PeerRelay) -> Option<ControlServer> {
        control_server(&relay.spec.tailnet, &Referred::Unknown)
    }

    fn limit(relay: &PeerRelay) -> Option<u16> {
        super::limit(relay, server(relay).as_ref())
    }

    fn neighbours<'a>(
        relay: &PeerRelay,
        all: impl Iterator<Item = &'a PeerRelay>,
    ) -> Vec<Neighbour> {
        super::neighbours(relay, all, server)
    }

    #[test]
    fn the_hosted_control_server_is_known_however_it_is_written() {
        for url in [
            "https://controlplane.tailscale.com",
            "https://controlplane.tailscale.com/",
            "https://login.tailscale.com",
            "https://login.tailscale.com/",
            "https://login.tailscale.com:443",
            "https://login.tailscale.com:443/",
            "http://login.tailscale.com:80",
            "https://LOGIN.tailscale.com.",
        ] {
            let relay = at(url, "a");
            assert_eq!(server(&relay), Some(ControlServer::Hosted), "{url}");
            assert_eq!(limit(&relay), Some(2), "{url}");
        }
        for url in [
            "https://control.example.net",
            "https://login.tailscale.com.example.net",
            "https://tailscale.com",
        ] {
            assert_eq!(limit(&at(url, "a")), None, "{url}");
        }
    }

    #[test]
    fn one_server_is_one_whichever_way_it_is_written() {
        let server = |url| server(&at(url, "a"));
        let plain = server("https://control.example.net");
        for same in [
            "https://control.example.net/",
            "https://CONTROL.example.net:443",
        ] {
            assert_eq!(server(same), plain);
        }
        for other in [
            "https://control.example.net:8443",
            "http://control.example.net",
        ] {
            assert_ne!(server(other), plain);
        }
    }

    #[test]
    fn neighbours_share_a_credential_or_a_tailnet() {
        let relay = fixtures::relay(json!({}));
        let mut same = named("other", at("https://login.tailscale.com/", "tailnet-auth"));
        same.status = status(3, "");
        let elsewhere = |mut relay: PeerRelay| {
            relay.metadata.namespace = Some("elsewhere".into());
            relay
        };
        let other_key = json!({"authKey": {"secretName": "tailnet-auth", "key": "another"}});
        let all = [
            relay.clone(),
            same.clone(),
            named("key", at("https://login.tailscale.com", "another")),
            named("server", at("https://control.example.net", "tailnet-auth")),
            named("other-key", fixtures::relay(json!({"tailnet": other_key}))),
            elsewhere(same),
        ];
        let found = neighbours(&relay, all.iter());
        let wanted = Neighbour {
            name: "relays/other".into(),
            relays: 3,
            limit: Some(2),
        };
        assert_eq!(found, [wanted]);

        let mut relay = relay;
        relay.status = status(1, "tail1.ts.net");
        let mut far = elsewhere(named("far", at("https://login.tailscale.com", "another")));
        far.status = status(1, "tail1.ts.net");
        let mut foreign = far.clone();
        foreign.status = status(1, "tail2.ts.net");
        let names = |all: &[PeerRelay]| -> Vec<_> {
            let found = neighbours(&relay, all.iter());
            found.into_iter().map(|found| found.name).collect()
        };
        assert_eq!(names(&[far]), ["elsewhere/far"]);
        assert!(names(&[foreign]).is_empty());
    }

    #[test]
    fn neighbours_of_other_namespaces_share_a_tailnet_credential() {
        let refers = |namespace: &str, name: &str| {
            let tailnet = json!({"credentialsRef": {"name": name}});
            let mut relay = fixtures::relay(json!({"tailnet": tailnet, "maxRelays": 3}));
            relay.metadata.namespace = Some(namespace.into());
            relay
        };
        let all = [
            refers("tenants", "acme"),
            refers("tenants", "other"),
            named(
                "own",
                fixtures::relay(json!({"tailnet": {"oauth": {"secretName": "acme"}}})),
            ),
        ];
        let found = neighbours(&refers("relays", "acme"), all.iter());
        let names: Vec<_> = found.iter().map(|found| &*found.name).collect();
        assert_eq!(names, ["tenants/edge"]);
        assert_eq!(found[0].limit, Some(3), "the control server is not known");
    }

    #[test]
    fn the_domain_is_that_of_the_devices_names() {
        let node = |name: &str| -> RelayNode {
            serde_json::from_value(json!({
                "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
                "metadata": {"name": "n"},
                "spec": {"peerRelay": "edge", "region": "office", "nodeName": "n1"},
                "status": {
                    "ready": true, "version": "1", "dataPath": "Socket",
                    "tailnet": {"name": name, "nodeID": "n1"},
                },
            }))
            .unwrap()
        };
        let nodes = [node("edge-n1"), node("edge-n2.tail1.ts.net")];
        assert_eq!(domain(nodes.iter()), "tail1.ts.net");
        assert_eq!(domain([].into_iter()), "");
    }

    fn at(url: &str, secret: &str) -> PeerRelay {
        let tailnet = json!({"authKey": {"secretName": secret}, "controlURL": url});
        fixtures::relay(json!({"tailnet": tailnet}))
    }

    fn named(name: &str, mut relay: PeerRelay) -> PeerRelay {
        relay.metadata.name = Some(name.into());
        relay
    }

    fn status(desired: i32, tailnet: &str) -> Option<crate::crd::PeerRelayStatus> {
        let status = json!({
            "tailnet": tailnet,
            "regions": [{"name": "office", "tag": "t", "desired": desired, "ready": 0, "grantedPeers": 0}],
        });
        Some(serde_json::from_value(status).unwrap())
    }
}
