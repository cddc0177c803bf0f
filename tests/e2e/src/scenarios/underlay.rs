//! IPv4 and IPv6 below the tunnel.

use anyhow::{Result, ensure};
use rig::{
    deployment::{Deployment, Route},
    net::Family,
};

use super::{SEARCH, Scenario, reset};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "clients that only have IPv6 are relayed",
            run: ipv6,
        },
        Scenario {
            name: "a client that only has IPv4 talks to one that only has IPv6",
            run: mixed,
        },
    ]
}

fn ipv6(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    relayed_without(deployment, Family::V4)?;
    Ok(deployment.route(c1, c2)?.to_string())
}

fn mixed(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    deployment.rig.network.cut("c1", Family::V6)?;
    deployment.rig.network.cut("c2", Family::V4)?;
    let prefix = "peerrelay_forwarded_packets_total{data_path=\"socket\",region=\"office\",transport_in=\"udp4\",transport_out=\"udp6\"}";
    let before = deployment.metric(prefix)?;
    deployment.wait_route(c1, c2, through_ipv4, SEARCH)?;
    let (route, _) = deployment.wait_route(c2, c1, through_ipv6, SEARCH)?;
    let crossed = deployment.metric(prefix)? - before;
    ensure!(crossed > 0.0, "no datagram crossed from IPv4 to IPv6");
    Ok(format!("{crossed} datagrams from IPv4 to {route}"))
}

/// Takes an address family from both clients, and waits until relays carry their packets over the other one.
/// Clients with both choose either, and between the two sockets forward. A restart makes the clients forget paths
/// over the other one, which can keep them from searching for a minute. Returns the test for such a path.
pub(super) fn relayed_without(
    deployment: &Deployment<'_>,
    cut: Family,
) -> Result<fn(&Route) -> bool> {
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    let network = &deployment.rig.network;
    for client in [c1, c2] {
        network.mend(client.machine.name)?;
        network.cut(client.machine.name, cut)?;
        client.stop()?;
        client.start()?;
    }
    let is_wanted = match cut {
        Family::V4 => through_ipv6,
        Family::V6 => through_ipv4,
    };
    for (from, to) in [(c1, c2), (c2, c1)] {
        deployment.wait_route(from, to, is_wanted, SEARCH)?;
    }
    Ok(is_wanted)
}

fn through_ipv4(route: &Route) -> bool {
    matches!(route, Route::Relay(address) if !address.starts_with('['))
}

fn through_ipv6(route: &Route) -> bool {
    matches!(route, Route::Relay(address) if address.starts_with('['))
}
