//! What the relay must know of the network, asked of the kernel by rtnetlink(7): devices,
//! addresses, and which way leads to a client.
#![allow(
    unsafe_code,
    reason = "tokio takes only a promise that a descriptor stays open"
)]

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use tokio::io::{Interest, unix::AsyncFd};

/// Message types and flags (linux/rtnetlink.h, linux/netlink.h).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
/// Multicast groups: links and the addresses of both families.
pub(super) const ADDRESSES: &[u32] = &[1, 5, 9];
/// The same, with the routes of both families and routing rules.
pub(super) const EVERYTHING: &[u32] = &[1, 5, 7, 9, 11, 8, 19];
/// Attributes.
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_METRICS: u16 = 8;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_ID: u16 = 11;
/// Lengths of headers.
const NLMSGHDR: usize = 16;
const RTMSG: usize = 12;
const IFINFOMSG: usize = 16;
const IFADDRMSG: usize = 8;
const TCMSG: usize = 20;
/// A route to another host (`RTN_UNICAST`).
const UNICAST: u8 = 1;
/// A device with Ethernet headers (`ARPHRD_ETHER`).
const ETHERNET: u16 = 1;
/// A device that is up (`IFF_UP`), and one that leads back (`IFF_LOOPBACK`).
const UP: u32 = 1;
const LOOPBACK: u32 = 8;
/// Where packets enter a device, as the parent of filters (`TC_H_CLSACT`, `TC_H_MIN_INGRESS`).
const INGRESS: u32 = 0xffff_fff2;
/// Enough for any single message that the kernel sends.
const BUFFER: usize = 64 << 10;

/// A network device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) ethernet: bool,
    pub(super) up: bool,
    pub(super) loopback: bool,
    pub(super) addresses: Vec<IpAddr>,
}

/// The way to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) ifindex: u32,
    /// The router that the packet goes to next; `None` when the client is on the device's link.
    pub(super) gateway: Option<IpAddr>,
    /// The route's own, if it has one.
    pub(super) mtu: Option<u32>,
}

/// A socket for questions.
pub(super) struct Netlink {
    socket: Socket,
    buffer: Vec<u8>,
}

/// Readable when something has changed.
pub(super) struct Changes(Socket);

