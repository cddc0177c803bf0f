//! Keys and values of the program's maps, byte for byte as `relay.bpf.c` has them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use relay_proto::{DropReason, Pace, Traffic};

/// Value of the map of sessions.
pub(super) type SessionValue = [u8; 120];
/// Key of the map of local addresses; value of those of local addresses and of gateways.
pub(super) type AddressKey = [u8; 16];
/// Value of the map with the one configuration.
pub(super) type ConfigValue = [u8; 48];
/// Value of the map of forwarded traffic: packets and bytes.
pub(super) type TrafficValue = [u64; 2];

/// Bytes of one leg.
const LEG: usize = 24;
/// Where the local addresses of both legs begin, their gateways, and their activity.
const LOCAL: usize = 2 * LEG + 4;
const GATEWAY: usize = LOCAL + 4;
const ACTIVITY: usize = GATEWAY + 8;
/// Bytes of one leg's activity.
const ACTIVITY_LEN: usize = 24;
/// Where the session's debt is.
const OWES: usize = ACTIVITY + 2 * ACTIVITY_LEN;
/// Buckets of the latency histogram.
pub(super) const BUCKETS: usize = 16;
/// Upper bound of the first bucket is 2 to this power, in nanoseconds; each next one doubles it.
const FIRST_BUCKET: u32 = 7;

/// What the program drops itself, in the order of its counters.
pub(super) const DROPPED: [DropReason; 4] = [
    DropReason::UnknownVni,
    DropReason::SessionRate,
    DropReason::RelayRate,
    DropReason::Busy,
];

/// Keys of the map of counters that come after those of [`PassReason`].
pub(super) const DROPPED_FIRST: u32 = PassReason::ALL.len() as u32;
pub(super) const LATENCY_SUM: u32 = DROPPED_FIRST + DROPPED.len() as u32;
pub(super) const LATENCY_BUCKETS: u32 = LATENCY_SUM + 1;
/// Number of counters.
pub(super) const COUNTERS: u32 = LATENCY_BUCKETS + BUCKETS as u32;

/// Which family the program forwards, or that it leaves a session to the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forwarding {
    V4 = 0,
    V6 = 1,
    Socket = 2,
}

macro_rules! pass_reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why the program handed a datagram for the relay's port to the socket.
        /// [`PassReason::as_str`] is the metric label `reason`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum PassReason {
            $($(#[$doc])* $name,)*
        }

        impl PassReason {
            /// Every reason, in the order of the program's counters.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The metric label.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

pass_reasons! {
    /// A bind message: the relay itself is addressed.
    Control = "control",
    /// No session that forwards has this VNI.
    UnknownVni = "unknown_vni",
    /// From an address that is no leg of the session.
    NotALeg = "not_a_leg",
    /// A super-packet that holds more than data of one session.
    Mixed = "mixed",
    /// A fragment.
    Fragment = "fragment",
    /// Too short, of another version, or lengths disagree.
    Malformed = "malformed",
    /// Without UDP checksum.
    NoChecksum = "no_checksum",
    /// Its time to live is used up.
    Ttl = "ttl",
    /// Too long for the way out.
    Mtu = "mtu",
    /// A session between IPv4 and IPv6, or without a route: the sockets forward it.
    SocketSession = "socket_session",
    /// Addressed to no address that this host is known to have.
    NotLocal = "not_local",
    /// The relay has not renewed the program's time.
    NotRenewed = "not_renewed",
    /// The packet could not be rewritten.
    Error = "error",
}

/// Where a leg's datagrams go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leg {
    pub(super) address: SocketAddr,
    pub(super) way: Way,
}

/// How datagrams get to a client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Way {
    /// Device towards it; 0 for none.
    pub(super) ifindex: u32,
    /// Longest IP packet.
    pub(super) mtu: u16,
    /// Key of the router that they go to next, [`ON_LINK`], or [`ASK`].
    pub(super) gateway: u16,
}

