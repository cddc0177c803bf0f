//! Everything that must exist before the first task of a relay runs, taken over from another relay
//! where one runs on the host.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use tokio::time::sleep;

use super::{
    data_path,
    kernel::{KernelPath, Unavailable},
    options::RelayOptions,
    persistence::{HandoverState, SealKey, SessionFile, Successor},
    socket_path::{self, RestoredState, SocketPathHandle, SocketPathOptions, SocketSets},
    tailnet::{Identity, IdentityError},
};
use crate::dial::Dialer;

/// Number of attempts at a resource that another relay is about to release, and the wait between two.
const IN_USE_RETRY: (u32, Duration) = (200, Duration::from_millis(10));

/// A relay whose data path runs already, but none of its tasks.
pub(super) struct Bootstrap {
    pub(super) options: RelayOptions,
    pub(super) dialer: Dialer,
    pub(super) kernel: Result<KernelPath, Unavailable>,
    pub(super) identity: Identity,
    pub(super) key: SealKey,
    pub(super) file: SessionFile,
    pub(super) socket_path: SocketPathHandle,
    /// Tasks of the socket path.
    pub(super) driver: socket_path::Driver,
}

impl Bootstrap {
    /// Loads the identity, restores sessions and starts the data path.
    ///
    /// # Errors
    /// A file, a directory or a thread is not available; the text names the fix.
    pub(super) async fn new(options: RelayOptions) -> anyhow::Result<Self> {
        let dialer = Dialer::new(options.ca_file.as_deref())?;
        let kernel = data_path::start(&options);
        let successor = Successor::request(&options.session_dir).await;
        // After the request: a running relay holds the lock of the identity until it agrees to hand
        // over.
        let mut identity = identity(&options, successor.is_some()).await?;
        let key = identity.seal_key(options.port);
        let file = SessionFile::new(&options.session_dir, key.clone()).context(
            "failed to use the session directory: choose a writable one with --session-dir",
        )?;
        let (restored_state, sockets) = restore(successor, &key, &file).await;
        if let Some(RestoredState { state, .. }) = &restored_state {
            // Clients know sessions by the server key, and have sealed requests to the key in the
            // network map.
            identity.adopt(&state.keys);
        }
        // Not earlier: the relay that handed over forwards with that program until then.
        if kernel.is_err() {
            data_path::discard(&options);
        }
        let mut socket_path_options =
            socket_path_options(&options, &identity, kernel.as_ref().ok());
        (
            socket_path_options.restored_state,
            socket_path_options.sockets,
        ) = (restored_state, sockets);
        let (socket_path, driver) =
            socket_path::spawn(socket_path_options).context("failed to start the data path")?;
        Ok(Self {
            options,
            dialer,
            kernel,
            identity,
            key,
            file,
            socket_path,
            driver,
        })
    }
}

/// Repeats `attempt` for two seconds while it fails because another relay has not released the
/// resource yet, which `is_in_use` recognizes.
pub(super) async fn retry_while_in_use<T, E>(
    attempt: impl AsyncFn() -> Result<T, E>,
    is_in_use: impl Fn(&E) -> bool,
) -> Result<T, E> {
    for _ in 0..IN_USE_RETRY.0 {
        match attempt().await {
            Err(error) if is_in_use(&error) => sleep(IN_USE_RETRY.1).await,
            result => return result,
        }
    }
    attempt().await
}

/// Loads the identity, as soon as a relay that hands over has released it.
async fn identity(options: &RelayOptions, handed_over: bool) -> anyhow::Result<Identity> {
    let in_use = |error: &IdentityError| matches!(error, IdentityError::InUse { .. });
    let load = async || Identity::load(&options.state_dir);
    Ok(retry_while_in_use(load, |error| handed_over && in_use(error)).await?)
}

/// Restores sessions from a running relay, or from the file of one that has ended.
async fn restore(
    successor: Option<Successor>,
    key: &SealKey,
    file: &SessionFile,
) -> (Option<RestoredState>, SocketSets) {
    let Some(successor) = successor else {
        return (file.read(), SocketSets::default());
    };
    match successor.take_over(key).await {
        Ok(HandoverState {
            restored_state: Ok(restored_state),
            sockets,
        }) => (Some(restored_state), sockets),
        Ok(HandoverState {
            restored_state: Err(reason),
            ..
        }) => {
            tracing::warn!(%reason, "sessions of the running relay are refused; starting without");
            (None, SocketSets::default())
        }
        Err(error) => {
            tracing::warn!(%error, "the running relay ended before it handed over");
            (file.read(), SocketSets::default())
        }
    }
}

/// Makes the options of the socket path. LamportIDs start at the clock: a relay gives out fewer than
/// one a microsecond, so none is repeated under a server key whose last LamportID was lost with the
/// process.
fn socket_path_options(
    options: &RelayOptions,
    identity: &Identity,
    kernel: Option<&KernelPath>,
) -> SocketPathOptions {
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    SocketPathOptions {
        port: options.port,
        threads: options.threads,
        config: options.limits.clone(),
        keys: identity.relay_keys(),
        seed: rand::random(),
        first_lamport: u64::try_from(clock.as_micros()).unwrap_or(1),
        kernel: kernel.cloned(),
        restored_state: None,
        sockets: SocketSets::default(),
    }
}
