//! What a relay is at the moment: source of readiness, of the log and of its `RelayNode`.

use std::{fmt, net::IpAddr};

use k8s_openapi::jiff::Timestamp;
use relay_proto::SessionCounts;

use super::{
    addresses::{Advertised, StunServer},
    grant::GrantView,
    kernel::PathState,
    probe::Probe,
    withdrawal::Withdrawal,
};
pub use crate::crd::relay_reason::Reason;

/// What is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Stable name.
    pub reason: Reason,
    /// One sentence that names the fix; no secret, no client address.
    pub message: String,
}

impl Problem {
    /// A problem with this message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.as_str(), self.message)
    }
}

/// The relay as a tailnet device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TailnetIdentity {
    /// Device name.
    pub name: String,
    /// Device name that was asked for, if another device has it.
    pub taken_name: Option<String>,
    /// Stable node id.
    pub node_id: String,
    /// Tailnet addresses.
    pub addresses: Vec<IpAddr>,
    /// Tags that control gave it.
    pub tags: Vec<String>,
    /// When its node key expires; tagged devices' keys mostly never do.
    pub key_expiry: Option<Timestamp>,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayState {
    /// Control knows the device and sent a network map on a stream that is open.
    pub map_received: bool,
    /// Home DERP region, while connected.
    pub home_derp: Option<String>,
    /// UDP port, once bound.
    pub port: Option<u16>,
    /// What allocations advertise.
    pub endpoints: Vec<Advertised>,
    /// The device, from the network map.
    pub tailnet: Option<TailnetIdentity>,
    /// What the control connection suffers from.
    pub control_problem: Option<Problem>,
    /// What the DERP connection suffers from.
    pub derp_problem: Option<Problem>,
    /// What the UDP port suffers from.
    pub port_problem: Option<Problem>,
    /// What the TCP port for metrics and probes suffers from.
    pub metrics_problem: Option<Problem>,
    /// Why nothing is advertised.
    pub endpoint_problem: Option<Problem>,
    /// That the kernel path is asked for and not to be had.
    pub path_problem: Option<Problem>,
    /// What forwards: `Ok` for the kernel, on so many devices.
    pub path: PathState,
    /// STUN servers of the DERP map.
    pub stun_servers: Vec<StunServer>,
    /// Public half of the key for probes.
    pub probe_key: Option<[u8; 32]>,
    /// What this relay saw of others' addresses.
    pub probes: Vec<Probe>,
    /// The process is about to end and gives out no further session.
    pub draining: bool,
    /// That the relay gives out no session, because it is going to be removed or its node is
    /// cordoned.
    pub withdrawal: Option<Withdrawal>,
    /// Who may use this relay, once the network map has come.
    pub grant: Option<GrantView>,
    /// Sessions.
    pub sessions: SessionCounts,
}

impl RelayState {
    /// What is still missing, in the order in which it is won; empty when ready.
    pub fn missing(&self) -> Vec<&'static str> {
        [
            (self.port.is_none(), "UDP port"),
            (self.metrics_problem.is_some(), "metrics port"),
            (!self.map_received, "network map"),
            (
                self.map_received && self.control_problem.is_some(),
                "leave of the tailnet to relay",
            ),
            (self.home_derp.is_none(), "DERP connection"),
            (self.endpoints.is_empty(), "endpoint to advertise"),
            (self.path_problem.is_some(), "kernel data path"),
            (self.draining, "a process that is not about to end"),
        ]
        .into_iter()
        .filter_map(|(missing, what)| missing.then_some(what))
        .collect()
    }

    /// Registered, map received and in good standing, DERP connected, port bound, at least one
    /// endpoint.
    pub fn ready(&self) -> bool {
        self.missing().is_empty()
    }

    /// The problem to show, if any: the one that must be solved first.
    pub fn problem(&self) -> Option<&Problem> {
        let problems = [
            &self.port_problem,
            &self.metrics_problem,
            &self.control_problem,
            &self.derp_problem,
            &self.endpoint_problem,
            &self.path_problem,
        ];
        problems.into_iter().find_map(Option::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::relay_node::EndpointSource;

    #[test]
    fn ready_needs_every_part() {
        let mut state = RelayState {
            map_received: true,
            home_derp: Some("fra".into()),
            port: Some(40_000),
            endpoints: vec![Advertised {
                address: ([192, 0, 2, 1], 40_000).into(),
                source: EndpointSource::Interface,
            }],
            ..RelayState::default()
        };
        assert!(state.ready());
        state.home_derp = None;
        assert_eq!(state.missing(), ["DERP connection"]);
        state.home_derp = Some("fra".into());
        state.control_problem = Some(Problem::new(Reason::KeyExpired, "renew it"));
        assert_eq!(state.missing(), ["leave of the tailnet to relay"]);
        assert_eq!(RelayState::default().missing().len(), 4);
    }

    #[test]
    fn problems_show_in_the_order_in_which_they_must_be_solved() {
        let problem = |reason| Some(Problem::new(reason, "text"));
        let mut state = RelayState {
            derp_problem: problem(Reason::DerpUnreachable),
            control_problem: problem(Reason::AuthKeyInvalid),
            ..RelayState::default()
        };
        assert_eq!(
            state.problem().map(|p| p.reason),
            Some(Reason::AuthKeyInvalid)
        );
        state.control_problem = None;
        assert_eq!(
            state.problem().map(|p| p.reason),
            Some(Reason::DerpUnreachable)
        );
    }
}
