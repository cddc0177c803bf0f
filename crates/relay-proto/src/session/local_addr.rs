//! The relay's own addresses that clients were bound through: few, so a leg has a number for its.

use std::{collections::BTreeMap, net::IpAddr};

/// Number of a local address; 0 for one that is not known.
pub(crate) type LocalAddrId = u16;

/// Addresses by their numbers, which stay.
#[derive(Debug, Default)]
pub(crate) struct LocalAddrTable {
    addresses: Vec<IpAddr>,
    numbers: BTreeMap<IpAddr, LocalAddrId>,
}

impl LocalAddrTable {
    /// The number of an address. When all are given, more addresses count as not known: the kernel
    /// then chooses what a leg is sent from.
    pub(crate) fn number(&mut self, address: Option<IpAddr>) -> LocalAddrId {
        let Some(address) = address else { return 0 };
        if let Some(known) = self.numbers.get(&address) {
            return *known;
        }
        let Ok(number) = LocalAddrId::try_from(self.addresses.len() + 1) else {
            return 0;
        };
        self.addresses.push(address);
        self.numbers.insert(address, number);
        number
    }

    /// The address with a number that was given.
    pub(crate) fn address(&self, number: LocalAddrId) -> Option<IpAddr> {
        let at = usize::from(number).checked_sub(1)?;
        self.addresses.get(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_their_numbers_and_have_a_limit() {
        let mut locals = LocalAddrTable::default();
        let address = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        assert_eq!((locals.number(None), locals.address(0)), (0, None));
        for _ in 0..2 {
            for n in 1..=u32::from(LocalAddrId::MAX) {
                let number = locals.number(address(n));
                assert_eq!(u32::from(number), n);
                assert_eq!(locals.address(number), address(n));
            }
        }
        assert_eq!(locals.number(address(1 << 16)), 0);
    }
}
