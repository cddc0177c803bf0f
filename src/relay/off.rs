//! A relay without a port: it is off, and waits to be turned on.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::time::sleep;

use super::{
    metrics, options::RelayOptions, reload, shard::Snapshot, start::when_let_go, state::RelayState,
};
use crate::{
    admin::{self, Probes},
    supervisor::Supervisor,
};

/// What a relay that is off answers to `/readyz`.
const OFF: &str = "the relay is off: it has no port";

/// Waits until `load` gives options with a port, and returns them; `None` after a stop signal.
///
/// Meanwhile no port is bound and the tailnet is not joined, because a device that relays nothing is
/// of no use there. The process stays: a service manager would start one that ended again and again.
/// The identity stays in its directory, so the relay comes back as the same device.
///
/// # Errors
/// The metrics address cannot be used, or signals cannot be received.
pub(super) async fn wait(
    options: &RelayOptions,
    load: impl Fn() -> anyhow::Result<RelayOptions>,
) -> anyhow::Result<Option<RelayOptions>> {
    let mut supervisor = Supervisor::new().context("failed to receive signals")?;
    // A relay that was turned off may have the address for a moment longer.
    let bind = async || admin::bind(options.metrics_addr, probes(options)).await;
    let server = when_let_go(bind, admin::AdminError::is_taken).await?;
    supervisor.spawn("metrics server", server);
    match options.reload.switch() {
        Some(file) => tracing::info!(
            file = %file.display(),
            "the relay is off: no port is bound and the tailnet is not joined; a port in the \
             configuration file turns it on"
        ),
        None => tracing::info!(
            "the relay is off: no port is bound and the tailnet is not joined; start it with a port \
             (--port or PEERRELAY_PORT) to turn it on"
        ),
    }
    tokio::select! {
        ended = supervisor.run(async {}, Duration::ZERO) => ended.map(|()| None),
        options = turned_on(load) => Ok(Some(options)),
    }
}

async fn turned_on(load: impl Fn() -> anyhow::Result<RelayOptions>) -> RelayOptions {
    let mut told = false;
    loop {
        sleep(reload::POLL).await;
        match load() {
            Ok(options) if !options.off => return options,
            Ok(_) => told = false,
            Err(error) if !told => {
                tracing::warn!(error = format!("{error:#}"), "configuration is not used");
                told = true;
            }
            Err(_) => {}
        }
    }
}

fn probes(options: &RelayOptions) -> Probes {
    let region: Arc<str> = options.region.clone().into();
    Probes {
        metrics: Arc::new(move || {
            let region = region.clone();
            Box::pin(async move {
                metrics::render(&region, &RelayState::default(), &Snapshot::default())
            })
        }),
        ready: Arc::new(|| Err(OFF.to_owned())),
        identity: None,
    }
}
