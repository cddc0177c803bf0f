//! Fields of PeerRelays of Tailscale's operator.

use super::*;

#[test]
fn smallest_relay_keeps_its_port_its_exposure_and_its_number() {
    let (relay, notes) = relay(&json!({}));
    let wanted = json!({
        "apiVersion": "peerrelay.dev/v1alpha1",
        "kind": "PeerRelay",
        "metadata": {"name": "edge", "namespace": "relays"},
        "spec": {
            "port": 41_641,
            "tailnet": {"authKey": {"secretName": "tailnet-auth"}},
            "regions": [{
                "name": "edge",
                "clients": ["tag:office"],
                "placement": {"maxRelays": 1},
                "exposure": {"type": "LoadBalancer"},
            }],
        },
    });
    assert_eq!(relay, wanted);
    assert_eq!(lost(&notes), [""; 0]);
    let key = notes.iter().find(|note| note.message.contains("auth key"));
    assert_eq!(key.unwrap().effect, Effect::ToDo);
}

#[test]
fn relay_keeps_its_own_tag_and_not_the_one_of_all_devices() {
    for (tags, wanted, lose) in [
        (json!(null), json!(null), false),
        (json!(["tag:k8s"]), json!(null), false),
        (json!(["tag:relay"]), json!("tag:relay"), false),
        (json!(["tag:k8s", "tag:relay"]), json!("tag:relay"), true),
        (json!(["tag:a", "tag:b"]), json!("tag:a"), true),
        (json!(["relay"]), json!(null), true),
        (json!("tag:relay"), json!(null), true),
    ] {
        let (relay, notes) = relay(&json!({"tags": tags}));
        assert_eq!(relay["spec"]["regions"][0]["tag"], wanted, "{tags}");
        let expected: &[&str] = if lose { &["spec.tags"] } else { &[] };
        assert_eq!(lost(&notes), expected, "{tags}");
        let changed = wanted.is_null().then_some(Effect::Changed);
        let told = notes
            .iter()
            .find(|note| note.effect == Effect::Changed && note.place.path == "spec.tags");
        assert_eq!(told.map(|note| note.effect), changed, "{tags}");
    }
}

#[test]
fn device_names_keep_their_prefix_as_far_as_it_is_valid() {
    let long = "a".repeat(62);
    let cut = "a".repeat(30);
    for (given, wanted) in [("site-a", "site-a"), ("site-", "site"), (&long, &cut)] {
        let (relay, notes) = relay(&json!({"hostnamePrefix": given}));
        assert_eq!(relay["spec"]["tailnet"]["hostnamePrefix"], wanted);
        assert_eq!(effect(&notes, "spec.hostnamePrefix"), Some(Effect::Changed));
    }
}

#[test]
fn replicas_become_a_maximum_and_zero_disables() {
    for (replicas, most, total, enabled) in [
        (json!(null), json!(1), json!(null), json!(null)),
        (json!(2), json!(2), json!(null), json!(null)),
        (json!(3), json!(3), json!(3), json!(null)),
        (json!(0), json!(null), json!(null), json!(false)),
        (json!(500), json!(100), json!(100), json!(null)),
    ] {
        let (relay, notes) = relay(&json!({"replicas": replicas}));
        let spec = &relay["spec"];
        assert_eq!(
            spec["regions"][0]["placement"]["maxRelays"], most,
            "{replicas}"
        );
        assert_eq!((&spec["maxRelays"], &spec["enabled"]), (&total, &enabled));
        assert_eq!(!lost(&notes).is_empty(), replicas == 500, "{notes:?}");
    }
}

#[test]
fn service_settings_become_those_of_the_load_balancer() {
    let (relay, notes) = relay(&json!({"service": {
        "port": 3_478,
        "annotations": {"example.net/pool": "a"},
        "ipFamilyPolicy": "PreferDualStack",
        "ipFamilies": ["IPv6", "IPv4"],
    }}));
    assert_eq!(relay["spec"]["port"], 3_478);
    let balancer = &relay["spec"]["regions"][0]["exposure"]["loadBalancer"];
    let wanted = json!({
        "annotations": {"example.net/pool": "a"},
        "ipFamilyPolicy": "PreferDualStack",
        "ipFamilies": ["IPv6", "IPv4"],
    });
    assert_eq!(*balancer, wanted);
    assert_eq!(lost(&notes), [""; 0]);
}

#[test]
fn two_families_without_a_policy_require_both_as_kubernetes_does() {
    let (relay, notes) = relay(&json!({"service": {"ipFamilies": ["IPv4", "IPv6"]}}));
    let balancer = &relay["spec"]["regions"][0]["exposure"]["loadBalancer"];
    assert_eq!(balancer["ipFamilyPolicy"], "RequireDualStack");
    assert_eq!(
        effect(&notes, "spec.service.ipFamilies"),
        Some(Effect::Changed)
    );
    let (_, notes) =
        self::relay(&json!({"service": {"ipFamilies": ["IPv5"], "ipFamilyPolicy": "No"}}));
    assert_eq!(
        lost(&notes),
        ["spec.service.ipFamilies", "spec.service.ipFamilyPolicy"]
    );
}

