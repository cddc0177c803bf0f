//! The status of a PeerRelay. Pure.

mod allowance;
pub(super) mod condition;
mod credential;
mod devices;
mod disabled;
mod endpoints;
mod expiring;
pub mod findings;
mod grants;
mod observed;
pub mod pods;
mod policy;
mod ready;
mod refused;
mod regions;
mod review;
mod serving;
mod verified;

use std::collections::BTreeSet;

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Resource,
    api::{Patch, PatchParams},
};
use serde::Serialize;
use serde_json::{Value, json};

use self::{
    condition::{ConditionUpdate, condition, keep_others},
    observed::Observed,
};
use super::{
    build::grants_status,
    credential::ACCEPTED,
    objects::{Applied, Objects},
    plan::{Plan, Region},
    refusal::Cause,
    tailnet,
    validate::{INVALID_SPEC, ValidSpec},
    view::ClusterView,
};
use crate::{
    crd::{PeerRelay, PeerRelayStatus, exposure::ExposureType},
    names,
};

/// Reasons that the operator itself sets; those of relays are in
/// [`RelayReason`](crate::crd::relay_reason::RelayReason), those of pods in
/// [`pods::Trouble`].
pub const REASONS: &[&str] = &[
    "RelaysReady",
    "RelaysStarting",
    "NoNodes",
    "NodesTaken",
    "NoRelayReady",
    "Connected",
    serving::DEVICE_NAME_TAKEN,
    "NoReport",
    "NodePortPending",
    "LoadBalancerPending",
    "ElasticIPMissing",
    "WithinAllowance",
    "AllowanceExceeded",
    "Paused",
    disabled::DISABLED,
    disabled::WITHDRAWING,
    INVALID_SPEC,
    Cause::NameTaken.reason(),
    Cause::Rejected.reason(),
    Cause::Failed.reason(),
    grants::EFFECTIVE,
    grants::MISSING,
    grants::TOO_BROAD,
    grants::INCOMPLETE,
    grants::TAG_SHARED,
    grants::UNSEEN,
    grants::NOT_REPORTED,
    "Published",
    "NoEndpoints",
    "InvalidAnnotation",
    "Verified",
    "StaticEndpointUnreachable",
    "EndpointUnreachable",
    "NoOtherRelay",
    "NotTried",
    ACCEPTED,
    expiring::NODE_KEY,
    expiring::API_KEY,
];

/// Outcome of a pass for the status.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// `spec.paused` is set; nothing was changed.
    Paused,
    /// The specification is invalid. Nothing was changed.
    Invalid {
        /// Documented reason, in CamelCase.
        reason: &'a str,
        /// Sentence that names the fault and the fix.
        message: &'a str,
    },
    /// Objects were applied, except for those that were refused.
    Applied(Pass<'a>),
}

/// A pass that applied objects.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// Specification of the PeerRelay.
    pub spec: &'a ValidSpec,
    /// Plan of the PeerRelay.
    pub plan: &'a Plan,
    /// Result of applying its objects.
    pub objects: &'a Objects<Applied>,
}

impl<'a> Pass<'a> {
    /// The regions with their plans.
    fn regions(&self) -> impl Iterator<Item = Region<'a>> + Clone + use<'a> {
        self.plan.regions(self.spec)
    }
}

