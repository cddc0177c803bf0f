//! Restrictions of the relays' namespace: Pod Security and NetworkPolicies that are enforced.

use anyhow::{Context, Result};
use rig::{deployment::Deployment, names::NAMESPACE, network_policies::NetworkPolicies};
use serde_json::{Value, json};

/// Name of the policy that lets nothing in or out.
pub(super) const CLOSED: &str = "closed";

/// Runs `inside` while the relays' namespace enforces Pod Security `restricted`.
pub(super) fn restricted<T>(
    deployment: &Deployment<'_>,
    inside: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let enforce = |level: &str| {
        let label = format!("pod-security.kubernetes.io/enforce={level}");
        let words = ["label", "namespace", NAMESPACE, "--overwrite", &label];
        deployment.rig.kubectl(words).map(drop)
    };
    enforce("restricted")?;
    let result = inside();
    enforce("privileged")?;
    result
}

/// Runs `inside` while policies are enforced, in a namespace that is closed: only the relays' own policy
/// lets traffic to and from them pass.
pub(super) fn where_enforced<T>(
    deployment: &Deployment<'_>,
    inside: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let enforced = NetworkPolicies::enforce(deployment.rig)?;
    deployment.rig.apply(&everything_closed().to_string())?;
    let seen = inside().with_context(|| enforced.log());
    let policy = ["delete", "networkpolicy", CLOSED, "-n", NAMESPACE];
    deployment
        .rig
        .kubectl(policy.into_iter().chain(["--ignore-not-found"]))?;
    seen
}

/// A policy that blocks all traffic of all pods in the relays' namespace.
fn everything_closed() -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": CLOSED, "namespace": NAMESPACE},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
    })
}
