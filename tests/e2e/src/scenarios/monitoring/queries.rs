//! Comparison of all queries of dashboard and alerts with the series that real relays export.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use rig::{prometheus::Prometheus, state::repository};
use serde_json::Value;

/// Queries that may give nothing here, by panel or alert, and why.
const MAY_BE_EMPTY: &[(&str, &str)] = &[
    (
        "Node keys expire in",
        "keys of tagged devices do not expire",
    ),
    (
        "Passed to the sockets by the kernel path",
        "shows reasons that occur, and on the rig sockets may forward",
    ),
    (
        "Drops by reason",
        "shows reasons that occur, and nothing need be dropped",
    ),
];

/// Series that may not be there, by name and matchers that distinguish them, and why.
const MAY_BE_ABSENT: &[(&str, &str)] = &[
    (
        "peerrelay_operator_condition{type=\"Stalled\"}",
        "the condition is there only while a PeerRelay is stalled",
    ),
    (
        "peerrelay_operator_condition{type=\"CredentialExpiring\"}",
        "the condition is there only while something expires within two weeks",
    ),
    (
        "peerrelay_operator_condition{type=\"WithinQuota\"}",
        "the condition is there only where an allowance applies, as with the hosted control server",
    ),
];

/// A selector: the name of a metric, and its matchers.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Selector {
    name: String,
    matchers: Vec<(String, String, String)>,
}

/// The requirement of a query on the series that it selects.
#[derive(Debug, Default)]
struct Needs {
    selectors: BTreeSet<Selector>,
    labels: BTreeSet<String>,
}

/// Evaluates all panels and variables, and what alerts select. Returns their number.
pub(super) fn hold(prometheus: &Prometheus<'_>) -> Result<String> {
    let board = fs::read_to_string(repository().join("deploy/monitoring/dashboard.json"))?;
    let board: Value = serde_json::from_str(&board)?;
    let mut queries = 0;
    for panel in list(&board["panels"]) {
        for target in list(&panel["targets"]) {
            let title = panel["title"].as_str().unwrap_or_default();
            let shown = || format!("panel {title:?}: {}", target["expr"]);
            panel_holds(prometheus, title, target).with_context(shown)?;
            queries += 1;
        }
    }
    let mut variables = 0;
    for variable in list(&board["templating"]["list"]) {
        if variable["type"] == "query" {
            let shown = || format!("variable {}", variable["query"]);
            variable_holds(prometheus, variable).with_context(shown)?;
            variables += 1;
        }
    }
    let alerts = prometheus.alert_rules()?;
    for (name, expression) in &alerts {
        let shown = || format!("alert {name}: {expression}");
        let needs = needs(prometheus, expression).with_context(shown)?;
        labels_exist(prometheus, &needs).with_context(shown)?;
    }
    ensure!(
        queries > 20 && variables > 2,
        "the dashboard has too little"
    );
    Ok(format!(
        "{queries} queries, {variables} variables and {} alerts hold",
        alerts.len()
    ))
}

fn panel_holds(prometheus: &Prometheus<'_>, title: &str, target: &Value) -> Result<()> {
    let expression = substituted(target["expr"].as_str().context("no query")?);
    let mut needs = needs(prometheus, &expression)?;
    let legend = target["legendFormat"].as_str().unwrap_or_default();
    needs.labels.extend(labels_of_legend(legend));
    labels_exist(prometheus, &needs)?;
    let result = prometheus.query(&expression)?;
    let may_be_empty = MAY_BE_EMPTY.iter().any(|(panel, _)| *panel == title);
    ensure!(may_be_empty || !result.is_empty(), "the result is empty");
    let is_number = |series: &Value| {
        let value = series["value"][1].as_str().unwrap_or_default();
        value.parse::<f64>().is_ok_and(|value| !value.is_nan())
    };
    ensure!(
        may_be_empty || result.iter().any(is_number),
        "no result is a number: {}",
        Value::from(result)
    );
    Ok(())
}

fn variable_holds(prometheus: &Prometheus<'_>, variable: &Value) -> Result<()> {
    let query = variable["query"].as_str().context("no query")?;
    let inner = query
        .strip_prefix("label_values(")
        .and_then(|query| query.strip_suffix(')'));
    let (series, label) = inner
        .and_then(|inner| inner.rsplit_once(", "))
        .context("it is no label_values(...)")?;
    let mut needs = needs(prometheus, &substituted(series))?;
    needs.labels.insert(label.to_owned());
    labels_exist(prometheus, &needs)
}