/// Computes the status that `relay` should have, from the cluster before the pass and its outcome.
pub fn status(
    relay: &PeerRelay,
    view: &ClusterView,
    outcome: Outcome<'_>,
    now: Timestamp,
) -> PeerRelayStatus {
    let observed = match outcome {
        Outcome::Applied(pass) => Observed::new(relay, pass, view, now),
        Outcome::Paused | Outcome::Invalid { .. } => Observed::unchanged(relay, view),
    };
    let generation = relay.metadata.generation.unwrap_or_default();
    let old = relay
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.conditions);
    let mut conditions: Vec<_> = updates(&observed, view, outcome, old, now)
        .into_iter()
        .map(|update| condition(update, old, generation, now))
        .collect();
    if !matches!(outcome, Outcome::Applied(_)) {
        keep_others(&mut conditions, old);
    }
    let counts = observed.counts;
    PeerRelayStatus {
        observed_generation: generation,
        conditions,
        relays: format!("{}/{}", counts.ready, counts.desired),
        region_names: relay
            .spec
            .regions
            .iter()
            .map(|r| &*r.name)
            .collect::<Vec<_>>()
            .join(","),
        exposure: exposure(relay),
        endpoints: observed.endpoints.join(","),
        sessions: counts.sessions,
        tailnet: tailnet::domain(view.reports.iter().map(AsRef::as_ref)),
        regions: observed.regions,
        devices: match outcome {
            Outcome::Applied(pass) => pass.plan.devices.recorded.clone(),
            _ => view.devices.clone(),
        },
        grants: match outcome {
            Outcome::Applied(pass) => grants_status(pass.spec),
            _ => relay.status.as_ref().and_then(|last| last.grants.clone()),
        },
        policy: match outcome {
            Outcome::Applied(pass) => pass.plan.policy.status.clone(),
            _ => view.policy.clone(),
        },
    }
}

/// The conditions that follow from an outcome.
fn updates(
    observed: &Observed,
    view: &ClusterView,
    outcome: Outcome<'_>,
    old: &[Condition],
    now: Timestamp,
) -> Vec<ConditionUpdate> {
    let pass = match outcome {
        Outcome::Paused => {
            let message = "spec.paused is set: nothing is changed until it is false";
            let ready = ConditionUpdate::new("Ready", "Unknown", "Paused", message);
            return [vec![ready], serving::updates(observed)].concat();
        }
        Outcome::Invalid { reason, message } => {
            let update = |kind, status| ConditionUpdate::new(kind, status, reason, message);
            let invalid = vec![update("Ready", "False"), update("Stalled", "True")];
            let credential = credential::refused(reason, message);
            let serving = serving::updates(observed);
            return [invalid, credential.into_iter().collect(), serving].concat();
        }
        Outcome::Applied(pass) => pass,
    };
    let mut updates = match pass.spec.enabled {
        false => disabled::updates(observed),
        true => {
            let mut updates = ready::updates(observed);
            updates.extend(serving::updates(observed));
            let findings = findings::findings(pass, &observed.regions, now);
            updates.push(grants::condition(&observed.grants, &findings));
            updates.push(verified::verified(&view.reports));
            updates.push(endpoints::published(&view.reports, pass.regions()));
            updates.extend(allowance::update(pass, &view.neighbours));
            updates.extend(credential::update(pass, &view.issuing, old));
            updates
        }
    };
    updates.extend(devices::update(pass, &view.deleting));
    updates.extend(policy::update(pass, &view.syncing, old));
    updates.extend(expiring::update(pass, view, now));
    match &pass.objects.stage.refused {
        Some(refused) => refused::apply(updates, refused),
        None => updates,
    }
}

/// Returns the request that sets the status of exactly this PeerRelay, and of no other one with its
/// name.
pub(super) fn patch(relay: &ObjectMeta, new: &impl Serialize) -> (PatchParams, Patch<Value>) {
    let patch = json!({
        "apiVersion": PeerRelay::api_version(&()),
        "kind": PeerRelay::kind(&()),
        // The API server answers 409 if the object with this name has another UID.
        "metadata": {"name": relay.name, "uid": relay.uid},
        "status": new,
    });
    // Without force, a field that somebody else has written would block every status.
    let params = PatchParams::apply(names::STATUS_MANAGER).force();
    (params, Patch::Apply(patch))
}

/// Lists every type of exposure once.
fn exposure(relay: &PeerRelay) -> String {
    let kinds = relay.spec.regions.iter().map(|region| {
        let exposure = region.exposure.as_ref();
        exposure.map_or_else(ExposureType::default, |exposure| exposure.kind)
    });
    let kinds: BTreeSet<_> = kinds.collect();
    let texts: Vec<_> = kinds.into_iter().map(ExposureType::as_str).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests;
