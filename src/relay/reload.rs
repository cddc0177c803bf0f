//! Configuration that changes while the relay runs. It is read from the configuration file, and in
//! Kubernetes from the ConfigMap itself, because a node may take a minute to renew a mounted file.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use kube_runtime::{WatchStreamExt, watcher::watch_object};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, time::sleep};

use super::watch_ext::SendIfChanged;
use crate::{
    backoff::Backoff,
    config::{
        CONFIG_KEY, RelayConfig, ReportConfig,
        endpoints::EndpointsConfig,
        issued_keys::{ISSUED_KEYS_KEY, IssuedKeys},
        log_level::LogLevel,
        peers::{PEERS_KEY, ProbePeer},
        port::RelayPort,
        unknown::{self, UnknownField},
        withdrawals::{WITHDRAWALS_KEY, Withdrawals},
    },
    logging, names,
};

/// Waits between attempts to watch the ConfigMap. Relays of many nodes lose the API server together, so
/// they spread their attempts.
const BACKOFF: Backoff =
    Backoff::new(Duration::from_secs(1), Duration::from_secs(30)).with_jitter(0.5..=1.5);
/// Time between two reads of a configuration file.
pub(super) const POLL: Duration = Duration::from_secs(2);

/// Sources of the configuration, and what they leave to flags and environment.
#[derive(Debug, Clone, Default)]
pub struct Reload {
    /// Configuration file, outside of Kubernetes.
    pub file: Option<PathBuf>,
    /// Endpoints from flags and environment, which win over the file.
    pub over: EndpointsConfig,
    /// `true` if flags or environment set the port, which then wins over the file.
    pub over_port: bool,
    /// Name of the Kubernetes node.
    pub node: Option<String>,
    /// Fields of the file that were ignored when the relay started, and logged then.
    pub unknown: Vec<UnknownField>,
}

/// Part of the configuration that changes without a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DynamicConfig {
    /// Addresses to advertise.
    pub endpoints: EndpointsConfig,
    /// Other relays of the PeerRelay, which this one probes and is probed by.
    pub peers: Vec<ProbePeer>,
    /// Level of log messages.
    pub log_level: LogLevel,
    /// Time at which the withdrawal of this relay was requested, if it is withdrawn.
    pub withdrawn_since: Option<Timestamp>,
    /// `true` if the configuration turns the relay off, which happens once no client uses it.
    pub off: bool,
    /// Selectors of the clients that are meant to use the relay.
    pub clients: Vec<String>,
    /// Auth keys that the operator has created for relays of the region.
    pub issued_keys: IssuedKeys,
    /// Fields of the configuration that were ignored.
    pub unknown: Vec<UnknownField>,
}

impl Reload {
    /// File that turns the relay on and off, unless flags or environment set the port.
    pub fn switch(&self) -> Option<&Path> {
        self.file.as_deref().filter(|_| !self.over_port)
    }

    /// Keeps `dynamic_config` equal to the configuration. A configuration that cannot be read changes
    /// nothing.
    ///
    /// # Errors
    /// A report is configured but there is no cluster.
    pub async fn follow(
        self,
        report: Option<ReportConfig>,
        dynamic_config: watch::Sender<DynamicConfig>,
    ) -> anyhow::Result<Infallible> {
        match (report, self.file.clone()) {
            (Some(report), _) => self.follow_config_map(&report, &dynamic_config).await,
            (None, Some(path)) => loop {
                sleep(POLL).await;
                match tokio::fs::read_to_string(&path).await {
                    Ok(text) => self.apply(&text, &BTreeMap::new(), &dynamic_config),
                    Err(error) => tracing::debug!(%error, "configuration file not read"),
                }
            },
            (None, None) => std::future::pending().await,
        }
    }

    async fn follow_config_map(
        &self,
        report: &ReportConfig,
        dynamic_config: &watch::Sender<DynamicConfig>,
    ) -> anyhow::Result<Infallible> {
        let client = Client::try_default().await.context(
            "report is configured but there is no cluster: run as a pod with a service account",
        )?;
        let api: Api<ConfigMap> = Api::namespaced(client, &report.namespace);
        let name = names::child(&report.peer_relay, &report.region);
        let mut versions = watch_object(api, &name)
            .inspect_err(|error| tracing::debug!(%error, "configuration is not watched"))
            .backoff(BACKOFF.waits())
            .boxed();
        while let Some(version) = versions.next().await {
            // After an error, and without the ConfigMap, the relay goes on with the last configuration.
            let data = version.ok().flatten().and_then(|map| map.data);
            if let Some(data) = data.filter(|data| data.contains_key(CONFIG_KEY)) {
                self.apply(&data[CONFIG_KEY], &data, dynamic_config);
            }
        }
        anyhow::bail!("the watch of the configuration ended")
    }

