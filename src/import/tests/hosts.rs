//! Hosts on which tailscaled is a relay.

use super::*;

#[test]
fn host_becomes_a_relay_on_the_network_of_its_node() {
    let prefs = json!({
        "ControlURL": "https://hs.example.net",
        "RelayServerStaticEndpoints": ["203.0.113.7:41000"],
    });
    let node = Some("n1".to_owned());
    let (relay, notes) = host(prefs, &Options { node, ..options() });
    let wanted = json!({
        "port": 41_000,
        "tailnet": {
            "authKey": {"secretName": "tailnet-auth"}, "controlURL": "https://hs.example.net",
        },
        "regions": [{
            "name": "vps-1",
            "tag": "tag:relay",
            "clients": ["tag:office"],
            "placement": {"nodeSelector": {"kubernetes.io/hostname": "n1"}},
            "endpoints": {"static": ["203.0.113.7:41000"]},
        }],
    });
    assert_eq!(relay["spec"], wanted);
    assert_eq!(relay["metadata"]["name"], "vps-1");
    assert_eq!(lost(&notes), [""; 0]);
    assert_eq!(effect(&notes, "RelayServerPort"), Some(Effect::Changed));
}

#[test]
fn host_needs_a_node_a_port_and_clients() {
    let prefs = json!({"Hostname": "", "RelayServerPort": 0, "AdvertiseTags": null});
    let clients = Vec::new();
    let (relay, notes) = host(
        prefs,
        &Options {
            clients,
            ..options()
        },
    );
    let region = &relay["spec"]["regions"][0];
    assert_eq!(relay["spec"]["port"], 40_000);
    assert_eq!(
        region["placement"]["nodeSelector"]["kubernetes.io/hostname"],
        "name-of-the-node"
    );
    assert_eq!(region["clients"], json!(["tag:clients-of-the-relay"]));
    let to_do = notes.iter().filter(|note| note.effect == Effect::ToDo);
    let words: Vec<_> = to_do.map(|note| &*note.message).collect();
    assert_eq!(words.len(), 3, "{words:?}");
    for word in ["--node", "--client", "auth key"] {
        assert!(words.iter().any(|words| words.contains(word)), "{word}");
    }
}

#[test]
fn other_jobs_of_a_host_are_named_and_its_keys_are_not() {
    let (relay, notes) = host(
        json!({
            "AdvertiseRoutes": ["10.0.0.0/8"], "RunSSH": true, "AppConnector": {"Advertise": false},
            "Config": {"PrivateNodeKey": "privkey:secret"},
        }),
        &options(),
    );
    for (path, wanted) in [
        ("AdvertiseRoutes", Some(Effect::Changed)),
        ("RunSSH", Some(Effect::Changed)),
        ("AppConnector", None),
    ] {
        assert_eq!(effect(&notes, path), wanted, "{path}");
    }
    assert_eq!(lost(&notes), [""; 0]);
    assert!(!format!("{relay}{notes:?}").contains("privkey"));
}
