//! The auth key that lets the device into the tailnet.

mod request;

use std::{path::PathBuf, time::Duration};

use tokio::time::{Instant, sleep};

pub use self::request::KeyRequest;
use crate::{
    config::issued_keys::IssuedKeys, crd::relay_reason::RelayReason, relay::problem::Problem,
};

/// Time between two reads of a missing or refused auth key.
pub(super) const KEY_POLL: Duration = Duration::from_secs(2);
/// Time after which a refused auth key is tried again: it may have been allowed by now.
const KEY_RETRY: Duration = Duration::from_secs(60);

/// Source of the auth key.
#[derive(Clone)]
pub enum AuthKey {
    /// No key: the device must be registered already, or control must let everyone in.
    None,
    /// A file, which is read again while control refuses the key.
    File(PathBuf),
    /// A key from the environment.
    Value(String),
    /// A key that the operator creates for this relay on request.
    Requested(KeyRequest),
}

impl AuthKey {
    /// The key, if there is one now; `issued` are the keys that the operator has created.
    pub(super) fn read(&self, issued: &IssuedKeys) -> Option<String> {
        let text = match self {
            Self::None => return None,
            Self::File(path) => std::fs::read_to_string(path).ok()?,
            Self::Value(value) => value.clone(),
            Self::Requested(request) => return request.read(issued),
        };
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// The problem of a device that needs a key and finds none.
    pub(super) fn missing(&self) -> Problem {
        let message = match self {
            Self::Requested(_) => {
                let message = "waits for an auth key, which the operator creates on request (see \
                               CredentialAccepted in the status of the PeerRelay)";
                return Problem::new(RelayReason::AuthKeyPending, message);
            }
            Self::File(path) => format!(
                "auth key file {} is missing or empty: create it (in Kubernetes, the Secret that \
                 tailnet.authKey names, with the key '{}'); it is used as soon as it is there",
                path.display(),
                path.file_name().unwrap_or_default().display()
            ),
            _ => "no auth key: give one with --auth-key-file or PEERRELAY_AUTH_KEY".into(),
        };
        Problem::new(RelayReason::AuthKeyMissing, message)
    }
}

/// Waits until the key is another one than control refused, or until it is time to try the same key
/// again.
pub(super) async fn wait_for_other(refused: Option<&str>, read: impl Fn() -> Option<String>) {
    let deadline = Instant::now() + KEY_RETRY;
    while Instant::now() < deadline {
        sleep(KEY_POLL).await;
        let key = read();
        if key.is_some() && key.as_deref() != refused {
            return;
        }
    }
}
