//! Peer Relay Operator: Tailscale peer relays on your own Kubernetes nodes.
