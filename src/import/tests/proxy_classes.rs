//! Fields of ProxyClasses.

use super::*;

#[test]
fn proxy_class_that_is_missing_is_lost() {
    let spec = json!({"proxyClass": "own"});
    let (_, notes) = converted(&[object("PeerRelay", "edge", &spec)], &options());
    assert_eq!(lost(&notes), ["spec.proxyClass"]);
}

#[test]
fn placement_of_a_proxy_class_is_kept() {
    let term = json!({"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "pool", "operator": "In", "values": ["edge"]},
    ]}]});
    let (relay, notes) = pod(&json!({
        "nodeSelector": {"pool": "edge"},
        "nodeName": "n1",
        "tolerations": [{"key": "edge", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule"},
        ],
    }));
    let wanted = json!({
        "nodeSelector": {"pool": "edge", "kubernetes.io/hostname": "n1"},
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}},
        "tolerations": [{"key": "edge", "operator": "Exists"}],
        "maxRelays": 1,
    });
    assert_eq!(relay["spec"]["regions"][0]["placement"], wanted);
    assert_eq!(lost(&notes), [""; 0]);
    let path = "spec.statefulSet.pod.topologySpreadConstraints";
    assert_eq!(effect(&notes, path), Some(Effect::Changed));
}

#[test]
fn placement_without_counterpart_is_lost() {
    let term = json!({"weight": 1, "preference": {"matchFields": []}});
    let (_, notes) = pod(&json!({
        "affinity": {
            "podAffinity": {},
            "podAntiAffinity": {},
            "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]},
        },
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"},
        ],
        "tolerations": [{"key": "a", "ky": "b"}],
    }));
    let mut wanted = [
        "topologySpreadConstraints",
        "tolerations.0.ky",
        "affinity.podAffinity",
        "affinity.podAntiAffinity",
        "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution",
    ]
    .map(|path| format!("spec.statefulSet.pod.{path}"));
    let mut lost = lost(&notes);
    wanted.sort();
    lost.sort_unstable();
    assert_eq!(lost, wanted);
}

#[test]
fn pods_of_a_proxy_class_keep_what_relays_can_have() {
    let (relay, notes) = pod(&json!({
        "labels": {"team": "net"},
        "annotations": {"example.net/a": "b"},
        "priorityClassName": "high",
        "imagePullSecrets": [{"name": "registry"}],
        "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["192.0.2.53"]},
        "securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]},
        "tailscaleContainer": {
            "imagePullPolicy": "Always",
            "resources": {"requests": {"cpu": "1"}},
            "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        },
        "tailscaleInitContainer": {"image": "busybox"},
    }));
    let wanted = json!({
        "imagePullSecrets": ["registry"],
        "resources": {"requests": {"cpu": "1"}},
        "priorityClassName": "high",
        "labels": {"team": "net"},
        "annotations": {"example.net/a": "b"},
        "podOverrides": {
            "dnsPolicy": "None",
            "dnsConfig": {"nameservers": ["192.0.2.53"]},
            "securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "1"}]},
            "containers": [{
                "name": "relay",
                "imagePullPolicy": "Always",
                "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
            }],
        },
    });
    assert_eq!(relay["spec"]["template"], wanted);
    assert_eq!(lost(&notes), [""; 0]);
}

#[test]
fn pods_of_a_proxy_class_lose_what_is_for_tailscaled() {
    let (relay, notes) = with_class(&json!({"statefulSet": {
        "labels": {"a": "b"},
        "annotations": {"a": "b"},
        "pod": {
            "securityContext": {"runAsUser": 0},
            "tailscaleContainer": {
                "image": "tailscale/tailscale:v1", "securityContext": {"privileged": true},
                "debug": {"enable": true}, "env": [{"name": "TS_DEBUG", "value": "secret"}],
            },
        },
    }}));
    assert!(relay["spec"]["template"].is_null(), "{relay}");
    let wanted = [
        "labels",
        "annotations",
        "pod.securityContext.runAsUser",
        "pod.tailscaleContainer.image",
        "pod.tailscaleContainer.securityContext",
        "pod.tailscaleContainer.debug",
        "pod.tailscaleContainer.env.TS_DEBUG",
    ]
    .map(|path| format!("spec.statefulSet.{path}"));
    assert_eq!(lost(&notes), wanted);
    assert!(!format!("{notes:?}").contains("secret"));
}

#[test]
fn metrics_of_a_proxy_class_become_a_service_monitor() {
    let (relay, notes) = with_class(&json!({
        "metrics": {"enable": true, "serviceMonitor": {"enable": true, "labels": {"release": "p"}}},
        "tailscale": {"acceptRoutes": true},
        "useLetsEncryptStagingEnvironment": true,
        "staticEndpoints": {"nodePort": {"ports": [{"port": 30_000}]}},
    }));
    let wanted = json!({"serviceMonitor": "Enabled", "labels": {"release": "p"}});
    assert_eq!(relay["spec"]["monitoring"], wanted);
    assert_eq!(lost(&notes), [""; 0]);
    for path in [
        "spec.metrics.enable",
        "spec.tailscale.acceptRoutes",
        "spec.useLetsEncryptStagingEnvironment",
        "spec.staticEndpoints",
    ] {
        assert_eq!(effect(&notes, path), Some(Effect::Changed), "{path}");
    }
    let (relay, _) = with_class(&json!({"metrics": {"enable": false}}));
    assert!(relay["spec"]["monitoring"].is_null());
}