/// Stands for no router: the device's link leads to the client.
pub(super) const ON_LINK: u16 = 0;
/// Stands for a router that has no key: the program leaves it to the kernel's routes.
pub(super) const ASK: u16 = u16::MAX;

/// What came from a leg since the session has had an entry; `last_seen` is nanoseconds of
/// CLOCK_MONOTONIC, 0 for never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LegActivity {
    pub(super) traffic: Traffic,
    pub(super) last_seen: u64,
}

/// One entry of the map of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) legs: [Leg; 2],
    pub(super) forwarding: Forwarding,
    /// Which local address each leg was bound through; 0 when that is not known.
    pub(super) local: [u16; 2],
    pub(super) used: Used,
}

/// What the program has noted of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) from: [LegActivity; 2],
    /// Nanoseconds of CLOCK_MONOTONIC at which it owes nothing to its bandwidth limit.
    pub(super) owes: u64,
}

/// The program's configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Config {
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub(super) valid_until: u64,
    /// 0 for none.
    pub(super) port: u16,
    /// Number of words of known VNIs, less one.
    pub(super) known_mask: u32,
    /// Bandwidth of each session, and of all of them.
    pub(super) session_pace: Option<Pace>,
    pub(super) relay_pace: Option<Pace>,
}

impl Session {
    pub(super) fn encode(&self) -> SessionValue {
        let mut value = [0; size_of::<SessionValue>()];
        for (leg, bytes) in self.legs.iter().zip(value.chunks_exact_mut(LEG)) {
            bytes[..16].copy_from_slice(&address_key(leg.address.ip()));
            bytes[16..20].copy_from_slice(&leg.way.ifindex.to_ne_bytes());
            bytes[20..22].copy_from_slice(&leg.address.port().to_be_bytes());
            bytes[22..24].copy_from_slice(&leg.way.mtu.to_ne_bytes());
        }
        value[2 * LEG..][..4].copy_from_slice(&(self.forwarding as u32).to_ne_bytes());
        value[LOCAL..][..2].copy_from_slice(&self.local[0].to_ne_bytes());
        value[LOCAL + 2..][..2].copy_from_slice(&self.local[1].to_ne_bytes());
        value[GATEWAY..][..2].copy_from_slice(&self.legs[0].way.gateway.to_ne_bytes());
        value[GATEWAY + 2..][..2].copy_from_slice(&self.legs[1].way.gateway.to_ne_bytes());
        let from = value[ACTIVITY..].chunks_exact_mut(ACTIVITY_LEN);
        for (activity, bytes) in self.used.from.iter().zip(from) {
            bytes[..8].copy_from_slice(&activity.traffic.packets.to_ne_bytes());
            bytes[8..16].copy_from_slice(&activity.traffic.bytes.to_ne_bytes());
            bytes[16..].copy_from_slice(&activity.last_seen.to_ne_bytes());
        }
        value[OWES..].copy_from_slice(&self.used.owes.to_ne_bytes());
        value
    }

    /// Whether packets go the same ways, whatever has been counted.
    pub(super) fn same_ways(&self, other: &Self) -> bool {
        let ways = |session: &Self| (session.legs, session.local, session.forwarding);
        ways(self) == ways(other)
    }

    pub(super) fn decode(value: &SessionValue) -> Self {
        let short = |at: usize| u16::from_ne_bytes([value[at], value[at + 1]]);
        let leg = |at: usize| {
            let bytes = &value[at * LEG..][..LEG];
            let ip = Ipv6Addr::from(*bytes.first_chunk::<16>().expect("a leg has 24 bytes"));
            let port = u16::from_be_bytes([bytes[20], bytes[21]]);
            Leg {
                address: SocketAddr::new(IpAddr::V6(ip).to_canonical(), port),
                way: Way {
                    ifindex: u32::from_ne_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]),
                    mtu: u16::from_ne_bytes([bytes[22], bytes[23]]),
                    gateway: short(GATEWAY + 2 * at),
                },
            }
        };
        let family = value[2 * LEG..]
            .first_chunk()
            .expect("the entry is that long");
        let forwarding = match u32::from_ne_bytes(*family) {
            0 => Forwarding::V4,
            1 => Forwarding::V6,
            _ => Forwarding::Socket,
        };
        Self {
            legs: [leg(0), leg(1)],
            forwarding,
            local: [0, 2].map(|at| short(LOCAL + at)),
            used: Used {
                from: activity(value),
                owes: number(value, OWES),
            },
        }
    }
}

