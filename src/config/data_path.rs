//! Which data path a relay uses.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What forwards packets of open sessions.
#[derive(
    Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, clap::ValueEnum,
)]
pub enum DataPath {
    /// The kernel where it can, otherwise sockets. Status says which, and why.
    #[default]
    Auto,
    /// The kernel. Where it cannot, sockets still forward, but the relay is not ready.
    Kernel,
    /// Sockets only: the relay asks for no privilege.
    Socket,
}
