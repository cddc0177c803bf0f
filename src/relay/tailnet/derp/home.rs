//! Choice of the home DERP region: the one that answers first.

use std::time::Duration;

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, timeout};

use super::connection::{addresses, port, servers};
use crate::{
    dial::Dialer,
    relay::tailnet::wire::{DerpMap, DerpNode},
};

/// Regions that answer later are no candidates.
const TIMEOUT: Duration = Duration::from_secs(4);
/// After the first answer, how much longer others may take to be compared.
const GRACE: Duration = Duration::from_millis(250);

/// Returns the region with the shortest TCP round trip among those of `candidates`, or `None` if none
/// answers.
pub(super) async fn choose(
    dialer: &Dialer,
    map: &DerpMap,
    candidates: impl Iterator<Item = u32>,
) -> Option<u32> {
    let probes = candidates.map(|region| async move {
        let start = Instant::now();
        answers(dialer, map, region)
            .await
            .then(|| (start.elapsed(), region))
    });
    let mut probes: FuturesUnordered<_> = probes.collect();
    let mut best: Option<(Duration, u32)> = None;
    let mut deadline = Instant::now() + TIMEOUT;
    while let Ok(Some(answer)) = tokio::time::timeout_at(deadline, probes.next()).await {
        let Some(answer) = answer else { continue };
        if best.is_none() {
            deadline = deadline.min(Instant::now() + GRACE);
        }
        best = Some(best.map_or(answer, |best| best.min(answer)));
    }
    best.map(|(_, region)| region)
}

/// Returns the regions that may be home (`netcheck`: neither `Avoid` nor `NoMeasureNoHome`) and have a
/// DERP server.
pub(super) fn candidates(map: &DerpMap) -> impl Iterator<Item = u32> {
    let regions = map
        .regions
        .iter()
        .filter_map(|(id, region)| Some((*id, region.as_ref()?)));
    let homes = regions.filter(|(_, region)| !region.avoid && !region.no_measure_no_home);
    homes
        .map(|(id, _)| id)
        .filter(|id| servers(map, *id).next().is_some())
}

/// Returns whether a server of the region accepts TCP connections.
async fn answers(dialer: &Dialer, map: &DerpMap, region: u32) -> bool {
    let mut probes: FuturesUnordered<_> = servers(map, region)
        .map(|server| probe(dialer, server))
        .collect();
    while let Some(answers) = probes.next().await {
        if answers {
            return true;
        }
    }
    false
}

async fn probe(dialer: &Dialer, server: &DerpNode) -> bool {
    let addresses = addresses(server);
    let connect = async {
        let stream = dialer.direct_or_proxied(&server.host_name, &addresses, port(server));
        stream.await.is_ok()
    };
    timeout(TIMEOUT, connect).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn home_is_a_region_that_answers_and_may_be_home() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap().port();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = gone.local_addr().unwrap().port();
        drop(gone);
        let node =
            |port: u16| json!({"HostName": "derp.invalid", "IPv4": "127.0.0.1", "DERPPort": port});
        let stun_only = |port: u16| {
            let mut node = node(port);
            node["STUNOnly"] = Value::Bool(true);
            node
        };
        let map: DerpMap = serde_json::from_value(json!({"Regions": {
            "1": {"Nodes": [node(open)], "Avoid": true},
            "2": {"Nodes": [node(open)], "NoMeasureNoHome": true},
            "3": {"Nodes": [node(closed)]},
            "4": {"Nodes": [stun_only(open), node(closed), node(open)]},
            "5": null,
            "6": {"Nodes": [stun_only(open)]},
        }}))
        .unwrap();
        let all: Vec<_> = candidates(&map).collect();
        assert_eq!(all, [3, 4]);
        let dialer = Dialer::new(None).unwrap();
        assert_eq!(choose(&dialer, &map, candidates(&map)).await, Some(4));
        assert_eq!(choose(&dialer, &map, [3].into_iter()).await, None);
        assert_eq!(choose(&dialer, &map, [].into_iter()).await, None);
    }
}
