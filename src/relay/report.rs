//! In Kubernetes: keeps the pod's `RelayNode`, from which the operator learns how this relay does.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};

use super::{
    addresses::Advertised,
    clients::ClientView,
    grant::GrantView,
    kernel::{self, Unavailable},
    probe::Probe,
    state::RelayState,
};
use crate::{
    config::{ReportConfig, peers::encode_key},
    crd::{
        RelayNode, RelayNodeSpec, RelayNodeStatus,
        grants::{ClientDevices, ClientReport, GrantReport, GrantSource},
        probe::ProbeReport,
        relay_node::{Endpoint, NodeTailnet, Sessions, Withdrawal},
    },
    names,
};

/// Shortest time between two reports: what changes together is told together.
const PACE: Duration = Duration::from_millis(500);
/// A change of nothing but the numbers of sessions waits this long.
const COUNTS: Duration = Duration::from_secs(60);
/// A report is renewed this often, changed or not.
const RENEW: Duration = Duration::from_secs(300);
/// Wait after the API server could not be reached.
const RETRY: Duration = Duration::from_secs(5);

/// Writes the `RelayNode` of this pod.
pub struct Reporter {
    api: Api<RelayNode>,
    object: RelayNode,
}

impl Reporter {
    /// A reporter for the pod that the environment names.
    ///
    /// # Errors
    /// This is no pod, or it does not know itself: `NODE_NAME`, `POD_NAME` and `POD_UID` come by
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

    /// Name of the RelayNode.
    pub fn name(&self) -> String {
        self.object.name_any()
    }

    /// Reports every change, for as long as the process runs.
    pub async fn run(self, mut state: watch::Receiver<RelayState>) -> anyhow::Result<()> {
        let mut told: Option<RelayState> = None;
        loop {
            let now = state.borrow_and_update().clone();
            match self.write(&now, told.is_none()).await {
                Ok(()) => told = Some(now),
                Err(error) => {
                    tracing::warn!(%error, "not reported to the API server; trying again");
                    told = None;
                    sleep(RETRY).await;
                    continue;
                }
            }
            sleep(PACE).await;
            wait(&mut state, told.as_ref()).await?;
        }
    }

