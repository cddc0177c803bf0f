//! Changes of exposure, also of what Kubernetes does not change of a Service.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use rig::{deployment::Deployment, metallb::MetalLb, names::NAMESPACE};
use serde_json::{Value, json};

use super::{
    EDGE, Scenario,
    exposure::{endpoints, through},
    vacant,
};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "a change of exposure from every type to every other one ends ready",
            run: every_pair,
        },
        Scenario {
            name: "a change of exposure that Kubernetes does not make to a Service replaces it, with \
                   an event",
            run: replaced,
        },
        Scenario {
            name: "a change of exposure may exchange node ports between regions, and a renamed \
                   region keeps its own",
            run: exchanged,
        },
    ]
}

/// Types in an order in which each follows each other one.
const WALK: [&str; 7] = [
    "HostNetwork",
    "NodePort",
    "LoadBalancer",
    "HostNetwork",
    "LoadBalancer",
    "NodePort",
    "HostNetwork",
];

fn every_pair(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let metallb = MetalLb::start(deployment.rig)?;
    let mut pairs = BTreeSet::new();
    for (at, kind) in WALK.into_iter().enumerate() {
        deployment.apply(EDGE, &region(json!({"type": kind})))?;
        deployment.wait_ready(EDGE).with_context(|| {
            let before = at.checked_sub(1).map_or("nothing", |before| WALK[before]);
            format!("from {before} to {kind}")
        })?;
        let wanted = match kind {
            "HostNetwork" => vec![],
            "NodePort" => vec!["NodePort"],
            _ => vec!["LoadBalancer"; 2],
        };
        deployment.soon("the Services are those of the type", || {
            let services = deployment.list("services", EDGE)?;
            let types = services.iter().filter_map(|s| s["spec"]["type"].as_str());
            let types: Vec<_> = types.filter(|kind| *kind != "ClusterIP").collect();
            ensure!(types == wanted, "Services are {types:?}, not {wanted:?}");
            Ok(())
        })?;
        deployment.eventually("each relay advertises where clients reach it", || {
            let reports = deployment.reports(EDGE)?;
            ensure!(reports.len() == 2, "{} relays report", reports.len());
            for report in &reports {
                let advertised = endpoints(report);
                let mut addresses = advertised.iter();
                let own = addresses.any(|address| address.ends_with(":40000"));
                ensure!(own != (kind == "NodePort"), "{kind}: {advertised:?}");
                let mut addresses = advertised.iter();
                let pool = addresses.any(|address| address.starts_with("10.89.0.2"));
                ensure!(pool == (kind == "LoadBalancer"), "{kind}: {advertised:?}");
            }
            Ok(())
        })?;
        if at > 0 {
            pairs.insert((WALK[at - 1], kind));
        }
    }
    ensure!(pairs.len() == 6, "only {pairs:?} were tried");
    let seen = through(deployment, &[":40000".to_owned()]).with_context(|| metallb.log())?;
    deployment.delete(EDGE)?;
    Ok(format!("{} pairs, then {seen}", pairs.len()))
}

fn replaced(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let metallb = MetalLb::start(deployment.rig)?;
    let balanced = |load_balancer: Value| {
        region(json!({"type": "LoadBalancer", "loadBalancer": load_balancer}))
    };
    let steps = [
        (json!({"ipFamilies": ["IPv4"]}), true),
        (json!({"ipFamilies": ["IPv6"]}), true),
        // The cluster adds the other family, and a further change must not take it away.
        (
            json!({"ipFamilies": ["IPv6"], "ipFamilyPolicy": "PreferDualStack"}),
            true,
        ),
        (
            json!({
                "ipFamilies": ["IPv6"], "ipFamilyPolicy": "PreferDualStack",
                "annotations": {"example.net/changed": "yes"},
            }),
            true,
        ),
        (
            json!({"class": "example.net/nobody", "ipFamilies": ["IPv6"]}),
            false,
        ),
        (json!({"ipFamilies": ["IPv4"]}), true),
    ];
    let mut before = BTreeSet::new();
    let mut replacements = 0;
    for (load_balancer, served) in steps {
        deployment.apply(EDGE, &balanced(load_balancer.clone()))?;
        services_have(deployment, &load_balancer).with_context(|| load_balancer.to_string())?;
        match served {
            true => deployment
                .wait_ready(EDGE)
                .with_context(|| format!("{load_balancer} {}", metallb.log()))?,
            false => deployment.soon("relays wait for addresses", || {
                let is = deployment.condition(EDGE, "EndpointsPublished")?;
                ensure!(is.starts_with("False/"), "EndpointsPublished is '{is}'");
                Ok(())
            })?,
        }
        let now: BTreeSet<String> = services(deployment)?.iter().map(uid).collect();
        replacements += usize::from(!before.is_empty() && now.is_disjoint(&before));
        before = now;
    }
    ensure!(
        replacements == 3,
        "Services were replaced {replacements} times"
    );
    let fields = replaced_for(deployment)?;
    ensure!(
        fields.len() == 2,
        "events name the class or another field: {fields:?}"
    );
    deployment.delete(EDGE)?;
    Ok(format!("{replacements} replacements, each with an event"))
}

