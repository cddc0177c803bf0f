#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use super::*;
use crate::operator::{credential::CredentialProblem, fixtures};

fn spec(sync: &str) -> ValidSpec {
    let grants = json!({"sync": sync, "oauth": {"secretName": "policy"}});
    fixtures::validated(json!({"grants": grants}))
}

/// The plan after a comparison with the entries of `spec`.
fn after(spec: &ValidSpec, view: &ClusterView, finding: Option<Finding>) -> PolicyPlan {
    let access = spec.policy_access.as_ref().unwrap();
    let view = ClusterView {
        syncing: Syncing {
            checksum: Entries::new(spec, access).checksum,
            finding,
            ..Syncing::default()
        },
        ..view.clone()
    };
    plan(spec, &view)
}

fn differs() -> Option<Finding> {
    Some(Finding::Differs {
        diff: "+é\n".repeat(5_000),
        refused: None,
    })
}

fn failed() -> Option<Finding> {
    Some(Finding::Failed(CredentialProblem {
        reason: "PolicyInvalid",
        message: String::new(),
        needs_user: true,
    }))
}

/// The view after a pass with this plan.
fn stored(plan: &PolicyPlan) -> ClusterView {
    let data = plan.diff.iter().map(|diff| (DIFF.to_owned(), diff.clone()));
    let mut map = ConfigMap::default();
    map.metadata.name = Some("edge-grants".into());
    map.data = Some(data.collect());
    ClusterView {
        policy: plan.status.clone(),
        config_maps: vec![Arc::new(map)],
        ..ClusterView::default()
    }
}

#[test]
fn entries_are_recorded_before_they_are_written_and_while_they_may_exist() {
    let (spec, empty) = (spec("Apply"), ClusterView::default());
    let first = after(&spec, &empty, None);
    assert_eq!((first.has_entries(), first.is_known()), (false, false));
    let failing = after(&spec, &empty, failed());
    assert!(!failing.has_entries(), "a credential that never worked");
    let found = after(&spec, &empty, differs());
    assert_eq!((found.has_entries(), found.is_known()), (true, false));
    assert_eq!(found.diff, None);
    let written = after(&spec, &stored(&found), Some(Finding::UpToDate));
    assert_eq!((written.has_entries(), written.is_known()), (true, true));
    let restarted = after(&spec, &stored(&written), None);
    assert_eq!(
        (restarted.has_entries(), restarted.is_known()),
        (true, true)
    );
    let overwritten = after(&spec, &stored(&written), differs());
    assert_eq!(
        (overwritten.has_entries(), overwritten.is_known()),
        (true, true)
    );
    let failing = after(&spec, &stored(&written), failed());
    assert_eq!((failing.has_entries(), failing.is_known()), (true, false));

    let proposes = after(&self::spec("Propose"), &stored(&written), None);
    assert_eq!(
        (proposes.has_entries(), proposes.is_known()),
        (false, false)
    );
    let off = plan(&fixtures::validated(json!({})), &stored(&written));
    assert!(off.status.is_none() && off.entries.is_none());
}

#[test]
fn a_proposal_is_stored_whole_in_the_config_map_and_bounded_in_the_status() {
    let (spec, empty) = (spec("Propose"), ClusterView::default());
    let proposed = after(&spec, &empty, differs());
    assert!(proposed.is_known() && !proposed.has_entries());
    assert_eq!(proposed.diff.as_ref().unwrap().len(), 20_000);
    let proposal = proposed.status.clone().unwrap().proposal.unwrap();
    assert_eq!(proposal.diff.chars().count(), LONGEST_DIFF);

    let view = stored(&proposed);
    for finding in [None, failed()] {
        let kept = after(&spec, &view, finding);
        assert_eq!(
            (&kept.diff, &kept.status),
            (&proposed.diff, &proposed.status)
        );
    }
    let deleted = ClusterView {
        config_maps: Vec::new(),
        ..view.clone()
    };
    assert!(
        !after(&spec, &deleted, None).is_known(),
        "it is found again"
    );
    let merged = after(&spec, &view, Some(Finding::UpToDate));
    assert_eq!((&merged.diff, merged.is_known()), (&None, true));
    assert_eq!(merged.status.unwrap().proposal, None);
}

