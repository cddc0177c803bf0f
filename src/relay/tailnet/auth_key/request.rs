//! The request for an auth key that the operator creates for this relay alone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secrecy::ExposeSecret;

use crate::{
    config::issued_keys::{IssuedKeys, context},
    sealed::Recipient,
};

/// A request for an auth key, or the possibility to make one. Clones share it.
#[derive(Clone)]
pub struct KeyRequest {
    /// Name of the relay's pod.
    relay: String,
    context: String,
    /// Recipient of the auth key, while one is requested.
    recipient: Arc<Mutex<Option<Recipient>>>,
}

impl KeyRequest {
    /// Makes the request of the relay in a pod. Nothing is requested yet.
    pub fn new(namespace: &str, pod: &str) -> Self {
        Self {
            relay: pod.to_owned(),
            context: context(namespace, pod),
            recipient: Arc::default(),
        }
    }

    /// The auth key that answers the request, if it was created already.
    pub(in crate::relay::tailnet) fn read(&self, issued: &IssuedKeys) -> Option<String> {
        let recipient = self.lock();
        let recipient = recipient.as_ref()?;
        let issued = issued.answer(&self.relay, &recipient.public_key())?;
        let Some(key) = recipient.open(&self.context, &issued.sealed) else {
            tracing::error!(
                "the operator's auth key cannot be opened: it is sealed to another key"
            );
            return None;
        };
        Some(key.expose_secret().to_owned())
    }

    /// Requests an auth key, unless one is requested. Returns the public key of the request.
    pub(in crate::relay::tailnet) fn begin(&self) -> Option<String> {
        let mut recipient = self.lock();
        if recipient.is_none() {
            match Recipient::generate() {
                Ok(new) => *recipient = Some(new),
                Err(error) => tracing::error!(%error, "no auth key is requested"),
            }
        }
        recipient.as_ref().map(Recipient::public_key)
    }

    /// Ends the request: the auth key is used, or control refuses it.
    pub(in crate::relay::tailnet) fn end(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Recipient>> {
        self.recipient
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::collections::BTreeMap;

    use secrecy::SecretString;

    use super::*;
    use crate::{config::issued_keys::IssuedKey, sealed::seal};

    fn issue(relay: &str, request: &str, key: &str) -> IssuedKeys {
        let sealed = seal(request, &context("relays", relay), &SecretString::from(key));
        let issued = IssuedKey {
            request: request.to_owned(),
            sealed: sealed.unwrap(),
        };
        IssuedKeys(BTreeMap::from([(relay.to_owned(), issued)]))
    }

    #[test]
    fn a_request_is_answered_once_and_the_next_one_has_another_key() {
        let request = KeyRequest::new("relays", "edge-1");
        assert_eq!(request.read(&IssuedKeys::default()), None);
        let first = request.begin().unwrap();
        assert_eq!(request.begin().unwrap(), first, "the same request");
        let issued = issue("edge-1", &first, "tskey-1");
        assert_eq!(request.read(&issued).as_deref(), Some("tskey-1"));
        assert_eq!(request.read(&issue("edge-2", &first, "tskey-1")), None);
        request.end();
        assert_eq!(request.read(&issued), None);
        let second = request.begin().unwrap();
        assert_ne!(first, second);
        assert_eq!(request.read(&issued), None);
    }
}