fn number(value: &SessionValue, at: usize) -> u64 {
    u64::from_ne_bytes(*value[at..].first_chunk().expect("the entry is that long"))
}

/// The activity in an entry, without the rest.
pub(super) fn activity(value: &SessionValue) -> [LegActivity; 2] {
    [0, 1].map(|at| {
        let number = |field: usize| number(value, ACTIVITY + at * ACTIVITY_LEN + field * 8);
        LegActivity {
            traffic: Traffic {
                packets: number(0),
                bytes: number(1),
            },
            last_seen: number(2),
        }
    })
}

impl Config {
    pub(super) fn encode(self) -> ConfigValue {
        let mut value = [0; size_of::<ConfigValue>()];
        value[..8].copy_from_slice(&self.valid_until.to_ne_bytes());
        value[8..10].copy_from_slice(&self.port.to_be_bytes());
        value[12..16].copy_from_slice(&self.known_mask.to_ne_bytes());
        for (pace, bytes) in [self.session_pace, self.relay_pace]
            .into_iter()
            .zip(value[16..].chunks_exact_mut(16))
        {
            let Some(pace) = pace else { continue };
            bytes[..8].copy_from_slice(&pace.bytes_per_second().to_ne_bytes());
            let burst = u64::try_from(pace.burst().as_nanos()).unwrap_or(u64::MAX);
            bytes[8..].copy_from_slice(&burst.to_ne_bytes());
        }
        value
    }

    /// Port and time of what another process has written; the rest is its own.
    pub(super) fn decode(value: &ConfigValue) -> Self {
        let valid_until = value.first_chunk().expect("the value is that long");
        Self {
            valid_until: u64::from_ne_bytes(*valid_until),
            port: u16::from_be_bytes([value[8], value[9]]),
            ..Self::default()
        }
    }
}

/// An address as the program compares it: IPv4 in IPv6's mapped form.
pub(super) const fn address_key(ip: IpAddr) -> AddressKey {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Upper bound of a latency bucket, in nanoseconds; the last one has none.
pub(super) const fn bucket_bound(bucket: usize) -> Option<u64> {
    if bucket + 1 < BUCKETS {
        Some(1 << (FIRST_BUCKET as usize + bucket))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn entry_round_trips() {
        let leg = |address: &str, ifindex| Leg {
            address: address.parse().unwrap(),
            way: Way {
                ifindex,
                mtu: 1400,
                gateway: 0x0102 * ifindex as u16,
            },
        };
        let activity = |packets| LegActivity {
            traffic: Traffic {
                packets,
                bytes: packets * 100,
            },
            last_seen: packets * 1000,
        };
        for (legs, forwarding) in [
            (
                [leg("192.0.2.1:7", 3), leg("192.0.2.2:40000", 4)],
                Forwarding::V4,
            ),
            (
                [leg("[2001:db8::1]:7", 3), leg("[2001:db8::2]:9", 4)],
                Forwarding::V6,
            ),
            (
                [leg("192.0.2.1:7", 0), leg("[2001:db8::2]:9", 0)],
                Forwarding::Socket,
            ),
        ] {
            let session = Session {
                legs,
                forwarding,
                local: [3, 700],
                used: Used {
                    from: [activity(1), activity(u64::MAX / 2000)],
                    owes: u64::MAX / 3,
                },
            };
            assert_eq!(Session::decode(&session.encode()), session);
            assert_eq!(super::activity(&session.encode()), session.used.from);
        }
    }
}
