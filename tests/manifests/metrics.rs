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

/// Returns a table with the name, type, labels and help of each metric family.
fn table(text: &str) -> String {
    let mut families: BTreeMap<&str, (&str, &str, BTreeSet<&str>)> = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            families.entry(name).or_default().1 = help;
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' '))
        {
            families.entry(name).or_default().0 = kind;
        } else if let Some((name, labels)) = line.split_once('{') {
            let labels = labels.split_once('}').map_or("", |(labels, _)| labels);
            let names = labels
                .split(',')
                .filter_map(|label| Some(label.split_once('=')?.0));
            families.entry(name).or_default().2.extend(names);
        }
    }
    let histograms = families
        .iter()
        .filter(|(_, family)| family.0 == "histogram");
    let histograms: Vec<&str> = histograms.map(|(name, _)| *name).collect();
    for name in histograms {
        // Series of a histogram are documented once, under its own name.
        for suffix in ["_bucket", "_sum", "_count"] {
            let part = families.remove(&*format!("{name}{suffix}"));
            let labels = part.into_iter().flat_map(|(.., labels)| labels);
            let labels = labels.filter(|label| *label != "le");
            families.entry(name).or_default().2.extend(labels);
        }
    }
    let mut table = "| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    for (name, (kind, help, labels)) in families {
        let labels = labels
            .iter()
            .map(|l| format!("`{l}`"))
            .collect::<Vec<_>>()
            .join(", ");
        table += &format!("| `{name}` | {kind} | {labels} | {help} |\n");
    }
    table
}
