//! Subcommand `check`: what is wrong with an installation, and how to mend it.

use std::{fmt::Write as _, process::ExitCode};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    cluster::ClusterArgs,
    collect,
    output::{Colour, Style, print},
};
use crate::check::{self, Check, Finding, Severity};

#[derive(Args)]
#[command(after_help = "\
Examples: check the cluster of your kubeconfig, or one namespace of it
  peerrelay check
  peerrelay check -n relays

Run it before the installation, after it, and when something does not work. It only reads, and \
reads no Secrets. Objects that you may not read are named as not checked. Without -n, all \
namespaces are checked.

Exit codes: 0 if there is no problem (there may be warnings), 1 if there is a problem or the API \
server cannot be reached, 2 for incorrect usage, 141 if standard output is closed.")]
pub(super) struct CheckArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Output format: text for people, or JSON or YAML for programs
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
    Yaml,
}

/// Result for programs.
#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    checks: &'a [Check],
}

impl CheckArgs {
    /// Prints all checks with their findings.
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let client = self.cluster.client().await?;
        let namespace = self.cluster.given_namespace();
        let facts = collect::collect(&client, namespace).await?;
        let checks = check::run(&facts);
        let ok = !check::is_wrong(&checks);
        let report = Report {
            ok,
            checks: &checks,
        };
        print(&match self.output {
            Output::Text => text(&checks, Style::of_output()),
            Output::Json => format!("{}\n", serde_json::to_string_pretty(&report)?),
            Output::Yaml => serde_yaml::to_string(&report)?,
        })?;
        Ok(ExitCode::from(u8::from(!ok)))
    }
}

fn text(checks: &[Check], style: Style) -> String {
    let mut text = String::new();
    for Check { name, findings } in checks {
        if findings.is_empty() {
            let mark = style.paint(Colour::Green, "ok     ");
            writeln!(text, "{mark} {name}").expect("a string takes all");
        }
        for finding in findings {
            write_finding(&mut text, finding, style);
        }
    }
    let count = |severity| {
        let findings = checks.iter().flat_map(|check| &check.findings);
        findings
            .filter(|finding| finding.severity == severity)
            .count()
    };
    let summary = match (count(Severity::Problem), count(Severity::Warning)) {
        (0, 0) => "nothing is wrong".to_owned(),
        (problems, warnings) => format!("{problems} problem(s), {warnings} warning(s)"),
    };
    writeln!(text, "\n{summary}").expect("a string takes all");
    text
}

fn write_finding(text: &mut String, finding: &Finding, style: Style) {
    let mark = match finding.severity {
        Severity::Problem => style.paint(Colour::Red, "problem"),
        Severity::Warning => style.paint(Colour::Yellow, "warning"),
    };
    let Finding {
        fault,
        subject,
        problem,
        remedy,
        ..
    } = finding;
    writeln!(
        text,
        "{mark} {fault}: {subject}\n          what: {problem}\n          fix:  {remedy}"
    )
    .expect("a string takes all");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_finding_says_what_is_wrong_and_how_to_mend_it() {
        let finding = Finding {
            fault: "OperatorMissing".into(),
            severity: Severity::Problem,
            subject: "Deployment peerrelay-operator".to_owned(),
            problem: "no namespace has it".to_owned(),
            remedy: "helm install".to_owned(),
        };
        let check = |name: &str, findings| Check {
            name: name.to_owned(),
            findings,
        };
        let checks = [check("it runs", vec![]), check("that runs", vec![finding])];
        assert_eq!(
            text(&checks, Style::Plain),
            "ok      it runs\n\
             problem OperatorMissing: Deployment peerrelay-operator\n          \
             what: no namespace has it\n          fix:  helm install\n\n\
             1 problem(s), 0 warning(s)\n"
        );
        assert!(text(&checks, Style::Coloured).contains("\u{1b}[31mproblem\u{1b}[0m"));
    }
}
