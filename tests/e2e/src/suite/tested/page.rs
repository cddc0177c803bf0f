//! Text of the page, and its parser.

use std::{collections::BTreeMap, fmt};

use anyhow::{Context, Result};

/// First part of the page, up to the rows with environments.
const HEAD: &str = "\
# What was tested, with which versions

`cargo dev test` runs these sentences on a real cluster and a real tailnet, and records the outcomes. `cargo dev tested`
writes the last outcome of each one here. All run on amd64, on one machine whose network namespaces are the nodes and
clients.

| environment | kernel | Kubernetes | containerd | Tailscale | build |
|---|---|---|---|---|---|
";
/// Part between the two tables.
const MIDDLE: &str = "
| sentence | outcome | date | environment |
|---|---|---|---|
";

/// Versions with which a sentence was tested.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Environment {
    pub(super) kernel: String,
    pub(super) kubernetes: String,
    pub(super) containerd: String,
    pub(super) tailscale: String,
    pub(super) build: String,
}

/// Last outcome of a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) passed: bool,
    /// Day, as in 2026-11-30.
    pub(super) date: String,
    pub(super) environment: Environment,
}

/// Last outcomes, by sentence; displayed as the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) rows: BTreeMap<String, Row>,
}

impl Page {
    /// Reads a page that was displayed.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut environments = BTreeMap::new();
        let mut rows = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with("| ")) {
            let cells = line.trim_matches('|').split('|').map(str::trim);
            match cells.collect::<Vec<_>>()[..] {
                ["environment" | "sentence", ..] => {}
                [number, kernel, kubernetes, containerd, tailscale, build] => {
                    let environment = Environment {
                        kernel: kernel.to_owned(),
                        kubernetes: kubernetes.to_owned(),
                        containerd: containerd.to_owned(),
                        tailscale: tailscale.to_owned(),
                        build: build.to_owned(),
                    };
                    environments.insert(number, environment);
                }
                [sentence, outcome, date, number] => {
                    let environment = environments.get(number);
                    let environment = environment.with_context(|| {
                        format!("'{sentence}' has the unknown environment '{number}'")
                    })?;
                    let row = Row {
                        passed: outcome == "holds",
                        date: date.to_owned(),
                        environment: environment.clone(),
                    };
                    rows.insert(sentence.to_owned(), row);
                }
                _ => anyhow::bail!("'{line}' is no row"),
            }
        }
        Ok(Self { rows })
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut environments: Vec<_> = self.rows.values().map(|row| &row.environment).collect();
        environments.sort();
        environments.dedup();
        f.write_str(HEAD)?;
        for (index, environment) in environments.iter().enumerate() {
            let Environment {
                kernel,
                kubernetes,
                containerd,
                tailscale,
                build,
            } = environment;
            writeln!(
                f,
                "| {} | {kernel} | {kubernetes} | {containerd} | {tailscale} | {build} |",
                index + 1
            )?;
        }
        f.write_str(MIDDLE)?;
        for (sentence, row) in &self.rows {
            let outcome = if row.passed { "holds" } else { "failed" };
            let known = environments.binary_search(&&row.environment);
            let number = known.map_or(0, |index| index + 1);
            writeln!(f, "| {sentence} | {outcome} | {} | {number} |", row.date)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kernel: &str, passed: bool) -> Row {
        Row {
            passed,
            date: "2026-11-30".into(),
            environment: Environment {
                kernel: kernel.into(),
                kubernetes: "1.36.3".into(),
                containerd: "1.6.20".into(),
                tailscale: "1.102.5".into(),
                build: "dev".into(),
            },
        }
    }

    #[test]
    fn a_page_is_read_as_it_was_written() {
        let rows = [
            ("clients are relayed".to_owned(), row("6.18.5", true)),
            ("a node is drained".to_owned(), row("6.1.0", false)),
            ("relays start".to_owned(), row("6.18.5", true)),
        ];
        let page = Page { rows: rows.into() };
        let text = page.to_string();
        assert_eq!(Page::parse(&text).expect("it was written here"), page);
        assert!(text.contains("| 2 | 6.18.5 |"), "{text}");
        assert!(text.contains("| a node is drained | failed | 2026-11-30 | 1 |"));
        let stray = text.replace("2026-11-30 | 1 |", "2026-11-30 | 7 |");
        Page::parse(&stray).expect_err("there is no environment 7");
    }
}
