//! Check of an installation: facts about a cluster, and findings that say what is wrong and how to
//! mend it. Pure.
//!
//! The operator and the relays find most problems themselves and report them as conditions. They
//! become findings with the remedies of `docs/conditions.md`. The other checks are about what nothing
//! reports while it is broken: the operator itself, its definitions and its rights.

mod conditions;
pub mod facts;
mod finding;
mod installation;
mod monitoring;
mod relay_nodes;
pub mod remedy;
#[cfg(test)]
mod tests;

pub use self::{
    conditions::reported,
    facts::Facts,
    finding::{Check, Fault, Finding, Severity},
};

/// Runs all checks, from those of the installation to those of the relays.
pub fn run(facts: &Facts) -> Vec<Check> {
    let mut checks = installation::checks(facts);
    if facts.is_installed() {
        checks.extend(conditions::checks(facts));
        checks.push(relay_nodes::check(facts));
        checks.push(monitoring::check(facts));
    }
    checks
}

/// Returns whether a check has found a problem.
pub fn is_wrong(checks: &[Check]) -> bool {
    let mut findings = checks.iter().flat_map(|check| &check.findings);
    findings.any(|finding| finding.severity == Severity::Problem)
}
