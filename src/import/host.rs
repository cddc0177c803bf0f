//! Preferences of a host on which `tailscaled` is a relay, as `tailscale debug prefs` prints them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Options,
    draft::{Draft, Metadata, Region, Spec},
    endpoints,
    fields::Fields,
    note::Notes,
    tags, tailnet,
};
use crate::{config::DEFAULT_PORT, crd::placement::Placement, names};

const PORT: &str = "RelayServerPort";
/// Label value that stands for the name of the node.
const PLACEHOLDER: &str = "name-of-the-node";
/// Preferences that are in every output.
// Fields of `ipn.Prefs` without `omitempty`.
const ALWAYS: [&str; 3] = ["ControlURL", "WantRunning", "CorpDNS"];
/// Preferences that concern the host and not its relay. `Config` contains its identity.
const OF_THE_HOST: [&str; 25] = [
    "AllowSingleHosts",
    "AutoExitNode",
    "AutoUpdate",
    // `ipn.Prefs.Persist`, which contains private keys: nothing of it may get into notes.
    "Config",
    "CorpDNS",
    "Egg",
    "ExitNodeAllowLANAccess",
    "ExitNodeID",
    "ExitNodeIP",
    "ForceDaemon",
    "InternalExitNodePrior",
    "LinuxPacketMarks",
    "LoggedOut",
    "NetfilterKind",
    "NetfilterMode",
    "NoSNAT",
    "NoStatefulFiltering",
    "NotepadURLs",
    "OperatorUser",
    "PostureChecking",
    "ProfileName",
    "RemoteConfig",
    "RouteAll",
    "ShieldsUp",
    "Sync",
];
/// Preferences with which a host does another job for its tailnet.
const JOBS: [&str; 6] = [
    "AdvertiseRoutes",
    "AdvertiseServices",
    "AppConnector",
    "DriveShares",
    "RunSSH",
    "RunWebClient",
];

/// Returns whether a document is an output of `tailscale debug prefs`.
pub(super) fn is_prefs(document: &Value) -> bool {
    ALWAYS.iter().all(|name| document.get(name).is_some())
}

/// Returns whether the host is a relay.
pub(super) fn is_relay(prefs: &Value) -> bool {
    // The field is a pointer: without it there is no relay, and 0 is a random port
    // (`ipn.Prefs.RelayServerPort`).
    !prefs[PORT].is_null()
}

/// Converts the preferences of a host, if it is a relay.
pub(super) fn convert(mut fields: Fields, options: &Options, notes: &mut Notes) -> Option<Draft> {
    let port = port(&mut fields, notes)?;
    let hostname: String = fields.typed("Hostname", notes).unwrap_or_default();
    let name = names::suggestion(&hostname);
    if name != hostname {
        notes.changed(
            fields.place("Hostname"),
            "the name of the PeerRelay has at most 40 lower-case letters, digits and dashes, and \
             is derived from the name of the host",
        );
    }
    let place = fields.place("ControlURL");
    let mut access = tailnet::with_auth_key(options, &place, notes);
    let url = fields.typed("ControlURL", notes).unwrap_or_default();
    access.control_url = tailnet::control_url(url, place, notes);
    let tags: Vec<String> = fields.typed("AdvertiseTags", notes).unwrap_or_default();
    let place = fields.place("AdvertiseTags");
    let region = tags::region(&name);
    let tag = tags::choose(&tags, &region, &place, notes);
    let fixed: Vec<String> = fields
        .typed("RelayServerStaticEndpoints", notes)
        .unwrap_or_default();
    let place = fields.place("RelayServerStaticEndpoints");
    let endpoints = endpoints::convert(&fixed, &place, notes);
    let clients = tailnet::clients(options, fields.place(""), notes);
    let placement = placement(&hostname, &fields, options, notes);
    others(fields, notes);
    Some(Draft::new(
        Metadata {
            name,
            namespace: options.namespace.clone(),
            ..Metadata::default()
        },
        Spec {
            port,
            tailnet: access,
            regions: vec![Region {
                name: region,
                tag,
                clients,
                placement,
                endpoints,
                ..Region::default()
            }],
            ..Spec::default()
        },
    ))
}

fn port(fields: &mut Fields, notes: &mut Notes) -> Option<u16> {
    let place = fields.place(PORT);
    // Another type is noted by the reader, and the default is used.
    let given = fields.take(PORT)?;
    let port = given.as_u64().and_then(|port| u16::try_from(port).ok());
    match port {
        Some(0) => notes.changed(
            place,
            format!(
                "0 is a random port, which no firewall can open: the relay uses {DEFAULT_PORT}"
            ),
        ),
        Some(_) => notes.changed(
            place,
            "tailscaled on the same node has this port: the new relay waits for it \
             (HostPortConflict). For a side-by-side run, use another port or another node until \
             the old relay is removed",
        ),
        None => notes.lost(
            place,
            format!("the value is no port: the relay uses {DEFAULT_PORT}"),
        ),
    }
    Some(port.filter(|port| *port > 0).unwrap_or(DEFAULT_PORT))
}

fn placement(hostname: &str, fields: &Fields, options: &Options, notes: &mut Notes) -> Placement {
    let of_host = Some(hostname).filter(|name| names::is_label_value(name));
    let node = match (&options.node, of_host) {
        (Some(node), _) => node.clone(),
        (None, of_host) => {
            notes.required(
                fields.place("Hostname"),
                "set spec.regions[0].placement.nodeSelector to the Kubernetes node that replaces \
                 this host, or convert again with --node: 'kubectl get nodes' prints the names. A \
                 host outside of the cluster runs 'peerrelay relay' instead (see its --help)",
            );
            of_host.unwrap_or(PLACEHOLDER).to_owned()
        }
    };
    Placement {
        node_selector: BTreeMap::from([(names::HOSTNAME_LABEL.to_owned(), node)]),
        ..Placement::default()
    }
}

/// Reads the preferences that a PeerRelay does not need.
fn others(mut fields: Fields, notes: &mut Notes) {
    for name in OF_THE_HOST {
        fields.take(name);
    }
    let is_off = fields.take("WantRunning") == Some(Value::Bool(false));
    if is_off {
        notes.changed(
            fields.place("WantRunning"),
            "tailscaled is stopped on this host; the new relay runs",
        );
    }
    for name in JOBS {
        fields.drop_unneeded(
            name,
            "this stays with tailscaled on the host: end only its relay, with 'tailscale set \
             --relay-server-port='",
            notes,
        );
    }
    fields.finish(notes);
}
