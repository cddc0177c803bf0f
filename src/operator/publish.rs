//! Writer of the status of a PeerRelay and of the events about its changes.

use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use kube_runtime::events::{Event, Recorder};
use serde_json::json;

use super::{events::transitions, status::patch};
use crate::{
    crd::{PeerRelay, PeerRelayStatus},
    names,
};

/// Writer of the status and events of one PeerRelay.
pub struct Publisher<'a> {
    client: &'a Client,
    recorder: &'a Recorder,
    relay: &'a PeerRelay,
}

impl<'a> Publisher<'a> {
    /// A publisher for `relay`.
    pub const fn new(client: &'a Client, recorder: &'a Recorder, relay: &'a PeerRelay) -> Self {
        Self {
            client,
            recorder,
            relay,
        }
    }

    /// Writes the status if it has changed, and an event for each transition of a condition.
    ///
    /// # Errors
    /// The status could not be written.
    pub async fn publish(&self, new: PeerRelayStatus) -> Result<(), Box<kube::Error>> {
        let old = self.relay.status.as_ref();
        if old == Some(&new) {
            return Ok(());
        }
        let namespace = self.relay.namespace().unwrap_or_default();
        let api: Api<PeerRelay> = Api::namespaced(self.client.clone(), &namespace);
        let (params, patch) = patch(&self.relay.metadata, &new);
        let name = self.relay.name_any();
        match api.patch_status(&name, &params, &patch).await {
            Ok(_) => {}
            // The PeerRelay was deleted in the meantime. A conflict is retried, because the status
            // was not written.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(Box::new(error)),
        }
        let old = old.map_or(&[][..], |status| &status.conditions);
        for event in transitions(old, &new.conditions) {
            self.send_event(&event).await;
        }
        Ok(())
    }

    /// Sets or removes the finalizer of the operator, and no other.
    ///
    /// # Errors
    /// The request failed.
    pub async fn set_finalizer(&self, is_held: bool) -> Result<(), Box<kube::Error>> {
        let metadata = &self.relay.metadata;
        let finalizers: &[&str] = if is_held { &[names::FINALIZER] } else { &[] };
        let patch = json!({
            "apiVersion": PeerRelay::api_version(&()),
            "kind": PeerRelay::kind(&()),
            "metadata": {"name": metadata.name, "uid": metadata.uid, "finalizers": finalizers},
        });
        let namespace = self.relay.namespace().unwrap_or_default();
        let api: Api<PeerRelay> = Api::namespaced(self.client.clone(), &namespace);
        // With a field manager of its own, an empty list removes this finalizer and leaves those of
        // others.
        let params = PatchParams::apply(names::FINALIZER_MANAGER).force();
        let name = self.relay.name_any();
        match api.patch(&name, &params, &Patch::Apply(&patch)).await {
            // With the UID, the API server answers 409 if the PeerRelay is gone: none is created.
            Err(kube::Error::Api(status)) if !is_held && matches!(status.code, 404 | 409) => Ok(()),
            result => result.map(drop).map_err(Box::new),
        }
    }

    /// Writes an event. A failure is only logged, because the status contains the same information.
    pub async fn send_event(&self, event: &Event) {
        let about = self.relay.object_ref(&());
        if let Err(error) = self.recorder.publish(event, &about).await {
            tracing::warn!(%error, "event not written");
        }
    }
}
