//! The API server's audit log of the requests of service accounts.

use std::path::Path;

use serde_json::{Value, json};

/// Verbs that change an object.
pub const WRITES: [&str; 5] = ["create", "update", "patch", "delete", "deletecollection"];

/// The API server's audit policy: metadata of the requests of service accounts, except Kubernetes' own,
/// and of the requests of anyone that give or take rights.
pub fn policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "Metadata", "verbs": WRITES, "resources": [
                {"group": "rbac.authorization.k8s.io"},
                {"group": "", "resources": ["serviceaccounts"]},
            ]},
            {"level": "None", "userGroups": ["system:serviceaccounts:kube-system"]},
            {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
            {"level": "None"},
        ],
    })
}

/// Flags by which the API server writes the log.
pub fn flags(policy: &Path, log: &Path) -> [String; 2] {
    [
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", log.display()),
    ]
}
