//! Auth keys that Tailnet Lock has signed, as `tailscale lock sign AUTH-KEY` prints them. A device that
//! registers with one signs its own node key (`tka.DecodeWrappedAuthkey` and `tka.SignByCredential`).

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::{
    Engine,
    prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD},
};
use blake2::{Blake2s256, Digest};

/// Mark between an auth key and its credential.
const MARK: &str = "--TL";
/// Length of an Ed25519 seed, and of the public key after it, in bytes.
const SEED_LEN: usize = 32;
/// Prefix of node keys in binary form (`key.NodePublic.MarshalBinary`).
const NODE_KEY_PREFIX: &[u8] = b"np";
/// Kinds of signatures (`tka.SigKind`).
const ROTATION: u8 = 2;
const CREDENTIAL: u8 = 3;
/// Keys of the CBOR map that a signature is (`tka.NodeKeySignature`).
const KIND: u8 = 1;
const PUBLIC_KEY: u8 = 2;
const SIGNATURE: u8 = 4;
const NESTED: u8 = 5;
/// Initial bytes of CBOR: a map with fewer than 24 entries, and a byte string whose length is one byte.
const MAP: u8 = 0xa0;
const BYTES: u8 = 0x58;

/// An auth key, with the credential of Tailnet Lock if it has one.
pub(super) struct WrappedKey<'a> {
    /// The auth key that control knows.
    pub(super) auth_key: &'a str,
    credential: Option<Credential>,
}

/// Key pair that may sign one node key, and the signature of a trusted key on it.
struct Credential {
    pair: Ed25519KeyPair,
    signature: Vec<u8>,
}

/// Error of an auth key with an incomplete or changed credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the part of the auth key that begins with {MARK} is not what `tailscale lock sign` printed: store the \
     whole key again, without changes"
)]
pub(super) struct InvalidCredential;

impl<'a> WrappedKey<'a> {
    /// Reads an auth key of either form.
    ///
    /// # Errors
    /// It has the mark of a credential, and what follows is none.
    pub(super) fn parse(text: &'a str) -> Result<Self, InvalidCredential> {
        let Some((auth_key, credential)) = text.split_once(MARK) else {
            return Ok(Self {
                auth_key: text,
                credential: None,
            });
        };
        let credential = Credential::parse(credential).ok_or(InvalidCredential)?;
        Ok(Self {
            auth_key,
            credential: Some(credential),
        })
    }

    /// Signs a node key, and returns the signature in base64. `None` if the key has no credential.
    pub(super) fn sign(&self, node: &[u8; 32]) -> Option<String> {
        let credential = self.credential.as_ref()?;
        Some(BASE64_STANDARD.encode(credential.sign(node)))
    }
}

impl Credential {
    fn parse(text: &str) -> Option<Self> {
        // The standard alphabet of base64 has no dash.
        let (signature, private) = text.split_once('-')?;
        let signature = BASE64_STANDARD_NO_PAD.decode(signature).ok()?;
        let private = BASE64_STANDARD_NO_PAD.decode(private).ok()?;
        let is_credential =
            // The upper three bits are the type (RFC 8949, section 3).
            matches!(signature[..], [head, KIND, CREDENTIAL, ..] if head & 0xe0 == MAP);
        let (seed, public) = private.split_at_checked(SEED_LEN)?;
        let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).ok()?;
        is_credential.then_some(Self { pair, signature })
    }

    /// Returns the signature in CBOR, with its entries in the order that CTAP2 demands.
    fn sign(&self, node: &[u8; 32]) -> Vec<u8> {
        let node = [NODE_KEY_PREFIX, node].concat();
        let unsigned = self.encode(&node, None);
        // The signature is of the same map without a signature (`tka.NodeKeySignature.SigHash`).
        let signature = self.pair.sign(&Blake2s256::digest(unsigned));
        self.encode(&node, Some(signature.as_ref()))
    }

    fn encode(&self, node: &[u8], signature: Option<&[u8]>) -> Vec<u8> {
        let entries = if signature.is_some() { 4 } else { 3 };
        let mut text = vec![MAP | entries, KIND, ROTATION];
        let mut bytes = |key, value: &[u8]| {
            text.extend([key, BYTES, value.len() as u8]);
            text.extend(value);
        };
        bytes(PUBLIC_KEY, node);
        if let Some(signature) = signature {
            bytes(SIGNATURE, signature);
        }
        text.push(NESTED);
        text.extend(&self.signature);
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use aws_lc_rs::signature::{ED25519, KeyPair, UnparsedPublicKey};

    use super::*;

    const NODE: [u8; 32] = [7; 32];

    fn pair() -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[9; SEED_LEN]).unwrap()
    }

    fn wrapped(signature: &[u8]) -> String {
        let private = [&[9; SEED_LEN], pair().public_key().as_ref()].concat();
        let [signature, private] = [signature, &private].map(|b| BASE64_STANDARD_NO_PAD.encode(b));
        format!("tskey-auth-k1-s1{MARK}{signature}-{private}")
    }

    #[test]
    fn a_key_without_a_credential_stays_as_it_is() {
        let key = WrappedKey::parse("tskey-auth-k1-s1").unwrap();
        assert_eq!(key.auth_key, "tskey-auth-k1-s1");
        assert_eq!(key.sign(&NODE), None);
    }

    #[test]
    fn a_key_with_a_credential_signs_the_node_key() {
        let credential = [MAP | 1, KIND, CREDENTIAL];
        let text = wrapped(&credential);
        let key = WrappedKey::parse(&text).unwrap();
        assert_eq!(key.auth_key, "tskey-auth-k1-s1");
        let made = BASE64_STANDARD.decode(key.sign(&NODE).unwrap()).unwrap();
        let head = [
            &[MAP | 4, KIND, ROTATION, PUBLIC_KEY, BYTES, 34][..],
            b"np",
            &NODE,
        ]
        .concat();
        assert_eq!(made[..head.len()], head);
        let tail = [&[NESTED][..], &credential].concat();
        assert_eq!(made[made.len() - tail.len()..], tail);
        let signature = &made[head.len()..made.len() - tail.len()];
        assert_eq!(signature[..3], [SIGNATURE, BYTES, 64]);
        let mut unsigned = [head, tail].concat();
        unsigned[0] = MAP | 3;
        let key = UnparsedPublicKey::new(&ED25519, pair().public_key().as_ref().to_vec());
        key.verify(&Blake2s256::digest(unsigned), &signature[3..])
            .unwrap();
    }

    #[test]
    fn every_truncated_credential_is_refused() {
        let whole = wrapped(&[MAP | 1, KIND, CREDENTIAL]);
        let mark = whole.find(MARK).unwrap() + MARK.len();
        for end in mark..whole.len() {
            assert!(
                WrappedKey::parse(&whole[..end]).is_err(),
                "{}",
                &whole[..end]
            );
        }
        let direct = wrapped(&[MAP | 1, KIND, 1]);
        assert!(WrappedKey::parse(&direct).is_err());
    }
}