impl Netlink {
    pub(super) fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self {
            socket,
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    /// All devices, by index.
    pub(super) fn devices(&mut self) -> io::Result<BTreeMap<u32, Device>> {
        let mut devices = BTreeMap::new();
        self.ask(RTM_GETLINK, NLM_F_DUMP, &[0; IFINFOMSG], |kind, body| {
            if kind == RTM_NEWLINK
                && let Some((index, device)) = device(body)
            {
                devices.insert(index, device);
            }
        })?;
        self.ask(RTM_GETADDR, NLM_F_DUMP, &[0; IFADDRMSG], |kind, body| {
            if kind == RTM_NEWADDR
                && let Some((index, ip)) = address(body)
                && let Some(device) = devices.get_mut(&index)
            {
                device.addresses.push(ip);
            }
        })?;
        Ok(devices)
    }

    /// How a datagram to `to` leaves this host, from the local address `from` if that is given;
    /// `None` when it does not, or when nothing leads there.
    pub(super) fn route(&mut self, from: Option<IpAddr>, to: IpAddr) -> io::Result<Option<Route>> {
        let mut body = vec![0; RTMSG];
        body[0] = match to {
            IpAddr::V4(_) => libc::AF_INET as u8,
            IpAddr::V6(_) => libc::AF_INET6 as u8,
        };
        // Each with its prefix length in the header.
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
        let mut found = None;
        let asked = self.ask(RTM_GETROUTE, 0, &body, |kind, body| {
            if kind == RTM_NEWROUTE {
                found = route(body);
            }
        });
        match asked {
            Ok(()) => Ok(found),
            Err(error) if is_unreachable(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Id of the program that is a filter for packets of all protocols where they enter a device;
    /// `None` when there is no such filter.
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
        let info = u32::from(priority) << 16 | u32::from(protocol);
        for (at, value) in [(4, ifindex), (8, handle), (12, INGRESS), (16, info)] {
            body[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        let mut found = None;
        let asked = self.ask(RTM_GETTFILTER, 0, &body, |kind, body| {
            if kind == RTM_NEWTFILTER {
                found = filter(body);
            }
        });
        match asked {
            Ok(()) => Ok(found),
            // No filter, or no queueing discipline that has any.
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
        request.extend_from_slice(&[0; 8]);
        request.extend_from_slice(body);
        self.socket.send(&request, 0)?;
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            if read(&self.buffer, &mut each)? || flags & NLM_F_DUMP == 0 {
                return Ok(());
            }
        }
    }
}

impl Changes {
    /// Begins to listen to these groups.
    pub(super) fn of(groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Self(socket))
    }

    /// The same for asynchronous code.
    pub(super) fn into_async(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: `Changes` owns its socket, which has one descriptor until it is dropped.
        unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }.map_err(Into::into)
    }

    /// Forgets what has changed so far. That some messages were lost says no more than that
    /// something has changed.
    pub(super) fn clear(&self) {
        let mut buffer = Vec::with_capacity(BUFFER);
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

/// Hands over each message of a part of an answer; says whether it is the last part.
fn read(mut rest: &[u8], mut each: impl FnMut(u16, &[u8])) -> io::Result<bool> {
    while let Some(header) = rest.first_chunk::<NLMSGHDR>() {
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = rest.get(NLMSGHDR..len) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => return error(body).map(|()| true),
            _ => each(kind, body),
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Attributes: each a length, a type, and a value, padded to four bytes.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: &[u8; 4] = rest.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().copied().map(u32::from_ne_bytes)
}

fn device(body: &[u8]) -> Option<(u32, Device)> {
    let header: &[u8; IFINFOMSG] = body.first_chunk()?;
    let flags = number(&header[8..])?;
    let mut device = Device {
        ethernet: u16::from_ne_bytes([header[2], header[3]]) == ETHERNET,
        up: flags & UP != 0,
        loopback: flags & LOOPBACK != 0,
        ..Device::default()
    };
    for (kind, value) in attributes(&body[IFINFOMSG..]) {
        match kind {
            IFLA_IFNAME => {
                let name = value.strip_suffix(&[0]).unwrap_or(value);
                device.name = String::from_utf8_lossy(name).into_owned();
            }
            IFLA_MTU => device.mtu = number(value)?,
            _ => {}
        }
    }
    Some((number(&header[4..])?, device))
}

/// On a point-to-point device `IFA_ADDRESS` is the other end, and `IFA_LOCAL` is ours.
fn address(body: &[u8]) -> Option<(u32, IpAddr)> {
    let header: &[u8; IFADDRMSG] = body.first_chunk()?;
    let find = |wanted| attributes(&body[IFADDRMSG..]).find(|(kind, _)| *kind == wanted);
    let (_, value) = find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))?;
    Some((number(&header[4..])?, ip(value)?))
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(*value.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*value.first_chunk::<16>()?).into()),
        _ => None,
    }
}

fn route(body: &[u8]) -> Option<Route> {
    let header: &[u8; RTMSG] = body.first_chunk()?;
    if header[7] != UNICAST {
        return None;
    }
    let mut route = Route {
        ifindex: 0,
        gateway: None,
        mtu: None,
    };
    for (kind, value) in attributes(&body[RTMSG..]) {
        match kind {
            RTA_OIF => route.ifindex = number(value)?,
            RTA_GATEWAY => route.gateway = Some(ip(value)?),
            // Of another family than the client: after two bytes that say which.
            RTA_VIA => route.gateway = Some(ip(value.get(2..)?)?),
            RTA_METRICS => {
                route.mtu = attributes(value)
                    .find(|(metric, _)| *metric == RTAX_MTU)
                    .and_then(|(_, value)| number(value))
                    .filter(|mtu| *mtu != 0);
            }
            _ => {}
        }
    }
    (route.ifindex != 0).then_some(route)
}

fn filter(body: &[u8]) -> Option<u32> {
    let options = attributes(body.get(TCMSG..)?).find(|(kind, _)| *kind == TCA_OPTIONS);
    let id = attributes(options?.1).find(|(kind, _)| *kind == TCA_BPF_ID);
    number(id?.1)
}

fn error(body: &[u8]) -> io::Result<()> {
    match number(body).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

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

    use bolero::check;
    use fuzz_edits::{edited, edits};

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = 4 + value.len() as u16;
        let mut out = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn message(kind: u16, header: &[u8], attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = [header, &attributes.concat()].concat();
        let len = (NLMSGHDR + body.len()) as u32;
        let head = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10]].concat();
        [head, body].concat()
    }

