//! Names and ports of what the rig installs.

/// Namespace of the operator.
pub const OPERATOR_NAMESPACE: &str = "peerrelay-system";
/// Namespace of the relays.
pub const NAMESPACE: &str = "relays";
/// Name of the chart and of its release.
pub const CHART: &str = "peerrelay-operator";
/// The Secret with the auth key.
pub const SECRET: &str = "tailnet-auth";
/// Label `release` by which the rig's Prometheus selects monitors and rules, as that of
/// kube-prometheus-stack does.
pub const RELEASE: &str = "monitoring";
/// TCP port of a relay's metrics, unless its PeerRelay names another UDP port or another one.
pub const METRICS_PORT: u16 = 9_440;
