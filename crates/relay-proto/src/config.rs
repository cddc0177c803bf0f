//! The inputs of a relay: lifetimes and limits, keys, and entries of the network map.

use std::{num::NonZero, time::Duration};

use crate::crypto::key::{DiscoPublic, DiscoSecret, NodeKey};

/// Lifetimes and limits of a relay.
#[derive(Debug, Clone)]
pub struct Config {
    /// The lifetime of a session that is not bound on both legs (upstream: 30 s).
    pub bind_lifetime: Duration,
    /// The time after which a session with a silent leg ends (upstream: 5 min).
    pub steady_lifetime: Duration,
    /// The age at which the challenge secret is replaced (upstream: 2 min).
    pub secret_rotation: Duration,
    /// The most sessions of the relay, at most 2^22, so that a random VNI is likely to be free.
    pub max_sessions: usize,
    /// The most sessions of one node. A node may send as many requests at once, or 4,096 if that is
    /// more, and as many again in each [`Config::bind_lifetime`].
    pub max_sessions_per_node: usize,
    /// The most sessions of all nodes of one tag together, for each tag.
    pub max_sessions_per_tag: Option<usize>,
    /// The bandwidth of the relay, in bytes of UDP payload per second.
    pub max_bytes_per_second: Option<NonZero<u64>>,
    /// The bandwidth of each session, both directions together, in bytes of UDP payload per second.
    pub max_bytes_per_second_per_session: Option<NonZero<u64>>,
    /// Allows loopback addresses to bind; for tests on one machine.
    pub allow_loopback_bind: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            // `defaultBindLifetime`, `defaultSteadyStateLifetime` and `macSecretRotationInterval` of
            // Go's udprelay. A client ends a handshake after the bind lifetime, and after 30 s at the
            // latest (`maxHandshakeLifetime` in magicsock), so a longer one would only keep sessions that
            // nobody binds.
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
    /// The upper bound of [`Config::max_sessions`].
    pub const MOST_SESSIONS: usize = 1 << 22;
}

/// The relay's disco keys.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The node's key in the network map: clients seal allocation requests for it.
    pub node: DiscoSecret,
    /// The server's key, which allocations name: it seals the bind handshake.
    pub server: DiscoSecret,
}

/// The network map's entry of a DERP packet's sender.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// The node key that DERP has authenticated.
    pub node_key: NodeKey,
    /// The disco key in the network map.
    pub disco: Option<DiscoPublic>,
    /// `true` if the packet filter grants `tailscale.com/cap/relay` from an address of the peer to an
    /// address of the relay of the same IP version.
    pub may_relay: bool,
    /// `true` if tailnet lock has not signed the peer, which then gets no capabilities.
    pub unsigned_peer_api_only: bool,
}
