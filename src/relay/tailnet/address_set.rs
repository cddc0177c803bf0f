//! Sets of IP addresses in a form that is small and quick to search: sorted addresses and ranges.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

use super::json::each_text;
use crate::grants::is_everyone;

/// A range of at least as many IPv4 addresses is everyone: control writes all of the tailnet as two
/// ranges, around the addresses that it gives to nobody.
const WIDE_RANGE: u32 = 1 << 21;

/// Addresses of `SrcIPs` (`tailcfg.FilterRule.SrcIPs`).
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct AddressSet {
    all: bool,
    /// An entry names every address of the tailnet.
    everyone: bool,
    v4: Sorted<u32>,
    v6: Sorted<u128>,
}

/// An entry of `SrcIPs` or `Dsts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Addresses {
    All,
    Net(IpNet),
    Range(IpAddr, IpAddr),
}

/// Numbers and ranges of numbers, both in order and without repetition.
#[derive(Clone, Default, PartialEq, Eq)]
struct Sorted<T> {
    single: Vec<T>,
    /// Ranges that do not overlap.
    ranges: Vec<(T, T)>,
}

impl AddressSet {
    /// Returns whether the set has this address.
    pub(crate) fn holds(&self, ip: IpAddr) -> bool {
        self.all
            || match ip {
                IpAddr::V4(ip) => self.v4.holds(ip.to_bits()),
                IpAddr::V6(ip) => self.v6.holds(ip.to_bits()),
            }
    }

    /// Returns whether an entry names every address of the tailnet.
    pub(crate) const fn is_everyone(&self) -> bool {
        self.everyone
    }

    /// Returns the addresses of both sets.
    pub(crate) fn union(&self, other: &Self) -> Self {
        Self {
            all: self.all || other.all,
            everyone: self.everyone || other.everyone,
            v4: self.v4.union(&other.v4),
            v6: self.v6.union(&other.v6),
        }
    }

    /// The addresses that these texts name. A text grants nothing if its form is not known or it is
    /// invalid; and so does a node attribute (`cap:NAME`), which counts for ports only
    /// (`filter.Filter.CapsWithValues`), and a network with bits of a host
    /// (`filter.MatchesFromFilterRules`).
    #[cfg(test)]
    pub(crate) fn of(texts: &[&str]) -> Self {
        let mut set = Self::default();
        texts.iter().for_each(|text| set.add(text));
        set.sort();
        set
    }

    fn add(&mut self, text: &str) {
        // Nearly all entries of large filters are single addresses.
        match text.parse() {
            Ok(IpAddr::V4(ip)) => self.v4.single.push(ip.to_bits()),
            Ok(IpAddr::V6(ip)) => self.v6.single.push(ip.to_bits()),
            Err(_) => self.add_other(text),
        }
    }

    fn add_other(&mut self, text: &str) {
        let Some(addresses) = Addresses::parse(text) else {
            return;
        };
        let (first, last) = match addresses {
            Addresses::All => {
                (self.all, self.everyone) = (true, true);
                return;
            }
            Addresses::Net(net) if net.addr() != net.network() => return,
            Addresses::Net(net) => {
                self.everyone |= is_everyone(net);
                (net.network(), net.broadcast())
            }
            Addresses::Range(first, last) => (first, last),
        };
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                let (first, last) = (first.to_bits(), last.to_bits());
                let is_range = matches!(addresses, Addresses::Range(..));
                self.everyone |= is_range && last.saturating_sub(first) >= WIDE_RANGE;
                self.v4.add(first, last);
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => self.v6.add(first.to_bits(), last.to_bits()),
            _ => {}
        }
    }

    fn sort(&mut self) {
        self.v4.sort();
        self.v6.sort();
    }
}

impl Addresses {
    /// An entry of `Dsts`, which may be a network with bits of a host.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        if let Some((first, last)) = text.split_once('-') {
            let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
            return (first.is_ipv4() == last.is_ipv4()).then_some(Self::Range(first, last));
        }
        text.parse()
            .ok()
            .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
            .map(Self::Net)
    }

    /// Returns whether the entry names this address.
    pub(crate) fn holds(&self, ip: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Net(net) => net.contains(&ip),
            Self::Range(first, last) => (first..=last).contains(&&ip),
        }
    }
}

impl<T: Ord + Copy> Sorted<T> {
    fn holds(&self, number: T) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= number);
        let range = after.checked_sub(1).map(|at| self.ranges[at]);
        range.is_some_and(|(_, last)| number <= last) || self.single.binary_search(&number).is_ok()
    }

    fn add(&mut self, first: T, last: T) {
        if first == last {
            self.single.push(first);
        } else if first < last {
            self.ranges.push((first, last));
        }
    }

    fn union(&self, other: &Self) -> Self {
        // The sort finds the two orders and merges them.
        let mut both = Self {
            single: [&self.single[..], &other.single[..]].concat(),
            ranges: [&self.ranges[..], &other.ranges[..]].concat(),
        };
        both.sort();
        both
    }

    fn sort(&mut self) {
        self.single.sort();
        self.single.dedup();
        self.single.shrink_to_fit();
        self.ranges.sort();
        self.ranges.dedup_by(|next, range| {
            let overlaps = next.0 <= range.1;
            if overlaps {
                range.1 = range.1.max(next.1);
            }
            overlaps
        });
        self.ranges.shrink_to_fit();
    }
}

