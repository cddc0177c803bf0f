//! Effects of the network map: who may use the relay, and what the relay reports of it.

use std::{collections::BTreeSet, convert::Infallible, sync::PoisonError, time::Duration};

use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};

use super::{
    Tailnet,
    netmap::{Changes, DeviceMissing, Judged, Netmap},
    peers::MOST_PEERS,
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
/// Time between two counts of the peers, as a multiple of the time that the first one has taken: a count
/// looks at all peers, and in a large tailnet some of them change all the time.
const COUNT_PAUSE: u32 = 99;

impl Tailnet {
    /// Judges again whenever a node key expires: control sends no map at that moment, and its connection
    /// may be lost.
    pub(super) async fn follow_expiries(&self) -> Infallible {
        let mut check = Instant::now() + EXPIRY_CHECK;
        loop {
            let next = self.netmap.next_expiry(Timestamp::now());
            let wait = next.map(|next| Instant::now() + next);
            tokio::select! {
                () = sleep_until(wait.map_or(check, |next| next.min(check))) => {}
                () = self.expiries_changed.notified() => continue,
            }
            check = Instant::now() + EXPIRY_CHECK;
            let now = Timestamp::now();
            self.netmap.find_next_expiry(now);
            self.revoke(&Judged::All, now);
            self.publish_device(now, false);
            self.counts_changed.notify_one();
        }
    }

    /// Keeps the entries of `clients` at what the configuration says.
    pub(super) async fn follow_clients(&self) -> Infallible {
        let mut dynamic_config = self.dynamic_config.clone();
        let mut previous = Vec::new();
        loop {
            let clients = dynamic_config.borrow_and_update().clients.clone();
            if clients != previous {
                self.clients.set(&clients, Timestamp::now());
                self.counts_changed.notify_one();
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

    /// Counts the peers again after they have changed, with one percent of a core at most.
    pub(super) async fn follow_counts(&self) -> Infallible {
        loop {
            self.counts_changed.notified().await;
            let start = Instant::now();
            self.publish_counts(Timestamp::now());
            sleep_until(Instant::now() + start.elapsed() * COUNT_PAUSE).await;
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

    /// Takes in a message of the map stream, and applies what it changes.
    pub(super) fn learn(&self, message: MapResponse) -> Result<(), DeviceMissing> {
        let now = Timestamp::now();
        let changes = self.netmap.apply(message, now)?;
        self.enforce(&changes, now);
        if changes.expiry {
            self.expiries_changed.notify_one();
        }
        if !changes.is_map {
            return Ok(());
        }
        if changes.derp {
            let derp = self.netmap.read().derp().clone();
            self.senders
                .stun_servers
                .send_if_changed(derp.stun_servers());
            self.derp_map.send_if_changed(derp);
        }
        let is_first = !self.senders.control.borrow().map_received;
        if is_first {
            self.publish_counts(now);
        } else if changes.counts {
            self.counts_changed.notify_one();
        }
        if is_first || changes.device {
            self.publish_device(now, true);
        }
        if is_first {
            self.log_first();
        }
        if changes.refused > 0 {
            let refused = changes.refused;
            tracing::error!(
                refused,
                most = MOST_PEERS,
                "the tailnet has more devices than a relay can know: the others get no session"
            );
        }
        Ok(())
    }

    /// Applies changes to the data path. The map has them already, so no client is let in by an older one.
    fn enforce(&self, changes: &Changes, now: Timestamp) {
        if changes.device {
            let disabled = self.netmap.read().relay_disabled();
            self.socket_path.set_accepting(!disabled);
        }
        self.revoke(&changes.judged, now);
        if self.socket_path.limits_tags() && !changes.tagged.is_empty() {
            self.set_tags(&changes.tagged);
        }
    }

    /// Ends the sessions of those of `judged` who may not use the relay any more.
    fn revoke(&self, judged: &Judged, now: Timestamp) {
        // Without a network map, nobody can be judged.
        if judged.is_empty() || self.netmap.read().own().is_none() {
            return;
        }
        let holders = match judged {
            Judged::All => self.socket_path.holders(),
            Judged::Some(keys) => keys.iter().copied().collect(),
        };
        let netmap = self.netmap.read();
        let lost = holders.into_iter().filter(|key| !netmap.may_use(*key, now));
        let mut lost: BTreeSet<_> = lost.collect();
        drop(netmap);
        self.socket_path.retain_holders(&mut lost);
        if !lost.is_empty() {
            self.socket_path.revoke(lost);
        }
    }

    fn set_tags(&self, tagged: &Judged) {
        let netmap = self.netmap.read();
        let numbers = &mut *self
            .tag_numbers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match tagged {
            Judged::All => {
                numbers.forget();
                let tags = netmap.tagged().map(|(key, tags)| (key, numbers.of(tags)));
                self.socket_path.set_tags(tags.collect());
            }
            Judged::Some(keys) => {
                let tags = keys
                    .iter()
                    .map(|key| (*key, numbers.of(netmap.tags_of(*key))));
                self.socket_path.change_tags(tags);
            }
        }
    }

    /// Publishes the state of this device. `received`: control has just sent a map.
    fn publish_device(&self, now: Timestamp, received: bool) {
        let netmap = self.netmap.read();
        let Some(own) = netmap.own() else {
            return;
        };
        let facts = DeviceFacts {
            own,
            expired: netmap.own_expired(now),
            relay_disabled: netmap.relay_disabled(),
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
        let map_received = previous.map_received || received;
        self.senders.control.send_if_changed(ControlState {
            map_received,
            // Without a map stream, the problem is that of the connection.
            problem: match map_received {
                true => problem,
                false => previous.problem.clone(),
            },
            device: Some(device),
            ..previous
        });
    }

    /// Publishes the numbers of peers.
    fn publish_counts(&self, now: Timestamp) {
        let netmap = self.netmap.read();
        if netmap.own().is_none() {
            return;
        }
        let grant = self.counts(&netmap, now);
        let control = &self.senders.control;
        control.send_field_if_changed(|state| &mut state.grant, Some(grant));
    }

    fn counts(&self, netmap: &Netmap, now: Timestamp) -> GrantView {
        GrantView {
            clients: netmap.clients(&self.clients, now),
            tagged_others: netmap.tagged_others(&self.config.tags),
            ..netmap.grant(now)
        }
    }

    fn log_first(&self) {
        let control = self.senders.control.borrow();
        let granted_peers = control.grant.as_ref().map(|grant| grant.granted_peers);
        tracing::info!(granted_peers, "network map received");
    }
}
