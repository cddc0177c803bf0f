//! Traffic of tests: hidden commands that run inside of a namespace.

mod datagrams;
mod steady;
mod tcp;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;

/// Traffic of a test: a client or a server.
#[derive(Debug, Subcommand)]
pub enum Probe {
    /// Echo every connection, and answer its end with a checksum of what came
    Serve {
        /// TCP port to listen on
        port: u16,
    },
    /// Send bytes and compare the checksum that comes back
    Send {
        /// Address of a `serve`
        to: SocketAddr,
        /// Number of bytes
        bytes: u64,
        /// Address of an HTTP proxy
        #[arg(long)]
        proxy: Option<SocketAddr>,
    },
    /// Keep one connection busy until standard input ends; print how many round trips it made, and how long the longest took
    Hold {
        /// Address of a `serve`
        to: SocketAddr,
    },
    /// Send a datagram each tenth of a second and record the arrival of the peer's, until standard input ends
    Steady {
        /// UDP port to send from, and to receive at
        port: u16,
        /// Another `steady`
        peer: SocketAddr,
        /// File for a line per arrival: milliseconds since 1970, and number
        record: PathBuf,
    },
    /// Keep a UDP port taken until standard input ends
    Occupy {
        /// UDP port to listen on
        port: u16,
    },
    /// Send datagrams that a relay must not answer; print how many answers came
    Hostile {
        /// Address of a relay
        to: SocketAddr,
    },
}

impl Probe {
    /// Runs the client or server.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Serve { port } => tcp::serve(port),
            Self::Send { to, bytes, proxy } => tcp::send(to, bytes, proxy),
            Self::Hold { to } => tcp::hold(to),
            Self::Steady { port, peer, record } => steady::steady(port, peer, &record),
            Self::Occupy { port } => datagrams::occupy(port),
            Self::Hostile { to } => datagrams::hostile(to),
        }
    }
}
