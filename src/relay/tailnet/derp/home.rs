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

/// The region with the shortest TCP round trip among those that may be home; `None` if none
/// answers.
pub(super) async fn choose(dialer: &Dialer, map: &DerpMap) -> Option<u32> {
    let candidates = candidates(map);
    let probes = candidates.iter().map(|(region, server)| async {
        let start = Instant::now();
        probe(dialer, server)
            .await
            .then(|| (start.elapsed(), *region))
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

fn candidates(map: &DerpMap) -> Vec<(u32, &DerpNode)> {
    let regions = map
        .regions
        .iter()
        .filter_map(|(id, region)| Some((*id, region.as_ref()?)));
    let homes = regions.filter(|(_, region)| !region.avoid && !region.no_measure_no_home);
    homes
        .filter_map(|(id, _)| Some((id, servers(map, id).next()?)))
        .collect()
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

    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn home_is_a_region_that_answers_and_may_be_home() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap().port();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let closed = gone.local_addr().unwrap().port();
        drop(gone);
        let node = |port: u16| json!([{"HostName": "derp.invalid", "IPv4": "127.0.0.1", "DERPPort": port}]);
        let map: DerpMap = serde_json::from_value(json!({"Regions": {
            "1": {"Nodes": node(open), "Avoid": true},
            "2": {"Nodes": node(open), "NoMeasureNoHome": true},
            "3": {"Nodes": node(closed)},
            "4": {"Nodes": node(open)},
            "5": null,
        }}))
        .unwrap();
        let dialer = Dialer::new(None).unwrap();
        assert_eq!(choose(&dialer, &map).await, Some(4));
        assert_eq!(choose(&dialer, &DerpMap::default()).await, None);
    }
}
