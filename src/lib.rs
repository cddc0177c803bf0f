//! Peer Relay Operator: Tailscale peer relays on your own Kubernetes nodes.

pub mod admin;
mod backoff;
pub mod check;
pub mod cli;
pub mod config;
pub mod crd;
pub mod dial;
pub mod firewall;
pub mod grants;
pub mod import;
pub mod logging;
mod memory;
pub mod monitoring;
pub mod names;
pub mod operator;
mod process_metrics;
mod registry;
#[cfg(feature = "relay")]
pub mod relay;
mod retry_after;
pub mod sealed;
pub mod supervisor;
pub mod tailnet_api;
