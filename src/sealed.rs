//! Texts that only one recipient can read: HPKE (RFC 9180) with X25519, HKDF-SHA256 and
//! ChaCha20-Poly1305.
//!
//! The operator seals an auth key to the relay that requests it. The sealed text is no secret: it
//! lies in a ConfigMap.

use rustls::crypto::{
    aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_CHACHA20_POLY1305 as SUITE,
    hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey},
};
use secrecy::{ExposeSecret, SecretString};

/// Length of a public key, and of the encapsulated key before each sealed text, in bytes.
const KEY_LEN: usize = 32;
/// Purpose of the sealed texts, which keys of other protocols do not share.
const INFO: &[u8] = b"peerrelay.dev auth key 1";

/// A recipient of sealed texts. The private key exists only in this process.
pub struct Recipient {
    public: HpkePublicKey,
    private: HpkePrivateKey,
}

/// The random numbers of the system are not available.
#[derive(Debug, thiserror::Error)]
#[error("failed to generate a key: the system gives no random numbers")]
pub struct NoRandomNumbers;

/// Error of a text that cannot be sealed to a public key.
#[derive(Debug, thiserror::Error)]
#[error("failed to seal a text: its recipient has no valid public key")]
pub struct InvalidRecipient;

impl Recipient {
    /// Makes a recipient with a new key.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn generate() -> Result<Self, NoRandomNumbers> {
        let pair = SUITE.generate_key_pair();
        let (public, private) = pair.map_err(|_| NoRandomNumbers)?;
        Ok(Self { public, private })
    }

    /// Returns the public key, in hex.
    pub fn public_key(&self) -> String {
        hex::encode(&self.public.0)
    }

    /// Opens a text that was sealed to this recipient in the same context.
    pub fn open(&self, context: &str, sealed: &str) -> Option<SecretString> {
        let sealed = hex::decode(sealed).ok()?;
        let (key, text) = sealed.split_at_checked(KEY_LEN)?;
        let key = EncapsulatedSecret(key.to_vec());
        let opened = SUITE.open(&key, INFO, context.as_bytes(), text, &self.private);
        String::from_utf8(opened.ok()?).ok().map(Into::into)
    }
}

/// Returns whether a text is a public key in hex to which texts can be sealed.
pub fn is_recipient(public_key: &str) -> bool {
    // Every 32 bytes look like a key of X25519. Only its use shows a point of low order, with which
    // everybody knows the shared secret (RFC 9180, section 7.1.4).
    seal(public_key, "", &SecretString::default()).is_ok()
}

/// Seals a text to a public key in hex. It can be opened in the same context only. The result is in
/// hex.
///
/// # Errors
/// The key is not a public key.
pub fn seal(
    public_key: &str,
    context: &str,
    text: &SecretString,
) -> Result<String, InvalidRecipient> {
    let key = hex::decode(public_key).map_err(|_| InvalidRecipient)?;
    if key.len() != KEY_LEN {
        return Err(InvalidRecipient);
    }
    let text = text.expose_secret().as_bytes();
    let sealed = SUITE.seal(INFO, context.as_bytes(), text, &HpkePublicKey(key));
    let (EncapsulatedSecret(mut sealed), text) = sealed.map_err(|_| InvalidRecipient)?;
    sealed.extend_from_slice(&text);
    Ok(hex::encode(sealed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use bolero::check;
    use fuzz_edits::{edited, edits};

    use super::*;

    #[test]
    fn only_the_recipient_opens_a_text_and_only_in_its_context() {
        let [own, other] = [(); 2].map(|()| Recipient::generate().unwrap());
        let text = SecretString::from("tskey-auth-1");
        let sealed = seal(&own.public_key(), "relays/a", &text).unwrap();
        assert!(!sealed.contains(&hex::encode("tskey")));
        let opened = own.open("relays/a", &sealed).unwrap();
        assert_eq!(opened.expose_secret(), "tskey-auth-1");
        assert!(own.open("relays/b", &sealed).is_none());
        assert!(other.open("relays/a", &sealed).is_none());
        let again = seal(&own.public_key(), "relays/a", &text).unwrap();
        assert_ne!(sealed, again);
    }

    #[test]
    fn a_changed_text_is_not_opened() {
        let own = Recipient::generate().unwrap();
        let sealed = seal(&own.public_key(), "c", &SecretString::from("key")).unwrap();
        let check = check!().with_iterations(2_000).with_generator(edits());
        check.for_each(|edits| {
            let bytes = edited(sealed.as_bytes(), edits);
            let text = String::from_utf8_lossy(&bytes);
            let same = text.eq_ignore_ascii_case(&sealed);
            assert_eq!(own.open("c", &text).is_some(), same, "{text}");
        });
    }

    #[test]
    fn texts_are_sealed_to_public_keys_only() {
        let text = SecretString::from("key");
        for key in ["", "00", &"0".repeat(64), &"g".repeat(64), &"00".repeat(33)] {
            assert!(seal(key, "c", &text).is_err(), "{key}");
            assert!(!is_recipient(key), "{key}");
        }
        assert!(is_recipient(&Recipient::generate().unwrap().public_key()));
    }
}
