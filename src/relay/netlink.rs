//! Devices, addresses and routes of this host, asked of the kernel by rtnetlink(7).
#![allow(
    unsafe_code,
    reason = "tokio takes only a promise that a descriptor stays open"
)]

mod message;

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::io::{Interest, unix::AsyncFd};

use self::message::{
    IFADDRMSG, IFINFOMSG, NLM_F_DUMP, NLM_F_REQUEST, NLMSGHDR, Part, RTA_DST, RTA_MARK, RTA_SRC,
    RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE, RTM_GETTFILTER, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE,
    RTM_NEWTFILTER, RTMSG, TCMSG,
};

/// Multicast groups for changes of links and of addresses (RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR,
/// RTNLGRP_IPV6_IFADDR).
pub(super) const ADDRESSES: &[u32] = &[1, 5, 9];
/// Multicast groups for changes of links, addresses, routes and routing rules (the same, with
/// RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV4_RULE and RTNLGRP_IPV6_RULE).
pub(super) const EVERYTHING: &[u32] = &[1, 5, 7, 9, 11, 8, 19];
/// Parent of filters for packets that enter a device (`TC_H_CLSACT`, `TC_H_MIN_INGRESS`).
const INGRESS: u32 = 0xffff_fff2;
/// Bytes that suffice for any message that the kernel sends at once: it fills at most 32 KiB for a dump
/// (`netlink_recvmsg`), and cuts off what does not fit.
const BUFFER_LEN: usize = 64 << 10;

/// Mark of packets that Tailscale keeps out of its own tunnel (`tsconst.LinuxBypassMark`). Where
/// tailscaled of the same host uses an exit node or accepts routes, other packets go into the tunnel.
pub(super) const BYPASS_MARK: u32 = 0x8_0000;

/// A network device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) ethernet: bool,
    pub(super) up: bool,
    pub(super) loopback: bool,
    /// Type of a device that software makes, such as `bridge` or `vxlan`. Hardware has none.
    pub(super) kind: Option<String>,
    /// Index of the device below this one, such as that of a VLAN.
    pub(super) lower: Option<u32>,
    /// The device below this one is in another network namespace.
    pub(super) lower_is_elsewhere: bool,
    /// Index of the bridge or bond that this device is a port of.
    pub(super) master: Option<u32>,
    pub(super) addresses: Vec<DeviceAddress>,
}

/// Address of a network device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceAddress {
    pub(super) ip: IpAddr,
    /// It is an IPv6 address of the privacy extensions (RFC 8981), which another one follows.
    pub(super) is_temporary: bool,
    /// It is neither tentative nor deprecated nor a duplicate (RFC 4862).
    pub(super) is_usable: bool,
}

impl DeviceAddress {
    /// Returns whether other hosts can know it: it belongs neither to this host alone nor to a link.
    pub(super) fn is_global(&self) -> bool {
        let link_local = match self.ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        !(self.ip.is_loopback() || self.ip.is_unspecified() || self.ip.is_multicast() || link_local)
    }
}

/// Route to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) ifindex: u32,
    /// The router that the packet goes to next; `None` when the client is on the device's link.
    pub(super) gateway: Option<IpAddr>,
    /// MTU of the route, in bytes, if it has one of its own.
    pub(super) mtu: Option<u32>,
}

/// Socket for requests to rtnetlink.
pub(super) struct Netlink {
    socket: Socket,
    buffer: Vec<u8>,
    /// Number of the last request.
    sequence: u32,
}

/// Socket that is readable when something has changed.
pub(super) struct Changes(Socket);