    /// A device, its address, a route through it, and the end.
    fn answer() -> Vec<u8> {
        let mut link = [0; IFINFOMSG];
        link[2] = ETHERNET as u8;
        link[4] = 7;
        link[8] = UP as u8;
        let mut address = [0; IFADDRMSG];
        address[4] = 7;
        let mut route = [0; RTMSG];
        route[7] = UNICAST;
        let mtu = 1_280_u32.to_ne_bytes();
        [
            message(
                RTM_NEWLINK,
                &link,
                &[attribute(IFLA_IFNAME, b"eth0\0"), attribute(IFLA_MTU, &mtu)],
            ),
            message(
                RTM_NEWADDR,
                &address,
                &[attribute(IFA_ADDRESS, &[192, 0, 2, 1])],
            ),
            message(
                RTM_NEWROUTE,
                &route,
                &[
                    attribute(RTA_OIF, &7_u32.to_ne_bytes()),
                    attribute(RTA_GATEWAY, &[192, 0, 2, 254]),
                    attribute(RTA_METRICS, &attribute(RTAX_MTU, &mtu)),
                ],
            ),
            message(NLMSG_DONE, &[0; 4], &[]),
        ]
        .concat()
    }

    /// What an answer says, and how many messages it has.
    fn all(bytes: &[u8]) -> (usize, Vec<Device>, Vec<IpAddr>, Vec<Route>) {
        let mut all = (0, Vec::new(), Vec::new(), Vec::new());
        let last = read(bytes, |kind, body| {
            all.0 += 1;
            match kind {
                RTM_NEWLINK => all.1.extend(device(body).map(|(_, device)| device)),
                RTM_NEWADDR => all.2.extend(address(body).map(|(_, ip)| ip)),
                RTM_NEWROUTE => all.3.extend(route(body)),
                _ => {}
            }
        });
        last.ok();
        all
    }

    #[test]
    fn an_answer_is_read_and_what_is_near_to_one_does_no_harm() {
        let whole = answer();
        let (count, devices, addresses, routes) = all(&whole);
        assert_eq!(count, 3);
        assert_eq!((&*devices[0].name, devices[0].mtu), ("eth0", 1_280));
        assert_eq!(addresses, [IpAddr::from([192, 0, 2, 1])]);
        let route = Route {
            ifindex: 7,
            gateway: Some(IpAddr::from([192, 0, 2, 254])),
            mtu: Some(1_280),
        };
        assert_eq!(routes, [route]);
        let check = check!().with_iterations(20_000).with_generator(edits());
        check.for_each(|edits| {
            let bytes = edited(&whole, edits);
            let (count, ..) = all(&bytes);
            assert!(count * NLMSGHDR <= bytes.len());
        });
    }

    #[test]
    fn any_error_code_is_an_error_unless_it_is_zero() {
        let check = check!().with_iterations(1_000).with_type::<i32>();
        check.for_each(|code| {
            assert_eq!(error(&code.to_ne_bytes()).is_ok(), *code == 0);
        });
        for code in [0, -1, i32::MIN, i32::MAX] {
            assert_eq!(error(&code.to_ne_bytes()).is_ok(), code == 0);
        }
        assert!(error(&[0; 3]).is_err());
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
            assert!(loopback.addresses.contains(&IpAddr::from([127, 0, 0, 1])));
            let own = netlink.route(None, IpAddr::from([127, 0, 0, 1])).unwrap();
            assert_eq!(own, None, "a local route leaves no host");
        }
    }
}
