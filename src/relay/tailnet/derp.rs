//! DERP: allocation requests come in through it, and are answered through it.
//!
//! The relay holds one connection to its home region. An answer goes through the requester's home
//! region, or through the relay's own if that fails: the request came through it.

mod connection;
#[cfg(test)]
mod fixture;
mod health;
mod home;
mod other_regions;
#[cfg(test)]
mod tests;
mod timing;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use relay_proto::{DropReason, NodeKey};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use ts_keys::NodeKeyPair;

use self::{
    connection::{Connection, DerpError, Received, Sender},
    other_regions::OtherRegions,
};
pub(crate) use self::{health::RegionHealth, timing::Timing};
use super::{DerpState, netmap::SharedNetmap, wire::DerpMap};
use crate::{
    crd::relay_reason::RelayReason,
    dial::Dialer,
    relay::{
        clients::Clients, problem::Problem, socket_path::SocketPathHandle, watch_ext::SendIfChanged,
    },
};

/// Everything that the tasks of DERP share.
#[derive(Clone)]
pub(crate) struct Derp {
    pub(crate) dialer: Dialer,
    pub(crate) node: NodeKeyPair,
    pub(crate) netmap: SharedNetmap,
    pub(crate) map: watch::Receiver<Arc<DerpMap>>,
    pub(crate) socket_path: SocketPathHandle,
    pub(crate) clients: Clients,
    pub(crate) state: watch::Sender<DerpState>,
    /// Home region, as control should know it; 0 until there is one.
    pub(crate) home: watch::Sender<u32>,
    pub(crate) timing: Timing,
    pub(crate) health: Arc<Mutex<RegionHealth>>,
}

/// End of a connection to the home region.
enum Ended {
    /// It was never open.
    NotOpened(DerpError),
    /// It was open, and its region was home.
    Lost(DerpError),
    /// The DERP map has other servers for the region, or none.
    MapChanged,
}

/// An answer on its way through a region.
struct Answer {
    to: NodeKey,
    packet: Vec<u8>,
}

impl Derp {
    /// Keeps the home connection for as long as the process runs.
    pub(crate) async fn run(mut self) {
        let mut waits = self.timing.retry.clone().waits();
        let mut map = Arc::default();
        // Until then the home region is not changed.
        let mut stay_until = Instant::now();
        loop {
            let before = std::mem::replace(&mut map, self.map.borrow_and_update().clone());
            self.health().follow(&before, &map);
            let home = *self.home.borrow();
            let stays = Instant::now() < stay_until && map.regions.contains_key(&home);
            let region = if stays {
                Some(home)
            } else {
                self.choose(&map).await
            };
            let Some(region) = region else {
                if !map.regions.is_empty() {
                    self.report(&DerpError::NoRegion.to_string());
                }
                self.wait(waits.wait()).await;
                continue;
            };
            let is_retried_at_once = match self.hold(region, &map).await {
                Ended::MapChanged => {
                    stay_until = Instant::now() + self.timing.stay;
                    true
                }
                Ended::NotOpened(error) => {
                    self.report(&error.to_string());
                    self.health().record_failure(region, Instant::now());
                    !stays && home::candidates(&map).any(|region| self.is_usable(region))
                }
                Ended::Lost(error) => {
                    self.report(&error.to_string());
                    waits.reset();
                    stay_until = Instant::now();
                    if matches!(error, DerpError::Stalled(_)) {
                        self.health().record_failure(region, Instant::now());
                    } else {
                        stay_until += self.timing.stay;
                    }
                    false
                }
            };
            if !is_retried_at_once {
                self.wait(waits.wait()).await;
            }
        }
    }

    /// Returns the region that becomes home: one that works before one that failed.
    async fn choose(&self, map: &DerpMap) -> Option<u32> {
        let (usable, failed): (Vec<_>, Vec<_>) =
            home::candidates(map).partition(|region| self.is_usable(*region));
        match home::choose(&self.dialer, map, usable.into_iter()).await {
            Some(region) => Some(region),
            None => home::choose(&self.dialer, map, failed.into_iter()).await,
        }
    }

    fn is_usable(&self, region: u32) -> bool {
        self.health().is_usable(region, Instant::now())
    }

