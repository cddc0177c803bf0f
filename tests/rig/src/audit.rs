//! The API server's log of what service accounts ask.

use std::path::Path;

use serde_json::{Value, json};

/// The API server's audit policy: metadata of what service accounts ask, except Kubernetes' own.
pub fn policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
        "rules": [
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
