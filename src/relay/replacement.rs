//! The question whether another relay follows on this node, when the relay is told to stop. A pod that is
//! replaced gets the same signal as one that is removed.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, api::ListParams};
use tokio::time::timeout;

use super::{data_path::FORWARD_AFTER_STOP, options::RelayOptions, reload};
use crate::{
    config::{
        CONFIG_KEY, RelayConfig, ReportConfig,
        data_path::DataPath,
        port::RelayPort,
        unknown,
        withdrawals::{DELETED_KEY, WITHDRAWALS_KEY, Withdrawals},
    },
    names,
};

/// Time for which the kernel goes on forwarding when another relay is expected: three minutes for the
/// pull of its image, and its start. It is shorter than what a killed relay leaves.
pub(super) const FORWARD_UNTIL_REPLACED: Duration = Duration::from_secs(200);
/// Longest time that the end of the relay waits for the API server. The next relay waits too.
const LIMIT: Duration = Duration::from_secs(1);

/// Future of the relay's place on its node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Outlook {
    /// No relay is expected that takes over, or it is not known.
    #[default]
    Ended,
    /// Another relay takes over.
    Replaced,
    /// The PeerRelay is deleted, and the device leaves the tailnet.
    Deleted,
}

impl Outlook {
    /// Returns the time for which the kernel goes on forwarding.
    pub(super) const fn forward_time(self) -> Duration {
        match self {
            Self::Replaced => FORWARD_UNTIL_REPLACED,
            Self::Ended | Self::Deleted => FORWARD_AFTER_STOP,
        }
    }
}

/// Properties of a relay that the next one must have, to take over what it leaves.
#[derive(Debug, Clone)]
pub(super) struct Replacement {
    report: Option<ReportConfig>,
    node: Option<String>,
    port: u16,
}

impl Replacement {
    /// The next relay for one with these options.
    pub(super) fn of(options: &RelayOptions) -> Self {
        Self {
            report: options.report.clone(),
            node: options.node_name.clone(),
            port: options.port,
        }
    }

    /// Returns what follows if the relay ends now: nothing, unless the cluster says otherwise.
    pub(super) async fn outlook(&self) -> Outlook {
        let Some(report) = &self.report else {
            return Outlook::default();
        };
        let answer = async {
            let client = Client::try_default().await?;
            self.ask(client, report).await
        };
        outlook(answer).await
    }

    /// Asks the API server. The cached configuration does not do: after a removal, its watch may be late.
    async fn ask(&self, client: Client, report: &ReportConfig) -> anyhow::Result<Outlook> {
        let api: Api<ConfigMap> = Api::namespaced(client, &report.namespace);
        let name = names::child(&report.peer_relay, &report.region);
        // A list of one name: relays may not get objects.
        let only = ListParams::default().fields(&format!("metadata.name={name}"));
        let maps = api.list(&only).await?;
        let map = maps.items.first();
        map.map_or(Ok(Outlook::Ended), |map| self.judge(map))
    }

    /// Returns what the configuration of the region says about this node. Another relay takes over only if
    /// it finds what this one leaves.
    fn judge(&self, map: &ConfigMap) -> anyhow::Result<Outlook> {
        let data = map.data.as_ref().context("the configuration is empty")?;
        if data.contains_key(DELETED_KEY) {
            return Ok(Outlook::Deleted);
        }
        let text = data
            .get(CONFIG_KEY)
            .context("there is no configuration of relays")?;
        let (config, _): (RelayConfig, _) = unknown::parse(text)?;
        let withdrawals: Withdrawals = reload::list(data, WITHDRAWALS_KEY)?;
        let node = self.node.as_deref().unwrap_or_default();
        let is_replaced = map.metadata.deletion_timestamp.is_none()
            && withdrawals.since(node).is_none()
            && config.port == Some(RelayPort::On(self.port))
            && config.data_path != Some(DataPath::Socket);
        Ok(match is_replaced {
            true => Outlook::Replaced,
            false => Outlook::Ended,
        })
    }
}

