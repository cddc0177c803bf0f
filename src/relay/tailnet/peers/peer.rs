//! One peer: the part of `tailcfg.Node` that a relay uses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;
use relay_proto::{DiscoPublic, NodeKey};
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

use super::TagSet;
use crate::relay::tailnet::json::{
    changed_time, disco_key, each_text, is_given, node_key, or_default, parsed, point_in_time,
};

/// A peer of the tailnet, as a relay uses it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "PeerJson")]
pub(crate) struct Peer {
    pub(crate) id: i64,
    pub(crate) key: Option<NodeKey>,
    pub(crate) disco: Option<DiscoPublic>,
    pub(crate) ips: PeerIps,
    /// Home DERP region; 0 for none.
    pub(crate) home: u32,
    pub(crate) expiry: Expiry,
    /// Tags; `None` for a device of a user.
    pub(crate) tags: Option<TagSet>,
    pub(crate) user: i64,
    /// Name without a dot at its end.
    pub(crate) name: Box<str>,
    /// Control says that the key has expired.
    pub(crate) expired: bool,
    pub(crate) unsigned_peer_api_only: bool,
    /// Control has a signature of Tailnet Lock on the node key.
    pub(crate) is_signed: bool,
    /// The device reports whether it is a relay.
    pub(crate) is_relay: Option<bool>,
}

/// The time at which a key expires: the last one for a key that does not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Expiry(i64);

/// Addresses of a peer that are no networks: most peers have one of each IP version.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct PeerIps {
    v4: Option<Ipv4Addr>,
    v6: Option<Ipv6Addr>,
    v6_is_first: bool,
    more: Option<Box<[IpAddr]>>,
}

/// A change of one peer.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct PeerChange {
    #[serde(rename = "NodeID", deserialize_with = "or_default")]
    pub(crate) node_id: i64,
    #[serde(rename = "DERPRegion", deserialize_with = "or_default")]
    pub(crate) derp_region: u32,
    #[serde(deserialize_with = "node_key")]
    pub(crate) key: Option<NodeKey>,
    /// There is a new signature of Tailnet Lock on the node key.
    #[serde(rename = "KeySignature", deserialize_with = "is_given")]
    pub(crate) is_signed: bool,
    #[serde(deserialize_with = "disco_key")]
    pub(crate) disco_key: Option<DiscoPublic>,
    /// The new time, where it changes; `Some(None)` for a key that does not expire.
    #[serde(deserialize_with = "changed_time")]
    pub(crate) key_expiry: Option<Option<Timestamp>>,
}

/// A peer as control sends it.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct PeerJson {
    #[serde(rename = "ID", deserialize_with = "or_default")]
    id: i64,
    #[serde(deserialize_with = "name")]
    name: Box<str>,
    #[serde(deserialize_with = "node_key")]
    key: Option<NodeKey>,
    #[serde(deserialize_with = "is_given")]
    key_signature: bool,
    #[serde(deserialize_with = "disco_key")]
    disco_key: Option<DiscoPublic>,
    #[serde(deserialize_with = "or_default")]
    addresses: PeerIps,
    #[serde(rename = "HomeDERP", deserialize_with = "or_default")]
    home_derp: u32,
    #[serde(rename = "DERP", deserialize_with = "legacy_home")]
    legacy_derp: u32,
    #[serde(deserialize_with = "or_default")]
    tags: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    user: i64,
    hostinfo: Option<PeerHostinfo>,
    #[serde(rename = "UnsignedPeerAPIOnly", deserialize_with = "or_default")]
    unsigned_peer_api_only: bool,
    #[serde(deserialize_with = "or_default")]
    expired: bool,
    #[serde(deserialize_with = "point_in_time")]
    key_expiry: Option<Timestamp>,
}

/// Properties that a peer reports of itself.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct PeerHostinfo {
    #[serde(deserialize_with = "or_default")]
    peer_relay: bool,
}

impl PeerChange {
    /// Returns whether it changes nothing that a relay uses.
    pub(crate) const fn is_empty(&self) -> bool {
        let Self {
            node_id: _,
            derp_region,
            key,
            is_signed,
            disco_key,
            key_expiry,
        } = self;
        *derp_region == 0
            && key.is_none()
            && !*is_signed
            && disco_key.is_none()
            && key_expiry.is_none()
    }
}

impl Peer {
    /// Home DERP region, if the device has one.
    pub(crate) const fn home_region(&self) -> Option<u32> {
        match self.home {
            0 => None,
            region => Some(region),
        }
    }

