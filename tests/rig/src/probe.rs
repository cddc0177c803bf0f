//! Traffic of tests: hidden commands that run inside of a namespace.

mod datagrams;
mod tcp;

use std::net::SocketAddr;

use anyhow::Result;
use clap::Subcommand;

/// What to send or serve.
#[derive(Debug, Subcommand)]
pub enum Probe {
    /// Echo every connection, and answer its end with a checksum of what came
    Serve {
        /// TCP port
        port: u16,
    },
    /// Send bytes and compare the checksum that comes back
    Send {
        /// A `serve`
        to: SocketAddr,
        /// How many
        bytes: u64,
    },
    /// Keep one connection busy until standard input ends; print how many round trips it made, and how long the longest took
    Hold {
        /// A `serve`
        to: SocketAddr,
    },
    /// Keep a UDP port taken until standard input ends
    Occupy {
        /// The port
        port: u16,
    },
    /// Send datagrams that a relay must not answer; print how many answers came
    Hostile {
        /// A relay
        to: SocketAddr,
    },
}

impl Probe {
    /// Runs it.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Serve { port } => tcp::serve(port),
            Self::Send { to, bytes } => tcp::send(to, bytes),
            Self::Hold { to } => tcp::hold(to),
            Self::Occupy { port } => datagrams::occupy(port),
            Self::Hostile { to } => datagrams::hostile(to),
        }
    }
}
