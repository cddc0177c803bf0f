//! NaCl's `crypto_box` key agreement: X25519, then HSalsa20. It is most of the cost of a new client.

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use crypto_secretbox::{KeyInit, XSalsa20Poly1305};
use salsa20::{
    cipher::{
        consts::U10,
        generic_array::{GenericArray, typenum::U32},
    },
    hsalsa,
};
use zeroize::Zeroizing;

use crate::crypto::key::{DiscoPublic, DiscoSecret, KEY_LEN};

/// The cipher between the holders of two keys; wiped when dropped.
pub type SharedBox = XSalsa20Poly1305;

/// A private key, ready for agreements.
pub(crate) struct Agreement(PrivateKey);

impl Agreement {
    pub(crate) fn new(secret: &DiscoSecret) -> Self {
        Self(secret.to_private())
    }

    /// The box shared with `other`.
    ///
    /// A few public keys of low order agree on zero with everyone. Their box is NaCl's box of zero,
    /// which anybody can open; only the owner of such a key loses by it.
    pub(crate) fn with(&self, other: DiscoPublic) -> SharedBox {
        let mut shared = Zeroizing::new([0; KEY_LEN]);
        let other = UnparsedPublicKey::new(&X25519, other.0);
        let agreed = agree(&self.0, other, (), |agreed| {
            shared.copy_from_slice(agreed);
            Ok(())
        });
        // AWS-LC refuses an agreement on zero (RFC 7748, section 6.1), Go's `box.Precompute` does not:
        // both must come to the same box.
        if agreed.is_err() {
            shared.fill(0);
        }
        let shared: &GenericArray<u8, U32> = (&*shared).into();
        let key = Zeroizing::new(hsalsa::<U10>(shared, &GenericArray::default()));
        SharedBox::new(&key)
    }
}

impl DiscoSecret {
    /// The box of this key and `other`, which seals and opens messages between them.
    pub fn shared_with(&self, other: DiscoPublic) -> SharedBox {
        Agreement::new(self).with(other)
    }
}

#[cfg(test)]
mod tests {
    use crypto_box::{PublicKey, SalsaBox, SecretKey};

    use super::*;
    use crate::wire::disco::{Frame, Generation, Message, seal};

    #[test]
    fn boxes_are_those_of_nacl() {
        let secret = DiscoSecret::from_bytes([0x5c; 32]);
        let agreement = Agreement::new(&secret);
        let public = |n| SecretKey::from([n; 32]).public_key().to_bytes();
        // The key zero agrees on zero with everyone.
        for key in (1..60).map(public).chain([[0; 32]]) {
            let theirs = SalsaBox::new(&PublicKey::from(key), &SecretKey::from([0x5c; 32]));
            let sender = DiscoPublic(key);
            let message = Message::AllocateRequest {
                clients: [sender; 2],
                generation: Generation(1),
            };
            let frame = seal(&theirs, sender, [7; 24], &message.marshal());
            let frame = Frame::parse(&frame).expect("sealed above");
            assert_eq!(
                frame.open(&agreement.with(sender)),
                Some(message),
                "{sender}"
            );
        }
        for n in 0..20 {
            assert_eq!(DiscoSecret::from_bytes([n; 32]).public().0, public(n));
        }
    }
}
