//! Entries of sessions, byte for byte as `maps.bpf.h` has them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use relay_proto::Traffic;

use super::abi::address_key;

/// Entry of a session between IPv4 addresses.
pub(super) type Entry4 = [u8; COMMON_LEN + 2 * 4];
/// Entry of any other session.
pub(super) type Entry6 = [u8; COMMON_LEN + 2 * 16];

/// Bytes of one leg with what came from it.
const LEG_LEN: usize = 24;
/// Offset of the session's theoretical arrival time (GCRA); the addresses follow it.
const TAT_OFFSET: usize = 2 * LEG_LEN;
const COMMON_LEN: usize = TAT_OFFSET + 8;
/// A tick of [`LegActivity::last_seen`] is 2 to this power, in nanoseconds: 67 ms.
const TICK: u32 = 26;

/// Entry of one session, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionEntry {
    pub(super) legs: [Leg; 2],
    pub(super) usage: Usage,
}

/// Address of one client, and how datagrams reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leg {
    pub(super) address: SocketAddr,
    /// Longest IP packet on the way; 0 where the sockets forward.
    pub(super) mtu: u16,
    /// Key of [`EgressTable`](super::egress::EgressTable).
    pub(super) egress: u16,
}

/// Counts and times that the program keeps of a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) from: [LegActivity; 2],
    /// Theoretical arrival time (GCRA) for its bandwidth limit, in nanoseconds of CLOCK_MONOTONIC.
    pub(super) tat: u64,
}

/// Traffic from a leg since the session has had an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LegActivity {
    pub(super) traffic: Traffic,
    /// Tick of CLOCK_MONOTONIC, of which 73 minutes are told apart.
    pub(super) last_seen: u16,
}

impl LegActivity {
    /// Time since the last datagram from the leg, at most a tick less, when CLOCK_MONOTONIC is at
    /// `clock` nanoseconds. For a leg that has sent nothing it is the time since the boot of the
    /// host. Sessions end when a leg is silent for five minutes, and entries of a relay that was away for
    /// longer are removed, so no silence is as long as what ticks tell apart.
    pub(super) const fn silence(&self, clock: u64) -> Duration {
        // A tick of zero is a time like any other, so only the count tells that nothing has come.
        if self.traffic.bytes == 0 {
            return Duration::from_nanos(clock);
        }
        let ticks = ((clock >> TICK) as u16).wrapping_sub(self.last_seen);
        Duration::from_nanos((ticks as u64) << TICK)
    }
}

impl SessionEntry {
    /// The entry, if both legs have IPv4 addresses.
    pub(super) fn encode4(&self) -> Option<Entry4> {
        let mut entry = [0; size_of::<Entry4>()];
        self.encode_common(&mut entry);
        for (leg, bytes) in self
            .legs
            .iter()
            .zip(entry[COMMON_LEN..].chunks_exact_mut(4))
        {
            let IpAddr::V4(ip) = leg.address.ip() else {
                return None;
            };
            bytes.copy_from_slice(&ip.octets());
        }
        Some(entry)
    }

    /// The entry with IPv6 addresses, IPv4 addresses in their mapped form.
    pub(super) fn encode6(&self) -> Entry6 {
        let mut entry = [0; size_of::<Entry6>()];
        self.encode_common(&mut entry);
        for (leg, bytes) in self
            .legs
            .iter()
            .zip(entry[COMMON_LEN..].chunks_exact_mut(16))
        {
            bytes.copy_from_slice(&address_key(leg.address.ip()));
        }
        entry
    }

    pub(super) fn decode4(entry: &Entry4) -> Self {
        Self::decode(entry, |at| {
            Ipv4Addr::from(array(entry, COMMON_LEN + at * 4)).into()
        })
    }

    pub(super) fn decode6(entry: &Entry6) -> Self {
        Self::decode(entry, |at| {
            let ip = Ipv6Addr::from(array(entry, COMMON_LEN + at * 16));
            IpAddr::V6(ip).to_canonical()
        })
    }

