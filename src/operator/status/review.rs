//! Clients of a region with the time of their last request. They show rules that are no longer
//! used. Pure.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use crate::{
    crd::{
        RelayNode,
        grants::{ClientReport, ClientStatus},
    },
    grants::Selector,
};

/// Entries in the status of a PeerRelay, over all regions.
const MOST: usize = 256;
/// Seconds of an hour. A finer resolution would cause too many writes of the status.
const HOUR: i64 = 3_600;

/// Entries that the status of each region may have.
pub(super) const fn share(regions: usize) -> usize {
    match regions {
        0 => MOST,
        regions => MOST / regions,
    }
}

/// The statuses of the first `most` clients. Times of `old`, the status before, are kept: relays
/// forget theirs when they restart.
pub(super) fn review<'a>(
    clients: &[Selector],
    nodes: impl Iterator<Item = &'a RelayNode> + Clone,
    old: &[ClientStatus],
    most: usize,
    now: Timestamp,
) -> Vec<ClientStatus> {
    let one = |client: &Selector| {
        let text = client.text();
        let grants = nodes.clone();
        let grants = grants.filter_map(|node| node.status.as_ref()?.grant.as_ref());
        let reports = grants.filter_map(|grant| grant.clients.iter().find(|c| c.client == text));
        let old = old.iter().find(|old| old.client == text);
        status(client, reports.collect(), old, now)
    };
    clients.iter().take(most).map(one).collect()
}

fn status(
    client: &Selector,
    reports: Vec<&ClientReport>,
    old: Option<&ClientStatus>,
    now: Timestamp,
) -> ClientStatus {
    // The clock of a relay may be wrong.
    let past = |time: &Option<Time>| time.as_ref().map(|time| time.0.min(now));
    let since = reports.iter().map(|report| past(&report.counted_since));
    let since = since.chain([old.and_then(|old| past(&old.counted_since))]);
    let asked = reports.iter().map(|report| past(&report.last_asked));
    let asked = asked.chain([old.and_then(|old| past(&old.last_asked))]);
    let devices = reports.iter().filter_map(|report| report.devices);
    ClientStatus {
        client: client.text().to_owned(),
        devices: devices.map(|devices| devices.granted).max(),
        counted_since: since.flatten().min().map(Time),
        last_asked: asked.flatten().max().map(hour).map(Time),
    }
}

fn hour(time: Timestamp) -> Timestamp {
    let second = time.as_second();
    Timestamp::from_second(second - second.rem_euclid(HOUR)).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::json;

    use super::*;

    #[test]
    fn the_latest_request_of_all_relays_counts_and_outlives_their_restart() {
        let selectors = selectors(&["tag:a", "tag:b", "group:eng"]);
        let first = node(&json!([
            {"client": "tag:a", "devices": {"known": 3, "granted": 2},
             "countedSince": "2026-01-01T00:00:00Z", "lastAsked": "2026-01-02T10:20:30Z"},
            {"client": "tag:b", "devices": {"known": 0, "granted": 0},
             "countedSince": "2026-01-01T00:00:00Z"},
            {"client": "group:eng"},
        ]));
        let second = node(&json!([
            {"client": "tag:a", "devices": {"known": 3, "granted": 3},
             "countedSince": "2026-01-01T12:00:00Z", "lastAsked": "2026-01-02T11:59:59Z"},
        ]));
        let now = "2026-01-03T00:00:00Z".parse().unwrap();
        let before = review(&selectors, [&first, &second].into_iter(), &[], 9, now);
        let reported = json!([
            {"client": "tag:a", "devices": 3, "countedSince": "2026-01-01T00:00:00Z",
             "lastAsked": "2026-01-02T11:00:00Z"},
            {"client": "tag:b", "devices": 0, "countedSince": "2026-01-01T00:00:00Z"},
            {"client": "group:eng"},
        ]);
        assert_eq!(json!(before), reported);

        let again = node(&json!([
            {"client": "tag:a", "devices": {"known": 3, "granted": 3},
             "countedSince": "2026-01-02T20:00:00Z"},
            {"client": "tag:b", "devices": {"known": 0, "granted": 0},
             "countedSince": "2026-01-02T20:00:00Z"},
        ]));
        let after = review(&selectors, [&again].into_iter(), &before, 9, now);
        assert_eq!(json!(after), reported);
        let gone = review(&selectors[1..2], [].into_iter(), &before, 9, now);
        assert_eq!((gone.len(), gone[0].devices), (1, None));
    }

    #[test]
    fn entries_are_limited_and_no_time_is_in_the_future() {
        let selectors = selectors(&["tag:a", "tag:b"]);
        let ahead = node(&json!([{"client": "tag:a", "lastAsked": "2030-01-01T00:00:00Z"}]));
        let now = "2026-01-03T00:30:00Z".parse().unwrap();
        let reported = review(&selectors, [&ahead].into_iter(), &[], 1, now);
        let hour = json!([{"client": "tag:a", "lastAsked": "2026-01-03T00:00:00Z"}]);
        assert_eq!(json!(reported), hour);
        assert_eq!((share(1), share(64), share(0)), (256, 4, 256));
    }

    fn selectors(texts: &[&str]) -> Vec<Selector> {
        let texts = texts.iter();
        texts.map(|text| Selector::parse(text).unwrap()).collect()
    }

    fn node(clients: &serde_json::Value) -> RelayNode {
        serde_json::from_value(json!({
            "apiVersion": "peerrelay.dev/v1alpha1", "kind": "RelayNode",
            "metadata": {"name": "edge-office-1", "namespace": "relays"},
            "spec": {"peerRelay": "edge", "region": "office", "nodeName": "n1"},
            "status": {"ready": true, "version": "1", "dataPath": "Socket", "grant": {
                "rules": 1, "knownPeers": 3, "everyone": false, "clients": clients,
            }},
        }))
        .unwrap()
    }
}
