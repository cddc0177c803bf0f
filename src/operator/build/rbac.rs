//! The permissions of a region's relays: they report about themselves, and read their own
//! configuration.

use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
};

use super::metadata;
use crate::{
    crd::GROUP,
    operator::{plan::Region, validate::ValidSpec},
};

pub(super) fn service_account(relay: &ValidSpec, region: Region<'_>) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(relay, region),
        ..ServiceAccount::default()
    }
}

/// Server-side apply needs create and patch. The admission policy limits a relay to its own object,
/// because the names of pods are not known in advance.
pub(super) fn role(relay: &ValidSpec, region: Region<'_>) -> Role {
    let rule = |resource: &str, verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![GROUP.to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        verbs: verbs.iter().map(ToString::to_string).collect(),
        ..PolicyRule::default()
    };
    Role {
        metadata: metadata(relay, region),
        rules: Some(vec![
            rule("relaynodes", &["create", "patch"]),
            rule("relaynodes/status", &["patch"]),
            // Nodes update a mounted ConfigMap about once a minute. A watch delivers changes
            // immediately.
            PolicyRule {
                api_groups: Some(vec![String::new()]),
                resources: Some(vec!["configmaps".to_owned()]),
                resource_names: Some(vec![region.child.clone()]),
                verbs: ["list", "watch"].map(str::to_owned).into(),
                ..PolicyRule::default()
            },
        ]),
    }
}

pub(super) fn role_binding(relay: &ValidSpec, region: Region<'_>) -> RoleBinding {
    RoleBinding {
        metadata: metadata(relay, region),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "Role".to_owned(),
            name: region.child.clone(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: region.child.clone(),
            namespace: Some(relay.owner.namespace.clone()),
            ..Subject::default()
        }]),
    }
}
