//! Auth keys that a run uses. Each is recorded, so that the closing check searches for it.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

static USED: Mutex<BTreeSet<AuthKey>> = Mutex::new(BTreeSet::new());

/// An auth key of a control server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuthKey(String);

impl AuthKey {
    /// Creates the key with this text, and records it.
    pub fn new(text: impl Into<String>) -> Self {
        let key = Self(text.into());
        used_keys().insert(key.clone());
        key
    }

    /// The text of the auth key, which is a secret.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Every key that this process has used.
pub fn used() -> Vec<AuthKey> {
    used_keys().iter().cloned().collect()
}

fn used_keys() -> MutexGuard<'static, BTreeSet<AuthKey>> {
    USED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_that_is_made_is_remembered() {
        let keys = ["tskey-auth-first", "tskey-auth-second"].map(AuthKey::new);
        let used = used();
        assert!(keys.iter().all(|key| used.contains(key)), "{used:?}");
    }
}
