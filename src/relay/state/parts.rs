//! Parts of the relay's state, each with one writer.

use std::convert::Infallible;

use relay_proto::SessionCounts;
use tokio::sync::watch;

use super::RelayState;
use crate::relay::{
    addresses::EndpointState,
    data_path::DataPathState,
    probe::ProbeState,
    problem::Problem,
    tailnet::{ControlState, DerpState},
    watch_ext::SendIfChanged,
    withdrawal::Withdrawal,
};

/// Senders of the parts. The task that a field's comment names is the only one that sends there.
#[derive(Debug, Clone, Default)]
pub struct StateParts {
    /// Written by the tailnet task.
    pub control: watch::Sender<ControlState>,
    /// Written by the DERP part of the tailnet task.
    pub derp: watch::Sender<DerpState>,
    /// Written by the endpoint publisher.
    pub endpoints: watch::Sender<EndpointState>,
    /// Written by the data path task.
    pub data_path: watch::Sender<DataPathState>,
    /// Written by the metrics server.
    pub metrics_problem: watch::Sender<Option<Problem>>,
    /// Written by the probing task.
    pub probes: watch::Sender<ProbeState>,
    /// Written by the session counter.
    pub sessions: watch::Sender<SessionCounts>,
    /// Written by the withdrawal task.
    pub withdrawal: watch::Sender<Option<Withdrawal>>,
    /// Written when a stop signal comes.
    pub draining: watch::Sender<bool>,
}

impl StateParts {
    /// Folds the parts into the state of the whole relay.
    pub fn fold(&self) -> RelayState {
        RelayState {
            control: self.control.borrow().clone(),
            derp: self.derp.borrow().clone(),
            endpoints: self.endpoints.borrow().clone(),
            data_path: self.data_path.borrow().clone(),
            metrics_problem: self.metrics_problem.borrow().clone(),
            probes: self.probes.borrow().clone(),
            sessions: *self.sessions.borrow(),
            withdrawal: *self.withdrawal.borrow(),
            draining: *self.draining.borrow(),
        }
    }

    /// Keeps `state` equal to the fold of the parts, for as long as it is polled.
    pub async fn publish(self, state: watch::Sender<RelayState>) -> Result<Infallible, Infallible> {
        let mut control = self.control.subscribe();
        let mut derp = self.derp.subscribe();
        let mut endpoints = self.endpoints.subscribe();
        let mut data_path = self.data_path.subscribe();
        let mut metrics_problem = self.metrics_problem.subscribe();
        let mut probes = self.probes.subscribe();
        let mut sessions = self.sessions.subscribe();
        let mut withdrawal = self.withdrawal.subscribe();
        let mut draining = self.draining.subscribe();
        // No channel closes: `self` has a sender of each.
        loop {
            state.send_if_changed(self.fold());
            tokio::select! {
                _ = control.changed() => {}
                _ = derp.changed() => {}
                _ = endpoints.changed() => {}
                _ = data_path.changed() => {}
                _ = metrics_problem.changed() => {}
                _ = probes.changed() => {}
                _ = sessions.changed() => {}
                _ = withdrawal.changed() => {}
                _ = draining.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use jiff::Timestamp;

    use super::*;
    use crate::{
        crd::relay_reason::RelayReason,
        relay::{
            kernel::{Attached, PathState},
            socket_path::PortState,
        },
    };

    /// The task and the writers run on one thread, so the state is current once the task has run.
    #[tokio::test]
    async fn a_change_of_any_part_changes_the_whole() {
        let parts = StateParts::default();
        let (state, mut changes) = watch::channel(RelayState::default());
        let task = tokio::spawn(parts.clone().publish(state));
        let attached = Attached {
            devices: 2,
            unpinned: None,
        };
        let writes: [&dyn Fn(); 9] = [
            &|| parts.control.send_modify(|part| part.map_received = true),
            &|| {
                parts
                    .derp
                    .send_modify(|part| part.home = Some("fra".into()))
            },
            &|| {
                parts
                    .endpoints
                    .send_modify(|part| part.port = PortState::Bound(1))
            },
            &|| {
                parts
                    .data_path
                    .send_modify(|part| part.path = PathState(Ok(attached.clone())))
            },
            &|| {
                let problem = Problem::new(RelayReason::TagMissing, "");
                parts.metrics_problem.send_replace(Some(problem));
            },
            &|| parts.probes.send_modify(|part| part.key = Some([7; 32])),
            &|| parts.sessions.send_modify(|part| part.open = 3),
            &|| {
                parts.withdrawal.send_replace(Some(Withdrawal {
                    since: Timestamp::UNIX_EPOCH,
                    complete: false,
                }));
            },
            &|| {
                parts.draining.send_replace(true);
            },
        ];
        for write in writes {
            let before = changes.borrow_and_update().clone();
            write();
            changes.changed().await.unwrap();
            assert_ne!(*changes.borrow(), before);
            assert_eq!(*changes.borrow(), parts.fold());
        }
        task.abort();
    }
}
