//! What must be there before anything runs, also while another relay hands it over.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use tokio::{sync::oneshot, time::sleep};

use super::{
    data_path,
    kernel::{KernelPath, Unavailable},
    options::RelayOptions,
    persistence::{HandoverState, RestoredState, SealKey, SessionFile, Successor},
    socket_path::{self, SocketPathHandle, SocketPathOptions, SocketSets},
    tailnet::{Dialer, Identity, IdentityError},
};

/// How often, and after which wait, something is tried again that another relay lets go of.
const IN_USE_RETRY: (u32, Duration) = (200, Duration::from_millis(10));

/// The data path with what it has inherited, and what else is asked for once.
pub(super) struct Bootstrap {
    pub(super) dialer: Dialer,
    pub(super) kernel: Result<KernelPath, Unavailable>,
    pub(super) identity: Identity,
    pub(super) key: SealKey,
    pub(super) file: SessionFile,
    pub(super) socket_path: SocketPathHandle,
    /// Resolves when the data path has ended.
    pub(super) ended: oneshot::Receiver<()>,
}

impl Bootstrap {
    pub(super) async fn new(options: &RelayOptions) -> anyhow::Result<Self> {
        let dialer = Dialer::new(options.ca_file.as_deref())?;
        let kernel = data_path::start(options);
        let successor = Successor::request(&options.session_dir).await;
        let mut identity = identity(options, successor.is_some()).await?;
        let key = identity.seal_key(options.port);
        let file = SessionFile::new(&options.session_dir, key.clone()).context(
            "failed to use the session directory: choose a writable one with --session-dir",
        )?;
        let (restored_state, sockets) = inherit(successor, &key, &file).await;
        if let Some(RestoredState { state, .. }) = &restored_state {
            identity.adopt(&state.keys);
        }
        // Not before the relay that had it has ended.
        if kernel.is_err() {
            data_path::discard(options);
        }
        let mut data_path = socket_path_options(options, &identity, kernel.as_ref().ok());
        (data_path.restored_state, data_path.sockets) = (restored_state, sockets);
        let (socket_path, ended) =
            socket_path::spawn(data_path).context("failed to start the data path")?;
        Ok(Self {
            dialer,
            kernel,
            identity,
            key,
            file,
            socket_path,
            ended,
        })
    }
}

/// Does `attempt` again for a while as long as it fails because another relay has not let go yet.
pub(super) async fn retry_while_in_use<T, E>(
    attempt: impl AsyncFn() -> Result<T, E>,
    held: impl Fn(&E) -> bool,
) -> Result<T, E> {
    for _ in 0..IN_USE_RETRY.0 {
        match attempt().await {
            Err(error) if held(&error) => sleep(IN_USE_RETRY.1).await,
            result => return result,
        }
    }
    attempt().await
}

/// The identity; of a relay that hands over, as soon as it has let go of it.
async fn identity(options: &RelayOptions, handed_over: bool) -> anyhow::Result<Identity> {
    let in_use = |error: &IdentityError| matches!(error, IdentityError::InUse { .. });
    let load = async || Identity::load(&options.state_dir);
    Ok(retry_while_in_use(load, |error| handed_over && in_use(error)).await?)
}

/// Sessions from a running relay, or from the file of one that has ended.
async fn inherit(
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

/// LamportIDs start at the clock: a relay gives out fewer than one a microsecond, so none comes
/// again under a server key that was inherited from a relay that could not say its last.
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
