//! The relay: a tailnet node that forwards datagrams between clients.

pub mod addresses;
mod bootstrap;
pub mod clients;
pub mod data_path;
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
pub mod problem;
pub mod reload;
mod replacement;
pub mod report;
pub mod sessions;
pub mod socket;
pub mod socket_path;
pub mod state;
pub mod tailnet;
mod tasks;
pub(crate) mod watch_ext;
pub mod withdrawal;

use std::{io, path::Path, sync::OnceLock, time::Duration};

use anyhow::Context;

use self::{
    bootstrap::Bootstrap,
    options::RelayOptions,
    persistence::{HandoverListener, SessionFile, TakeoverRequest},
    replacement::{Outlook, Replacement},
    socket_path::SocketPathHandle,
    state::StateParts,
    tailnet::Identity,
};
use crate::{config::unknown, supervisor::Supervisor};

/// Longest time between a stop signal and the end of the process.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Reason for which the tasks of a relay have ended, other than an error.
enum End {
    /// A stop signal came.
    Stopped,
    /// Another relay on this host takes over.
    TakenOver(TakeoverRequest),
    /// The configuration file turned the relay off.
    TurnedOff,
}

/// Runs a relay until it is stopped or another one takes over. `load` reads the configuration, again
/// whenever the file has turned the relay off.
///
/// # Errors
/// The configuration cannot work, or a task of the relay has failed; the text names the fix.
pub async fn run(load: impl Fn() -> anyhow::Result<RelayOptions>) -> anyhow::Result<()> {
    let mut options = load()?;
    loop {
        unknown::warn(&options.reload.unknown);
        if options.off {
            let Some(on) = off::wait(&options, &load).await? else {
                return Ok(());
            };
            options = on;
        } else if run_on(options).await? {
            return Ok(());
        } else {
            options = load()?;
        }
    }
}

/// Runs a relay that is on. Returns `false` when its configuration file has turned it off.
async fn run_on(options: RelayOptions) -> anyhow::Result<bool> {
    let mut supervisor = Supervisor::new().context("failed to receive signals")?;
    let bootstrap = Bootstrap::new(options).await?;
    let (socket_path, kernel) = (bootstrap.socket_path.clone(), bootstrap.kernel.clone());
    let (file, key) = (bootstrap.file.clone(), bootstrap.key.clone());
    let handover = HandoverListener::listen(&bootstrap.options.session_dir)
        .inspect_err(|error| tracing::warn!(%error, "no other relay can take over from this one"));
    let replacement = Replacement::of(&bootstrap.options);
    let state_dir = bootstrap.options.state_dir.clone();
    let parts = StateParts::default();
    let dynamic_config = tasks::start(&mut supervisor, bootstrap, &parts).await?;

    let answer = OnceLock::new();
    let drain = async {
        let ask = async { answer.set(replacement.outlook().await).ok() };
        tokio::join!(drain(&socket_path, &parts, &file), ask);
    };
    let end = tokio::select! {
        ended = supervisor.run(drain, STOP_TIMEOUT) => ended.map(|()| End::Stopped),
        request = takeover(handover) => Ok(End::TakenOver(request)),
        () = withdrawal::turned_off(dynamic_config, parts.withdrawal.subscribe()) => {
            Ok(End::TurnedOff)
        }
    };
    let outlook: Outlook = answer.get().copied().unwrap_or_default();
    if let Ok(kernel) = &kernel {
        let is_off = matches!(end, Ok(End::TurnedOff));
        kernel.stop((!is_off).then_some(outlook.forward_time()));
    }
    match end? {
        End::Stopped => {
            if outlook == Outlook::Deleted {
                forget(&state_dir, &file);
            }
            Ok(true)
        }
        End::TurnedOff => Ok(false),
        // The tasks of the supervisor have been told to end, and with them go the lock of the identity, the
        // control connection and the metrics port. The successor tries again while one of them is held.
        End::TakenOver(request) => {
            tracing::info!("another relay takes over");
            let handed_over = request.hand_over(&socket_path, &key).await;
            handed_over.context(
                "failed to hand over; sessions go on from the file when a relay starts again",
            )?;
            Ok(true)
        }
    }
}

/// Removes the keys of a device that leaves the tailnet, so that a later PeerRelay with the same name does
/// not become this device.
fn forget(state_dir: &Path, file: &SessionFile) {
    file.remove();
    match Identity::remove(state_dir) {
        Ok(()) => tracing::info!("the PeerRelay is deleted; the identity of the device is removed"),
        Err(error) => tracing::warn!(%error, "the identity of the device is not removed"),
    }
}

/// Waits for a relay that takes over, for ever where none can.
async fn takeover(handover: io::Result<HandoverListener>) -> TakeoverRequest {
    match handover {
        Ok(handover) => handover.accept().await,
        Err(_) => std::future::pending().await,
    }
}

/// Stops giving out sessions, and saves the open ones for the next relay. Nothing waits for them to
/// end: the sooner the next relay starts, the shorter the pause of its clients.
async fn drain(socket_path: &SocketPathHandle, parts: &StateParts, file: &SessionFile) {
    socket_path.drain();
    parts.draining.send_replace(true);
    file.save(socket_path).await;
}