    /// The tags of the device.
    pub(crate) fn tags(&self) -> &[String] {
        self.tags.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Returns whether the node key has expired, by control or by the time. `now` is control's time.
    pub(crate) fn has_expired(&self, now: Option<Timestamp>) -> bool {
        self.expired || self.expiry.is_over(now)
    }

    /// Applies a change that concerns this peer.
    pub(crate) fn apply(&mut self, change: &PeerChange) {
        if change.derp_region != 0 {
            self.home = change.derp_region;
        }
        // A signature is of one key.
        self.is_signed = change.is_signed || self.is_signed && change.key.is_none();
        self.key = change.key.or(self.key);
        self.disco = change.disco_key.or(self.disco);
        self.expiry = change.key_expiry.map_or(self.expiry, Expiry::from);
    }

    /// Returns whether `other` has the same rights while filter and time stay the same.
    pub(crate) fn has_rights_of(&self, other: &Self) -> bool {
        let of = |peer: &Self| {
            (
                peer.key,
                peer.ips.first(),
                peer.expiry,
                peer.expired,
                peer.unsigned_peer_api_only,
                peer.is_signed,
            )
        };
        of(self) == of(other)
    }

    /// Returns whether `other` counts as the same in the numbers of peers that are reported.
    pub(crate) fn counts_as(&self, other: &Self) -> bool {
        let of = |peer: &Self| (peer.user, peer.is_relay);
        self.has_rights_of(other)
            && of(self) == of(other)
            && (&self.tags, &self.ips) == (&other.tags, &other.ips)
    }
}

impl From<PeerJson> for Peer {
    fn from(json: PeerJson) -> Self {
        Self {
            id: json.id,
            key: json.key,
            disco: json.disco_key,
            ips: json.addresses,
            home: match json.home_derp {
                0 => json.legacy_derp,
                region => region,
            },
            expiry: json.key_expiry.into(),
            tags: (!json.tags.is_empty()).then(|| Arc::new(json.tags)),
            user: json.user,
            name: json.name,
            expired: json.expired,
            unsigned_peer_api_only: json.unsigned_peer_api_only,
            is_signed: json.key_signature,
            is_relay: json.hostinfo.map(|info| info.peer_relay),
        }
    }
}

impl Expiry {
    const NEVER: Self = Self(i64::MAX);

    /// Returns whether the time has come; never if the time is not known.
    pub(crate) fn is_over(self, now: Option<Timestamp>) -> bool {
        now.is_some_and(|now| self != Self::NEVER && self <= Self::from(Some(now)))
    }

    /// The time, unless the key does not expire.
    pub(crate) fn time(self) -> Option<Timestamp> {
        let time = Timestamp::from_nanosecond(self.0.into()).ok()?;
        (self != Self::NEVER).then_some(time)
    }
}

impl Default for Expiry {
    fn default() -> Self {
        Self::NEVER
    }
}

/// A time before 1677 or after 2262 counts as the first or the last one.
impl From<Option<Timestamp>> for Expiry {
    fn from(time: Option<Timestamp>) -> Self {
        time.map_or(Self::NEVER, |time| {
            let bounds = (i128::from(i64::MIN), i128::from(i64::MAX));
            let nanoseconds = time.as_nanosecond().clamp(bounds.0, bounds.1);
            Self(nanoseconds as i64)
        })
    }
}

impl fmt::Debug for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.time().fmt(f)
    }
}

impl PeerIps {
    /// Returns all addresses of the peer.
    pub(crate) fn iter(&self) -> impl Iterator<Item = IpAddr> {
        let more = self.more.iter().flatten().copied();
        self.first().into_iter().flatten().chain(more)
    }

    /// The first address of each IP version, in the order of the peer.
    pub(crate) fn first(&self) -> [Option<IpAddr>; 2] {
        let (v4, v6) = (self.v4.map(IpAddr::V4), self.v6.map(IpAddr::V6));
        match self.v6_is_first {
            true => [v6, v4],
            false => [v4, v6],
        }
    }

    fn add(&mut self, ip: IpAddr) {
        match ip {
            IpAddr::V4(ip) if self.v4.is_none() => self.v4 = Some(ip),
            IpAddr::V6(ip) if self.v6.is_none() => {
                self.v6_is_first = self.v4.is_none();
                self.v6 = Some(ip);
            }
            _ => {
                let more = self.more.take().into_iter().flatten();
                self.more = Some(more.chain([ip]).collect());
            }
        }
    }
}

impl<'de> Deserialize<'de> for PeerIps {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Networks;

        impl<'de> Visitor<'de> for Networks {
            type Value = PeerIps;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of networks")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, texts: A) -> Result<PeerIps, A::Error> {
                let mut ips = PeerIps::default();
                each_text(texts, |text| {
                    let net: IpNet = text.parse().map_err(|_| "invalid network")?;
                    if net.prefix_len() == net.max_prefix_len() {
                        ips.add(net.addr());
                    }
                    Ok(())
                })?;
                Ok(ips)
            }
        }

        deserializer.deserialize_seq(Networks)
    }
}

impl fmt::Debug for PeerIps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<str>, D::Error> {
    let name = parsed(deserializer, |text| Ok(text.trim_end_matches('.').into()))?;
    Ok(name.unwrap_or_default())
}

/// The home region before `HomeDERP` existed: `127.3.3.40:REGION`.
fn legacy_home<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let region = parsed(deserializer, |text| {
        let region = text.strip_prefix("127.3.3.40:");
        Ok(region.and_then(|region| region.parse().ok()).unwrap_or(0))
    })?;
    Ok(region.unwrap_or_default())
}