    async fn write(&self, state: &RelayState, create: bool) -> kube::Result<()> {
        let name = self
            .object
            .metadata
            .name
            .as_deref()
            .expect("named when made");
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

/// Until there is something to tell.
async fn wait(
    state: &mut watch::Receiver<RelayState>,
    told: Option<&RelayState>,
) -> anyhow::Result<()> {
    let (counts, renew) = (Instant::now() + COUNTS, Instant::now() + RENEW);
    loop {
        let now = state.borrow_and_update().clone();
        let Some(told) = told else { return Ok(()) };
        let same = |a: &RelayState| {
            let verdicts = |state: &RelayState| -> Vec<_> {
                let own = |(relay, at, reachable): (&str, _, _)| (relay.to_owned(), at, reachable);
                state.probes.iter().map(|p| own(p.verdict())).collect()
            };
            let grants_alike = match (&a.grant, &told.grant) {
                (Some(a), Some(told)) => a.is_like(told),
                (a, told) => a == told,
            };
            let settled = RelayState {
                sessions: told.sessions,
                probes: told.probes.clone(),
                grant: told.grant.clone(),
                ..a.clone()
            };
            grants_alike && settled == *told && verdicts(a) == verdicts(told)
        };
        let deadline = match now.sessions == told.sessions {
            _ if !same(&now) => return Ok(()),
            true => renew,
            false => counts,
        };
        tokio::select! {
            changed = state.changed() => changed.context("the relay has ended")?,
            () = sleep_until(deadline) => return Ok(()),
        }
    }
}

fn status(state: &RelayState, now: Timestamp) -> RelayNodeStatus {
    let problem = state.problem();
    let endpoint = |advertised: &Advertised| Endpoint {
        address: advertised.address.to_string(),
        source: advertised.source,
    };
    let probe = |probe: &Probe| ProbeReport {
        relay: probe.relay.clone(),
        address: probe.address.to_string(),
        reachable: probe.reachable,
        round_trip_microseconds: probe
            .round_trip
            .map(|time| i64::try_from(time.as_micros()).unwrap_or(i64::MAX)),
        last_probe_time: Time(probe.time),
    };
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    RelayNodeStatus {
        ready: state.ready(),
        reason: problem.map(|p| p.reason.as_str().to_owned()),
        message: problem.map(|p| p.message.clone()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        port: state.port,
        data_path: if state.path.is_kernel() {
            "Kernel"
        } else {
            "Socket"
        }
        .to_owned(),
        data_path_reason: path_reason(state).map(|error| error.reason.as_str().to_owned()),
        data_path_message: path_reason(state).map(|error| error.message.clone()),
        tailnet: state.tailnet.as_ref().map(|tailnet| NodeTailnet {
            name: tailnet.name.clone(),
            taken_name: tailnet.taken_name.clone(),
            node_id: tailnet.node_id.clone(),
            addresses: tailnet.addresses.iter().map(ToString::to_string).collect(),
            tags: tailnet.tags.clone(),
            home_derp: state.home_derp.clone(),
        }),
        endpoints: state.endpoints.iter().map(endpoint).collect(),
        probe_key: state.probe_key.map(encode_key),
        probes: state.probes.iter().map(probe).collect(),
        verification: Vec::new(),
        sessions: Sessions {
            connecting: count(state.sessions.connecting),
            open: count(state.sessions.open),
        },
        withdrawal: state.withdrawal.map(|withdrawal| Withdrawal {
            since: Time(withdrawal.since),
            complete: withdrawal.complete,
        }),
        granted_peers: count(state.grant.as_ref().map_or(0, |g| g.granted_peers)),
        grant: state.grant.as_ref().map(grant),
        last_update_time: Some(Time(now)),
    }
}

fn grant(view: &GrantView) -> GrantReport {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let source = |(tags, peers): (&Vec<String>, &usize)| GrantSource {
        tags: tags.clone(),
        peers: count(*peers),
    };
    GrantReport {
        rules: count(view.rules),
        known_peers: count(view.known_peers),
        everyone: view.everyone,
        sources: view.sources.iter().map(source).collect(),
        more_sources: view.more_sources,
        clients: view.clients.iter().map(client).collect(),
        tagged_others: count(view.tagged_others),
    }
}

fn client(view: &ClientView) -> ClientReport {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    ClientReport {
        client: view.client.clone(),
        devices: view.devices.map(|devices| ClientDevices {
            known: count(devices.known),
            granted: count(devices.granted),
        }),
        counted_since: view.devices.map(|_| Time(view.since)),
        last_asked: view.asked.map(Time),
    }
}

/// Why sockets forward, where somebody may want to know.
fn path_reason(state: &RelayState) -> Option<&Unavailable> {
    let unavailable = state.path.0.as_ref().err();
    unavailable.filter(|error| error.reason != kernel::UnavailableReason::Chosen)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use crate::{
        crd::relay_node::EndpointSource,
        relay::state::{Problem, Reason},
    };

    #[test]
    fn status_tells_the_problem_and_where_endpoints_come_from() {
        let endpoint = |address: &str, source| Advertised {
            address: address.parse().unwrap(),
            source,
        };
        let state = RelayState {
            endpoints: vec![
                endpoint("203.0.113.1:40000", EndpointSource::Static),
                endpoint("192.0.2.1:40000", EndpointSource::Interface),
            ],
            control_problem: Some(Problem::new(Reason::AuthKeyMissing, "create it")),
            ..RelayState::default()
        };
        let status = status(&state, Timestamp::UNIX_EPOCH);
        assert_eq!(status.reason.as_deref(), Some("AuthKeyMissing"));
        assert!(!status.ready);
        let sources: Vec<_> = status.endpoints.iter().map(|e| e.source).collect();
        assert_eq!(sources, [EndpointSource::Static, EndpointSource::Interface]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_request_is_told_at_once_and_later_ones_with_the_next_report() {
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
        let told = |grant| RelayState {
            grant,
            ..RelayState::default()
        };
        for (before, after, wait_for) in [(None, Some(1), 0), (Some(1), Some(2), RENEW.as_secs())] {
            let (_sender, mut receiver) = watch::channel(told(asked(after)));
            let start = Instant::now();
            wait(&mut receiver, Some(&told(asked(before))))
                .await
                .unwrap();
            assert_eq!(start.elapsed().as_secs(), wait_for);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn session_counts_alone_wait_and_anything_else_does_not() {
        let (sender, mut receiver) = watch::channel(RelayState::default());
        let told = RelayState::default();
        sender.send_modify(|state| state.sessions.open = 1);
        let start = Instant::now();
        wait(&mut receiver, Some(&told)).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), COUNTS.as_secs());
        sender.send_modify(|state| state.map_received = true);
        let start = Instant::now();
        wait(&mut receiver, Some(&told)).await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
