//! Layout of the configuration, counters and local addresses of the program, byte for byte as
//! `maps.bpf.h` has them.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use relay_proto::{DropReason, RateLimit};

/// Key of the map of local addresses; value of the same by key.
pub(super) type AddressKey = [u8; 16];
/// Key of the map of datagrams that the program has seen.
pub(super) type SightingKey = [u8; 40];
/// Value of the map with the one configuration.
pub(super) type ConfigValue = [u8; 48];
/// Value of the map of forwarded traffic: packets and bytes.
pub(super) type TrafficValue = [u64; 2];

/// Buckets of the latency histogram.
pub(super) const BUCKETS: usize = 16;
/// Upper bound of the first bucket is 2 to this power, in nanoseconds; each next one doubles it.
const FIRST_BUCKET: u32 = 7;

/// Time without forwarding after which no session is open: far longer than the five minutes of silence that
/// end a session, and shorter than the time after which ticks wrap.
const OUTDATED: Duration = Duration::from_secs(30 * 60);

/// Reasons for which the program itself drops datagrams, in the order of its counters.
pub const DROPPED: [DropReason; 4] = [
    DropReason::UnknownVni,
    DropReason::SessionRate,
    DropReason::RelayRate,
    DropReason::Busy,
];

/// Keys of the map of counters that come after those of [`PassReason`].
pub(super) const DROPPED_FIRST: u32 = PassReason::ALL.len() as u32;
pub(super) const LATENCY_SUM: u32 = DROPPED_FIRST + DROPPED.len() as u32;
pub(super) const LATENCY_BUCKETS: u32 = LATENCY_SUM + 1;
/// Number of counters, which the object has too.
#[cfg(test)]
pub(super) const COUNTERS: u32 = LATENCY_BUCKETS + BUCKETS as u32;

labels::label_enum! {
    /// Reason why the program handed a datagram for the relay's port to the sockets, in the order of
    /// the program's counters. [`PassReason::as_str`] is the metric label `reason`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum PassReason {
        /// A bind message: the relay itself is addressed.
        Control = "control",
        /// No session that forwards has this VNI.
        UnknownVni = "unknown_vni",
        /// The source address is no leg of the session.
        NotALeg = "not_a_leg",
        /// A super-packet that holds more than data of one session.
        Mixed = "mixed",
        /// A fragment of an IP packet.
        Fragment = "fragment",
        /// Too short, of another version or protocol, or lengths disagree.
        Malformed = "malformed",
        /// The datagram has no UDP checksum.
        NoChecksum = "no_checksum",
        /// Its time to live is used up.
        Ttl = "ttl",
        /// The packet is too long for the way out.
        Mtu = "mtu",
        /// A session between IPv4 and IPv6, without a route, through a local address that is gone, or through
        /// address translation of this host: the sockets forward it.
        SocketSession = "socket_session",
        /// Addressed to no address that this host is known to have.
        NotLocal = "not_local",
        /// The relay has not renewed the program's time.
        NotRenewed = "not_renewed",
        /// The packet could not be rewritten.
        Error = "error",
    }
}

/// The program's configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Config {
    /// Time until which the program forwards, in nanoseconds of CLOCK_MONOTONIC.
    pub(super) valid_until: u64,
    /// UDP port; 0 while the relay has none.
    pub(super) port: u16,
    /// Number of words of known VNIs, less one.
    pub(super) known_mask: u32,
    /// Bandwidth of each session, and of all of them.
    pub(super) session_limit: Option<RateLimit>,
    pub(super) relay_limit: Option<RateLimit>,
}

impl Config {
    pub(super) fn encode(self) -> ConfigValue {
        let mut value = [0; size_of::<ConfigValue>()];
        value[..8].copy_from_slice(&self.valid_until.to_ne_bytes());
        // In network order: the program compares it with the port in the packet as it is.
        value[8..10].copy_from_slice(&self.port.to_be_bytes());
        value[12..16].copy_from_slice(&self.known_mask.to_ne_bytes());
        for (limit, bytes) in [self.session_limit, self.relay_limit]
            .into_iter()
            .zip(value[16..].chunks_exact_mut(16))
        {
            let Some(limit) = limit else { continue };
            bytes[..8].copy_from_slice(&limit.per_second().to_ne_bytes());
            let burst = u64::try_from(limit.burst().as_nanos()).unwrap_or(u64::MAX);
            bytes[8..].copy_from_slice(&burst.to_ne_bytes());
        }
        value
    }

    /// Decodes the port and the time that another process has written. The other fields belong to
    /// that process.
    pub(super) fn decode(value: &ConfigValue) -> Self {
        let valid_until = value.first_chunk().expect("the value is that long");
        Self {
            valid_until: u64::from_ne_bytes(*valid_until),
            port: u16::from_be_bytes([value[8], value[9]]),
            ..Self::default()
        }
    }

    /// Returns whether the program has forwarded nothing for so long that no session of the process which
    /// wrote this can still be open. Ticks of its entries would name such a silence as a shorter one, as
    /// they wrap after 73 minutes.
    pub(super) fn is_outdated(&self, clock: u64) -> bool {
        let silent = Duration::from_nanos(clock.saturating_sub(self.valid_until));
        // Zero is a map that no process has written to.
        self.valid_until != 0 && silent > OUTDATED
    }
}

/// An address as the program compares it: IPv4 in IPv6's mapped form.
pub(super) const fn address_key(ip: IpAddr) -> AddressKey {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A datagram with this VNI from a client to a local address, as the program has seen it.
pub(super) fn sighting_key(vni: u32, client: SocketAddr, local: IpAddr) -> SightingKey {
    let mut key = [0; size_of::<SightingKey>()];
    key[..4].copy_from_slice(&vni.to_ne_bytes());
    key[4..6].copy_from_slice(&client.port().to_be_bytes());
    key[8..24].copy_from_slice(&address_key(client.ip()));
    key[24..].copy_from_slice(&address_key(local));
    key
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
    use super::*;

    #[test]
    fn what_a_relay_left_is_outdated_once_no_session_can_be_open() {
        let minute = 60_000_000_000;
        let config = Config {
            valid_until: 100 * minute,
            ..Config::default()
        };
        for (clock, wanted) in [
            (0, false),
            (100 * minute, false),
            (120 * minute, false),
            (131 * minute, true),
            // The ticks have wrapped, and name silences of some minutes.
            (175 * minute, true),
            (u64::MAX, true),
        ] {
            assert_eq!(config.is_outdated(clock), wanted, "{clock}");
        }
        assert!(!Config::default().is_outdated(u64::MAX), "nobody wrote it");
    }
}
