//! List of metrics, generated from the metrics that relay and operator serve.

use std::collections::{BTreeMap, BTreeSet};

use peerrelay::{
    operator::metrics::Metrics,
    relay::{metrics::render, socket_path::Snapshot, state::RelayState},
};

use crate::hold;

#[test]
fn metrics_are_documented_as_they_are_served() {
    let relay = table(&render(
        "office",
        &RelayState::default(),
        &Snapshot::default(),
    ));
    let operator = table(&Metrics::default().render());
    hold(
        "docs/metrics.md",
        &format!(
            "# Metrics\n\n\
             This page is generated from the code (`UPDATE=1 cargo test --test manifests`). No label contains \
             the address, name or key of a client.\n\n\
             Names that begin with `tailscaled_` are those of Tailscale's own relay, so its dashboards work \
             with this relay. Names that begin with `process_` are the standard ones of a process.\n\n\
             A histogram NAME has three series for each combination of its labels: `NAME_bucket` has the \
             additional label `le` and counts values of at most `le` seconds, `NAME_count` counts all values, \
             and `NAME_sum` is their sum in seconds.\n\n\
             ## Relay, port 9440 by default\n\n{relay}\n\
             ## Operator, port 8080\n\n{operator}"
        ),
    );
}

/// Metric family: type, help, and the values of each label.
#[derive(Default)]
struct Family<'a> {
    kind: &'a str,
    help: &'a str,
    labels: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

/// Returns a table with the name, type, labels and help of each metric family, and a table with the values
/// of labels that have several.
fn table(text: &str) -> String {
    let families = families(text);
    let list = |words: &mut dyn Iterator<Item = &&str>| {
        let words: Vec<String> = words.map(|word| format!("`{word}`")).collect();
        words.join(", ")
    };
    let mut table = "| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    let mut values = "| metric | label | values |\n|---|---|---|\n".to_owned();
    for (name, Family { kind, help, labels }) in families {
        let names = list(&mut labels.keys());
        table += &format!("| `{name}` | {kind} | {names} | {help} |\n");
        for (label, known) in labels.iter().filter(|(_, known)| known.len() > 1) {
            let known = list(&mut known.iter());
            values += &format!("| `{name}` | `{label}` | {known} |\n");
        }
    }
    format!("{table}\n### Values of labels\n\n{values}")
}

fn families(text: &str) -> BTreeMap<&str, Family<'_>> {
    let mut families: BTreeMap<&str, Family<'_>> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            families.entry(name).or_default().help = help;
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            families.entry(name).or_default().kind = kind;
        } else if let Some((name, labels)) = line.split_once('{') {
            let labels = labels.split_once('}').map_or("", |(labels, _)| labels);
            let labels = labels.split(',').filter_map(|label| label.split_once('='));
            let family = families.entry(name).or_default();
            for (label, value) in labels {
                let values = family.labels.entry(label).or_default();
                values.extend(Some(value.trim_matches('"')).filter(|value| !value.is_empty()));
            }
        }
    }
    let histograms = families
        .iter()
        .filter(|(_, family)| family.kind == "histogram");
    let histograms: Vec<&str> = histograms.map(|(name, _)| *name).collect();
    for name in histograms {
        // Series of a histogram are documented once, under its own name.
        for suffix in ["_bucket", "_sum", "_count"] {
            let part = families.remove(&*format!("{name}{suffix}"));
            let labels = part.into_iter().flat_map(|part| part.labels);
            let labels = labels.filter(|(label, _)| *label != "le");
            families.entry(name).or_default().labels.extend(labels);
        }
    }
    families
}
