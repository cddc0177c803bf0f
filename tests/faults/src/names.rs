//! Names, paths and ports of the objects in the cases.

use rig::names::NAMESPACE;

/// Last node port that the API server leaves to those who name one, as long as there are others
/// (`--service-node-port-range` as it is by default; its static band).
pub const LAST_NAMED_PORT: u16 = 30_085;

/// Path of a PeerRelay.
pub fn relay_path(name: &str) -> String {
    format!("/apis/peerrelay.dev/v1alpha1/namespaces/{NAMESPACE}/peerrelays/{name}")
}

/// Name of the other PeerRelay beside one called `name`.
pub fn other_name(name: &str) -> String {
    format!("{name}-b")
}