async fn outlook(answer: impl Future<Output = anyhow::Result<Outlook>>) -> Outlook {
    let answer = timeout(LIMIT, answer).await;
    match answer.context("no answer in time").flatten() {
        Ok(outlook) => {
            tracing::info!(?outlook, "the cluster has told what follows");
            outlook
        }
        Err(error) => {
            let error = format!("{error:#}");
            tracing::info!(error, "it is not known whether another relay follows");
            Outlook::default()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    fn replacement() -> Replacement {
        Replacement {
            report: None,
            node: Some("n1".into()),
            port: 40_000,
        }
    }

    fn map(config: &str, withdrawals: Option<&str>) -> ConfigMap {
        let entries = [(CONFIG_KEY, Some(config)), (WITHDRAWALS_KEY, withdrawals)];
        let data = entries
            .into_iter()
            .filter_map(|(key, text)| Some((key.to_owned(), text?.to_owned())));
        ConfigMap {
            data: Some(data.collect()),
            ..ConfigMap::default()
        }
    }

    #[test]
    fn a_relay_is_replaced_only_by_one_that_takes_over() {
        for (config, withdrawals, expected) in [
            ("port: 40000", None, Some(Outlook::Replaced)),
            (
                "{port: 40000, dataPath: Kernel}",
                None,
                Some(Outlook::Replaced),
            ),
            (
                "port: 40000",
                Some("n2: '2026-01-01T00:00:00Z'"),
                Some(Outlook::Replaced),
            ),
            (
                "port: 40000",
                Some("n1: '2026-01-01T00:00:00Z'"),
                Some(Outlook::Ended),
            ),
            (
                "port: 40000",
                Some("'*': '2026-01-01T00:00:00Z'"),
                Some(Outlook::Ended),
            ),
            ("port: 40000", Some("n1: soon"), None),
            // Neither finds what this relay leaves.
            ("port: 40001", None, Some(Outlook::Ended)),
            (
                "{port: 40000, dataPath: Socket}",
                None,
                Some(Outlook::Ended),
            ),
            ("port: ''", None, Some(Outlook::Ended)),
            ("port: [", None, None),
        ] {
            let answer = replacement().judge(&map(config, withdrawals));
            assert_eq!(answer.ok(), expected, "{config} {withdrawals:?}");
        }
        let mut deleted = map("port: 40000", None);
        deleted.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert_eq!(replacement().judge(&deleted).unwrap(), Outlook::Ended);
        assert!(replacement().judge(&ConfigMap::default()).is_err());
    }

    #[test]
    fn a_relay_of_a_deleted_peer_relay_knows_that_its_device_leaves() {
        let mut deleted = map("port: 40000", Some("'*': '2026-01-01T00:00:00Z'"));
        assert_eq!(replacement().judge(&deleted).unwrap(), Outlook::Ended);
        let data = deleted.data.as_mut().unwrap();
        data.insert(DELETED_KEY.to_owned(), "true".to_owned());
        assert_eq!(replacement().judge(&deleted).unwrap(), Outlook::Deleted);
    }

    #[tokio::test]
    async fn only_the_configuration_of_the_region_is_asked_for() {
        for (maps, expected) in [
            (json!([map("port: 40000", None)]), Outlook::Replaced),
            (json!([]), Outlook::Ended),
        ] {
            let (service, mut requests) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
            let server = tokio::spawn(async move {
                let (request, answer) = requests.next_request().await.unwrap();
                let list = json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {},
                    "items": maps});
                answer.send_response(Response::new(list.to_string().into_bytes().into()));
                request.uri().to_string()
            });
            let report = ReportConfig {
                peer_relay: "edge".into(),
                region: "eu".into(),
                namespace: "relays".into(),
            };
            let client = Client::new(service, "default");
            let answer = replacement().ask(client, &report).await;
            assert_eq!(answer.unwrap(), expected);
            let name = names::child("edge", "eu");
            let uri = format!(
                "/api/v1/namespaces/relays/configmaps?&fieldSelector=metadata.name%3D{name}"
            );
            assert_eq!(server.await.unwrap(), uri);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn forwarding_ends_soon_unless_a_replacement_is_certain() {
        let answers = [
            Ok(Outlook::Replaced),
            Ok(Outlook::Ended),
            Ok(Outlook::Deleted),
            Err(anyhow::anyhow!("refused")),
        ];
        let mut times = Vec::new();
        for answer in answers {
            times.push(outlook(async { answer }).await.forward_time());
        }
        times.push(outlook(std::future::pending()).await.forward_time());
        let short = FORWARD_AFTER_STOP;
        assert_eq!(times, [FORWARD_UNTIL_REPLACED, short, short, short, short]);
    }
}
