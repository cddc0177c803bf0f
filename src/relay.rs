//! The relay: a tailnet node that forwards datagrams between clients.

pub mod addresses;
mod bootstrap;
pub mod clients;
mod data_path;
pub mod grant;
pub mod kernel;
pub mod metrics;
mod metrics_server;
#[cfg(test)]
mod namespace;
mod netlink;
mod off;
pub mod options;
pub mod persistence;
mod private;
pub mod probe;
pub mod reload;
pub mod report;
pub mod sessions;
pub mod socket;
pub mod socket_path;
pub mod state;
pub mod tailnet;
mod tasks;
pub mod withdrawal;

use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;

use self::{
    bootstrap::Bootstrap,
    options::RelayOptions,
    persistence::{HandoverListener, SessionFile},
    socket_path::SocketPathHandle,
    state::RelayState,
};
use crate::{config::unknown, supervisor::Supervisor};

/// Longest time between a stop signal and the end.
const LEAVE: Duration = Duration::from_secs(10);

/// The reason for which a relay has ended.
enum End {
    /// It was told to stop, or another relay has taken over.
    Stopped,
    /// Its configuration file turned it off.
    Off,
}

/// Runs a relay until it is told to stop. `load` reads its configuration, also again when the file
/// has turned the relay off.
///
/// # Errors
/// What was given cannot work, or a part of the relay has failed; the text names the fix.
pub async fn run(load: impl Fn() -> anyhow::Result<RelayOptions>) -> anyhow::Result<()> {
    let mut options = load()?;
    loop {
        unknown::warn(&options.reload.unknown);
        if options.off {
            let Some(on) = off::wait(&options, &load).await? else {
                return Ok(());
            };
            options = on;
            continue;
        }
        match serve(options).await? {
            End::Stopped => return Ok(()),
            End::Off => options = load()?,
        }
    }
}

async fn serve(options: RelayOptions) -> anyhow::Result<End> {
    let mut supervisor = Supervisor::new().context("failed to receive signals")?;
    let bootstrap = Bootstrap::new(&options).await?;
    let (socket_path, kernel) = (bootstrap.socket_path.clone(), bootstrap.kernel.clone());
    let (file, key) = (bootstrap.file.clone(), bootstrap.key.clone());
    let (state, _) = watch::channel(RelayState::default());
    let handover = HandoverListener::listen(&options.session_dir)
        .inspect_err(|error| tracing::warn!(%error, "no other relay can take over from this one"));
    let dynamic_config = tasks::run(&mut supervisor, options, bootstrap, &state).await?;

    let taken = async {
        match handover {
            Ok(handover) => handover.accept().await,
            Err(_) => std::future::pending().await,
        }
    };
    let taken = tokio::select! {
        ended = supervisor.run(leave(&socket_path, &state, &file), LEAVE) => Err(ended),
        taken = taken => Ok(Some(taken)),
        () = withdrawal::turned_off(dynamic_config, state.subscribe()) => Ok(None),
    };
    if let Ok(kernel) = kernel {
        let is_off = matches!(taken, Ok(None));
        kernel.stop((!is_off).then_some(data_path::LEFT));
    }
    let taken = match taken {
        Ok(Some(taken)) => taken,
        Ok(None) => return Ok(End::Off),
        Err(ended) => return ended.map(|()| End::Stopped),
    };
    // With the supervisor, everything has gone that the successor needs: lock, control, metrics.
    tracing::info!("another relay takes over");
    let given = taken.hand_over(&socket_path, &key).await;
    given.context("failed to hand over; sessions go on from the file when a relay starts again")?;
    Ok(End::Stopped)
}

/// Gives out no further session, and leaves the open ones to the next relay: the sooner it starts,
/// the shorter their pause, so nothing waits for them to end.
async fn leave(
    socket_path: &SocketPathHandle,
    state: &watch::Sender<RelayState>,
    file: &SessionFile,
) {
    socket_path.drain();
    state.send_modify(|state| state.draining = true);
    file.save(socket_path).await;
}
