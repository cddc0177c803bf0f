//! What must be there before anything runs, also while another relay hands it over.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use tokio::{sync::oneshot, time::sleep};

use super::{
    data_path,
    kernel::{KernelPath, Unavailable},
    options::RelayOptions,
    shard::{self, ShardHandle, ShardOptions, SocketSets},
    survival::{Estate, Heir, Inheritance, SealKey, SessionFile},
    tailnet::{Dialer, Identity, IdentityError},
};

/// How often, and after which wait, something is tried again that another relay lets go of.
const LET_GO: (u32, Duration) = (200, Duration::from_millis(10));

/// The data path with what it has inherited, and what else is asked for once.
pub(super) struct Start {
    pub(super) dialer: Dialer,
    pub(super) kernel: Result<KernelPath, Unavailable>,
    pub(super) identity: Identity,
    pub(super) key: SealKey,
    pub(super) file: SessionFile,
    pub(super) shard: ShardHandle,
    /// Resolves when the data path has ended.
    pub(super) ended: oneshot::Receiver<()>,
}

impl Start {
    pub(super) async fn new(options: &RelayOptions) -> anyhow::Result<Self> {
        let dialer = Dialer::new(options.ca_file.as_deref())?;
        let kernel = data_path::start(options);
        let heir = Heir::ask(&options.session_dir).await;
        let mut identity = identity(options, heir.is_some()).await?;
        let key = identity.seal_key(options.port);
        let file = SessionFile::new(&options.session_dir, key.clone()).context(
            "failed to use the session directory: choose a writable one with --session-dir",
        )?;
        let (inheritance, sockets) = inherit(heir, &key, &file).await;
        if let Some(Inheritance { state, .. }) = &inheritance {
            identity.adopt(&state.keys);
        }
        // Not before the relay that had it has ended.
        if kernel.is_err() {
            data_path::discard(options);
        }
        let mut data_path = shard_options(options, &identity, kernel.as_ref().ok());
        (data_path.inheritance, data_path.sockets) = (inheritance, sockets);
        let (shard, ended) = shard::spawn(data_path).context("failed to start the data path")?;
        Ok(Self {
            dialer,
            kernel,
            identity,
            key,
            file,
            shard,
            ended,
        })
    }
}

/// Does `attempt` again for a while as long as it fails because another relay has not let go yet.
pub(super) async fn when_let_go<T, E>(
    attempt: impl AsyncFn() -> Result<T, E>,
    held: impl Fn(&E) -> bool,
) -> Result<T, E> {
    for _ in 0..LET_GO.0 {
        match attempt().await {
            Err(error) if held(&error) => sleep(LET_GO.1).await,
            result => return result,
        }
    }
    attempt().await
}

/// The identity; of a relay that hands over, as soon as it has let go of it.
async fn identity(options: &RelayOptions, handed_over: bool) -> anyhow::Result<Identity> {
    let in_use = |error: &IdentityError| matches!(error, IdentityError::InUse { .. });
    let load = async || Identity::load(&options.state_dir);
    Ok(when_let_go(load, |error| handed_over && in_use(error)).await?)
}

/// Sessions from a running relay, or from the file of one that has ended.
async fn inherit(
    heir: Option<Heir>,
    key: &SealKey,
    file: &SessionFile,
) -> (Option<Inheritance>, SocketSets) {
    let Some(heir) = heir else {
        return (file.read(), SocketSets::default());
    };
    match heir.take(key).await {
        Ok(Estate {
            inheritance: Ok(inheritance),
            sockets,
        }) => (Some(inheritance), sockets),
        Ok(Estate {
            inheritance: Err(reason),
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
fn shard_options(
    options: &RelayOptions,
    identity: &Identity,
    kernel: Option<&KernelPath>,
) -> ShardOptions {
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    ShardOptions {
        port: options.port,
        threads: options.threads,
        config: options.limits.clone(),
        keys: identity.relay_keys(),
        seed: rand::random(),
        first_lamport: u64::try_from(clock.as_micros()).unwrap_or(1),
        kernel: kernel.cloned(),
        inheritance: None,
        sockets: SocketSets::default(),
    }
}
