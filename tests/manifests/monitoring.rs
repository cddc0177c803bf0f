//! Alerts, recording rules and dashboard: generated files, runbooks, and the results of promtool.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use peerrelay::{
    monitoring::{ALERTS, Scope, Shown, alerts, dashboard, records},
    operator::metrics::Metrics,
    relay::{metrics::render, socket_path::Snapshot, state::RelayState},
};
use serde_json::{Value, json};

use crate::{hold, root, update_sources};

const DIR: &str = "deploy/monitoring";
const ALL: [Scope; 3] = [Scope::Relays, Scope::Targets, Scope::Operator];

#[test]
fn rules_and_dashboard_are_what_the_code_says() {
    for (path, text) in files() {
        hold(&path, &text);
    }
}

/// Returns each file with its path. The chart and promtool read them.
pub(crate) fn files() -> [(String, String); 5] {
    let groups = |scopes: &[Scope]| {
        let groups = scopes.iter().map(|scope| alerts(*scope, ""));
        yaml(&json!({"groups": groups.collect::<Vec<_>>()}))
    };
    let board = serde_json::to_string_pretty(&dashboard(Shown::All)).unwrap() + "\n";
    [
        (format!("{DIR}/alerts.yaml"), groups(&ALL)),
        (
            "charts/peerrelay-operator/files/alerts.yaml".to_owned(),
            groups(&[Scope::Operator]),
        ),
        (
            format!("{DIR}/records.yaml"),
            yaml(&json!({"groups": records()})),
        ),
        (
            "charts/peerrelay-operator/files/dashboard.json".to_owned(),
            board.clone(),
        ),
        (format!("{DIR}/dashboard.json"), board),
    ]
}

#[test]
fn every_alert_has_its_runbook_and_its_test() {
    let tests = fs::read_to_string(root().join(DIR).join("alerts.test.yaml")).unwrap();
    let listed = fs::read_to_string(root().join("docs/monitoring.md")).unwrap();
    for alert in ALERTS {
        let name = format!("`{}`", alert.name);
        let severity = alert.rule("")["labels"]["severity"].clone();
        let row = listed
            .lines()
            .find(|line| line.starts_with('|') && line.contains(&name));
        let row = row.unwrap_or_else(|| panic!("docs/monitoring.md lacks {name}"));
        let severity = format!("| {} |", severity.as_str().unwrap());
        assert!(row.contains(&severity), "{name} is {severity}: {row}");
        let runbook = root().join(format!("docs/runbooks/{}.md", alert.name));
        assert!(runbook.is_file(), "{} is missing", runbook.display());
        assert!(
            tests.contains(&format!("alertname: {}\n", alert.name)),
            "{} has no test",
            alert.name
        );
    }
}

#[test]
fn dashboard_and_alerts_ask_for_metrics_that_exist() {
    let documented = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let text = ALL.map(|scope| alerts(scope, "").to_string()).concat()
        + &dashboard(Shown::All).to_string();
    let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
    for at in text.match_indices("peerrelay_").map(|(at, _)| at) {
        let name: String = text[at..].chars().take_while(|c| is_name(*c)).collect();
        let name = name.strip_suffix("_bucket").unwrap_or(&name);
        assert!(
            documented.contains(&format!("`{name}`")),
            "{name} does not exist"
        );
    }
}

#[test]
fn promtool_accepts_metrics_and_rules_and_every_alert_fires_when_it_should() {
    if Command::new("promtool").arg("--version").output().is_err() {
        return skips::record_unless_ci("there is no promtool; `cargo dev test` installs it");
    }
    let relay = render("office", &RelayState::default(), &Snapshot::default());
    for metrics in [relay, Metrics::default().render()] {
        promtool(&["check", "metrics"], &metrics);
    }
    promtool(&["check", "rules", "alerts.yaml", "records.yaml"], "");
    promtool(&["test", "rules", "alerts.test.yaml"], "");
}

fn promtool(arguments: &[&str], input: &str) {
    update_sources();
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(root().join(DIR))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

fn yaml(value: &Value) -> String {
    "# Made from src/monitoring.rs: UPDATE=1 cargo test --test manifests\n".to_owned()
        + &serde_yaml::to_string(value).unwrap()
}
