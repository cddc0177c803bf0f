//! Results of the probes between relays, combined by address. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use crate::crd::{
    RelayNode,
    probe::{EndpointVerification, ProbeReport, Verified},
    relay_node::EndpointSource,
};

/// The probes of all relays of a PeerRelay, by relay and address.
pub struct ProbeResults<'a> {
    reports: BTreeMap<(&'a str, &'a str), Vec<(&'a ProbeReport, &'a str)>>,
}

impl<'a> ProbeResults<'a> {
    /// Combines the probes that `all` relays report. Probes of a relay by itself do not count.
    pub fn new(all: &'a [Arc<RelayNode>]) -> Self {
        let mut reports: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for node in all {
            let by = node.metadata.name.as_deref().unwrap_or_default();
            let probes = node.status.iter().flat_map(|status| &status.probes);
            for probe in probes.filter(|probe| probe.relay != by) {
                let address = (&*probe.relay, &*probe.address);
                reports.entry(address).or_default().push((probe, by));
            }
        }
        for of_address in reports.values_mut() {
            of_address.sort_by_key(|(p, by)| (!p.reachable, p.round_trip_microseconds, *by));
        }
        Self { reports }
    }

    /// Returns whether another relay has reached an address, and the relay that reached it fastest.
    pub fn verify(&self, node: &RelayNode, address: &str) -> EndpointVerification {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let first = self.reports.get(&(name, address)).and_then(|r| r.first());
        let verified = match first {
            None => Verified::Unknown,
            Some((probe, _)) if probe.reachable => Verified::True,
            Some(_) => Verified::False,
        };
        EndpointVerification {
            address: address.to_owned(),
            verified,
            by: first.map(|(_, by)| (*by).to_owned()),
            round_trip_microseconds: first.and_then(|(probe, _)| probe.round_trip_microseconds),
            last_probe_time: first.map(|(probe, _)| probe.last_probe_time.clone()),
            message: (verified == Verified::False).then(|| missing(node, address)),
        }
    }

    /// Returns the addresses of `node` that no relay reaches, while a relay reaches another one that
    /// serves the same clients. Static ones are not among them: they are told as they are configured.
    pub fn withheld(&self, node: &RelayNode) -> Vec<SocketAddr> {
        let endpoints = node.status.iter().flat_map(|status| &status.endpoints);
        let tried: Vec<(SocketAddr, EndpointSource, Verified)> = endpoints
            .filter_map(|endpoint| {
                let address = endpoint.address.parse().ok()?;
                let verified = self.verify(node, &endpoint.address).verified;
                Some((address, endpoint.source, verified))
            })
            .collect();
        let is_replaced = |failed: IpAddr| {
            tried.iter().any(|(address, _, verified)| {
                *verified == Verified::True && reach(address.ip()) == reach(failed)
            })
        };
        let failed = tried.iter().filter(|(address, source, verified)| {
            *verified == Verified::False
                && *source != EndpointSource::Static
                && is_replaced(address.ip())
        });
        failed.map(|(address, ..)| *address).collect()
    }

    /// Returns the verification of each address of `node`. `None` if its report already contains
    /// the same.
    pub fn verification(&self, node: &RelayNode) -> Option<Vec<EndpointVerification>> {
        let status = node.status.as_ref()?;
        let endpoints = status.endpoints.iter();
        let new: Vec<_> = endpoints.map(|e| self.verify(node, &e.address)).collect();
        // Times and round trips differ with each probe, and would cause a write for each report.
        let essence = |list: &[EndpointVerification]| -> Vec<(String, Verified)> {
            let pair = |v: &EndpointVerification| (v.address.clone(), v.verified);
            list.iter().map(pair).collect()
        };
        (essence(&new) != essence(&status.verification)).then_some(new)
    }
}

/// Kind of clients that may reach an address: those with its IP version, and those within a private
/// network or anywhere. A private address says nothing about a public one: behind a NAT without
/// hairpinning, relays reach only each other's private addresses, and clients elsewhere only the
/// public ones.
fn reach(ip: IpAddr) -> (bool, bool) {
    let is_private = match ip {
        // With the addresses of carrier-grade NAT (RFC 6598).
        IpAddr::V4(v4) => v4.is_private() || matches!(v4.octets(), [100, 64..=127, ..]),
        IpAddr::V6(v6) => v6.is_unique_local(),
    };
    (ip.is_ipv4(), is_private)
}