#[test]
fn annotations_without_effect_are_left_out_and_addresses_are_to_do() {
    let aws = |key: &str| format!("service.beta.kubernetes.io/aws-load-balancer-{key}");
    let (relay, notes) = relay(&json!({"service": {"annotations": {
        aws("scheme"): "internal",
        aws("healthcheck-port"): "9002",
        aws("attributes"): "load_balancing.cross_zone.enabled=false",
        "metallb.io/loadBalancerIPs": "203.0.113.7",
    }}}));
    let balancer = &relay["spec"]["regions"][0]["exposure"]["loadBalancer"];
    let kept: Vec<_> = balancer["annotations"]
        .as_object()
        .unwrap()
        .keys()
        .collect();
    assert_eq!(kept, ["metallb.io/loadBalancerIPs", &aws("attributes")]);
    let at = |key: &str| effect(&notes, &format!("spec.service.annotations.{key}"));
    assert_eq!(at(&aws("scheme")), Some(Effect::Changed));
    assert_eq!(at(&aws("healthcheck-port")), Some(Effect::Changed));
    assert_eq!(at("metallb.io/loadBalancerIPs"), Some(Effect::ToDo));
}

#[test]
fn static_endpoints_that_clients_can_reach_are_kept() {
    let (relay, notes) = relay(&json!({"staticEndpoints": [
        "203.0.113.7:41641", "[2001:db8::7]:443", "203.0.113.7:0", "[fe80::1%eth0]:1", "host:1",
        "127.0.0.1:1",
    ]}));
    let endpoints = &relay["spec"]["regions"][0]["endpoints"];
    assert_eq!(
        *endpoints,
        json!({"static": ["203.0.113.7:41641", "[2001:db8::7]:443"]})
    );
    let wanted = [2, 3, 4, 5].map(|at| format!("spec.staticEndpoints[{at}]"));
    assert_eq!(lost(&notes), wanted);
}

#[test]
fn elastic_ips_are_grouped_by_zone() {
    let ip =
        |allocation: &str, subnet: &str| json!({"allocationID": allocation, "subnetID": subnet});
    let spec = json!({"proxyClass": "own", "replicas": 2, "aws": {"elasticIPs": [
        ip("eipalloc-1", "subnet-a"), ip("eipalloc-2", "subnet-b"), ip("eipalloc-3", "subnet-a"),
        ip("eipalloc-x", "subnet-a"),
    ]}});
    let class = json!({"statefulSet": {"pod": {"nodeSelector": {ZONE: "z1"}}}});
    let documents = [
        object("PeerRelay", "edge", &spec),
        object("ProxyClass", "own", &class),
    ];
    let group = |relay: &Value| {
        relay["spec"]["regions"][0]["exposure"]["loadBalancer"]["elasticIPs"].clone()
    };

    let (relay, notes) = converted(&documents, &options());
    let all = json!([{
        "zone": "z1", "subnet": "subnet-a", "allocations": ["eipalloc-1", "eipalloc-2", "eipalloc-3"],
    }]);
    assert_eq!(group(&relay), all);
    assert_eq!(
        effect(&notes, "spec.aws.elasticIPs[1]"),
        Some(Effect::Changed)
    );
    assert_eq!(lost(&notes), ["spec.aws.elasticIPs[3]"]);

    let (relay, notes) = converted(&documents[..1], &options());
    assert_eq!(group(&relay)[1]["zone"], "zone-of-subnet-b");
    let told = |notes: &[Note]| {
        notes
            .iter()
            .any(|note| note.message.contains("--subnet-zone"))
    };
    assert!(told(&notes));
    let zones = [("subnet-a", "z1"), ("subnet-b", "z2")];
    let zones = zones
        .map(|(subnet, zone)| (subnet.to_owned(), zone.to_owned()))
        .into();
    let (relay, notes) = converted(&documents[..1], &Options { zones, ..options() });
    assert_eq!(group(&relay)[1]["zone"], "z2");
    assert!(!told(&notes));
}

#[test]
fn control_server_and_oauth_client_of_a_tailnet_object_are_kept() {
    let spec = json!({"tailnet": "other", "replicas": 3});
    let tailnet = |url: &str| {
        object(
            "Tailnet",
            "other",
            &json!({"loginUrl": url, "credentials": {"secretName": "s"}}),
        )
    };
    for (url, wanted, lose) in [
        (
            "https://hs.example.net",
            json!("https://hs.example.net"),
            false,
        ),
        (
            "https://hs.example.net:8443/",
            json!("https://hs.example.net:8443"),
            false,
        ),
        ("https://login.tailscale.com", json!(null), false),
        ("https://hs.example.net/path", json!(null), true),
        ("https://user:secret@hs.example.net", json!(null), true),
    ] {
        let documents = [object("PeerRelay", "edge", &spec), tailnet(url)];
        let (relay, notes) = converted(&documents, &options());
        assert_eq!(relay["spec"]["tailnet"]["controlURL"], wanted, "{url}");
        assert_eq!(!lost(&notes).is_empty(), lose, "{url}");
        assert_eq!(
            relay["spec"]["maxRelays"].is_null(),
            !wanted.is_null(),
            "{url}"
        );
        assert!(!format!("{notes:?}").contains("secret@"));
        let secret = notes
            .iter()
            .find(|note| note.place.path == "spec.credentials.secretName");
        assert_eq!(secret.unwrap().place.document, 1);
        assert_eq!(secret.unwrap().effect, Effect::ToDo);
        let access = &relay["spec"]["tailnet"];
        assert_eq!(access["oauth"], json!({"secretName": "s"}));
        assert_eq!(access["authKey"], json!(null));
        assert!(!notes.iter().any(|note| note.message.contains("reusable")));
    }
    let (relay, notes) = converted(&[object("PeerRelay", "edge", &spec)], &options());
    assert_eq!(lost(&notes), ["spec.tailnet"]);
    let auth_key = json!({"authKey": {"secretName": "tailnet-auth"}});
    assert_eq!(relay["spec"]["tailnet"], auth_key);
}
