#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::*;
use crate::operator::{
    fixtures::{self, Fixture},
    policy_sync::Entries,
    status::condition::condition,
    view::ClusterView,
};

fn syncing(fixture: &Fixture, finding: Finding) -> Syncing {
    let access = fixture.spec.policy_access.as_ref().unwrap();
    Syncing {
        checksum: Entries::new(&fixture.spec, access).checksum,
        finding: Some(finding),
        ..Syncing::default()
    }
}

/// Status and reason of the condition, and its message.
fn told(fixture: &Fixture, syncing: &Syncing, old: &[Condition]) -> Option<(String, String)> {
    let pass = Pass {
        spec: &fixture.spec,
        plan: &fixture.plan,
        objects: &fixture.applied,
    };
    let update = update(pass, syncing, old)?;
    Some((
        format!("{}/{}", update.status, update.reason),
        update.message,
    ))
}

fn fixture(sync: &str) -> Fixture {
    let grants = json!({"sync": sync, "oauth": {"secretName": "policy"}});
    fixtures::planned_in(json!({"grants": grants}), &ClusterView::default())
}

fn differs() -> Finding {
    Finding::Differs {
        diff: "+".into(),
        refused: None,
    }
}

#[test]
fn a_proposal_names_the_config_map_and_an_overwrite_the_fix() {
    let applies = fixture("Apply");
    let written = syncing(&applies, Finding::UpToDate);
    let (reason, _) = told(&applies, &written, &[]).unwrap();
    assert_eq!(reason, "True/PolicyUpToDate");

    let mut overwritten = syncing(&applies, differs());
    overwritten.is_overwritten = true;
    let (reason, message) = told(&applies, &overwritten, &[]).unwrap();
    assert_eq!(reason, "False/PolicyOverwritten");
    assert!(message.contains("peerrelay grants merge"), "{message}");

    let proposes = fixture("Propose");
    let proposal = syncing(&proposes, differs());
    let (reason, message) = told(&proposes, &proposal, &[]).unwrap();
    assert_eq!(reason, "False/PolicyProposed");
    assert!(message.contains("ConfigMap edge-grants"), "{message}");
}

#[test]
fn the_last_result_stays_until_another_comparison() {
    let applies = fixture("Apply");
    assert_eq!(told(&applies, &Syncing::default(), &[]), None);
    let update = ConditionUpdate::new(KIND, "True", UP_TO_DATE, "m");
    let old = [condition(update, &[], 1, Timestamp::UNIX_EPOCH)];
    for unknown in [Syncing::default(), syncing(&applies, differs())] {
        let (reason, message) = told(&applies, &unknown, &old).unwrap();
        assert_eq!((&*reason, &*message), ("True/PolicyUpToDate", "m"));
    }
    let off = fixtures::planned_in(json!({}), &ClusterView::default());
    assert_eq!(told(&off, &Syncing::default(), &old), None);
}