/// Returns the firewall rule that allows probes and clients to reach an address.
pub fn missing(node: &RelayNode, address: &str) -> String {
    let on = &node.spec.node_name;
    let Ok(parsed) = address.parse::<SocketAddr>() else {
        return format!("let UDP to {address} reach the relay on node {on}");
    };
    let (family, port) = match parsed.is_ipv4() {
        true => ("IPv4", parsed.port()),
        false => ("IPv6", parsed.port()),
    };
    let source = node.status.as_ref().and_then(|status| {
        let mut endpoints = status.endpoints.iter();
        endpoints.find(|e| e.address == address).map(|e| e.source)
    });
    let listens = node.status.as_ref().and_then(|status| status.port);
    let forward = match (source, listens) {
        (Some(EndpointSource::Static), Some(own)) if own != port => {
            format!(", and forward it to UDP port {own} of the node")
        }
        (Some(EndpointSource::Static), _) => {
            ", and check that the address leads to this node".to_owned()
        }
        _ => String::new(),
    };
    format!(
        "allow UDP port {port} over {family} from anywhere to {} (node {on}, and every firewall or \
         security group before it){forward}",
        parsed.ip()
    )
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::{Value, json};

    use super::*;

    /// A report of relay `name` with these endpoints and probes of others.
    pub(crate) fn node(name: &str, endpoints: &[(&str, &str)], probes: &[Value]) -> Arc<RelayNode> {
        let endpoint =
            |(address, source): &(&str, &str)| json!({"address": address, "source": source});
        let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
        let node = json!({
            "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
            "metadata": {"name": name},
            "spec": {"peerRelay": "edge", "region": "office", "nodeName": format!("node-{name}")},
            "status": {
                "ready": true, "version": "0", "dataPath": "Socket", "port": 40_000,
                "probeKey": "ab".repeat(32), "endpoints": endpoints, "probes": probes,
            },
        });
        Arc::new(serde_json::from_value(node).unwrap())
    }

    /// The result of a probe of `relay`.
    pub(crate) fn probe(relay: &str, address: &str, micros: Option<i64>) -> Value {
        json!({
            "relay": relay, "address": address, "reachable": micros.is_some(),
            "roundTripMicroseconds": micros, "lastProbeTime": "2026-01-02T03:04:05Z",
        })
    }

    #[test]
    fn quickest_relay_that_reached_an_address_speaks_for_it() {
        let (a1, a2) = ("192.0.2.1:40000", "203.0.113.9:41000");
        let a = node("a", &[(a1, "Interface"), (a2, "Static")], &[]);
        let b = node("b", &[], &[probe("a", a1, Some(900)), probe("a", a2, None)]);
        let c = node("c", &[], &[probe("a", a1, Some(300)), probe("b", a1, None)]);
        let all = [a.clone(), b, c];
        let verdicts = ProbeResults::new(&all).verification(&a).unwrap();
        assert_eq!(verdicts[0].verified, Verified::True);
        assert_eq!(verdicts[0].by.as_deref(), Some("c"));
        assert_eq!(verdicts[0].round_trip_microseconds, Some(300));
        assert_eq!(verdicts[1].verified, Verified::False);
        let message = verdicts[1].message.as_deref().unwrap();
        assert!(
            message.contains("allow UDP port 41000 over IPv4"),
            "{message}"
        );
        assert!(
            message.contains("forward it to UDP port 40000"),
            "{message}"
        );
    }

    #[test]
    fn another_round_trip_time_is_no_other_verdict() {
        let address = "192.0.2.1:40000";
        let b = node("b", &[], &[probe("a", address, Some(900))]);
        let mut a = (*node("a", &[(address, "Interface")], &[])).clone();
        let first = ProbeResults::new(&[Arc::new(a.clone()), b])
            .verification(&a)
            .unwrap();
        a.status.as_mut().unwrap().verification = first;
        let b = node("b", &[], &[probe("a", address, Some(100))]);
        assert_eq!(
            ProbeResults::new(&[Arc::new(a.clone()), b]).verification(&a),
            None
        );
        let b = node("b", &[], &[probe("a", address, None)]);
        assert!(
            ProbeResults::new(&[Arc::new(a.clone()), b])
                .verification(&a)
                .is_some()
        );
    }

    #[test]
    fn an_address_that_fails_is_withheld_while_one_for_the_same_clients_holds() {
        let public = ["203.0.113.1:40000", "203.0.113.2:40000"];
        let private = ["192.168.0.1:40000", "10.0.0.1:40000"];
        let withheld = |endpoints: &[(&str, &str, Option<i64>)]| -> Vec<String> {
            let own: Vec<_> = endpoints.iter().map(|(at, from, _)| (*at, *from)).collect();
            let a = node("a", &own, &[]);
            let tried = endpoints.iter();
            let seen: Vec<_> = tried
                .map(|(at, _, micros)| probe("a", at, *micros))
                .collect();
            let all = [a.clone(), node("b", &[], &seen)];
            let withheld = ProbeResults::new(&all).withheld(&a);
            withheld.iter().map(ToString::to_string).collect()
        };
        let with = |other: &str, micros| {
            withheld(&[(public[0], "Stun", None), (other, "Interface", micros)])
        };
        assert_eq!(with(public[1], Some(1)), [public[0]]);
        assert!(with(public[1], None).is_empty(), "none is reached");
        assert!(with("[2001:db8::1]:40000", Some(1)).is_empty(), "IPv6");
        // Behind a NAT without hairpinning, clients elsewhere still need it.
        assert!(with(private[0], Some(1)).is_empty(), "private");
        let within = [
            (private[0], "Interface", None),
            (private[1], "Interface", Some(1)),
        ];
        assert_eq!(withheld(&within), [private[0]]);
        let configured = [(public[0], "Static", None), (public[1], "Stun", Some(1))];
        assert!(withheld(&configured).is_empty());
    }

    #[test]
    fn a_relay_that_says_it_reached_itself_is_not_heard() {
        let address = "192.0.2.1:40000";
        let a = node(
            "a",
            &[(address, "Interface")],
            &[probe("a", address, Some(1))],
        );
        let all = [a.clone()];
        let verdict = ProbeResults::new(&all).verify(&a, address);
        assert_eq!(verdict.verified, Verified::Unknown);
    }
}
