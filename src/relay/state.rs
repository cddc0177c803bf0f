//! State of the relay, from which readiness, metrics and the `RelayNode` follow.
//!
//! Each task publishes the part that it knows ([`StateParts`]); [`RelayState`] is the fold of all
//! parts, and nothing but the fold writes it.

mod parts;

use relay_proto::SessionCounts;

pub use self::parts::StateParts;
use super::{
    addresses::EndpointState,
    data_path::DataPathState,
    probe::ProbeState,
    problem::Problem,
    socket_path::PortProblem,
    tailnet::{ControlState, DerpState},
    withdrawal::Withdrawal,
};
use crate::crd::relay_reason::RelayReason;

/// State of the whole relay at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RelayState {
    /// Control connection and network map.
    pub control: ControlState,
    /// Home DERP connection.
    pub derp: DerpState,
    /// UDP port and the addresses that allocations advertise.
    pub endpoints: EndpointState,
    /// Data path that forwards.
    pub data_path: DataPathState,
    /// Problem of the server for metrics and probes, while it has one.
    pub metrics_problem: Option<Problem>,
    /// Probes of other relays.
    pub probes: ProbeState,
    /// Number of sessions, up to ten seconds old.
    pub sessions: SessionCounts,
    /// Withdrawal, while the relay gives out no sessions because it is going to be removed or its
    /// node is cordoned.
    pub withdrawal: Option<Withdrawal>,
    /// `true` if the process is about to end and gives out no further session.
    pub draining: bool,
}

impl RelayState {
    /// Requirements of readiness that are not met, in the order in which a start meets them.
    pub fn missing(&self) -> Vec<&'static str> {
        let control = &self.control;
        [
            (self.port().is_none(), "UDP port"),
            (self.metrics_problem.is_some(), "metrics port"),
            (!control.map_received, "network map"),
            (
                control.map_received && control.problem.is_some(),
                "leave of the tailnet to relay",
            ),
            (self.derp.home.is_none(), "DERP connection"),
            (
                self.endpoints.advertised.is_empty(),
                "endpoint to advertise",
            ),
            (self.data_path.problem.is_some(), "kernel data path"),
            (self.draining, "a process that is not about to end"),
        ]
        .into_iter()
        .filter_map(|(is_missing, requirement)| is_missing.then_some(requirement))
        .collect()
    }

    /// Returns whether nothing is [missing](Self::missing).
    pub fn ready(&self) -> bool {
        self.missing().is_empty()
    }

    /// Number of the UDP port, once it is bound.
    pub fn port(&self) -> Option<u16> {
        self.endpoints.port.bound()
    }

    /// The problem that must be solved first, if there is one.
    pub fn problem(&self) -> Option<Problem> {
        let port_problem = self.endpoints.port.problem().map(port_problem);
        let none_advertised = self.port().is_some() && self.endpoints.advertised.is_empty();
        port_problem
            .or_else(|| self.metrics_problem.clone())
            .or_else(|| self.control.problem.clone())
            .or_else(|| self.derp.problem.clone())
            .or_else(|| none_advertised.then(no_endpoints))
            .or_else(|| self.data_path.problem.clone())
    }
}

fn port_problem(problem: &PortProblem) -> Problem {
    let reason = match problem {
        PortProblem::Taken(_) => RelayReason::HostPortConflict,
        PortProblem::Other { .. } => RelayReason::PortUnavailable,
    };
    Problem::new(reason, problem.to_string())
}

fn no_endpoints() -> Problem {
    let message = "there is no address to advertise (those of the tailnet, of tunnels and of \
                   container networks do not count): name one in endpoints.static \
                   (--static-endpoint), or let endpoints.discover, include and exclude leave one";
    Problem::new(RelayReason::NoEndpoints, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crd::relay_node::EndpointSource,
        relay::{addresses::Advertised, socket_path::PortState},
    };

    #[test]
    fn ready_needs_every_part() {
        let mut state = RelayState {
            control: ControlState {
                map_received: true,
                ..ControlState::default()
            },
            derp: DerpState {
                home: Some("fra".into()),
                problem: None,
            },
            endpoints: EndpointState {
                port: PortState::Bound(40_000),
                advertised: vec![Advertised {
                    address: ([192, 0, 2, 1], 40_000).into(),
                    source: EndpointSource::Interface,
                    is_withheld: false,
                }],
            },
            ..RelayState::default()
        };
        assert!(state.ready());
        state.derp.home = None;
        assert_eq!(state.missing(), ["DERP connection"]);
        state.derp.home = Some("fra".into());
        state.control.problem = Some(Problem::new(RelayReason::KeyExpired, "renew it"));
        assert_eq!(state.missing(), ["leave of the tailnet to relay"]);
        assert_eq!(RelayState::default().missing().len(), 4);
    }

    #[test]
    fn problems_show_in_the_order_in_which_they_must_be_solved() {
        let problem = |reason| Some(Problem::new(reason, "text"));
        let mut state = RelayState {
            endpoints: EndpointState {
                port: PortState::Failed(PortProblem::Taken(40_000)),
                advertised: Vec::new(),
            },
            metrics_problem: problem(RelayReason::HostPortConflict),
            control: ControlState {
                problem: problem(RelayReason::AuthKeyInvalid),
                ..ControlState::default()
            },
            derp: DerpState {
                home: None,
                problem: problem(RelayReason::DerpUnreachable),
            },
            data_path: DataPathState {
                problem: problem(RelayReason::KernelPathUnavailable),
                ..DataPathState::default()
            },
            ..RelayState::default()
        };
        let shown = |state: &RelayState| state.problem().map(|problem| problem.reason);
        assert_eq!(shown(&state), Some(RelayReason::HostPortConflict));
        assert!(state.problem().is_some_and(|p| p.message.contains("UDP")));
        state.endpoints.port = PortState::Bound(40_000);
        assert_eq!(state.problem(), state.metrics_problem);
        state.metrics_problem = None;
        assert_eq!(shown(&state), Some(RelayReason::AuthKeyInvalid));
        state.control.problem = None;
        assert_eq!(shown(&state), Some(RelayReason::DerpUnreachable));
        state.derp.problem = None;
        assert_eq!(shown(&state), Some(RelayReason::NoEndpoints));
        state.endpoints.port = PortState::Binding;
        assert_eq!(shown(&state), Some(RelayReason::KernelPathUnavailable));
    }
}
