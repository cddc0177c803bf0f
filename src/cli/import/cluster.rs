//! Objects of Tailscale's operator in a cluster.

use std::collections::BTreeSet;

use anyhow::{Context, bail};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::Value;

use super::Source;
use crate::{
    cli::cluster,
    import::{GROUP, VERSION},
};

/// Field of a PeerRelay that names another object, with the kind and plural of that object.
const NAMED: [(&str, &str, &str); 2] = [
    ("proxyClass", "ProxyClass", "proxyclasses"),
    ("tailnet", "Tailnet", "tailnets"),
];

/// Reads all PeerRelays of Tailscale's operator, and the objects that they name.
///
/// # Errors
/// The kubeconfig cannot be used, or the API server refuses a request.
pub(super) async fn read(context: Option<&str>) -> anyhow::Result<Vec<Source>> {
    let alternative = "pass a file or the output of kubectl with -f";
    let client = cluster::client(context, alternative).await?;
    let relays = api(&client, "PeerRelay", "peerrelays");
    let relays = match relays.list(&ListParams::default()).await {
        Ok(list) => list.items,
        Err(kube::Error::Api(status)) if status.code == 404 => bail!(
            "the cluster has no PeerRelays of Tailscale's operator (peerrelays.{GROUP}): choose \
             another cluster with --context"
        ),
        Err(error) => {
            return Err(error).context(
                "failed to list peerrelays.tailscale.com: check your access with 'kubectl get \
                 peerrelays.tailscale.com'",
            );
        }
    };
    let mut sources = Vec::new();
    for (field, kind, plural) in NAMED {
        let names: BTreeSet<_> = relays
            .iter()
            .filter_map(|relay| named(relay, field))
            .collect();
        for name in names {
            let found = api(&client, kind, plural).get_opt(name).await;
            let found = found.with_context(|| {
                format!(
                    "failed to read {kind} {name}: check your access with 'kubectl get \
                     {plural}.{GROUP}'"
                )
            })?;
            sources.extend(found.map(|object| source(object, kind)));
        }
    }
    let relays = relays.into_iter().map(|relay| source(relay, "PeerRelay"));
    Ok(relays.chain(sources).collect())
}

fn named<'a>(relay: &'a DynamicObject, field: &str) -> Option<&'a str> {
    let name = relay.data["spec"][field].as_str();
    name.filter(|name| !name.is_empty())
}

fn api(client: &Client, kind: &str, plural: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(GROUP, VERSION, kind);
    Api::all_with(
        client.clone(),
        &ApiResource::from_gvk_with_plural(&kind, plural),
    )
}

fn source(object: DynamicObject, kind: &str) -> Source {
    let mut value = serde_json::to_value(object).expect("Kubernetes objects are plain data");
    // Items of a list may lack them.
    value["apiVersion"] = Value::from(format!("{GROUP}/{VERSION}"));
    value["kind"] = Value::from(kind);
    Source {
        file: "cluster".to_owned(),
        node: value.into(),
    }
}
