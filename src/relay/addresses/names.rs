//! Names among the static endpoints: looked up again and again, the last answer kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use tokio::{
    net::lookup_host,
    sync::watch,
    time::{sleep, timeout},
};

use super::Found;
use crate::{
    config::endpoints::StaticEndpoint,
    relay::{reload::DynamicConfig, watch_ext::SendIfChanged},
};

/// Time between two lookups of a name.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(30);
/// Longest time for one lookup.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most addresses of one name.
const MAX_ADDRESSES: usize = 4;

/// Keeps the addresses of all names that `dynamic_config` has for `node`.
pub(super) async fn follow(
    mut dynamic_config: watch::Receiver<DynamicConfig>,
    node: Option<String>,
    found: watch::Sender<Found>,
) {
    loop {
        let wanted = hosts(&dynamic_config.borrow_and_update(), node.as_deref());
        let mut resolved = found.borrow().names.clone();
        resolved.retain(|host, _| wanted.contains(host));
        let lookups = wanted
            .iter()
            .map(|host| async move { (host, lookup(host).await) });
        for (host, answer) in futures::future::join_all(lookups).await {
            keep(&mut resolved, host, answer);
        }
        found.send_field_if_changed(|found| &mut found.names, resolved);
        let again = async {
            match wanted.is_empty() {
                true => std::future::pending().await,
                false => sleep(LOOKUP_INTERVAL).await,
            }
        };
        tokio::select! {
            () = again => {}
            changed = dynamic_config.changed() => if changed.is_err() { return },
        }
    }
}

fn hosts(dynamic_config: &DynamicConfig, node: Option<&str>) -> BTreeSet<String> {
    let endpoints = dynamic_config.endpoints.fixed_on(node).into_iter();
    endpoints
        .filter_map(|endpoint| match endpoint {
            StaticEndpoint::Name { host, .. } => Some(host),
            StaticEndpoint::Address(_) => None,
        })
        .collect()
}

/// A name that cannot be looked up keeps what it had.
fn keep(resolved: &mut BTreeMap<String, Vec<IpAddr>>, host: &str, answer: Option<Vec<IpAddr>>) {
    match answer {
        Some(addresses) if !addresses.is_empty() => {
            resolved.insert(host.to_owned(), addresses);
        }
        _ => tracing::warn!(
            host,
            kept = resolved.contains_key(host),
            "name of a static endpoint is not resolved: check the name and the node's DNS"
        ),
    }
}

async fn lookup(host: &str) -> Option<Vec<IpAddr>> {
    // The port is of no use here, but `lookup_host` wants one.
    let answer = timeout(TIMEOUT, lookup_host((host, 1))).await.ok()?.ok()?;
    let mut addresses: Vec<IpAddr> = answer.map(|address| address.ip().to_canonical()).collect();
    // Name servers change the order from answer to answer. Unsorted, each would count as a change of
    // the advertised addresses.
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    Some(addresses)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn failed_lookup_keeps_the_last_answer() {
        let (old, new): (IpAddr, IpAddr) =
            ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut resolved = BTreeMap::new();
        keep(&mut resolved, "relay", Some(vec![old]));
        keep(&mut resolved, "relay", None);
        keep(&mut resolved, "relay", Some(Vec::new()));
        assert_eq!(resolved["relay"], [old]);
        keep(&mut resolved, "relay", Some(vec![new]));
        assert_eq!(resolved["relay"], [new]);
    }

    #[tokio::test]
    async fn name_in_the_hosts_file_is_found() {
        let addresses = lookup("localhost").await.unwrap();
        assert!(addresses.iter().all(IpAddr::is_loopback) && !addresses.is_empty());
    }
}
