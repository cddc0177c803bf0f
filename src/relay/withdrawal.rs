//! Withdrawal of a relay that is going to be removed: it gives out no sessions, goes on with those
//! that are open, and reports when clients have left them.

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
    state::RelayState,
};
use crate::config::withdrawals::LIMIT;

/// Requests that were accepted before the withdrawal are answered within this time.
const SETTLE: Duration = Duration::from_secs(1);
/// Pause between two looks at the sessions.
const LOOK: Duration = Duration::from_secs(1);
/// Clients that use a session send a heartbeat through it every 3 seconds, and give it up after 6.5
/// seconds without an answer: after this time without a datagram nobody uses one.
const SILENCE: Duration = Duration::from_secs(15);

/// State of a withdrawal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Withdrawal {
    /// When it was asked for; tells one withdrawal from the next.
    pub since: Timestamp,
    /// No client uses a session of this relay any more.
    pub complete: bool,
}

/// Carries out withdrawals that the configuration asks for.
///
/// # Errors
/// The configuration is no longer followed.
pub async fn follow(
    mut dynamic_config: watch::Receiver<DynamicConfig>,
    socket_path: SocketPathHandle,
    state: watch::Sender<RelayState>,
) -> anyhow::Result<Infallible> {
    let mut asked = None;
    loop {
        let complete = async {
            let Some(since) = asked else {
                return std::future::pending().await;
            };
            unused(|| socket_path.snapshot()).await;
            tracing::info!("withdrawal complete: no client uses a session of this relay");
            show(&state, Some((since, true)));
            std::future::pending::<()>().await;
        };
        let before = asked;
        asked = tokio::select! {
            () = complete => unreachable!("it waits for the next change"),
            changed = dynamic_config.wait_for(|config| config.withdrawn_since != before) => {
                changed.context("the configuration has ended")?.withdrawn_since
            }
        };
        socket_path.set_withdrawn(asked.is_some());
        show(&state, asked.map(|since| (since, false)));
        match (before, asked) {
            (None, Some(_)) => tracing::info!("withdrawn: no further session is given out"),
            (Some(_), None) => tracing::info!("no longer withdrawn: sessions are given out"),
            _ => {}
        }
    }
}

fn show(state: &watch::Sender<RelayState>, withdrawal: Option<(Timestamp, bool)>) {
    let withdrawal = withdrawal.map(|(since, complete)| Withdrawal { since, complete });
    state.send_modify(|state| state.withdrawal = withdrawal);
}

/// Waits until the configuration has turned the relay off, and clients have left it or the limit has
/// passed.
pub(super) async fn turned_off(
    mut dynamic_config: watch::Receiver<DynamicConfig>,
    mut state: watch::Receiver<RelayState>,
) {
    loop {
        if dynamic_config.wait_for(|config| config.off).await.is_err() {
            // The supervisor tells why.
            std::future::pending::<()>().await;
        }
        tracing::info!("the configuration turns the relay off");
        let is_complete = |state: &RelayState| state.withdrawal.is_some_and(|w| w.complete);
        tokio::select! {
            _ = state.wait_for(is_complete) => return,
            () = sleep(LIMIT) => return,
            _ = dynamic_config.wait_for(|config| !config.off) => {}
        }
    }
}

/// Waits until there are no sessions, or none that a datagram has passed for a while.
async fn unused<F: Future<Output = Snapshot>>(look: impl Fn() -> F) {
    sleep(SETTLE).await;
    let (mut forwarded, mut since) = (None, Instant::now());
    loop {
        let snapshot = look().await;
        let (sessions, now) = (snapshot.sessions, snapshot.forwarded());
        if forwarded.replace(now) != Some(now) {
            since = Instant::now();
        }
        let none = sessions.open == 0;
        if sessions.connecting == 0 && (none || since.elapsed() >= SILENCE) {
            return;
        }
        sleep(LOOK).await;
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
        unused(async || snapshot(0, 0, 7)).await;
        assert_eq!(start.elapsed(), SETTLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_in_use_while_datagrams_pass() {
        let (start, seconds) = (Instant::now(), Duration::from_secs);
        // A heartbeat every 3 seconds, for 30 seconds.
        let look = || async move {
            let beats = (start.elapsed().as_secs() / 3).min(10);
            snapshot(0, 1, beats)
        };
        unused(look).await;
        let took = start.elapsed();
        assert!(took >= seconds(30) + SILENCE, "{took:?}");
        assert!(took <= seconds(33) + SILENCE, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_that_clients_are_about_to_bind_are_waited_for() {
        let looks = Arc::new(AtomicU64::new(0));
        let look = || {
            let looks = looks.clone();
            async move {
                match looks.fetch_add(1, Ordering::Relaxed) {
                    0..30 => snapshot(1, 0, 0),
                    _ => snapshot(0, 0, 0),
                }
            }
        };
        unused(look).await;
        assert_eq!(looks.load(Ordering::Relaxed), 31);
    }
}