impl<'de> Deserialize<'de> for AddressSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = AddressSet;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of addresses")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, texts: A) -> Result<AddressSet, A::Error> {
                let mut set = AddressSet::default();
                each_text(texts, |text| {
                    set.add(text);
                    Ok(())
                })?;
                set.sort();
                Ok(set)
            }
        }

        deserializer.deserialize_seq(Texts)
    }
}

impl fmt::Debug for AddressSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v4 = self
            .v4
            .single
            .iter()
            .map(|ip| Ipv4Addr::from_bits(*ip).into());
        let v6 = self
            .v6
            .single
            .iter()
            .map(|ip| Ipv6Addr::from_bits(*ip).into());
        let ranges_v4 = self.v4.ranges.iter().map(|(first, last)| {
            let [first, last] = [first, last].map(|ip| Ipv4Addr::from_bits(*ip).into());
            Addresses::Range(first, last)
        });
        let ranges_v6 = self.v6.ranges.iter().map(|(first, last)| {
            let [first, last] = [first, last].map(|ip| Ipv6Addr::from_bits(*ip).into());
            Addresses::Range(first, last)
        });
        f.debug_list()
            .entries(self.all.then_some(Addresses::All))
            .entries(v4.chain(v6).collect::<Vec<IpAddr>>())
            .entries(ranges_v4)
            .entries(ranges_v6)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use bolero::{ValueGenerator, check, one_of, one_value_of, produce};
    use fuzz_edits::{edited, edits};

    use super::*;

    #[test]
    fn a_set_holds_what_one_of_its_entries_names() {
        let check = check!().with_generator(produce::<Vec<(u8, u8, u8)>>());
        check.for_each(|entries| {
            let ip = |last: u8| format!("100.64.0.{last}");
            let text = |(kind, a, b): &(u8, u8, u8)| match kind % 4 {
                0 => ip(*a),
                1 => format!("{}-{}", ip(*a), ip(*b)),
                2 => format!("{}/{}", ip(a & !7), 29 + b % 4),
                _ => format!("{}/{}", ip(*a), 24 + b % 9),
            };
            let texts: Vec<_> = entries.iter().map(text).collect();
            let (left, right) = texts.split_at(texts.len() / 2);
            let [left, right, all] = [left, right, &texts].map(|texts| {
                let texts: Vec<_> = texts.iter().map(String::as_str).collect();
                AddressSet::of(&texts)
            });
            assert_eq!(left.union(&right), all);
            for last in 0..=255 {
                let ip = IpAddr::V4(Ipv4Addr::new(100, 64, 0, last));
                let names = |text: &String| match Addresses::parse(text) {
                    Some(Addresses::Net(net)) if net.addr() != net.network() => false,
                    Some(addresses) => addresses.holds(ip),
                    None => false,
                };
                assert_eq!(all.holds(ip), texts.iter().any(names), "{ip} in {texts:?}");
            }
        });
    }

    #[test]
    fn addresses_of_both_versions_are_told_apart() {
        let set = AddressSet::of(&["100.64.0.0/30", "fd7a::5", "fd7a:1::-fd7a:1::f", "::9/128"]);
        let holds = |ip: &str| ip.parse().is_ok_and(|ip| set.holds(ip));
        for ip in ["100.64.0.3", "fd7a::5", "fd7a:1::8", "::9"] {
            assert!(holds(ip), "{ip}");
        }
        for ip in ["100.64.0.4", "fd7a::6", "fd7a:1::10", "0.0.0.9", "::6440:3"] {
            assert!(!holds(ip), "{ip}");
        }
    }

    #[test]
    fn addresses_of_a_rule_hold_only_what_is_in_them() {
        let known = [
            "*",
            "cap:a",
            "10.0.0.0/8",
            "10.0.0.9-10.0.0.1",
            "10.0.0.1-10.0.0.9",
            "::-::1",
            "1.2.3.4-::1",
            "fd7a::/200",
            "-",
        ];
        let edited = (one_value_of(known), edits()).map_gen(|(text, edits)| {
            String::from_utf8_lossy(&edited(text.as_bytes(), &edits)).into()
        });
        let text = one_of((edited, produce::<String>()));
        let check = check!().with_iterations(20_000);
        let at = one_value_of([
            "10.0.0.1", "10.0.0.5", "10.0.0.9", "11.0.0.0", "::1", "fd7a::",
        ]);
        let at = at.map_gen(|text| text.parse().unwrap());
        let check = check.with_generator((text, one_of((at, produce::<IpAddr>()))));
        check.for_each(|(text, ip): &(String, IpAddr)| {
            let (set, parsed) = (AddressSet::of(&[text]), Addresses::parse(text));
            let expected = match &parsed {
                Some(Addresses::All) => text == "*",
                Some(Addresses::Net(net)) => net.network() <= *ip && *ip <= net.broadcast(),
                Some(Addresses::Range(first, last)) => first <= ip && ip <= last,
                None => false,
            };
            assert_eq!(
                parsed.as_ref().is_some_and(|parsed| parsed.holds(*ip)),
                expected,
                "{text}"
            );
            let has_host_bits =
                matches!(parsed, Some(Addresses::Net(net)) if net.addr() != net.network());
            assert_eq!(set.holds(*ip), expected && !has_host_bits, "{text}");
        });
    }
}