    /// Applies the configuration in `text`, with the lists in the other entries of `data`.
    fn apply(
        &self,
        text: &str,
        data: &BTreeMap<String, String>,
        dynamic_config: &watch::Sender<DynamicConfig>,
    ) {
        let parsed = (|| {
            let (config, unknown): (RelayConfig, _) = unknown::parse(text)?;
            let peers: Vec<ProbePeer> = list(data, PEERS_KEY)?;
            let withdrawals: Withdrawals = list(data, WITHDRAWALS_KEY)?;
            let issued_keys: IssuedKeys = list(data, ISSUED_KEYS_KEY)?;
            Ok::<_, serde_yaml::Error>((config, unknown, peers, withdrawals, issued_keys))
        })();
        let (config, unknown, peers, withdrawals, issued_keys) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                tracing::warn!(%error, "changed configuration is not used: fix the named field");
                return;
            }
        };
        let previous = dynamic_config.borrow().clone();
        let off = self.switch().is_some() && config.port == Some(RelayPort::Off);
        let withdrawn_since = match off {
            // The time of the first reading, so that later ones do not begin the withdrawal anew.
            true => Some(previous.withdrawn_since.unwrap_or_else(Timestamp::now)),
            false => withdrawals.since(self.node.as_deref().unwrap_or_default()),
        };
        let next = DynamicConfig {
            off,
            endpoints: self.over.clone().over(config.endpoints),
            peers,
            log_level: config.log_level.unwrap_or_default(),
            withdrawn_since,
            clients: config.clients,
            issued_keys,
            unknown,
        };
        if next.endpoints != previous.endpoints {
            tracing::info!("configuration changed");
        }
        if next.unknown != previous.unknown {
            unknown::warn(&next.unknown);
        }
        if next.log_level != previous.log_level {
            logging::set_level(next.log_level);
        }
        dynamic_config.send_if_changed(next);
    }
}

/// Parses the list in one entry of a ConfigMap. It is empty if there is no such entry.
pub(super) fn list<T: Default + DeserializeOwned>(
    data: &BTreeMap<String, String>,
    key: &str,
) -> Result<T, serde_yaml::Error> {
    let text = data.get(key).map(String::as_str);
    text.map_or_else(|| Ok(T::default()), serde_yaml::from_str)
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
        let (dynamic_config, mut changes) = watch::channel(DynamicConfig::default());
        let reload = Reload {
            file: Some(file.clone()),
            over: EndpointsConfig {
                max: Some(9),
                ..EndpointsConfig::default()
            },
            ..Reload::default()
        };
        let task = tokio::spawn(reload.follow(None, dynamic_config));
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
        assert!(!second.off);
        write("port: ''");
        changes.changed().await.unwrap();
        let third = changes.borrow_and_update().clone();
        assert!(third.off && third.withdrawn_since.is_some());
        let same = tokio::time::timeout(Duration::from_secs(30), changes.changed()).await;
        assert!(same.is_err(), "the same file changed something");
        task.abort();
    }

    #[test]
    fn a_withdrawal_names_the_node_and_is_taken_back() {
        let (dynamic_config, _) = watch::channel(DynamicConfig::default());
        let reload = Reload {
            node: Some("n1".into()),
            ..Reload::default()
        };
        let withdrawn = |text: Option<&str>| {
            let entry = text.map(|text| (WITHDRAWALS_KEY.to_owned(), text.to_owned()));
            reload.apply("port: 40000", &entry.into_iter().collect(), &dynamic_config);
            dynamic_config.borrow().withdrawn_since.is_some()
        };
        assert!(!withdrawn(Some("n2: '2026-01-01T00:00:00Z'")));
        assert!(withdrawn(Some("n1: '2026-01-01T00:00:00Z'")));
        assert!(withdrawn(Some("n1: soon")), "nonsense changed something");
        assert!(!withdrawn(None));
        assert!(withdrawn(Some("'*': '2026-01-01T00:00:00Z'")));
    }

    #[test]
    fn configuration_of_a_newer_operator_is_followed() {
        let (dynamic_config, _) = watch::channel(DynamicConfig::default());
        let text = "{port: 40000, logLevel: Debug, quantum: 7}";
        let peers = "[{relay: a, key: k, endpoints: [], colour: red}]";
        let data = BTreeMap::from([(PEERS_KEY.to_owned(), peers.to_owned())]);
        Reload::default().apply(text, &data, &dynamic_config);
        let dynamic_config = dynamic_config.borrow();
        assert_eq!(
            (dynamic_config.log_level, dynamic_config.peers.len()),
            (LogLevel::Debug, 1)
        );
        assert_eq!(dynamic_config.unknown[0].path, "quantum");
    }
}
