//! Time limits of DERP connections.

use std::time::Duration;

use crate::{backoff::Backoff, relay::tailnet::BACKOFF};

/// Time limits of DERP connections. Tests use shorter ones.
#[derive(Debug, Clone)]
pub(crate) struct Timing {
    /// Longest time until a server of a region has answered a ping: TCP, TLS, HTTP upgrade, DERP handshake
    /// and the ping together.
    pub(super) open: Duration,
    /// Time between two pings on an open connection.
    pub(super) ping: Duration,
    /// Time without a packet or an answer to a ping after which a connection is dead. Servers send a
    /// keep-alive every 60 s (`derp.KeepAlive`), so this is shorter than two of them.
    pub(super) silence: Duration,
    /// Time after the loss of the home connection in which the same region is tried again. Servers
    /// restart, and a new home region must first reach all clients through control.
    pub(super) stay: Duration,
    /// Waits between attempts to reach the home region.
    pub(super) retry: Backoff,
    /// A connection to another region than home ends after this long without an answer to send.
    pub(super) idle: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            open: Duration::from_secs(10),
            ping: Duration::from_secs(15),
            silence: Duration::from_secs(40),
            stay: Duration::from_secs(15),
            retry: BACKOFF,
            idle: Duration::from_secs(60),
        }
    }
}
