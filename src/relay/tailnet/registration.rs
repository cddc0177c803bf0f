//! Registration of the device with the control server, with its tags.

use std::sync::{MutexGuard, PoisonError};

use tokio::time::sleep;

use super::{
    AuthKey, ControlState, Failure, Identity, Tailnet,
    auth_key::KEY_POLL,
    control::{Control, ControlError},
    problem::{refusal, refuses_tags},
    wire::RegisterResponse,
    wrapped_key::WrappedKey,
};
use crate::{crd::relay_reason::RelayReason, relay::problem::Problem};

/// Attempts to register so far.
pub(super) struct Registration {
    /// The auth key that was used last.
    used: Option<String>,
    /// A registered device is to use its auth key: it lacks its tags.
    renew: bool,
    /// Control has let the device in without its tags. To ask for them again is to ask for other tags
    /// than the device has, and the hosted control server ends the node key of such a device.
    without_tags: bool,
}

impl Registration {
    /// Attempts of an earlier run, as the identity has them.
    pub(super) fn resumed(identity: &Identity) -> Self {
        Self {
            used: None,
            renew: false,
            without_tags: identity.is_without_tags(),
        }
    }

    /// The tags that a device which is known to control may ask for, of those that it wants.
    fn tags<'a>(&self, wanted: &'a [String]) -> &'a [String] {
        match self.without_tags {
            true => &[],
            false => wanted,
        }
    }
}

impl Tailnet {
    /// Registers the device. A known device needs no key, and a key that may be used once is gone
    /// by then.
    pub(super) async fn register(&self, control: &Control<'_>) -> Result<(), Failure> {
        let registered = self.identity.is_registered();
        let renew = std::mem::take(&mut self.registration().renew);
        let tags = &*self.config.tags;
        if registered && !renew {
            let response = self.ask(control, None, &self.requested_tags()).await?;
            if refusal(&response).is_none() {
                return Ok(());
            }
        }
        let key = self.auth_key();
        if key.is_none() && !matches!(self.config.auth_key, AuthKey::None) {
            self.request_key();
            let problem = self.config.auth_key.missing();
            return self.without_key(control, registered, key, problem).await;
        }
        self.registration().used.clone_from(&key);
        let wrapped = match key.as_deref().map(WrappedKey::parse).transpose() {
            Ok(wrapped) => wrapped,
            Err(error) => {
                let problem = Problem::new(RelayReason::AuthKeyInvalid, error.to_string());
                let key = key.clone();
                return self.without_key(control, registered, key, problem).await;
            }
        };
        let mut response = self.ask(control, wrapped.as_ref(), tags).await?;
        let without_tags = refuses_tags(&response) && !tags.is_empty();
        if without_tags {
            // Headscale gives the tags of the key, and refuses a node with a key that asks for any.
            tracing::info!(
                error = response.error,
                "control refuses the tags; registering without"
            );
            response = self.ask(control, wrapped.as_ref(), &[]).await?;
        }
        self.registration().without_tags = without_tags;
        match refusal(&response) {
            Some(problem) if key.is_none() && problem.reason == RelayReason::AuthKeyInvalid => {
                Err(Failure::Refused {
                    key,
                    problem: self.config.auth_key.missing(),
                })
            }
            Some(problem) => {
                // The key may be used up because the answer to an earlier request was lost: then
                // the device is known, and needs none.
                let may_be_known = self.end_request() || registered;
                self.without_key(control, may_be_known, key, problem).await
            }
            None => {
                self.identity.mark_registered(without_tags);
                self.end_request();
                tracing::info!(control = %self.config.control_url, "registered with control");
                Ok(())
            }
        }
    }

    /// Resolves when the device lacks a tag and there is an auth key that was not used yet.
    pub(super) async fn key_that_may_bring_tags(&self) {
        let mut state = self.senders.control.subscribe();
        loop {
            let lacks_tag = |state: &ControlState| {
                let problem = state.problem.as_ref();
                state.map_received && problem.is_some_and(|p| p.reason == RelayReason::TagMissing)
            };
            if state.wait_for(lacks_tag).await.is_err() {
                return std::future::pending().await;
            }
            if self.renew_with(self.auth_key()) {
                return;
            }
            // An auth key of the operator brings the tag: another one would change nothing.
            if self.registration().used.is_none() {
                self.request_key();
            }
            sleep(KEY_POLL).await;
        }
    }

    /// Has the next registration use `key`, if it is another one than before.
    fn renew_with(&self, key: Option<String>) -> bool {
        let mut registration = self.registration();
        registration.renew = key.is_some() && key != registration.used;
        registration.renew
    }

    /// Registers without a key, where there is none or it is refused: a registered device needs
    /// none.
    async fn without_key(
        &self,
        control: &Control<'_>,
        registered: bool,
        key: Option<String>,
        problem: Problem,
    ) -> Result<(), Failure> {
        if registered && refusal(&self.ask(control, None, &[]).await?).is_none() {
            if !self.identity.is_registered() {
                self.identity
                    .mark_registered(self.registration().without_tags);
            }
            self.end_request();
            return Ok(());
        }
        if matches!(self.config.auth_key, AuthKey::Requested(_)) && key.is_some() {
            self.request_key();
        }
        Err(Failure::Refused { key, problem })
    }

    /// The auth key, if there is one now.
    pub(super) fn auth_key(&self) -> Option<String> {
        let config = self.dynamic_config.borrow();
        self.config.auth_key.read(&config.issued_keys)
    }

    /// Requests an auth key from the operator, if that is the source of auth keys.
    fn request_key(&self) {
        if let AuthKey::Requested(request) = &self.config.auth_key {
            self.publish_request(request.begin());
        }
    }

    /// Ends the request for an auth key. Returns whether the operator is the source of auth keys.
    fn end_request(&self) -> bool {
        let AuthKey::Requested(request) = &self.config.auth_key else {
            return false;
        };
        request.end();
        self.publish_request(None);
        true
    }

    fn publish_request(&self, request: Option<String>) {
        self.senders.control.send_if_modified(|state| {
            let changes = state.auth_key_request != request;
            state.auth_key_request = request;
            changes
        });
    }

    async fn ask(
        &self,
        control: &Control<'_>,
        key: Option<&WrappedKey<'_>>,
        tags: &[String],
    ) -> Result<RegisterResponse, ControlError> {
        let mut hostinfo = self.hostinfo(0);
        hostinfo.request_tags = tags.to_vec();
        let ephemeral = self.config.ephemeral;
        control.register(key, &hostinfo, ephemeral).await
    }

    /// Tags that the device asks for in map requests.
    pub(super) fn requested_tags(&self) -> Vec<String> {
        self.registration().tags(&self.config.tags).to_vec()
    }

    fn registration(&self) -> MutexGuard<'_, Registration> {
        let registration = self.registration.lock();
        registration.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn a_device_registered_without_its_tags_restarts_without_them() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = ["tag:relay-office".to_owned()];
        for (without_tags, asked) in [(true, &[][..]), (false, &wanted[..])] {
            let identity = Identity::load(dir.path()).unwrap();
            identity.mark_registered(without_tags);
            drop(identity);
            let identity = Identity::load(dir.path()).unwrap();
            assert_eq!(Registration::resumed(&identity).tags(&wanted), asked);
        }
    }
}
