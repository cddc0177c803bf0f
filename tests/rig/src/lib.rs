//! A real Kubernetes cluster and a real tailnet on one machine.
//!
//! Everything runs in network namespaces that the rig makes, is built from pinned sources, and is
//! gone after [`Rig::down`].
//!
//! ```text
//!            prr-n1 10.89.0.11   prr-n2 10.89.0.12        nodes: containerd, kubelet, kube-proxy
//!                      \           /
//!   prr-ctl ---------- prr-cp 10.89.0.1                   router, etcd and Kubernetes control plane
//!   10.90.0.1         /    |    \
//!   control, DERP,   c1    c2    c3  10.91.{1,2,3}.2      tailscaled; not reachable for each other
//!   STUN
//! ```

pub mod audit;
pub mod auth_key;
pub mod bare;
pub mod build;
pub mod cluster;
pub mod command;
pub mod control_plane;
pub mod deployment;
pub mod gitops;
pub mod headscale;
pub mod image;
pub mod instance;
pub mod metallb;
pub mod names;
pub mod net;
pub mod network_policies;
pub mod packages;
pub mod pki;
pub mod probe;
pub mod process;
pub mod progress;
pub mod prometheus;
pub mod revision;
mod rig;
pub mod rng;
pub mod seed;
pub mod signals;
pub mod spec;
pub mod state;
pub mod tailnet;
pub mod tools;
pub mod wait;

pub use self::rig::{Part, Rig};
