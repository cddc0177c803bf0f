//! The operator's results as text.

use std::{collections::BTreeMap, fmt::Write as _};

use super::OperatorResults;
use crate::{
    table::{self, mib, number},
    targets::{self, Target},
};

/// Verbs, in the order of their columns.
const VERBS: [&str; 5] = ["get", "list", "create", "patch", "delete"];

fn targets(results: &OperatorResults) -> Vec<Target> {
    let scenario = |name: &str| results.scenarios.iter().find(|s| s.name == name);
    let mut targets = Vec::new();
    if let Some(crowd) = results.crowds.iter().find(|c| c.peer_relays == 1) {
        let megabytes = crowd.rss_started as f64 / 1e6;
        targets.push(Target {
            what: "resident memory with one PeerRelay".into(),
            wanted: "<= 30 MB".into(),
            measured: format!("{megabytes:.1} MB"),
            holds: megabytes <= 30.0,
        });
    }
    if let Some(ms) = scenario("create").and_then(|create| create.daemon_set_ms) {
        targets.push(Target {
            what: "DaemonSet after `kubectl apply`".into(),
            wanted: "<= 1 s".into(),
            measured: format!("{:.2} s", ms / 1e3),
            holds: ms <= 1e3,
        });
    }
    if let Some(restart) = scenario("restart with all in place") {
        let writes = writes(&restart.requests);
        targets.push(Target {
            what: "writes of an operator that starts when all is in place".into(),
            wanted: "0".into(),
            measured: writes.to_string(),
            holds: writes == 0,
        });
    }
    targets
}

fn writes(requests: &BTreeMap<String, usize>) -> usize {
    let reads = |verb: &str| matches!(verb, "get" | "list");
    let written = requests.iter().filter(|(verb, _)| !reads(verb));
    written.map(|(_, count)| count).sum()
}

fn count(requests: &BTreeMap<String, usize>, verb: &str) -> String {
    requests
        .get(verb)
        .map_or_else(String::new, ToString::to_string)
}

fn conditions(results: &OperatorResults) -> String {
    let machine = table::machine(&results.conditions);
    format!("{machine}; medians of {} rounds", results.rounds)
}

/// Tables for a terminal.
pub fn table(results: &OperatorResults) -> String {
    let mut text = conditions(results) + "\n" + &targets::lines(&targets(results));
    if !results.scenarios.is_empty() {
        writeln!(
            text,
            "\n{:<26} {:>4} {:>5} {:>7} {:>6} {:>7} {:>13} {:>8}",
            "SCENARIO", "GET", "LIST", "CREATE", "PATCH", "DELETE", "DAEMONSET ms", "LAST ms"
        )
        .ok();
    }
    for scenario in &results.scenarios {
        let [get, list, create, patch, delete] = VERBS.map(|verb| count(&scenario.requests, verb));
        let line = format!(
            "{:<26} {get:>4} {list:>5} {create:>7} {patch:>6} {delete:>7} {:>13} {:>8}",
            scenario.name,
            number(scenario.daemon_set_ms, 0),
            number(scenario.last_ms, 0),
        );
        writeln!(text, "{}", line.trim_end()).ok();
    }
    if !results.crowds.is_empty() {
        writeln!(
            text,
            "\n{:>11} {:>8} {:>8} {:>7} {:>9} {:>13} {:>9} {:>9} {:>6}",
            "PEERRELAYS",
            "REQUESTS",
            "SECONDS",
            "CPU s",
            "RSS MADE",
            "RSS STARTED",
            "ANON",
            "PEAK",
            "LISTS"
        )
        .ok();
    }
    for crowd in &results.crowds {
        writeln!(
            text,
            "{:>11} {:>8} {:>8.1} {:>7.2} {:>9} {:>13} {:>9} {:>9} {:>6}",
            crowd.peer_relays,
            crowd.requests.values().sum::<usize>(),
            crowd.seconds,
            crowd.cpu_seconds,
            mib(Some(crowd.rss_made)),
            mib(Some(crowd.rss_started)),
            mib(Some(crowd.anonymous_started)),
            mib(Some(crowd.peak_started)),
            count(&crowd.requests_started, "list"),
        )
        .ok();
    }
    text
}

/// Tables for docs/performance.md.
pub fn markdown(results: &OperatorResults) -> String {
    let mut text = format!("\n- {}\n", conditions(results));
    text += &targets::markdown(&targets(results));
    text += "\n| scenario | get | list | create | patch | delete | DaemonSet, ms | last request, ms |\n";
    text += "|---|--:|--:|--:|--:|--:|--:|--:|\n";
    for scenario in &results.scenarios {
        let verbs = VERBS
            .map(|verb| count(&scenario.requests, verb))
            .join(" | ");
        let (set, last) = (scenario.daemon_set_ms, scenario.last_ms);
        let (set, last) = (number(set, 0), number(last, 0));
        writeln!(text, "| {} | {verbs} | {set} | {last} |", scenario.name).ok();
    }
    text += "\n| PeerRelays | new | requests for the new | s | CPU s | RSS, MiB | RSS after a restart, MiB | of it anonymous | peak | lists, writes at the restart |\n";
    text += "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n";
    for crowd in &results.crowds {
        writeln!(
            text,
            "| {} | {} | {} | {:.1} | {:.2} | {} | {} | {} | {} | {}, {} |",
            crowd.peer_relays,
            crowd.added,
            crowd.requests.values().sum::<usize>(),
            crowd.seconds,
            crowd.cpu_seconds,
            mib(Some(crowd.rss_made)),
            mib(Some(crowd.rss_started)),
            mib(Some(crowd.anonymous_started)),
            mib(Some(crowd.peak_started)),
            crowd
                .requests_started
                .get("list")
                .copied()
                .unwrap_or_default(),
            writes(&crowd.requests_started),
        )
        .ok();
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::{
        super::{crowd::Crowd, scenarios::Scenario},
        *,
    };

    #[test]
    fn a_target_that_is_missed_says_so() {
        let requests = |verb: &str| BTreeMap::from([(verb.to_owned(), 2)]);
        let scenario = |name: &str, verb: &str, ms: f64| Scenario {
            name: name.into(),
            requests: requests(verb),
            daemon_set_ms: Some(ms),
            last_ms: None,
        };
        let results = OperatorResults {
            scenarios: vec![
                scenario("create", "patch", 1_500.0),
                scenario("restart with all in place", "list", 0.0),
            ],
            crowds: vec![Crowd {
                peer_relays: 1,
                rss_started: 31_000_000,
                ..Crowd::default()
            }],
            ..OperatorResults::default()
        };
        let missed = |text: &str| text.lines().filter(|l| l.contains("missed")).count();
        let text = markdown(&results);
        assert_eq!(missed(&text), 2, "{text}");
        assert!(text.contains("| 31.0 MB |") && text.contains("| 1.50 s |"));
        assert!(table(&results).contains("when all is in place: 0 (wanted 0): holds"));
    }
}
