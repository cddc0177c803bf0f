//! `limits`: how much of a relay its clients can take.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Most sessions that one relay holds, and most data that it forwards. At a limit of sessions the
/// oldest that is not open yet gives way to a new one; open ones never do.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Sessions of a relay in total; 65536 when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_194_304))]
    pub max_sessions: Option<u32>,
    /// Sessions that one tailnet node may ask a relay for; 4096 when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_194_304))]
    pub max_sessions_per_node: Option<u32>,
    /// Sessions that all nodes with the same tag together may ask a relay for, for each tag; a node
    /// with several counts for each. No limit when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_194_304))]
    pub max_sessions_per_tag: Option<u32>,
    /// Most data that a relay forwards, in megabits of UDP payload a second; what comes above it is
    /// dropped. No limit when empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_megabits_per_second: Option<u32>,
    /// The same for each session, both directions together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_megabits_per_second_per_session: Option<u32>,
}