/// Waits until the Services have the class and the first IP family that a load balancer asks for.
fn services_have(deployment: &Deployment<'_>, load_balancer: &Value) -> Result<()> {
    let class = &load_balancer["class"];
    let family = &load_balancer["ipFamilies"][0];
    deployment.soon("the Services are as they should be", || {
        let services = services(deployment)?;
        ensure!(services.len() == 2, "{} Services", services.len());
        for service in &services {
            let spec = &service["spec"];
            ensure!(spec["loadBalancerClass"] == *class, "{spec}");
            ensure!(spec["ipFamilies"][0] == *family, "{spec}");
        }
        Ok(())
    })
}

/// Events about replaced Services: `true` for those that name the class.
fn replaced_for(deployment: &Deployment<'_>) -> Result<BTreeSet<bool>> {
    let words = ["get", "events", "-n", NAMESPACE, "-o", "json"];
    let events: Value = serde_json::from_str(&deployment.rig.kubectl(words)?)?;
    let events = events["items"].as_array().into_iter().flatten();
    let replaced = events.filter(|event| event["reason"] == "ServiceReplaced");
    let messages = replaced.filter_map(|event| event["message"].as_str());
    Ok(messages
        .map(|message| message.contains("spec.loadBalancerClass"))
        .collect())
}

fn exchanged(deployment: &Deployment<'_>) -> Result<String> {
    vacant(deployment)?;
    let regions = |first: (&str, u16), second: (&str, u16)| {
        let region = |(name, port): (&str, u16), node: usize| {
            json!({
                "name": name, "clients": ["tag:office"],
                "exposure": {"type": "NodePort", "nodePort": port},
                "placement": {"nodeSelector": {
                    "kubernetes.io/hostname": deployment.rig.nodes[node].machine.name,
                }},
            })
        };
        json!({"regions": [region(first, 0), region(second, 1)]})
    };
    let steps = [
        (("office", 31_000), ("lab", 31_001)),
        (("office", 31_001), ("lab", 31_000)),
        (("annex", 31_001), ("lab", 31_000)),
    ];
    for (first, second) in steps {
        deployment.apply(EDGE, &regions(first, second))?;
        deployment
            .wait_ready(EDGE)
            .with_context(|| format!("{first:?} {second:?}"))?;
        for (name, port) in [first, second] {
            let service = deployment.object("service", &format!("{EDGE}-{name}"))?;
            let has = &service["spec"]["ports"][0]["nodePort"];
            ensure!(*has == port, "{name} has {has}, not {port}");
        }
    }
    deployment.delete(EDGE)?;
    Ok(format!("{} steps", steps.len()))
}

fn region(exposure: Value) -> Value {
    json!({"regions": [{"name": "office", "clients": ["tag:office"], "exposure": exposure}]})
}

/// The relays' Services, except those that are being removed.
fn services(deployment: &Deployment<'_>) -> Result<Vec<Value>> {
    let mut all = deployment.list("services", EDGE)?;
    all.retain(|service| {
        service["spec"]["type"] == "LoadBalancer"
            && service["metadata"]["deletionTimestamp"].is_null()
    });
    Ok(all)
}

fn uid(object: &Value) -> String {
    object["metadata"]["uid"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}