/// Checks that each selector finds series, and that each label is one that such series have.
fn labels_exist(prometheus: &Prometheus<'_>, needs: &Needs) -> Result<()> {
    let mut known = BTreeSet::new();
    for selector in &needs.selectors {
        let text = selector.text();
        let of_metric = labels_of(&prometheus.query(&selector.name)?);
        for (label, ..) in &selector.matchers {
            let exists = of_metric.contains(label);
            ensure!(
                exists,
                "no series of {} has the label {label}",
                selector.name
            );
        }
        let found = prometheus.query(&text)?;
        let may_be_absent = MAY_BE_ABSENT.iter().any(|(series, _)| *series == text);
        ensure!(may_be_absent || !found.is_empty(), "nothing is {text}");
        known.extend(of_metric);
    }
    for label in &needs.labels {
        ensure!(known.contains(label), "no series has the label {label}");
    }
    Ok(())
}

fn labels_of(series: &[Value]) -> BTreeSet<String> {
    let metrics = series
        .iter()
        .filter_map(|series| series["metric"].as_object());
    metrics.flat_map(|labels| labels.keys().cloned()).collect()
}

/// The query with Grafana's variables put in, as for "All".
pub(super) fn substituted(query: &str) -> String {
    ["namespace", "peer_relay", "region", "node"]
        .iter()
        .fold(query.replace("$__rate_interval", "1m"), |query, name| {
            query.replace(&format!("=~\"${name}\""), "=~\".*\"")
        })
}

fn labels_of_legend(legend: &str) -> impl Iterator<Item = String> {
    let parts = legend.split("{{").skip(1);
    parts.filter_map(|part| Some(part.split_once("}}")?.0.to_owned()))
}

fn needs(prometheus: &Prometheus<'_>, expression: &str) -> Result<Needs> {
    let mut needs = Needs::default();
    needs.collect(&prometheus.parse(expression)?);
    ensure!(!needs.selectors.is_empty(), "it selects nothing");
    Ok(needs)
}

impl Needs {
    /// Walks through a parsed query.
    fn collect(&mut self, node: &Value) {
        match node {
            Value::Array(parts) => parts.iter().for_each(|part| self.collect(part)),
            Value::Object(fields) => {
                let kind = fields.get("type").and_then(Value::as_str);
                if matches!(kind, Some("vectorSelector" | "matrixSelector")) {
                    self.selectors.insert(Selector::of(node));
                    return;
                }
                let named = [
                    &node["grouping"],
                    &node["matching"]["labels"],
                    &node["matching"]["include"],
                ];
                let named = named.into_iter().flat_map(list);
                self.labels
                    .extend(named.filter_map(|label| label.as_str().map(str::to_owned)));
                fields.values().for_each(|part| self.collect(part));
            }
            _ => {}
        }
    }
}

impl Selector {
    fn of(node: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let matchers = list(&node["matchers"])
            .map(|m| (text(&m["name"]), text(&m["type"]), text(&m["value"])))
            .filter(|(label, ..)| label != "__name__");
        Self {
            name: text(&node["name"]),
            matchers: matchers.collect(),
        }
    }

    fn text(&self) -> String {
        let matchers = self.matchers.iter();
        let matchers = matchers.map(|(label, how, value)| format!("{label}{how}{value:?}"));
        match &*matchers.collect::<Vec<_>>().join(",") {
            "" => self.name.clone(),
            matchers => format!("{}{{{matchers}}}", self.name),
        }
    }
}

pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_parsed_query_names_its_series_and_labels() {
        let mut needs = Needs::default();
        needs.collect(&json!({
            "type": "aggregation", "op": "sum", "grouping": ["kind"], "without": false,
            "param": null,
            "expr": {"type": "call", "args": [{
                "type": "matrixSelector", "name": "binds",
                "matchers": [
                    {"name": "__name__", "type": "=", "value": "binds"},
                    {"name": "node", "type": "=~", "value": ".*"},
                ],
            }]},
        }));
        assert_eq!(needs.labels.iter().collect::<Vec<_>>(), ["kind"]);
        let texts: Vec<_> = needs.selectors.iter().map(Selector::text).collect();
        assert_eq!(texts, ["binds{node=~\".*\"}"]);
        let legend: Vec<_> = labels_of_legend("{{node}} {{path}} x").collect();
        assert_eq!(legend, ["node", "path"]);
    }
}
