//! PeerRelays, TailnetCredentials, specifications and plans for tests.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    build::build,
    defaults::{Defaults, RelayImage},
    objects::{Applied, Deferred, Objects, Prepared},
    plan::{Plan, Region, RegionPlan, plan},
    referred_credential::Referred,
    status::{Outcome, Pass},
    validate::{ValidSpec, validate},
    view::ClusterView,
};
use crate::crd::{PeerRelay, TailnetCredential};

/// A specification, its plan and the result of applying its objects.
pub(crate) struct Fixture {
    pub(crate) spec: ValidSpec,
    pub(crate) plan: Plan,
    pub(crate) applied: Objects<Applied>,
}

impl Fixture {
    fn new(spec: ValidSpec, plan: Plan) -> Self {
        let applied = Objects {
            owner: spec.owner.clone(),
            deferred: Deferred::default(),
            stage: Applied::default(),
        };
        Self {
            spec,
            plan,
            applied,
        }
    }

    /// A region with its plan.
    pub(crate) fn region(&self, at: usize) -> Region<'_> {
        let mut regions = self.plan.regions(&self.spec);
        regions.nth(at).expect("the fixture has the region")
    }

    /// The objects that are built.
    pub(crate) fn objects(&self) -> Objects<Prepared> {
        build(&self.spec, &self.plan)
    }

    /// The objects to apply.
    pub(crate) fn build(&self) -> Prepared {
        self.objects().stage
    }

    /// The outcome of a pass.
    pub(crate) fn outcome(&self) -> Outcome<'_> {
        Outcome::Applied(Pass {
            spec: &self.spec,
            plan: &self.plan,
            objects: &self.applied,
        })
    }
}

/// The smallest PeerRelay, as read from the API; `spec` replaces fields.
pub(crate) fn relay(spec: Value) -> PeerRelay {
    let mut whole = json!({
        "tailnet": {"authKey": {"secretName": "tailnet-auth"}},
        "regions": [{"name": "office", "clients": ["tag:office"]}],
    });
    for (field, value) in spec.as_object().expect("a spec is an object") {
        whole[field] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "peerrelay.dev/v1alpha1",
        "kind": "PeerRelay",
        "metadata": {"name": "edge", "namespace": "relays", "uid": "u-1", "generation": 3},
        "spec": whole,
    }))
    .expect("the fixture is a PeerRelay")
}

/// A TailnetCredential `acme` with this specification.
pub(crate) fn tailnet_credential(spec: &Value) -> TailnetCredential {
    serde_json::from_value(json!({
        "apiVersion": "peerrelay.dev/v1alpha1",
        "kind": "TailnetCredential",
        "metadata": {"name": "acme", "uid": "u-2"},
        "spec": spec,
    }))
    .expect("the fixture is a TailnetCredential")
}

/// The specification of the smallest PeerRelay; `spec` replaces fields.
pub(crate) fn validated(spec: Value) -> ValidSpec {
    let referred = Referred::Unknown;
    validate(&relay(spec), &referred, &defaults()).expect("the fixture is valid")
}

/// The same PeerRelay with a plan that decides nothing: a relay runs on every node that fits.
pub(crate) fn undecided(spec: Value) -> Fixture {
    unplanned(validated(spec))
}

/// The same for a specification.
pub(crate) fn unplanned(spec: ValidSpec) -> Fixture {
    let region = |region: &super::validate::ValidRegion| RegionPlan {
        endpoints: region.endpoints.clone(),
        ..RegionPlan::default()
    };
    let plan = Plan {
        regions: spec.regions.iter().map(region).collect(),
        ..Plan::default()
    };
    Fixture::new(spec, plan)
}

/// The same PeerRelay, planned in a cluster.
pub(crate) fn planned_in(spec: Value, view: &ClusterView) -> Fixture {
    planned_at(spec, view, Timestamp::UNIX_EPOCH)
}

/// The same PeerRelay, planned in a cluster at a time.
pub(crate) fn planned_at(spec: Value, view: &ClusterView, now: Timestamp) -> Fixture {
    let spec = validated(spec);
    let plan = plan(&spec, view, now);
    Fixture::new(spec, plan)
}

/// Defaults of an operator that names only an image.
pub(crate) fn defaults() -> Defaults {
    Defaults {
        image: RelayImage {
            reference: "example.test/peerrelay:1".into(),
            pull_policy: "IfNotPresent".into(),
        },
        ..Defaults::default()
    }
}
