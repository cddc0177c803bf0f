//! Status of a `RelayNode`, made from the state of the relay.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use crate::{
    config::peers::encode_key,
    crd::{
        RelayNodeStatus,
        grants::{ClientDevices, ClientReport, GrantReport, GrantSource},
        probe::ProbeReport,
        relay_node::{Endpoint, NodeTailnet, Sessions, Withdrawal},
    },
    relay::{
        addresses::Advertised,
        clients::ClientView,
        grant::GrantView,
        kernel::{Unavailable, UnavailableReason},
        probe::Probe,
        state::RelayState,
        tailnet::{ControlState, TailnetIdentity},
    },
};

/// Describes the relay as it was at `now`.
pub(super) fn status(state: &RelayState, now: Timestamp) -> RelayNodeStatus {
    let problem = state.problem();
    let (reason, message) = problem
        .map(|problem| (problem.reason.as_str().to_owned(), problem.message))
        .unzip();
    let unavailable = kernel_shortfall(state);
    let ControlState {
        device,
        grant,
        auth_key_request,
        ..
    } = &state.control;
    RelayNodeStatus {
        ready: state.ready(),
        reason,
        message,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        port: state.port(),
        data_path: match state.data_path.path.is_kernel() {
            true => "Kernel",
            false => "Socket",
        }
        .to_owned(),
        data_path_reason: unavailable.map(|error| error.reason.as_str().to_owned()),
        data_path_message: unavailable.map(|error| error.message.clone()),
        auth_key_request: auth_key_request.clone(),
        tailnet: device
            .as_ref()
            .map(|device| tailnet(device, state.derp.home.clone())),
        endpoints: state.endpoints.advertised.iter().map(endpoint).collect(),
        probe_key: state.probes.key.map(encode_key),
        probes: state.probes.results.iter().map(probe).collect(),
        // The operator's field. An empty list is left out of the request, so this manager does not own
        // it.
        verification: Vec::new(),
        sessions: Sessions {
            connecting: count(state.sessions.connecting),
            open: count(state.sessions.open),
        },
        withdrawal: state.withdrawal.map(|withdrawal| Withdrawal {
            since: Time(withdrawal.since),
            complete: withdrawal.complete,
        }),
        granted_peers: count(grant.as_ref().map_or(0, |grant| grant.granted_peers)),
        grant: grant.as_ref().map(grant_report),
        last_update_time: Some(Time(now)),
    }
}

fn tailnet(device: &TailnetIdentity, home_derp: Option<String>) -> NodeTailnet {
    NodeTailnet {
        name: device.name.clone(),
        taken_name: device.taken_name.clone(),
        node_id: device.node_id.clone(),
        addresses: device.addresses.iter().map(ToString::to_string).collect(),
        tags: device.tags.clone(),
        key_expiry: device.key_expiry.map(Time),
        home_derp,
    }
}

fn endpoint(advertised: &Advertised) -> Endpoint {
    Endpoint {
        address: advertised.address.to_string(),
        source: advertised.source,
        withheld: advertised.is_withheld,
    }
}

fn probe(probe: &Probe) -> ProbeReport {
    ProbeReport {
        relay: probe.relay.clone(),
        address: probe.address.to_string(),
        reachable: probe.reachable,
        round_trip_microseconds: probe
            .round_trip
            .map(|time| i64::try_from(time.as_micros()).unwrap_or(i64::MAX)),
        last_probe_time: Time(probe.time),
    }
}

fn grant_report(view: &GrantView) -> GrantReport {
    let source = |(tags, peers): (&Vec<String>, &usize)| GrantSource {
        tags: tags.clone(),
        peers: count(*peers),
    };
    GrantReport {
        rules: count(view.rules),
        known_peers: count(view.known_peers),
        everyone: view.everyone,
        sources: view.sources.iter().map(source).collect(),
        more_sources: view.more_sources,
        clients: view.clients.iter().map(client_report).collect(),
        tagged_others: count(view.tagged_others),
    }
}

fn client_report(view: &ClientView) -> ClientReport {
    ClientReport {
        client: view.client.clone(),
        devices: view.devices.map(|devices| ClientDevices {
            known: count(devices.known),
            granted: count(devices.granted),
        }),
        counted_since: view.devices.map(|_| Time(view.since)),
        last_asked: view.asked.map(Time),
    }
}

/// Returns why sockets forward, unless the configuration chose them, or why the kernel does only while the
/// relay runs.
fn kernel_shortfall(state: &RelayState) -> Option<&Unavailable> {
    let shortfall = state.data_path.path.shortfall();
    shortfall.filter(|error| error.reason != UnavailableReason::Chosen)
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use crate::{
        crd::{relay_node::EndpointSource, relay_reason::RelayReason},
        relay::{addresses::EndpointState, problem::Problem},
    };

    #[test]
    fn status_shows_the_problem_and_the_source_of_each_endpoint() {
        let endpoint = |address: &str, source| Advertised {
            address: address.parse().unwrap(),
            source,
            is_withheld: address.starts_with("192"),
        };
        let state = RelayState {
            endpoints: EndpointState {
                advertised: vec![
                    endpoint("203.0.113.1:40000", EndpointSource::Static),
                    endpoint("192.0.2.1:40000", EndpointSource::Interface),
                ],
                ..EndpointState::default()
            },
            control: ControlState {
                problem: Some(Problem::new(RelayReason::AuthKeyMissing, "create it")),
                ..ControlState::default()
            },
            ..RelayState::default()
        };
        let status = status(&state, Timestamp::UNIX_EPOCH);
        assert_eq!(status.reason.as_deref(), Some("AuthKeyMissing"));
        assert!(!status.ready);
        let sources: Vec<_> = status.endpoints.iter().map(|e| e.source).collect();
        assert_eq!(sources, [EndpointSource::Static, EndpointSource::Interface]);
        let withheld: Vec<_> = status.endpoints.iter().map(|e| e.withheld).collect();
        assert_eq!(withheld, [false, true]);
    }
}
