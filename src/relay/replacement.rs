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
        withdrawals::{WITHDRAWALS_KEY, Withdrawals},
    },
    names,
};

/// Time for which the kernel goes on forwarding when another relay is expected: three minutes for the
/// pull of its image, and its start. It is shorter than what a killed relay leaves.
pub(super) const FORWARD_UNTIL_REPLACED: Duration = Duration::from_secs(200);
/// Longest time that the end of the relay waits for the API server. The next relay waits too.
const LIMIT: Duration = Duration::from_secs(1);

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

    /// Returns the time for which the kernel goes on forwarding if the relay ends now. It is short unless
    /// the cluster says that another relay follows.
    pub(super) async fn forward_time(&self) -> Duration {
        let Some(report) = &self.report else {
            return FORWARD_AFTER_STOP;
        };
        let is_expected = async {
            let client = Client::try_default().await?;
            self.is_expected(client, report).await
        };
        forward_time(is_expected).await
    }

    /// Asks the API server. The cached configuration does not do: after a removal, its watch may be late.
    async fn is_expected(&self, client: Client, report: &ReportConfig) -> anyhow::Result<bool> {
        let api: Api<ConfigMap> = Api::namespaced(client, &report.namespace);
        let name = names::child(&report.peer_relay, &report.region);
        // A list of one name: relays may not get objects.
        let only = ListParams::default().fields(&format!("metadata.name={name}"));
        let maps = api.list(&only).await?;
        maps.items
            .first()
            .map_or(Ok(false), |map| self.is_wanted(map))
    }

    /// Returns whether the configuration of the region wants a relay on this node that takes over.
    fn is_wanted(&self, map: &ConfigMap) -> anyhow::Result<bool> {
        let data = map.data.as_ref().context("the configuration is empty")?;
        let text = data
            .get(CONFIG_KEY)
            .context("there is no configuration of relays")?;
        let (config, _): (RelayConfig, _) = unknown::parse(text)?;
        let withdrawals: Withdrawals = reload::list(data, WITHDRAWALS_KEY)?;
        let node = self.node.as_deref().unwrap_or_default();
        Ok(map.metadata.deletion_timestamp.is_none()
            && withdrawals.since(node).is_none()
            && config.port == Some(RelayPort::On(self.port))
            && config.data_path != Some(DataPath::Socket))
    }
}

async fn forward_time(is_expected: impl Future<Output = anyhow::Result<bool>>) -> Duration {
    let answer = timeout(LIMIT, is_expected).await;
    match answer.context("no answer in time").flatten() {
        Ok(true) => {
            tracing::info!("another relay is expected; until then the kernel forwards");
            FORWARD_UNTIL_REPLACED
        }
        Ok(false) => FORWARD_AFTER_STOP,
        Err(error) => {
            let error = format!("{error:#}");
            tracing::info!(error, "it is not known whether another relay follows");
            FORWARD_AFTER_STOP
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
            ("port: 40000", None, Some(true)),
            ("{port: 40000, dataPath: Kernel}", None, Some(true)),
            (
                "port: 40000",
                Some("n2: '2026-01-01T00:00:00Z'"),
                Some(true),
            ),
            (
                "port: 40000",
                Some("n1: '2026-01-01T00:00:00Z'"),
                Some(false),
            ),
            (
                "port: 40000",
                Some("'*': '2026-01-01T00:00:00Z'"),
                Some(false),
            ),
            ("port: 40000", Some("n1: soon"), None),
            // Neither finds what this relay leaves.
            ("port: 40001", None, Some(false)),
            ("{port: 40000, dataPath: Socket}", None, Some(false)),
            ("port: ''", None, Some(false)),
            ("port: [", None, None),
        ] {
            let answer = replacement().is_wanted(&map(config, withdrawals));
            assert_eq!(answer.ok(), expected, "{config} {withdrawals:?}");
        }
        let mut deleted = map("port: 40000", None);
        deleted.metadata.deletion_timestamp =
            serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        assert!(!replacement().is_wanted(&deleted).unwrap());
        assert!(replacement().is_wanted(&ConfigMap::default()).is_err());
    }

    #[tokio::test]
    async fn only_the_configuration_of_the_region_is_asked_for() {
        for (maps, expected) in [
            (json!([map("port: 40000", None)]), true),
            (json!([]), false),
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
            let answer = replacement().is_expected(client, &report).await;
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
        let answers = [Ok(true), Ok(false), Err(anyhow::anyhow!("refused"))];
        let mut times = Vec::new();
        for answer in answers {
            times.push(forward_time(async { answer }).await);
        }
        times.push(forward_time(std::future::pending()).await);
        let short = FORWARD_AFTER_STOP;
        assert_eq!(times, [FORWARD_UNTIL_REPLACED, short, short, short]);
    }
}
