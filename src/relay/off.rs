//! A relay that is off: it has no port, and waits to be turned on.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{sync::watch, time::sleep};

use super::{
    metrics, metrics_server, options::RelayOptions, reload, socket_path::Snapshot,
    state::RelayState,
};
use crate::{
    admin::{NotReady, Ready, Render},
    supervisor::Supervisor,
};

/// Answer to `/readyz`.
const OFF: &str = "the relay is off: it has no port";

/// Waits until `load` gives options with a port, and returns them; `None` after a stop signal.
///
/// Meanwhile no port is bound and the tailnet is not joined, because a device that relays nothing is
/// of no use there. The process does not end, because a service manager would restart it again and
/// again. The identity stays in its directory, so the relay comes back as the same device.
///
/// # Errors
/// The metrics address cannot be used, or signals cannot be received.
pub(super) async fn wait(
    options: &RelayOptions,
    load: impl Fn() -> anyhow::Result<RelayOptions>,
) -> anyhow::Result<Option<RelayOptions>> {
    let mut supervisor = Supervisor::new().context("failed to receive signals")?;
    let problem = watch::Sender::default();
    metrics_server::serve(&mut supervisor, options, answers(options), problem).await?;
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
    let mut reported = false;
    loop {
        sleep(reload::POLL).await;
        match load() {
            Ok(options) if !options.off => return options,
            Ok(_) => reported = false,
            Err(error) if !reported => {
                tracing::warn!(error = format!("{error:#}"), "configuration is not used");
                reported = true;
            }
            Err(_) => {}
        }
    }
}

/// Answers to `/metrics` and `/readyz`.
fn answers(options: &RelayOptions) -> (Render, Ready) {
    let region = options.region.clone();
    let metrics: Render = Arc::new(move || {
        let text = metrics::render(&region, &RelayState::default(), &Snapshot::default());
        Box::pin(async move { text })
    });
    (metrics, Arc::new(|| Err(NotReady(OFF.to_owned()))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use tokio::net::TcpStream;

    use super::{super::metrics_server::tests, *};

    #[tokio::test]
    async fn a_relay_that_is_off_answers_no_probe_for_another_one() {
        let options = RelayOptions {
            off: true,
            ..tests::options(true).await
        };
        let address = options.metrics_addr;
        let probes = async {
            while TcpStream::connect(address).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
            for (path, own) in [("/healthz", "200"), ("/readyz", "503")] {
                assert_eq!(tests::ask(address, path, "relays/edge/office").await, own);
                let other = tests::ask(address, path, "relays/other/office").await;
                assert_eq!(other, "421", "{path}");
            }
        };
        tokio::select! {
            ended = wait(&options, || Ok(options.clone())) => panic!("it ended: {}", ended.is_ok()),
            () = probes => {}
        }
    }
}