    fn encode_common(&self, entry: &mut [u8]) {
        let of = self.legs.iter().zip(&self.usage.from);
        for ((leg, heard), bytes) in of.zip(entry.chunks_exact_mut(LEG_LEN)) {
            // The program compares ports with those of packets, in the byte order of the network.
            bytes[..2].copy_from_slice(&leg.address.port().to_be_bytes());
            bytes[2..4].copy_from_slice(&leg.mtu.to_ne_bytes());
            bytes[4..6].copy_from_slice(&leg.egress.to_ne_bytes());
            bytes[6..8].copy_from_slice(&heard.last_seen.to_ne_bytes());
            bytes[8..16].copy_from_slice(&heard.traffic.packets.to_ne_bytes());
            bytes[16..].copy_from_slice(&heard.traffic.bytes.to_ne_bytes());
        }
        entry[TAT_OFFSET..COMMON_LEN].copy_from_slice(&self.usage.tat.to_ne_bytes());
    }

    fn decode(entry: &[u8], ip: impl Fn(usize) -> IpAddr) -> Self {
        let short = |at| u16::from_ne_bytes(array(entry, at));
        let long = |at| u64::from_ne_bytes(array(entry, at));
        let leg = |side: usize| {
            let at = side * LEG_LEN;
            let port = u16::from_be_bytes(array(entry, at));
            Leg {
                address: SocketAddr::new(ip(side), port),
                mtu: short(at + 2),
                egress: short(at + 4),
            }
        };
        let heard = |side: usize| LegActivity {
            traffic: Traffic {
                packets: long(side * LEG_LEN + 8),
                bytes: long(side * LEG_LEN + 16),
            },
            last_seen: short(side * LEG_LEN + 6),
        };
        Self {
            legs: [0, 1].map(leg),
            usage: Usage {
                from: [0, 1].map(heard),
                tat: long(TAT_OFFSET),
            },
        }
    }
}

fn array<const N: usize>(entry: &[u8], at: usize) -> [u8; N] {
    *entry[at..].first_chunk().expect("the entry is that long")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    fn session(legs: [&str; 2]) -> SessionEntry {
        let leg = |at: usize| Leg {
            address: legs[at].parse().unwrap(),
            mtu: 1_400 + at as u16,
            egress: 0x0102 * (at as u16 + 1),
        };
        let heard = |packets| LegActivity {
            traffic: Traffic {
                packets,
                bytes: packets * 100,
            },
            last_seen: 0x0304 + packets as u16,
        };
        SessionEntry {
            legs: [leg(0), leg(1)],
            usage: Usage {
                from: [heard(1), heard(u64::MAX / 2000)],
                tat: u64::MAX / 3,
            },
        }
    }

    #[test]
    fn entry_round_trips() {
        let session4 = session(["192.0.2.1:7", "192.0.2.2:40000"]);
        assert_eq!(
            SessionEntry::decode4(&session4.encode4().unwrap()),
            session4
        );
        for legs in [
            ["[2001:db8::1]:7", "[2001:db8::2]:9"],
            ["192.0.2.1:7", "[2001:db8::2]:9"],
        ] {
            let session6 = session(legs);
            assert_eq!(session6.encode4(), None);
            assert_eq!(SessionEntry::decode6(&session6.encode6()), session6);
        }
    }

    #[test]
    fn entry_between_ipv4_addresses_is_a_cache_line() {
        // With 56 bytes of the kernel's and 8 of its allocator it is an object of 128.
        assert_eq!(size_of::<Entry4>(), 64);
    }

    #[test]
    fn silence_is_told_in_ticks_although_their_count_wraps() {
        let minute = 60_000_000_000;
        let tick = |clock: u64| (clock >> TICK) as u16;
        let mut leg = LegActivity::default();
        assert_eq!(
            leg.silence(3 * minute),
            Duration::from_mins(3),
            "of a leg never heard"
        );
        leg.traffic.bytes = 8;
        for up in 1..1000 {
            let heard = up * minute;
            leg.last_seen = tick(heard);
            assert_eq!(leg.silence(heard), Duration::ZERO);
            let silence = leg.silence(heard + 5 * minute).as_secs_f64();
            assert!((299.9..=300.1).contains(&silence), "{silence} s");
        }
    }
}