impl Netlink {
    pub(super) fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Connected to port 0, the kernel, the socket refuses messages of other processes
        // (`netlink_getsockbyportid`).
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(BUFFER_LEN),
            sequence: 0,
        })
    }

    /// All devices, by index.
    pub(super) fn devices(&mut self) -> io::Result<BTreeMap<u32, Device>> {
        let mut devices = BTreeMap::new();
        self.ask(RTM_GETLINK, NLM_F_DUMP, &[0; IFINFOMSG], |kind, body| {
            if kind == RTM_NEWLINK
                && let Some((index, device)) = message::device(body)
            {
                devices.insert(index, device);
            }
        })?;
        self.ask(RTM_GETADDR, NLM_F_DUMP, &[0; IFADDRMSG], |kind, body| {
            if kind == RTM_NEWADDR
                && let Some((index, address)) = message::address(body)
                && let Some(device) = devices.get_mut(&index)
            {
                device.addresses.push(address);
            }
        })?;
        Ok(devices)
    }

    /// The route of a datagram with [`BYPASS_MARK`] to `to`, from the local address `from` if that is
    /// given. `None` when the datagram stays on this host, or when no route leads there.
    pub(super) fn route(&mut self, from: Option<IpAddr>, to: IpAddr) -> io::Result<Option<Route>> {
        self.lookup(from, to, message::route)
    }

    /// Returns the index of the device through which datagrams to `to` leave, and the source address that
    /// they get. `None` if they stay on this host, or no route leads there. Nothing is sent.
    pub(super) fn source(&mut self, to: IpAddr) -> io::Result<Option<(u32, Option<IpAddr>)>> {
        self.lookup(None, to, message::route_source)
    }

    fn lookup<T>(
        &mut self,
        from: Option<IpAddr>,
        to: IpAddr,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let mut body = vec![0; RTMSG];
        body[0] = match to {
            IpAddr::V4(_) => libc::AF_INET as u8,
            IpAddr::V6(_) => libc::AF_INET6 as u8,
        };
        // The header has the prefix length of each address.
        for (kind, at, ip) in [(RTA_DST, 1, Some(to)), (RTA_SRC, 2, from)] {
            let octets = match ip {
                Some(IpAddr::V4(v4)) => v4.octets().to_vec(),
                Some(IpAddr::V6(v6)) => v6.octets().to_vec(),
                None => continue,
            };
            body[at] = (octets.len() * 8) as u8;
            body.extend_from_slice(&((octets.len() + 4) as u16).to_ne_bytes());
            body.extend_from_slice(&kind.to_ne_bytes());
            body.extend_from_slice(&octets);
        }
        // With the mark of the sockets: rules of tailscaled choose another table for packets without
        // it.
        body.extend_from_slice(&8_u16.to_ne_bytes());
        body.extend_from_slice(&RTA_MARK.to_ne_bytes());
        body.extend_from_slice(&BYPASS_MARK.to_ne_bytes());
        let mut found = None;
        let asked = self.ask(RTM_GETROUTE, 0, &body, |kind, body| {
            if kind == RTM_NEWROUTE {
                found = read(body);
            }
        });
        match asked {
            Ok(()) => Ok(found),
            Err(error) if is_unreachable(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Id of the program of the filter with this priority and handle, for packets of all protocols that
    /// enter a device; `None` when there is no such filter.
    ///
    /// # Errors
    /// What the kernel says; `ENODEV` when there is no such device.
    pub(super) fn filter(
        &mut self,
        ifindex: u32,
        priority: u16,
        handle: u32,
    ) -> io::Result<Option<u32>> {
        let mut body = [0; TCMSG];
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // `tcm_info` is the priority and the protocol, which is in network order also here
        // (`TC_H_MAKE`).
        let info = u32::from(priority) << 16 | u32::from(protocol);
        for (at, value) in [(4, ifindex), (8, handle), (12, INGRESS), (16, info)] {
            body[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        let mut found = None;
        let asked = self.ask(RTM_GETTFILTER, 0, &body, |kind, body| {
            if kind == RTM_NEWTFILTER {
                found = message::filter(body);
            }
        });
        match asked {
            Ok(()) => Ok(found),
            // There is no such filter, or no queueing discipline that has filters.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends a request and hands over each message of the answer.
    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let len = NLMSGHDR + body.len();
        let mut request = Vec::with_capacity(len);
        request.extend_from_slice(&(len as u32).to_ne_bytes());
        request.extend_from_slice(&kind.to_ne_bytes());
        request.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        self.sequence = self.sequence.wrapping_add(1);
        request.extend_from_slice(&self.sequence.to_ne_bytes());
        // The port id may be zero, because the socket is connected to the kernel.
        request.extend_from_slice(&[0; 4]);
        request.extend_from_slice(body);
        self.socket.send(&request, 0)?;
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            match message::read(&self.buffer, self.sequence, &mut each)? {
                Part::Last => return Ok(()),
                // The kernel ends a dump with NLMSG_DONE, and any other answer after its only message,
                // as no acknowledgement was asked for.
                Part::Messages if flags & NLM_F_DUMP == 0 => return Ok(()),
                Part::Messages | Part::Foreign => {}
            }
        }
    }
}

impl Changes {
    /// Listens to these multicast groups.
    pub(super) fn of(groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // [`Changes::clear`] reads until the socket has nothing more.
        socket.set_non_blocking(true)?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Self(socket))
    }

    /// Registers the socket with the runtime of asynchronous code.
    pub(super) fn into_async(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: `Changes` owns its socket, which has one descriptor until it is dropped.
        unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }.map_err(Into::into)
    }

    /// Reads all reports that wait, and forgets them. Reports that the kernel dropped (ENOBUFS) mean no
    /// more than that something has changed.
    pub(super) fn clear(&self) {
        let mut buffer = Vec::with_capacity(BUFFER_LEN);
        loop {
            buffer.clear();
            match self.0.recv(&mut buffer, 0) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Changes {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Returns whether an error means that no route leads to an address.
///
/// Routes of type `blackhole` answer EINVAL, those of type `prohibit` EACCES (`fib_props` in the kernel's
/// net/ipv4/fib_semantics.c). EINVAL also says that the host lacks the source address.
fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::EINVAL
                | libc::EACCES
                | libc::EAFNOSUPPORT
        )
    )
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Netlink")
            .field(&self.socket.as_raw_fd())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use crate::relay::namespace::Net;

    /// As tailscaled with an exit node sets routes up (`wgengine/router/osrouter`): its table is read for
    /// all packets but marked ones.
    #[test]
    fn routes_of_an_exit_node_are_passed_over() {
        let Some(net) = Net::open(["node", "router"]) else {
            return;
        };
        net.cable([("node", "uplink0", &[]), ("router", "node0", &[])]);
        net.cable([("node", "tunnel0", &[]), ("router", "exit0", &[])]);
        for (address, device) in [
            ("192.0.2.1/24", "uplink0"),
            ("2001:db8::1/64", "uplink0"),
            ("100.64.0.1/32", "tunnel0"),
        ] {
            net.ip("node", &format!("address add {address} dev {device}"));
        }
        for (family, gateway) in [("-4", "192.0.2.254"), ("-6", "2001:db8::fe")] {
            let commands = [
                format!("route add default via {gateway} dev uplink0 onlink"),
                "route add default dev tunnel0 table 52".to_owned(),
                "rule add fwmark 0x80000/0xff0000 table main priority 5210".to_owned(),
                "rule add table 52 priority 5270".to_owned(),
            ];
            for command in commands {
                net.ip("node", &format!("{family} {command}"));
            }
        }
        net.run("node", || {
            let mut netlink = Netlink::new().unwrap();
            let devices = netlink.devices().unwrap();
            for to in ["198.51.100.7", "2001:db8:7::7"] {
                let route = netlink.route(None, to.parse().unwrap()).unwrap().unwrap();
                assert_eq!(devices[&route.ifindex].name, "uplink0", "{to}");
                assert!(route.gateway.is_some());
            }
        });
    }

    #[test]
    fn a_filter_that_is_not_there_is_told_from_a_device_that_is_not_there() {
        let mut netlink = Netlink::new().unwrap();
        assert_eq!(netlink.filter(1, 7, 0x1234_5678).unwrap(), None);
        let error = netlink.filter(u32::MAX >> 1, 7, 1).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
    }

    #[test]
    fn loopback_is_a_device_with_its_address_and_leads_nowhere() {
        let mut netlink = Netlink::new().unwrap();
        let devices = netlink.devices().unwrap();
        let loopback = devices.values().find(|d| d.loopback).unwrap();
        assert_eq!(loopback.name, "lo");
        assert!(!loopback.ethernet && loopback.mtu > 0);
        if loopback.up {
            let ips: Vec<_> = loopback.addresses.iter().map(|a| a.ip).collect();
            assert!(ips.contains(&IpAddr::from([127, 0, 0, 1])));
            let own = netlink.route(None, IpAddr::from([127, 0, 0, 1])).unwrap();
            assert_eq!(own, None, "a local route leaves no host");
        }
    }
}