#[test]
fn findings_of_the_review_are_bounded_and_kept_until_the_next_comparison() {
    let spec = spec("Apply");
    let access = spec.policy_access.as_ref().unwrap();
    let finding = policy_file::Finding {
        line: Some(7),
        kind: policy_file::FindingKind::WildcardDestination,
        message: "é".repeat(600),
    };
    let compared =
        |view: &ClusterView, finding: Option<Finding>, review: &[policy_file::Finding]| {
            let view = ClusterView {
                syncing: Syncing {
                    checksum: Entries::new(&spec, access).checksum,
                    finding,
                    review: review.to_vec(),
                    ..Syncing::default()
                },
                ..view.clone()
            };
            plan(&spec, &view)
        };
    let findings = |plan: &PolicyPlan| plan.status.clone().unwrap().findings;
    let many = vec![finding; 20];
    let first = compared(&ClusterView::default(), Some(Finding::UpToDate), &many);
    assert_eq!(findings(&first).len(), MOST_FINDINGS);
    let one = &findings(&first)[0];
    assert_eq!((one.line, &*one.kind), (Some(7), "wildcard-destination"));
    assert_eq!(one.message.chars().count(), LONGEST_FINDING);
    assert!(first.has_findings());

    for finding in [None, failed()] {
        let kept = compared(&stored(&first), finding, &[]);
        assert_eq!(findings(&kept), findings(&first));
    }
    let solved = compared(&stored(&first), Some(Finding::UpToDate), &[]);
    assert!(!solved.has_findings());
    let mut other = stored(&first);
    other.policy.as_mut().unwrap().checksum = "other".into();
    assert!(!compared(&other, None, &[]).has_findings());
}

#[test]
fn the_expiry_of_the_credential_is_kept_until_the_next_comparison() {
    let spec = spec("Apply");
    let checksum = Entries::new(&spec, spec.policy_access.as_ref().unwrap()).checksum;
    let expiry: Timestamp = "2026-06-30T00:00:00Z".parse().unwrap();
    let view = ClusterView {
        syncing: Syncing {
            checksum,
            finding: Some(Finding::UpToDate),
            credential_expires: Some(expiry),
            ..Syncing::default()
        },
        ..ClusterView::default()
    };
    let first = plan(&spec, &view);
    assert_eq!(first.credential_expires(), Some(expiry));
    for finding in [None, failed()] {
        let kept = after(&spec, &stored(&first), finding);
        assert_eq!(kept.credential_expires(), Some(expiry));
    }
    let renewed = after(&spec, &stored(&first), Some(Finding::UpToDate));
    assert_eq!(renewed.credential_expires(), None);
}

#[test]
fn the_checksum_follows_everything_that_a_comparison_depends_on() {
    let checksum = |grants: serde_json::Value, clients: &[&str]| {
        let regions = json!([{"name": "office", "clients": clients}]);
        let spec = fixtures::validated(json!({"grants": grants, "regions": regions}));
        let access = spec.policy_access.as_ref().unwrap();
        Entries::new(&spec, access).checksum
    };
    let oauth = json!({"secretName": "policy"});
    let all = [
        checksum(json!({"sync": "Apply", "oauth": oauth}), &["tag:a"]),
        checksum(json!({"sync": "Propose", "oauth": oauth}), &["tag:a"]),
        checksum(
            json!({"sync": "Apply", "oauth": {"secretName": "b"}}),
            &["tag:a"],
        ),
        checksum(
            json!({"sync": "Apply", "oauth": oauth, "tagOwners": ["tag:b"]}),
            &["tag:a"],
        ),
        checksum(
            json!({"sync": "Apply", "oauth": oauth, "cluster": "b"}),
            &["tag:a"],
        ),
        checksum(
            json!({"sync": "Apply", "oauth": oauth, "tests": "Deny"}),
            &["tag:a"],
        ),
        checksum(
            json!({"sync": "Apply", "oauth": oauth}),
            &["tag:a", "tag:b"],
        ),
    ];
    for (at, one) in all.iter().enumerate() {
        assert!(!all[..at].contains(one), "{at}");
    }
}
