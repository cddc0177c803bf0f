//! How much relays log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The least that is logged.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum LogLevel {
    /// What keeps a relay from its work.
    Error,
    /// What should be looked at.
    Warn,
    /// What changes.
    #[default]
    Info,
    /// Everything of the relay's own.
    Debug,
}
