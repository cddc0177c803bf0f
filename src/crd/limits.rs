//! `limits`: sessions and bandwidth of a relay.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Limits of each relay. If a new session exceeds a limit, the oldest session that is not open yet
/// is removed. Open sessions are never removed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Maximum number of sessions of a relay. If empty, it is 65536.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_194_304))]
    pub max_sessions: Option<u32>,
    /// Maximum number of sessions that one tailnet node may request from a relay. If empty, it is
    /// 4096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_194_304))]
    pub max_sessions_per_node: Option<u32>,
    /// Maximum number of sessions that all nodes with the same tag may request from a relay
    /// together. It applies to each tag, and a node with several tags counts for each of them. If
    /// empty, it is unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_194_304))]
    pub max_sessions_per_tag: Option<u32>,
    /// Maximum bandwidth of a relay, in megabits of UDP payload per second. Packets above it are
    /// dropped. If empty, it is unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_megabits_per_second: Option<u32>,
    /// Maximum bandwidth of each session, both directions together, in megabits of UDP payload per
    /// second. If empty, it is unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_megabits_per_second_per_session: Option<u32>,
}