    /// Serves the home region until its connection ends.
    async fn hold(&self, region: u32, map: &Arc<DerpMap>) -> Ended {
        let limit = self.timing.open;
        let opened = Connection::open(&self.dialer, &self.node, region, map, limit).await;
        let connection = match opened {
            Ok(connection) => connection,
            Err(error) => return Ended::NotOpened(error),
        };
        if let Err(error) = connection.send_home(limit).await {
            return Ended::NotOpened(error);
        }
        self.health().record_success(region);
        // Not earlier: control passes it on to all clients, which send their requests there.
        self.home.send_if_changed(region);
        let code = map
            .regions
            .get(&region)
            .and_then(Option::as_ref)
            .map(|r| r.region_code.clone());
        let name = code
            .filter(|code| !code.is_empty())
            .unwrap_or_else(|| region.to_string());
        tracing::info!(region, name, "connected to home DERP region");
        self.state.send_replace(DerpState {
            home: Some(name),
            problem: None,
        });
        let home = HomeConnection::new(self.clone(), region, map.clone());
        let ended = home.serve(connection).await;
        self.state.send_modify(|state| state.home = None);
        ended
    }

    fn health(&self) -> MutexGuard<'_, RegionHealth> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a packet by the policy of this moment. Returns the answer, and the sender's home region.
    ///
    /// # Errors
    /// The reason why there is no answer.
    pub(super) async fn answer(
        &self,
        from: NodeKey,
        packet: Vec<u8>,
    ) -> Result<(Vec<u8>, Option<u32>), DropReason> {
        let mut home = None;
        let sender = || {
            let (peer, region) = self.netmap.peer(from, Timestamp::now())?;
            home = region;
            Some(peer)
        };
        let answer = self.socket_path.handle_derp(sender, packet).await?;
        let now = Timestamp::now();
        self.netmap.record_request(from, &self.clients, now);
        Ok((answer, home))
    }

    fn report(&self, message: &str) {
        let problem = Problem::new(RelayReason::DerpUnreachable, message);
        if self
            .state
            .send_field_if_changed(|state| &mut state.problem, Some(problem))
        {
            tracing::warn!(error = message, "no DERP connection");
        }
    }

    /// Waits, but not past a change of the DERP map.
    async fn wait(&mut self, time: Duration) {
        tokio::select! {
            () = sleep(time) => {}
            Ok(()) = self.map.changed() => {}
        }
    }
}

/// The home connection, with those to other regions that its requests open.
struct HomeConnection {
    derp: Derp,
    region: u32,
    map: Arc<DerpMap>,
    others: OtherRegions,
}

impl HomeConnection {
    fn new(derp: Derp, region: u32, map: Arc<DerpMap>) -> Self {
        Self {
            derp,
            region,
            map,
            others: OtherRegions::new(),
        }
    }

    /// Answers requests until the connection ends, or the map moves the region.
    async fn serve(mut self, connection: Connection) -> Ended {
        let (sender, mut receiver) = connection.split(&self.derp.timing);
        loop {
            tokio::select! {
                received = receiver.next() => {
                    let answered = match received {
                        Ok(packet) => self.answer(&sender, packet).await,
                        Err(error) => Err(error),
                    };
                    if let Err(error) = answered {
                        return Ended::Lost(error);
                    }
                }
                () = self.others.join_next() => {}
                Ok(()) = self.derp.map.changed() => {
                    if !self.follow_map() {
                        return Ended::MapChanged;
                    }
                }
            }
        }
    }

    /// Takes over a changed DERP map. Returns whether the home region has the same servers as before.
    fn follow_map(&mut self) -> bool {
        let next = self.derp.map.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.map, next);
        self.derp.health().follow(&before, &self.map);
        let is_same = |region| before.regions.get(&region) == self.map.regions.get(&region);
        self.others.retain(is_same);
        is_same(self.region)
    }

    async fn answer(&mut self, home: &Sender, (from, packet): Received) -> Result<(), DerpError> {
        let (packet, region) = match self.derp.answer(from, packet).await {
            Ok(answer) => answer,
            Err(reason) => {
                tracing::debug!(reason = reason.as_str(), "no answer to a DERP packet");
                return Ok(());
            }
        };
        let answer = Answer { to: from, packet };
        let region = region.filter(|region| *region != self.region);
        let unsent = match region {
            Some(region) => self
                .others
                .send(&self.derp, &self.map, region, answer)
                .err(),
            None => Some(answer),
        };
        match unsent {
            Some(answer) => home.send(answer.to, &answer.packet).await,
            None => Ok(()),
        }
    }
}
