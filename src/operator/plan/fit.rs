//! Which nodes fit a placement.

use k8s_openapi::api::core::v1::Node;

use crate::crd::placement::Placement;

/// Whether a relay of this placement may be on `node`, taints left aside.
pub(super) fn fits(node: &Node, placement: &Placement) -> bool {
    let labels = node.metadata.labels.as_ref();
    let has = |(key, value): (&String, &String)| labels.and_then(|l| l.get(key)) == Some(value);
    placement.node_selector.iter().all(has)
}
