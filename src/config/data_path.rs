//! Data path of a relay.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Data path that forwards packets of open sessions.
#[derive(
    Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, clap::ValueEnum,
)]
pub enum DataPath {
    /// Use the kernel if the node supports it, and sockets otherwise. The status shows the data
    /// path in use and the reason.
    #[default]
    Auto,
    /// Use the kernel path. If the node does not support it, sockets forward, and the relay is not
    /// ready.
    Kernel,
    /// Use the socket path. The relay then needs no privileges.
    Socket,
}
