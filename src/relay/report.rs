//! Reports to Kubernetes: keeps the `RelayNode` of the pod current, from which the operator learns
//! the state of this relay.

mod status;

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::OwnerReference, jiff::Timestamp};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use self::status::status;
use super::{probe::Probe, state::RelayState};
use crate::{
    config::ReportConfig,
    crd::{RelayNode, RelayNodeSpec},
    names,
};

/// Shortest time between two reports, so that changes which come together share one.
const MIN_INTERVAL: Duration = Duration::from_millis(500);
/// Longest time that a report waits when only the numbers of sessions have changed.
const COUNTS_INTERVAL: Duration = Duration::from_secs(60);
/// Longest time between two reports, changed or not.
const RENEW_INTERVAL: Duration = Duration::from_secs(300);
/// Wait after a request to the API server failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Writes the `RelayNode` of this pod.
pub struct Reporter {
    api: Api<RelayNode>,
    object: RelayNode,
}

impl Reporter {
    /// Makes a reporter for the pod that the environment names.
    ///
    /// # Errors
    /// The process is no pod, or lacks one of `NODE_NAME`, `POD_NAME` and `POD_UID`, which come by
    /// the downward API.
    pub async fn new(config: ReportConfig) -> anyhow::Result<Self> {
        let variable = |name: &str| {
            std::env::var(name).with_context(|| {
                format!("report is configured but {name} is not set: set it by the downward API")
            })
        };
        let (node_name, pod, uid) = (
            variable("NODE_NAME")?,
            variable("POD_NAME")?,
            variable("POD_UID")?,
        );
        let client = Client::try_default().await.context(
            "report is configured but there is no cluster: run as a pod with a service account",
        )?;
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Pod".into(),
            name: pod.clone(),
            uid,
            ..OwnerReference::default()
        };
        Ok(Self {
            api: Api::namespaced(client, &config.namespace),
            object: RelayNode {
                metadata: ObjectMeta {
                    name: Some(pod),
                    namespace: Some(config.namespace),
                    owner_references: Some(vec![owner]),
                    ..ObjectMeta::default()
                },
                spec: RelayNodeSpec {
                    peer_relay: config.peer_relay,
                    region: config.region,
                    node_name,
                },
                status: None,
            },
        })
    }

    /// Name of the `RelayNode`.
    pub fn name(&self) -> String {
        self.object.name_any()
    }

    /// Reports every change of `state`, for as long as the process runs.
    ///
    /// # Errors
    /// The sender of `state` is gone.
    pub async fn run(self, mut state: watch::Receiver<RelayState>) -> anyhow::Result<()> {
        let mut sent: Option<RelayState> = None;
        loop {
            let current = state.borrow_and_update().clone();
            // After a failure, the object may be gone too.
            match self.write(&current, sent.is_none()).await {
                Ok(()) => {
                    sleep(MIN_INTERVAL).await;
                    wait_until_due(&mut state, &current).await?;
                    sent = Some(current);
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to report to the API server; trying again");
                    sent = None;
                    sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    async fn write(&self, state: &RelayState, create: bool) -> kube::Result<()> {
        let name = self
            .object
            .metadata
            .name
            .as_deref()
            .expect("named when made");
        // With force, because a conflict would keep the report back, and nobody else has a say in these
        // fields.
        let params = PatchParams::apply(names::RELAY_MANAGER).force();
        if create {
            self.api
                .patch(name, &params, &Patch::Apply(&self.object))
                .await?;
        }
        let status = json!({
            "apiVersion": RelayNode::api_version(&()),
            "kind": RelayNode::kind(&()),
            "metadata": {"name": name},
            "status": status(state, Timestamp::now()),
        });
        self.api
            .patch_status(name, &params, &Patch::Apply(&status))
            .await
            .map(drop)
    }
}

/// Waits until `state` differs from `sent` enough for a report, or a report must be renewed.
async fn wait_until_due(
    state: &mut watch::Receiver<RelayState>,
    sent: &RelayState,
) -> anyhow::Result<()> {
    let (counts, renew) = (
        Instant::now() + COUNTS_INTERVAL,
        Instant::now() + RENEW_INTERVAL,
    );
    loop {
        let deadline = {
            let current = state.borrow_and_update();
            match current.sessions == sent.sessions {
                _ if is_news(&current, sent) => return Ok(()),
                true => renew,
                false => counts,
            }
        };
        tokio::select! {
            changed = state.changed() => changed.context("the relay has ended")?,
            () = sleep_until(deadline) => return Ok(()),
        }
    }
}

/// Returns whether `current` differs from `sent` in more than what may wait: numbers of sessions,
/// times of probes and of requests.
fn is_news(current: &RelayState, sent: &RelayState) -> bool {
    let grants_alike = match (&current.control.grant, &sent.control.grant) {
        (Some(current), Some(sent)) => current.is_like(sent),
        (current, sent) => current == sent,
    };
    let verdicts = |state: &RelayState| -> Vec<_> {
        let owned =
            |(relay, address, reachable): (&str, _, _)| (relay.to_owned(), address, reachable);
        let verdicts = state.probes.results.iter().map(Probe::verdict);
        verdicts.map(owned).collect()
    };
    let mut settled = current.clone();
    settled.sessions = sent.sessions;
    settled.probes.results.clone_from(&sent.probes.results);
    settled.control.grant.clone_from(&sent.control.grant);
    !grants_alike || settled != *sent || verdicts(current) != verdicts(sent)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use crate::relay::{clients::ClientView, grant::GrantView};

    #[tokio::test(start_paused = true)]
    async fn the_first_request_is_reported_at_once_and_later_ones_with_the_next_report() {
        let asked = |asked: Option<i64>| {
            let at = |second| Timestamp::from_second(second).unwrap();
            let clients = vec![ClientView {
                client: "tag:office".into(),
                devices: None,
                since: at(0),
                asked: asked.map(at),
            }];
            Some(GrantView {
                clients,
                ..GrantView::default()
            })
        };
        let state = |grant| {
            let mut state = RelayState::default();
            state.control.grant = grant;
            state
        };
        for (before, after, wait_for) in [
            (None, Some(1), 0),
            (Some(1), Some(2), RENEW_INTERVAL.as_secs()),
        ] {
            let (_sender, mut receiver) = watch::channel(state(asked(after)));
            let start = Instant::now();
            wait_until_due(&mut receiver, &state(asked(before)))
                .await
                .unwrap();
            assert_eq!(start.elapsed().as_secs(), wait_for);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn session_counts_alone_wait_and_anything_else_does_not() {
        let (sender, mut receiver) = watch::channel(RelayState::default());
        let sent = RelayState::default();
        sender.send_modify(|state| state.sessions.open = 1);
        let start = Instant::now();
        wait_until_due(&mut receiver, &sent).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), COUNTS_INTERVAL.as_secs());
        sender.send_modify(|state| state.control.map_received = true);
        let start = Instant::now();
        wait_until_due(&mut receiver, &sent).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
