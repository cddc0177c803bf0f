//! The relay's own addresses that clients were bound through. They are few, so a leg stores an id of
//! two bytes.

use std::{collections::BTreeMap, net::IpAddr};

/// The id of a local address; 0 if the address is not known.
pub(crate) type LocalAddrId = u16;

/// Local addresses and their ids, which never change.
#[derive(Debug, Default)]
pub(crate) struct LocalAddrTable {
    addresses: Vec<IpAddr>,
    ids: BTreeMap<IpAddr, LocalAddrId>,
}

impl LocalAddrTable {
    /// The id of an address. When all ids are given out, further addresses count as not known: then
    /// the kernel chooses the source address of what a leg is sent.
    pub(crate) fn id(&mut self, address: Option<IpAddr>) -> LocalAddrId {
        let Some(address) = address else { return 0 };
        if let Some(id) = self.ids.get(&address) {
            return *id;
        }
        let Ok(id) = LocalAddrId::try_from(self.addresses.len() + 1) else {
            return 0;
        };
        self.addresses.push(address);
        self.ids.insert(address, id);
        id
    }

    /// The address with this id.
    #[inline]
    pub(crate) fn address(&self, id: LocalAddrId) -> Option<IpAddr> {
        let at = usize::from(id).checked_sub(1)?;
        self.addresses.get(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_their_ids_and_have_a_limit() {
        let mut locals = LocalAddrTable::default();
        let address = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        assert_eq!((locals.id(None), locals.address(0)), (0, None));
        for _ in 0..2 {
            for n in 1..=u32::from(LocalAddrId::MAX) {
                let id = locals.id(address(n));
                assert_eq!(u32::from(id), n);
                assert_eq!(locals.address(id), address(n));
            }
        }
        assert_eq!(locals.id(address(1 << 16)), 0);
    }
}
