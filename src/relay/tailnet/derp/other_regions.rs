//! Connections to the home regions of clients.
//!
//! An answer goes through the requester's home region. A connection to a region opens with the first
//! answer and is closed when it is idle. There is at most one for each region of the DERP map.

use std::collections::BTreeMap;

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    Answer, Derp,
    connection::{Connection, DerpError},
};
use crate::relay::tailnet::wire::DerpMap;

/// Answers that wait for a connection. If there are more, the home region takes them.
const QUEUE_LEN: usize = 64;

/// Open connections to other regions than home.
pub(super) struct OtherRegions {
    queues: BTreeMap<u32, mpsc::Sender<Answer>>,
    tasks: JoinSet<()>,
}

impl OtherRegions {
    /// Returns the state without a connection.
    pub(super) fn new() -> Self {
        Self {
            queues: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Sends an answer through `region`. Returns the answer if that is not possible: the region is not
    /// in the map, has failed, or is too slow.
    pub(super) fn send(
        &mut self,
        derp: &Derp,
        map: &DerpMap,
        region: u32,
        answer: Answer,
    ) -> Result<(), Answer> {
        if !map.regions.contains_key(&region) || !derp.is_usable(region) {
            return Err(answer);
        }
        let open = self.queues.get(&region).filter(|queue| !queue.is_closed());
        let queue = open.cloned().unwrap_or_else(|| self.open(derp, region));
        queue.try_send(answer).map_err(|error| match error {
            mpsc::error::TrySendError::Full(answer) | mpsc::error::TrySendError::Closed(answer) => {
                answer
            }
        })
    }

    /// Closes connections to regions that `is_same` does not accept.
    pub(super) fn retain(&mut self, is_same: impl Fn(u32) -> bool) {
        self.queues.retain(|region, _| is_same(*region));
    }

    /// Waits until a connection has ended, and forgets it. It never returns if there is none.
    pub(super) async fn join_next(&mut self) {
        match self.tasks.join_next().await {
            Some(Ok(())) => self.queues.retain(|_, queue| !queue.is_closed()),
            Some(Err(error)) => tracing::error!(%error, "task of a DERP connection failed"),
            None => std::future::pending().await,
        }
    }

    fn open(&mut self, derp: &Derp, region: u32) -> mpsc::Sender<Answer> {
        let (queue, answers) = mpsc::channel(QUEUE_LEN);
        self.queues.insert(region, queue.clone());
        let derp = derp.clone();
        self.tasks.spawn(async move {
            // The home region is the only one that a member of the tailnet cannot choose. A member that
            // names broken ones must not fill the log, so only the first failure of a region is a warning.
            if let Err(error) = serve(&derp, region, answers).await
                && derp.health().record_failure(region, Instant::now())
            {
                tracing::warn!(region, %error, "DERP region of a client cannot be reached");
            }
        });
        queue
    }
}

/// Sends answers through a region until there are none for a while.
async fn serve(
    derp: &Derp,
    region: u32,
    mut answers: mpsc::Receiver<Answer>,
) -> Result<(), DerpError> {
    let map = derp.map.borrow().clone();
    let limit = derp.timing.open;
    let connection = Connection::open(&derp.dialer, &derp.node, region, &map, limit).await?;
    if derp.health().record_success(region) {
        tracing::info!(region, "DERP region of a client is reached again");
    }
    let (sender, mut receiver) = connection.split(&derp.timing);
    let mut deadline = Instant::now() + derp.timing.idle;
    loop {
        tokio::select! {
            answer = timeout_at(deadline, answers.recv()) => {
                let Ok(Some(answer)) = answer else { return Ok(()) };
                sender.send(answer.to, &answer.packet).await?;
                deadline = Instant::now() + derp.timing.idle;
            }
            // Requests come in through the home region; here it only matters that it is alive.
            received = receiver.next() => drop(received?),
        }
    }
}
