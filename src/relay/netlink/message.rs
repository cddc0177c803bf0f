//! Messages of rtnetlink(7): devices, addresses, routes and filters.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{Device, DeviceAddress, Route};

/// Message types and flags (linux/rtnetlink.h, linux/netlink.h).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
pub(super) const RTM_NEWLINK: u16 = 16;
pub(super) const RTM_GETLINK: u16 = 18;
pub(super) const RTM_NEWADDR: u16 = 20;
pub(super) const RTM_GETADDR: u16 = 22;
pub(super) const RTM_NEWROUTE: u16 = 24;
pub(super) const RTM_GETROUTE: u16 = 26;
pub(super) const RTM_NEWTFILTER: u16 = 44;
pub(super) const RTM_GETTFILTER: u16 = 46;
pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_DUMP: u16 = 0x300;
/// Types of attributes (linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h, linux/pkt_cls.h).
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
pub(super) const RTA_MARK: u16 = 16;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_ID: u16 = 11;
/// Lengths of the headers before attributes.
pub(super) const NLMSGHDR: usize = 16;
pub(super) const RTMSG: usize = 12;
pub(super) const IFINFOMSG: usize = 16;
pub(super) const IFADDRMSG: usize = 8;
pub(super) const TCMSG: usize = 20;
/// A route to another host (`RTN_UNICAST`).
const UNICAST: u8 = 1;
/// A device with Ethernet headers (`ARPHRD_ETHER`).
const ETHERNET: u16 = 1;
/// A device that is up (`IFF_UP`), and one that leads back (`IFF_LOOPBACK`).
const UP: u32 = 1;
const LOOPBACK: u32 = 8;

/// Flags of an IPv6 address (linux/if_addr.h): made by privacy extensions, unusable because another host
/// has it, not to be used for new connections, and not yet known to be free. For IPv4 the first one means
/// a secondary address.
const IFA_F_TEMPORARY: u8 = 0x01;
const IFA_F_DADFAILED: u8 = 0x08;
const IFA_F_DEPRECATED: u8 = 0x20;
const IFA_F_TENTATIVE: u8 = 0x40;

/// Content of a part of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// It belongs to another request.
    Foreign,
    /// Messages of the answer, after which others may come.
    Messages,
    /// The end of the answer.
    Last,
}

/// Hands over each message of a part of an answer to the request with this sequence number. Messages of
/// another request are left out: if an answer was not read to its end, they come before the next one.
pub(super) fn read(
    mut rest: &[u8],
    sequence: u32,
    mut each: impl FnMut(u16, &[u8]),
) -> io::Result<Part> {
    let mut part = Part::Foreign;
    while let Some(header) = rest.first_chunk::<NLMSGHDR>() {
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let Some(body) = rest.get(NLMSGHDR..len) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if u32::from_ne_bytes([header[8], header[9], header[10], header[11]]) == sequence {
            match kind {
                NLMSG_DONE => return Ok(Part::Last),
                NLMSG_ERROR => return error(body).map(|()| Part::Last),
                _ => each(kind, body),
            }
            part = Part::Messages;
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(part)
}

/// Splits attributes: each has a length, a type, and a value, padded to four bytes.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header: &[u8; 4] = rest.first_chunk()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        // The two highest bits are flags: NLA_F_NESTED and NLA_F_NET_BYTEORDER.
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The number in the first four bytes.
fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().copied().map(u32::from_ne_bytes)
}

/// The index of a device, and the device without its addresses.
pub(super) fn device(body: &[u8]) -> Option<(u32, Device)> {
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
            IFLA_IFNAME => device.name = text(value),
            IFLA_MTU => device.mtu = number(value)?,
            IFLA_LINK => device.lower = number(value),
            // IFLA_LINK is then an index of the other namespace. It names nothing here, or another
            // device.
            IFLA_LINK_NETNSID => device.lower_is_elsewhere = true,
            IFLA_MASTER => device.master = number(value),
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                device.kind = kind.map(|(_, value)| text(value));
            }
            _ => {}
        }
    }
    Some((number(&header[4..])?, device))
}

