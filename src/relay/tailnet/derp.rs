//! DERP: allocation requests come in through it, and are answered through it.
//!
//! The relay holds one connection to its home region. An answer goes through the requester's home
//! region, so connections to other regions are opened on demand and closed when idle.

mod connection;
mod home;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use relay_proto::{NodeKey, Peer};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use ts_keys::NodeKeyPair;

use self::connection::{Connection, DerpError, Sender};
use super::{BACKOFF, DerpState, netmap::Netmap, wire::DerpMap};
use crate::{
    crd::relay_reason::RelayReason,
    dial::Dialer,
    relay::{
        clients::Clients, problem::Problem, socket_path::SocketPathHandle, watch_ext::SendIfChanged,
    },
};

/// A connection to another region than home ends after this long without an answer to send.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Answers that wait for a connection to another region; more are dropped, and the client asks
/// again.
const QUEUE_LEN: usize = 64;
/// Failures in a row after which another home region is looked for.
const MAX_FAILURES: u32 = 3;

/// Everything that the tasks of DERP share.
#[derive(Clone)]
pub(crate) struct Derp {
    pub(crate) dialer: Dialer,
    pub(crate) node: NodeKeyPair,
    pub(crate) netmap: Arc<RwLock<Netmap>>,
    pub(crate) map: watch::Receiver<Arc<DerpMap>>,
    pub(crate) socket_path: SocketPathHandle,
    pub(crate) clients: Clients,
    pub(crate) state: watch::Sender<DerpState>,
    /// Home region, as control should know it; 0 until there is one.
    pub(crate) home: watch::Sender<u32>,
}

/// An answer on its way through a region.
struct Answer {
    to: NodeKey,
    packet: Vec<u8>,
}

impl Derp {
    /// Keeps the home connection for as long as the process runs.
    pub(crate) async fn run(mut self) {
        let mut waits = BACKOFF.waits();
        let mut failures = MAX_FAILURES;
        loop {
            let map = self.map.borrow_and_update().clone();
            let current = *self.home.borrow();
            let stay = failures < MAX_FAILURES && map.regions.contains_key(&current);
            let region = if stay {
                Some(current)
            } else {
                home::choose(&self.dialer, &map).await
            };
            let Some(region) = region else {
                if !map.regions.is_empty() {
                    self.report(&DerpError::NoRegion.to_string());
                }
                self.wait(waits.wait()).await;
                continue;
            };
            let (connected, error) = self.hold(region, &map).await;
            if connected {
                waits.reset();
                failures = 0;
            }
            failures += 1;
            self.report(&error.to_string());
            self.wait(waits.wait()).await;
        }
    }

    /// Serves the home region until its connection ends. Returns whether it was ever up, and why it
    /// ended.
    async fn hold(&self, region: u32, map: &DerpMap) -> (bool, DerpError) {
        let connection = match Connection::open(&self.dialer, &self.node, region, map).await {
            Ok(connection) => connection,
            Err(error) => return (false, error),
        };
        if let Err(error) = connection.send_home().await {
            return (false, error);
        }
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
        let error = Regions::new(self.clone(), region).serve(connection).await;
        self.state.send_modify(|state| state.home = None);
        (true, error)
    }

    fn peer(&self, key: NodeKey) -> Option<(Peer, Option<u32>)> {
        self.netmap
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .peer(key, Timestamp::now())
    }

    /// Records that a peer got a session.
    fn record_request(&self, key: NodeKey) {
        let netmap = self.netmap.read().unwrap_or_else(PoisonError::into_inner);
        netmap.record_request(key, &self.clients, Timestamp::now());
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

/// The connections of one home connection's lifetime.
struct Regions {
    derp: Derp,
    home: u32,
    others: BTreeMap<u32, mpsc::Sender<Answer>>,
    tasks: JoinSet<()>,
}

impl Regions {
    fn new(derp: Derp, home: u32) -> Self {
        Self {
            derp,
            home,
            others: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    async fn serve(mut self, connection: Connection) -> DerpError {
        let (sender, mut receiver) = connection.split();
        loop {
            tokio::select! {
                packet = receiver.next() => {
                    let Some((from, packet)) = packet else { return receiver.error() };
                    if let Err(error) = self.answer(&sender, from, packet).await {
                        return error;
                    }
                }
                Some(ended) = self.tasks.join_next() => {
                    self.others.retain(|_, queue| !queue.is_closed());
                    if let Err(error) = ended {
                        tracing::error!(%error, "DERP connection failed");
                    }
                }
            }
        }
    }

    async fn answer(
        &mut self,
        home: &Sender,
        from: NodeKey,
        packet: Vec<u8>,
    ) -> Result<(), DerpError> {
        let (peer, region) = self.derp.peer(from).unzip();
        let packet = match self.derp.socket_path.handle_derp(peer, packet).await {
            Ok(packet) => packet,
            Err(reason) => {
                tracing::debug!(reason = reason.as_str(), "no answer to a DERP packet");
                return Ok(());
            }
        };
        self.derp.record_request(from);
        match region.flatten() {
            Some(region) if region != self.home => {
                self.answer_through(region, Answer { to: from, packet });
                Ok(())
            }
            _ => home.send(from, &packet).await,
        }
    }

    fn answer_through(&mut self, region: u32, answer: Answer) {
        let open = self
            .others
            .get(&region)
            .filter(|queue| !queue.is_closed())
            .cloned();
        let queue = open.unwrap_or_else(|| self.open(region));
        if queue.try_send(answer).is_err() {
            tracing::debug!(region, "answer dropped: the connection is too slow");
        }
    }

    fn open(&mut self, region: u32) -> mpsc::Sender<Answer> {
        let (queue, answers) = mpsc::channel(QUEUE_LEN);
        self.others.insert(region, queue.clone());
        let derp = self.derp.clone();
        self.tasks.spawn(async move {
            if let Err(error) = visit(&derp, region, answers).await {
                tracing::warn!(region, %error, "DERP region of a client cannot be reached");
            }
        });
        queue
    }
}

/// Sends answers through another region until there are none for a while.
async fn visit(
    derp: &Derp,
    region: u32,
    mut answers: mpsc::Receiver<Answer>,
) -> Result<(), DerpError> {
    let map = derp.map.borrow().clone();
    let connection = Connection::open(&derp.dialer, &derp.node, region, &map).await?;
    let (sender, mut receiver) = connection.split();
    let mut deadline = Instant::now() + IDLE_TIMEOUT;
    loop {
        tokio::select! {
            answer = timeout_at(deadline, answers.recv()) => {
                let Ok(Some(answer)) = answer else { return Ok(()) };
                sender.send(answer.to, &answer.packet).await?;
                deadline = Instant::now() + IDLE_TIMEOUT;
            }
            // Requests come in through the home region; here it only matters that it is alive.
            packet = receiver.next() => if packet.is_none() { return Err(receiver.error()) },
        }
    }
}
