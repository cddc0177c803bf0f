//! Addresses of the host's network interfaces.

use std::{convert::Infallible, io, net::IpAddr, time::Duration};

use ipnet::IpNet;
use tokio::{io::unix::AsyncFd, sync::watch, time::sleep};

use super::Found;
use crate::relay::{
    netlink::{self, Changes, Netlink},
    watch_ext::SendIfChanged,
};

/// Time between two reads of the interfaces when the kernel reports nothing: it drops reports that
/// do not fit into the socket's buffer.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// Time that changes of the network are given to settle: they come in bursts.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// Interfaces of container networks, by the beginning of their names: their addresses mean nothing
/// outside the node.
const CONTAINER_INTERFACES: &[&str] = &[
    "cni",
    "docker",
    "veth",
    "cali",
    "cilium",
    "lxc",
    "flannel",
    "kube-",
    "br-",
    "nodelocaldns",
];
/// Addresses of the tailnet itself (`tsaddr.CGNATRange`, `tsaddr.TailscaleULARange`): a path
/// through the tunnel that the path is for.
const TAILNET: [&str; 2] = ["100.64.0.0/10", "fd7a:115c:a1e0::/48"];

/// An address of a network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Name of the interface.
    pub interface: String,
    /// IP address, without port.
    pub ip: IpAddr,
}

impl InterfaceAddress {
    /// Returns whether other hosts may reach this host at this address.
    pub fn is_reachable(&self) -> bool {
        let Self { interface, ip } = self;
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let tailnet = TAILNET.map(|net| net.parse::<IpNet>().expect("constant networks are valid"));
        !ip.is_loopback()
            && !ip.is_unspecified()
            && !ip.is_multicast()
            && !link_local
            && !tailnet.iter().any(|net| net.contains(ip))
            && !CONTAINER_INTERFACES
                .iter()
                .any(|prefix| interface.starts_with(prefix))
    }
}

/// Keeps the addresses of all interfaces that are up.
pub(super) async fn follow(found: watch::Sender<Found>) -> Infallible {
    let changes = Changes::of(netlink::ADDRESSES)
        .and_then(Changes::into_async)
        .inspect_err(|error| tracing::warn!(%error, "changes of interfaces are seen late"))
        .ok();
    loop {
        refresh(&found).await;
        tokio::select! {
            () = changed(changes.as_ref()) => {}
            () = sleep(REFRESH_INTERVAL) => {}
        }
    }
}

/// Reads the addresses into `found`. When the system does not answer, logs a warning and keeps the
/// last ones.
pub(super) async fn refresh(found: &watch::Sender<Found>) {
    let listed = tokio::task::spawn_blocking(list).await;
    match listed.map_err(io::Error::other).flatten() {
        Ok(list) => {
            found.send_field_if_changed(|found| &mut found.interfaces, list);
        }
        Err(error) => tracing::warn!(%error, "failed to list network interfaces"),
    }
}

/// Waits for a change, and for those that come with it.
async fn changed(changes: Option<&AsyncFd<Changes>>) {
    let Some(changes) = changes else {
        return std::future::pending().await;
    };
    let Ok(mut ready) = changes.readable().await else {
        return std::future::pending().await;
    };
    sleep(SETTLE_TIME).await;
    // Before the addresses are read, so that a change meanwhile is reported again.
    changes.get_ref().clear();
    ready.clear_ready();
}

fn list() -> io::Result<Vec<InterfaceAddress>> {
    let devices = Netlink::new()?.devices()?;
    let up = devices.into_values().filter(|device| device.up);
    Ok(up
        .flat_map(|device| {
            let interface = device.name;
            device
                .addresses
                .into_iter()
                .map(move |ip| InterfaceAddress {
                    interface: interface.clone(),
                    ip,
                })
        })
        .collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use tokio::time::timeout;

    use super::*;
    use crate::relay::namespace::Net;

    #[test]
    fn addresses_that_clients_cannot_reach_are_left_out() {
        for (interface, ip) in [
            ("lo", "127.0.0.1"),
            ("lo", "::1"),
            ("eth0", "169.254.3.4"),
            ("eth0", "fe80::1"),
            ("cni0", "10.244.1.1"),
            ("veth12ab", "10.244.1.9"),
            ("docker0", "172.17.0.1"),
            ("tailscale0", "100.100.1.2"),
            ("tailscale0", "fd7a:115c:a1e0::1"),
        ] {
            let address = InterfaceAddress {
                interface: interface.into(),
                ip: ip.parse().unwrap(),
            };
            assert!(!address.is_reachable(), "{interface} {ip}");
        }
        let address = InterfaceAddress {
            interface: "eth0".into(),
            ip: "192.0.2.1".parse().unwrap(),
        };
        assert!(address.is_reachable());
    }

    #[test]
    fn address_that_comes_or_goes_is_seen_without_waiting_for_the_next_look() {
        let Some(net) = Net::open(["node", "router"]) else {
            return;
        };
        net.cable([("node", "uplink0", &[]), ("router", "node0", &[])]);
        net.run("node", || {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            runtime.block_on(async {
                let (found, mut seen) = watch::channel(Found::default());
                let follow = tokio::spawn(follow(found));
                let has = |ip: &str| {
                    let ip: IpAddr = ip.parse().unwrap();
                    move |found: &Found| found.interfaces.iter().any(|i| i.ip == ip)
                };
                // Before the next look of its own.
                let patience = REFRESH_INTERVAL / 2;
                seen.wait_for(has("127.0.0.1")).await.unwrap();
                for (ip, prefix) in [("192.0.2.7", 24), ("2001:db8::7", 64)] {
                    net.ip("node", &format!("address add {ip}/{prefix} dev uplink0"));
                    timeout(patience, seen.wait_for(has(ip)))
                        .await
                        .unwrap()
                        .unwrap();
                }
                net.ip("node", "address del 192.0.2.7/24 dev uplink0");
                let gone = seen.wait_for(|found| !has("192.0.2.7")(found));
                timeout(patience, gone).await.unwrap().unwrap();
                net.ip("node", "link set uplink0 down");
                let gone = seen.wait_for(|found| !has("2001:db8::7")(found));
                timeout(patience, gone).await.unwrap().unwrap();
                follow.abort();
            });
        });
    }
}
