//! Effects of the network map: who may use the relay, and what the relay reports of it.

use std::{convert::Infallible, sync::PoisonError, time::Duration};

use jiff::Timestamp;
use tokio::time::sleep;

use super::{
    Tailnet,
    netmap::{DeviceMissing, Netmap},
    problem::{DeviceFacts, device_problem},
    state::{ControlState, TailnetIdentity},
    wire::MapResponse,
};
use crate::{
    names,
    relay::{grant::GrantView, watch_ext::SendIfChanged},
};

/// Longest wait until keys are compared with the clock again: somebody may set the clock.
const EXPIRY_CHECK: Duration = Duration::from_secs(60);

impl Tailnet {
    /// Applies the policy again whenever a node key expires: control sends no map at that moment, and its
    /// connection may be lost.
    pub(super) async fn follow_expiries(&self) -> Infallible {
        loop {
            let next = {
                let netmap = self.netmap.read().unwrap_or_else(PoisonError::into_inner);
                netmap.next_expiry(Timestamp::now())
            };
            let wait = next.map_or(EXPIRY_CHECK, |next| next.min(EXPIRY_CHECK));
            tokio::select! {
                () = sleep(wait) => {}
                () = self.learned.notified() => continue,
            }
            if next.is_some() {
                let netmap = self.netmap.read().unwrap_or_else(PoisonError::into_inner);
                self.apply_policy(&netmap, Timestamp::now(), false);
            }
        }
    }

    /// Keeps the entries of `clients` at what the configuration says.
    pub(super) async fn follow_clients(&self) -> Infallible {
        let mut dynamic_config = self.dynamic_config.clone();
        let mut previous = Vec::new();
        loop {
            let clients = dynamic_config.borrow_and_update().clients.clone();
            if clients != previous {
                let now = Timestamp::now();
                self.clients.set(&clients, now);
                let netmap = self.netmap.read().unwrap_or_else(PoisonError::into_inner);
                self.apply_policy(&netmap, now, false);
                previous = clients;
            }
            tokio::select! {
                changed = dynamic_config.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
                () = self.clients.recorded() => self.refresh_request_times(),
            }
        }
    }

    /// Publishes the times of the clients' last requests.
    fn refresh_request_times(&self) {
        self.senders.control.send_modify(|state| {
            if let Some(grant) = &mut state.grant {
                self.clients.refresh(&mut grant.clients);
            }
        });
    }

    /// Takes in a message of the map stream, and applies the policy.
    pub(super) fn learn(&self, message: MapResponse) -> Result<(), DeviceMissing> {
        let now = Timestamp::now();
        let mut netmap = self.netmap.write().unwrap_or_else(PoisonError::into_inner);
        if netmap.apply(message, now)? {
            self.apply_policy(&netmap, now, true);
            self.learned.notify_one();
        }
        Ok(())
    }

    /// Applies the network map to the data path and to the state. The caller holds its lock meanwhile, so
    /// that no client is let in by a map that is older than what the data path knows. `received`: the map has
    /// just come.
    fn apply_policy(&self, netmap: &Netmap, now: Timestamp, received: bool) {
        let Some(own) = netmap.own() else {
            return;
        };
        let derp = netmap.derp().clone();
        self.senders
            .stun_servers
            .send_if_changed(derp.stun_servers());
        self.derp_map.send_if_changed(derp);
        let disabled = netmap.relay_disabled();
        self.socket_path.set_accepting(!disabled);
        if self.socket_path.limits_tags() {
            self.socket_path.set_tags(netmap.tags());
        }
        if let Some(allowed) = netmap.allowed(now) {
            self.socket_path.revoke(allowed);
        }
        let grant = GrantView {
            clients: netmap.clients(&self.clients, now),
            tagged_others: netmap.tagged_others(&self.config.tags),
            ..netmap.grant(now)
        };
        let facts = DeviceFacts {
            own,
            expired: netmap.own_expired(now),
            relay_disabled: disabled,
            unsigned: netmap.own_unsigned(),
        };
        let problem = device_problem(&facts, &self.config.tags, || self.identity.sign_command());
        let device = TailnetIdentity {
            taken_name: names::is_taken(&self.config.hostname, &own.name)
                .then(|| self.config.hostname.clone()),
            name: own.name.trim_end_matches('.').to_owned(),
            node_id: own.stable_id.clone(),
            addresses: own.ips().collect(),
            tags: own.tags.clone(),
            key_expiry: own.key_expiry,
        };
        let previous = self.senders.control.borrow().clone();
        if received && !previous.map_received {
            tracing::info!(granted_peers = grant.granted_peers, "network map received");
        }
        let map_received = previous.map_received || received;
        self.senders.control.send_if_changed(ControlState {
            map_received,
            // Without a map stream, the problem is that of the connection.
            problem: match map_received {
                true => problem,
                false => previous.problem,
            },
            device: Some(device),
            grant: Some(grant),
            auth_key_request: previous.auth_key_request,
        });
    }
}
