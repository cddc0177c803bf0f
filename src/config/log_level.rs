//! Log level of relays.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Lowest severity that is logged.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema)]
pub enum LogLevel {
    /// Log failures that keep a relay from working.
    Error,
    /// Log problems that a user should look at.
    Warn,
    /// Log changes of state.
    #[default]
    Info,
    /// Log all messages of the relay itself.
    Debug,
}
