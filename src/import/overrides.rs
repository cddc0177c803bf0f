//! Settings of pods that a PeerRelay expresses as `template.podOverrides`.

use serde_json::{Map, Value, json};

/// Patch of the relays' pods.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    /// Fields of the pod's `spec`.
    pub(super) pod: Map<String, Value>,
    /// Fields of the relay's container.
    pub(super) container: Map<String, Value>,
}

impl Overrides {
    /// Returns the patch, or nothing if it is empty.
    pub(super) fn patch(mut self) -> Option<Map<String, Value>> {
        if !self.container.is_empty() {
            self.container.insert("name".to_owned(), json!("relay"));
            let containers = json!([self.container]);
            self.pod.insert("containers".to_owned(), containers);
        }
        (!self.pod.is_empty()).then_some(self.pod)
    }
}
