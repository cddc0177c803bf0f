#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::operator::fixtures;

/// Every kind of exposure, and what of each Kubernetes does not change.
fn exposures() -> Vec<Value> {
    let balanced =
        |load_balancer: Value| json!({"type": "LoadBalancer", "loadBalancer": load_balancer});
    vec![
        json!({}),
        json!({"type": "NodePort"}),
        json!({"type": "NodePort", "nodePort": 31_000, "networkPolicy": true}),
        json!({"type": "NodePort", "nodePort": 31_001, "hostNetwork": true}),
        balanced(json!({})),
        json!({"type": "LoadBalancer", "hostNetwork": true}),
        balanced(json!({"shareAddress": true, "basePort": 50_000})),
        balanced(json!({"class": "example.net/a"})),
        balanced(json!({"class": "example.net/b"})),
        balanced(json!({"ipFamilies": ["IPv4"]})),
        balanced(json!({"ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"})),
        balanced(json!({"ipFamilies": ["IPv4"], "ipFamilyPolicy": "PreferDualStack"})),
        balanced(json!({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"})),
        balanced(json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack"})),
    ]
}

#[test]
fn between_every_two_exposures_objects_change_or_are_replaced() {
    let (mut pairs, mut replaced) = (0, 0);
    for before in exposures() {
        for after in exposures() {
            for chosen in [false, true] {
                let (before, after) = (built(&before, chosen), built(&after, chosen));
                pairs += 1;
                for (key, wanted) in &after {
                    let Some(old) = before.get(key) else { continue };
                    replaced += usize::from(judge(key, old, wanted.clone()));
                }
            }
        }
    }
    assert_eq!(pairs, 2 * exposures().len().pow(2));
    assert!(replaced > 50, "only {replaced} Services were replaced");
}

/// Fails if the API server would refuse `wanted` over what it has made of `old`, and says whether the
/// object is replaced.
fn judge(key: &str, old: &Value, mut wanted: Value) -> bool {
    if wanted["kind"] != "Service" {
        for fixed in ["/spec/selector/matchLabels", "/roleRef"] {
            if wanted["kind"] != "NetworkPolicy" && wanted["kind"] != "PodDisruptionBudget" {
                assert_eq!(old.pointer(fixed), wanted.pointer(fixed), "{key}");
            }
        }
        return false;
    }
    let live = served(old);
    keep_families(&live, &mut wanted);
    let refused = refusals(&live, &wanted);
    let replaced = replaced_for(&live, &wanted);
    assert_eq!(
        replaced.is_some(),
        !refused.is_empty(),
        "{key}: {refused:?}"
    );
    let made = served(&wanted);
    keep_families(&made, &mut wanted);
    assert!(refusals(&made, &wanted).is_empty(), "{key}");
    replaced.is_some()
}

/// The form that an API server of a cluster with both families gives a new Service.
fn served(wanted: &Value) -> Value {
    let mut live = wanted.clone();
    let spec = &mut live["spec"];
    if spec["ipFamilyPolicy"].is_null() {
        spec["ipFamilyPolicy"] = "SingleStack".into();
    }
    if spec["ipFamilies"].is_null() {
        spec["ipFamilies"] = json!(["IPv4"]);
    }
    let families = spec["ipFamilies"].as_array().unwrap().clone();
    if families.len() == 1 && spec["ipFamilyPolicy"] != "SingleStack" {
        let other = if families[0] == "IPv4" {
            "IPv6"
        } else {
            "IPv4"
        };
        spec["ipFamilies"] = json!([families[0], other]);
    }
    live
}

/// The errors of an API server when `wanted` is applied over `live`: the rules of Kubernetes'
/// `validateLoadBalancerClassField`, `validateUpgradeDowngradeIPFamilies` and `initIPFamilyFields`.
fn refusals(live: &Value, wanted: &Value) -> Vec<&'static str> {
    let mut all = Vec::new();
    let (is, should) = (&live["spec"], &wanted["spec"]);
    if is["type"] == "LoadBalancer"
        && should["type"] == "LoadBalancer"
        && is["loadBalancerClass"] != should["loadBalancerClass"]
    {
        all.push("spec.loadBalancerClass may not change once set");
    }
    let Some(families) = should["ipFamilies"].as_array() else {
        return all;
    };
    let has = is["ipFamilies"].as_array().unwrap();
    if families[0] != has[0] {
        all.push("spec.ipFamilies[0] may not change once set");
    } else if families.len() < has.len() && should["ipFamilyPolicy"] != "SingleStack" {
        all.push("spec.ipFamilyPolicy must be SingleStack to release the secondary IP family");
    }
    all
}

/// All objects of a region with this exposure, by kind and name.
fn built(exposure: &Value, chosen: bool) -> BTreeMap<String, Value> {
    let region = json!({"name": "office", "clients": ["tag:office"], "exposure": exposure});
    let mut relay = fixtures::undecided(json!({"regions": [region]}));
    let chosen = chosen || exposure["type"] == "LoadBalancer";
    relay.plan.regions[0].nodes.chosen = chosen.then(|| vec!["n1".into(), "n2".into()]);
    let all = relay.build();
    fn values<K: kube::Resource<DynamicType = ()> + serde::Serialize>(
        list: &[K],
    ) -> Vec<(String, Value)> {
        let value = |object: &K| {
            let mut value = serde_json::to_value(object).unwrap();
            let kind = K::kind(&()).into_owned();
            value["kind"] = kind.clone().into();
            (format!("{kind}/{}", object.name_any()), value)
        };
        list.iter().map(value).collect()
    }
    let mut found = values(&all.services);
    found.extend(values(&all.daemon_sets));
    found.extend(values(&all.role_bindings));
    found.extend(values(&all.network_policies));
    found.extend(values(&all.disruption_budgets));
    found.into_iter().collect()
}

#[test]
fn a_class_that_somebody_else_has_set_stays() {
    let service = |class: Value, note: Value| {
        json!({
            "kind": "Service",
            "metadata": {"annotations": {names::CLASS_ANNOTATION: note}},
            "spec": {"type": "LoadBalancer", "loadBalancerClass": class},
        })
    };
    let plain = service(Value::Null, Value::Null);
    let theirs = service(json!("cloud/lb"), Value::Null);
    let ours = service(json!("a/b"), json!("a/b"));
    assert_eq!(replaced_for(&theirs, &plain), None);
    for (live, wanted) in [(&ours, &plain), (&plain, &ours), (&theirs, &ours)] {
        assert_eq!(replaced_for(live, wanted), Some("spec.loadBalancerClass"));
    }
}

#[test]
fn services_that_have_the_port_of_another_are_in_the_way() {
    let service = |name: &str, port: Option<i32>| -> Service {
        let port = json!({"port": 40_000, "nodePort": port});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"ports": [port]}}))
            .unwrap()
    };
    let names = |live: &[Service], wanted: &[Service]| -> Vec<String> {
        in_the_way(live.iter(), wanted).into_iter().collect()
    };
    let (a, b) = (service("a", Some(31_000)), service("b", Some(31_001)));
    let swapped = [service("a", Some(31_001)), service("b", Some(31_000))];
    let live = [a, b];
    assert_eq!(names(&live, &swapped), ["a", "b"]);
    assert!(names(&live, &live).is_empty());
    let renamed = [service("c", Some(31_000)), service("b", Some(31_001))];
    assert_eq!(names(&live, &renamed), ["a"]);
    let unnamed = [service("a", None), service("b", None)];
    assert!(names(&live, &unnamed).is_empty());
}
