//! What a relay takes over while it runs: from its configuration file, or in Kubernetes from the
//! ConfigMap itself, because a node may take a minute to renew the file that it mounts.

use std::{convert::Infallible, path::PathBuf, time::Duration};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use kube_runtime::{WatchStreamExt, watcher::watch_object};
use tokio::{sync::watch, time::sleep};

use crate::{
    config::{
        CONFIG_KEY, RelayConfig, ReportConfig,
        endpoints::EndpointsConfig,
        peers::{PEERS_KEY, ProbePeer},
    },
    crd::log_level::LogLevel,
    logging, names,
};

/// How often a file is looked at.
const POLL: Duration = Duration::from_secs(2);

/// Where the configuration is read again.
#[derive(Debug, Clone, Default)]
pub struct Reload {
    /// The file, outside of Kubernetes.
    pub file: Option<PathBuf>,
    /// What flags and environment say, which win over the file.
    pub over: EndpointsConfig,
}

/// What changes without a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// Addresses to advertise.
    pub endpoints: EndpointsConfig,
    /// Other relays, to try and to be tried by.
    pub peers: Vec<ProbePeer>,
    /// How much is logged.
    pub log_level: LogLevel,
}

impl Reload {
    /// Keeps `live` at what the configuration says. One that cannot be read changes nothing.
    ///
    /// # Errors
    /// There is no API server to ask.
    pub async fn follow(
        self,
        report: Option<ReportConfig>,
        live: watch::Sender<Live>,
    ) -> anyhow::Result<Infallible> {
        match (report, self.file.clone()) {
            (Some(report), _) => self.follow_config_map(&report, &live).await,
            (None, Some(path)) => loop {
                sleep(POLL).await;
                match tokio::fs::read_to_string(&path).await {
                    Ok(text) => self.take(&text, None, &live),
                    Err(error) => tracing::debug!(%error, "configuration file not read"),
                }
            },
            (None, None) => std::future::pending().await,
        }
    }

    async fn follow_config_map(
        &self,
        report: &ReportConfig,
        live: &watch::Sender<Live>,
    ) -> anyhow::Result<Infallible> {
        let client = Client::try_default().await.context(
            "report is configured but there is no cluster: run as a pod with a service account",
        )?;
        let api: Api<ConfigMap> = Api::namespaced(client, &report.namespace);
        let name = names::child(&report.peer_relay, &report.region);
        let mut versions = watch_object(api, &name)
            .inspect_err(|error| tracing::debug!(%error, "configuration is not watched"))
            .default_backoff()
            .boxed();
        while let Some(version) = versions.next().await {
            let data = version.ok().flatten().and_then(|map| map.data);
            if let Some(text) = data.as_ref().and_then(|data| data.get(CONFIG_KEY)) {
                let peers = data.as_ref().and_then(|data| data.get(PEERS_KEY));
                self.take(text, peers.map(String::as_str), live);
            }
        }
        anyhow::bail!("the watch of the configuration ended")
    }

    fn take(&self, text: &str, peers: Option<&str>, live: &watch::Sender<Live>) {
        let peers = peers.map_or_else(|| Ok(Vec::new()), serde_yaml::from_str);
        let parsed = serde_yaml::from_str::<RelayConfig>(text).and_then(|c| Ok((c, peers?)));
        let (config, peers) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                tracing::warn!(%error, "changed configuration is not used: fix the named field");
                return;
            }
        };
        let new = Live {
            endpoints: self.over.clone().over(config.endpoints),
            peers,
            log_level: config.log_level.unwrap_or_default(),
        };
        live.send_if_modified(|known| {
            *known != new && {
                if known.endpoints != new.endpoints {
                    tracing::info!("configuration changed");
                }
                if known.log_level != new.log_level {
                    logging::set_level(new.log_level);
                }
                *known = new;
                true
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changed_file_is_taken_over_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("relay.yaml");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write("endpoints: {static: ['203.0.113.1:1'], max: 2}");
        let (live, mut changes) = watch::channel(Live::default());
        let reload = Reload {
            file: Some(file.clone()),
            over: EndpointsConfig {
                max: Some(9),
                ..EndpointsConfig::default()
            },
        };
        let task = tokio::spawn(reload.follow(None, live));
        changes.changed().await.unwrap();
        let first = changes.borrow_and_update().endpoints.clone();
        assert_eq!(first.fixed, ["203.0.113.1:1".parse().unwrap()]);
        assert_eq!(first.max, Some(9), "a flag wins over the file");

        write("endpoints: {static: ['nonsense']}");
        let broken = tokio::time::timeout(Duration::from_secs(30), changes.changed()).await;
        assert!(broken.is_err(), "a broken file changed something");
        write("{endpoints: {static: ['203.0.113.2:2']}, logLevel: Debug}");
        changes.changed().await.unwrap();
        let second = changes.borrow_and_update().clone();
        assert_eq!(second.log_level, LogLevel::Debug);
        assert_eq!(second.endpoints.fixed, ["203.0.113.2:2".parse().unwrap()]);
        task.abort();
    }
}