/// Returns a text that may end in a zero byte.
fn text(value: &[u8]) -> String {
    let text = value.strip_suffix(&[0]).unwrap_or(value);
    String::from_utf8_lossy(text).into_owned()
}

/// The index of a device, and one of its addresses. On a point-to-point device `IFA_ADDRESS` is the other
/// end, and `IFA_LOCAL` is this one.
pub(super) fn address(body: &[u8]) -> Option<(u32, DeviceAddress)> {
    let header: &[u8; IFADDRMSG] = body.first_chunk()?;
    let find = |wanted| attributes(&body[IFADDRMSG..]).find(|(kind, _)| *kind == wanted);
    let (_, value) = find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))?;
    let ip = ip(value)?;
    // The header has the low eight bits of IFA_FLAGS, which are enough for these flags.
    let has = |flags: u8| ip.is_ipv6() && header[2] & flags != 0;
    let address = DeviceAddress {
        ip,
        is_temporary: has(IFA_F_TEMPORARY),
        is_usable: !has(IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE),
    };
    Some((number(&header[4..])?, address))
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(*value.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*value.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// The route, if it leads to another host.
pub(super) fn route(body: &[u8]) -> Option<Route> {
    let header: &[u8; RTMSG] = body.first_chunk()?;
    // Routes of the types local, broadcast and multicast stay on this host or have no next hop;
    // unreachable ones are an error instead of an answer.
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
            // A gateway of another family than the client, after two bytes that name the family.
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

/// Returns the index of the device of a route to another host, and the source address that it gives.
pub(super) fn route_source(body: &[u8]) -> Option<(u32, Option<IpAddr>)> {
    let Route { ifindex, .. } = route(body)?;
    let source = attributes(&body[RTMSG..]).find(|(kind, _)| *kind == RTA_PREFSRC);
    Some((ifindex, source.and_then(|(_, value)| ip(value))))
}

/// Id of the BPF program of a filter.
pub(super) fn filter(body: &[u8]) -> Option<u32> {
    let options = attributes(body.get(TCMSG..)?).find(|(kind, _)| *kind == TCA_OPTIONS);
    let id = attributes(options?.1).find(|(kind, _)| *kind == TCA_BPF_ID);
    number(id?.1)
}

/// The error of an acknowledgement; zero is none.
fn error(body: &[u8]) -> io::Result<()> {
    match number(body).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
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

    /// Sequence number of the request.
    const SEQUENCE: u32 = 0x0102_0304;

    fn message(kind: u16, header: &[u8], attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = [header, &attributes.concat()].concat();
        let len = (NLMSGHDR + body.len()) as u32;
        let head = [
            &len.to_ne_bytes()[..],
            &kind.to_ne_bytes(),
            &[0; 2],
            &SEQUENCE.to_ne_bytes(),
            &[0; 4],
        ];
        [head.concat(), body].concat()
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

    /// Content of an answer, and the number of its messages.
    fn all(bytes: &[u8]) -> (usize, Vec<Device>, Vec<IpAddr>, Vec<Route>) {
        let mut all = (0, Vec::new(), Vec::new(), Vec::new());
        let last = read(bytes, SEQUENCE, |kind, body| {
            all.0 += 1;
            match kind {
                RTM_NEWLINK => all.1.extend(device(body).map(|(_, device)| device)),
                RTM_NEWADDR => all.2.extend(address(body).map(|(_, address)| address.ip)),
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
    fn messages_of_another_request_are_left_out() {
        let answer = answer();
        let mut count = 0;
        let part = read(&answer, SEQUENCE + 1, |_, _| count += 1);
        assert_eq!((part.unwrap(), count), (Part::Foreign, 0));
        let part = read(&answer, SEQUENCE, |_, _| count += 1);
        assert_eq!((part.unwrap(), count), (Part::Last, 3));
        let begin = message(RTM_NEWLINK, &[0; IFINFOMSG], &[]);
        assert_eq!(read(&begin, SEQUENCE, |_, _| {}).unwrap(), Part::Messages);
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
}
