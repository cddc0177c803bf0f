//! Addresses of the host's network interfaces.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use tokio::{io::unix::AsyncFd, sync::watch, time::sleep};

use super::{
    Found,
    reach::{self, Outside},
};
use crate::relay::{
    netlink::{self, Changes, Netlink},
    watch_ext::SendIfChanged,
};

/// Time between two reads of the interfaces when the kernel reports nothing: it drops reports that
/// do not fit into the socket's buffer.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// Time that changes of the network are given to settle: they come in bursts.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// Addresses outside: two of the root name servers, which change rarely (a.root-servers.net). They are only
/// looked up in the routing table. Nothing is sent to them.
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30)),
];

/// An address of a network interface that other hosts may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Name of the interface.
    pub interface: String,
    /// IP address, without port.
    pub ip: IpAddr,
}

/// Keeps the addresses that other hosts may reach, of interfaces that are up.
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
    let mut netlink = Netlink::new()?;
    let devices = netlink.devices()?;
    let mut outside = Outside::new();
    for to in OUTSIDE {
        outside.extend(netlink.source(to)?);
    }
    Ok(reach::reachable(&devices, &outside))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use tokio::time::timeout;

    use super::*;
    use crate::relay::namespace::Net;

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
                net.ip("node", "address add 192.0.2.1/24 dev uplink0");
                net.ip("node", "route add default via 192.0.2.254");
                net.ip(
                    "node",
                    "route add default via 2001:db8::fe dev uplink0 onlink",
                );
                let first = timeout(patience, seen.wait_for(has("192.0.2.1")));
                first.await.unwrap().unwrap();
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
