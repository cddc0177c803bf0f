//! Withdrawal of a relay that is going to be removed. A withdrawn relay gives out no sessions, goes
//! on with those that are open, and reports when clients have left them.

use std::{convert::Infallible, time::Duration};

use anyhow::Context;
use jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    reload::DynamicConfig,
    socket_path::{Snapshot, SocketPathHandle},
};
use crate::config::withdrawals::LIMIT;

/// Time after which requests that were accepted before the withdrawal are answered.
const SETTLE_TIME: Duration = Duration::from_secs(1);
/// Time between two checks of the sessions.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time without a datagram after which no client uses a session any more. Clients send a heartbeat
/// through a session that they use every 3 seconds, and give it up after 6.5 seconds without an
/// answer (`heartbeatInterval` and `trustUDPAddrDuration` of magicsock).
const SILENCE: Duration = Duration::from_secs(15);

/// State of a withdrawal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withdrawal {
    /// Time of the request, which tells one withdrawal from the next.
    pub since: Timestamp,
    /// `true` if no client uses a session of this relay any more.
    pub complete: bool,
}

/// Carries out withdrawals that the configuration asks for.
///
/// # Errors
/// The configuration is no longer followed.
pub async fn follow(
    mut dynamic_config: watch::Receiver<DynamicConfig>,
    socket_path: SocketPathHandle,
    withdrawal: watch::Sender<Option<Withdrawal>>,
) -> anyhow::Result<Infallible> {
    let mut requested = None;
    loop {
        let complete = async {
            let Some(since) = requested else {
                return std::future::pending().await;
            };
            until_unused(|| socket_path.snapshot()).await;
            tracing::info!("withdrawal complete: no client uses a session of this relay");
            withdrawal.send_replace(Some(Withdrawal {
                since,
                complete: true,
            }));
            std::future::pending::<()>().await;
        };
        let previous = requested;
        requested = tokio::select! {
            () = complete => unreachable!("it waits for the next change"),
            changed = dynamic_config.wait_for(|config| config.withdrawn_since != previous) => {
                changed.context("the configuration has ended")?.withdrawn_since
            }
        };
        socket_path.set_withdrawn(requested.is_some());
        withdrawal.send_replace(requested.map(|since| Withdrawal {
            since,
            complete: false,
        }));
        match (previous, requested) {
            (None, Some(_)) => tracing::info!("withdrawn: no further session is given out"),
            (Some(_), None) => tracing::info!("no longer withdrawn: sessions are given out"),
            _ => {}
        }
    }
}

/// Waits until the configuration has turned the relay off, and then until clients have left it or
/// [`LIMIT`] has passed.
pub(super) async fn turned_off(
    mut dynamic_config: watch::Receiver<DynamicConfig>,
    mut withdrawal: watch::Receiver<Option<Withdrawal>>,
) {
    loop {
        if dynamic_config.wait_for(|config| config.off).await.is_err() {
            // The supervisor reports the task that has ended.
            std::future::pending::<()>().await;
        }
        tracing::info!("the configuration turns the relay off");
        let is_complete = |withdrawal: &Option<Withdrawal>| withdrawal.is_some_and(|w| w.complete);
        tokio::select! {
            _ = withdrawal.wait_for(is_complete) => return,
            () = sleep(LIMIT) => return,
            _ = dynamic_config.wait_for(|config| !config.off) => {}
        }
    }
}

/// Waits until there is no session, or no datagram has passed through one for [`SILENCE`].
async fn until_unused<F: Future<Output = Snapshot>>(snapshot: impl Fn() -> F) {
    sleep(SETTLE_TIME).await;
    let (mut forwarded, mut since) = (None, Instant::now());
    loop {
        let snapshot = snapshot().await;
        let (sessions, now) = (snapshot.sessions, snapshot.forwarded());
        if forwarded.replace(now) != Some(now) {
            since = Instant::now();
        }
        let none = sessions.open == 0;
        if sessions.connecting == 0 && (none || since.elapsed() >= SILENCE) {
            return;
        }
        sleep(CHECK_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use relay_proto::SessionCounts;

    use super::*;

    fn snapshot(connecting: usize, open: usize, packets: u64) -> Snapshot {
        let mut snapshot = Snapshot {
            sessions: SessionCounts { connecting, open },
            ..Snapshot::default()
        };
        snapshot.counters.forwarded[0][1].packets = packets;
        snapshot
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_without_sessions_is_unused_at_once() {
        let start = Instant::now();
        until_unused(async || snapshot(0, 0, 7)).await;
        assert_eq!(start.elapsed(), SETTLE_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_in_use_while_datagrams_pass() {
        let (start, seconds) = (Instant::now(), Duration::from_secs);
        // A heartbeat every 3 seconds, for 30 seconds.
        let take = || async move {
            let beats = (start.elapsed().as_secs() / 3).min(10);
            snapshot(0, 1, beats)
        };
        until_unused(take).await;
        let took = start.elapsed();
        assert!(took >= seconds(30) + SILENCE, "{took:?}");
        assert!(took <= seconds(33) + SILENCE, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_that_clients_are_about_to_bind_are_waited_for() {
        let checks = Arc::new(AtomicU64::new(0));
        let take = || {
            let checks = checks.clone();
            async move {
                match checks.fetch_add(1, Ordering::Relaxed) {
                    0..30 => snapshot(1, 0, 0),
                    _ => snapshot(0, 0, 0),
                }
            }
        };
        until_unused(take).await;
        assert_eq!(checks.load(Ordering::Relaxed), 31);
    }
}
