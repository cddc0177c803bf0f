//! Boxes shared with clients that were heard lately: one X25519 for all that a client does in a
//! short time, and a bound on memory whatever their number.

use std::collections::HashMap;

use crate::{
    agreement::{Agreement, SharedBox},
    key::{DiscoPublic, DiscoSecret},
};

/// When the young generation is full it becomes the old one, and what nobody has asked for since
/// goes.
pub(crate) struct Boxes {
    own: Agreement,
    most: usize,
    young: HashMap<DiscoPublic, SharedBox>,
    old: HashMap<DiscoPublic, SharedBox>,
}

impl Boxes {
    /// Boxes with the holder of `secret`; at most this many in each of two generations. Seven eighths of a power of two leave no room
    /// of the tables unused.
    pub(crate) fn new(secret: &DiscoSecret, most: usize) -> Self {
        Self {
            own: Agreement::new(secret),
            most,
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// The box with `client`.
    pub(crate) fn with(&mut self, client: DiscoPublic) -> &SharedBox {
        if !self.young.contains_key(&client) {
            let known = self.old.remove(&client);
            let shared = known.unwrap_or_else(|| self.own.with(client));
            if self.young.len() == self.most {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(client, shared);
        }
        &self.young[&client]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_boxes_are_bounded_and_those_in_use_stay() {
        let secret = DiscoSecret::from_bytes([5; 32]);
        let mut boxes = Boxes::new(&secret, 4);
        let key = |n| DiscoPublic([n; 32]);
        for n in 1..40 {
            boxes.with(key(n));
            boxes.with(key(0));
            assert!(boxes.young.len() <= 4 && boxes.old.len() <= 4);
            assert!(boxes.young.contains_key(&key(0)));
        }
        assert!(!boxes.old.contains_key(&key(1)));
    }
}
