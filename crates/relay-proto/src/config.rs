//! What a relay is given: lifetimes and limits, keys, and what is known of peers.

use std::{num::NonZero, time::Duration};

use crate::crypto::key::{DiscoPublic, DiscoSecret, NodeKey};

/// Lifetimes and limits.
#[derive(Debug, Clone)]
pub struct Config {
    /// An allocation that is not bound on both legs ends after this (upstream: 30 s).
    pub bind_lifetime: Duration,
    /// A session with a silent leg ends after this (upstream: 5 min).
    pub steady_lifetime: Duration,
    /// Age at which the challenge secret is replaced (upstream: 2 min).
    pub secret_rotation: Duration,
    /// Sessions in total; at most 2^22, so that free VNIs are found at once.
    pub max_sessions: usize,
    /// Sessions that one node may have asked for. It may ask as often at once, and as often again in
    /// the time of [`Config::bind_lifetime`]; 4,096 times where that is more.
    pub max_sessions_per_node: usize,
    /// Sessions that all nodes of one tag together may have asked for, for each tag.
    pub max_sessions_per_tag: Option<usize>,
    /// Bytes of UDP payload that the relay forwards in a second.
    pub max_bytes_per_second: Option<NonZero<u64>>,
    /// The same for each session, both directions together.
    pub max_bytes_per_second_per_session: Option<NonZero<u64>>,
    /// Whether loopback addresses may bind: for tests on one machine.
    pub allow_loopback_bind: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bind_lifetime: Duration::from_secs(30),
            steady_lifetime: Duration::from_secs(5 * 60),
            secret_rotation: Duration::from_secs(2 * 60),
            max_sessions: 1 << 16,
            max_sessions_per_node: 1 << 12,
            max_sessions_per_tag: None,
            max_bytes_per_second: None,
            max_bytes_per_second_per_session: None,
            allow_loopback_bind: false,
        }
    }
}

impl Config {
    /// Upper bound of [`Config::max_sessions`].
    pub const MOST_SESSIONS: usize = 1 << 22;
}

/// The relay's disco keys.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The node's, as the network map has it: clients seal allocation requests for it.
    pub node: DiscoSecret,
    /// The server's, as the allocation names it: seals the bind handshake.
    pub server: DiscoSecret,
}

/// What the network map knows of a DERP packet's sender.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Node key that DERP authenticated.
    pub node_key: NodeKey,
    /// Disco key in the network map.
    pub disco: Option<DiscoPublic>,
    /// The packet filter grants `tailscale.com/cap/relay` from one of the peer's addresses to one
    /// of ours of the same family.
    pub may_relay: bool,
    /// The peer is not signed by tailnet lock and gets no capabilities.
    pub unsigned_peer_api_only: bool,
}
