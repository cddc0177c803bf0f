//! The relay's UDP port: one socket per IP version, bound again when it breaks.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use relay_proto::Family;

use crate::{backoff::Backoff, relay::socket::UdpSocket};

/// Waits before a socket is bound again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// State of the relay's UDP port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum PortState {
    /// No attempt to bind it has ended yet.
    #[default]
    Binding,
    /// Bound to this number, on at least one IP version.
    Bound(u16),
    /// Not bound; binding is retried.
    Failed(PortProblem),
}

impl PortState {
    /// Number of the port, while it is bound.
    pub const fn bound(&self) -> Option<u16> {
        match self {
            Self::Bound(port) => Some(*port),
            Self::Binding | Self::Failed(_) => None,
        }
    }

    /// Why the port is not bound, if binding failed.
    pub const fn problem(&self) -> Option<&PortProblem> {
        match self {
            Self::Failed(problem) => Some(problem),
            Self::Binding | Self::Bound(_) => None,
        }
    }
}

/// Why the UDP port is not bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortProblem {
    /// Another process has it.
    #[error(
        "UDP port {0} is taken by another process on this host: stop that process or choose another \
         port (--port, spec.port in a PeerRelay); binding is retried"
    )]
    Taken(u16),
    /// Anything else.
    #[error("failed to bind UDP port {port}: {error}; binding is retried")]
    Other {
        /// The port.
        port: u16,
        /// What the system said.
        error: String,
    },
}

/// Keeps the port bound: on each IP version, one socket for each thread.
pub(super) struct Port {
    wanted: u16,
    threads: usize,
    slots: [Slot; 2],
    generation: u64,
}

enum Slot {
    Bound {
        port: u16,
        generation: u64,
    },
    /// Not bound; `None` when the host has no such IP version.
    Lost {
        retry: Option<Instant>,
        failures: u32,
    },
}

/// Sockets of one IP version, one for each thread, in their order.
pub(super) struct Bound {
    pub(super) family: Family,
    /// Tells these from those before.
    pub(super) generation: u64,
    pub(super) sockets: Vec<UdpSocket>,
}

impl Port {
    pub(super) fn new(port: u16, threads: usize) -> Self {
        let lost = || Slot::Lost {
            retry: Some(Instant::now()),
            failures: 0,
        };
        Self {
            wanted: port,
            threads,
            slots: [lost(), lost()],
            generation: 0,
        }
    }

    /// Goes on with sockets that are bound already.
    pub(super) fn adopt(&mut self, family: Family, sockets: Vec<UdpSocket>) -> Bound {
        self.generation += 1;
        let (port, generation) = (sockets[0].local().port(), self.generation);
        self.slots[family as usize] = Slot::Bound { port, generation };
        Bound {
            family,
            generation,
            sockets,
        }
    }

    /// Gives up sockets of which one is broken: the kernel steers by position, so they come and go
    /// together. They are bound again after a while. `false` when these have gone already.
    pub(super) fn lose(&mut self, family: Family, broken: u64) -> bool {
        let slot = &mut self.slots[family as usize];
        if !matches!(slot, Slot::Bound { generation, .. } if *generation == broken) {
            return false;
        }
        *slot = Slot::Lost {
            retry: Some(Instant::now() + BACKOFF.after(1)),
            failures: 0,
        };
        true
    }

    /// When [`Port::bind`] wants to be called.
    pub(super) fn due(&self) -> Option<Instant> {
        let due = |slot: &Slot| match slot {
            Slot::Lost { retry, .. } => *retry,
            Slot::Bound { .. } => None,
        };
        self.slots.iter().filter_map(due).min()
    }

    /// Binds what is due; the new state, and what was bound.
    pub(super) fn bind(&mut self) -> (PortState, Vec<Bound>) {
        let mut problem = None;
        let mut bound = Vec::new();
        for family in Family::ALL {
            let port = self.port().unwrap_or(self.wanted);
            let Slot::Lost {
                retry: Some(retry),
                failures,
            } = &mut self.slots[family as usize]
            else {
                continue;
            };
            if *retry > Instant::now() {
                continue;
            }
            match UdpSocket::bind(SocketAddr::new(any(family), port), self.threads) {
                Ok(sockets) => {
                    bound.push(self.adopt(family, sockets));
                }
                Err(error) if is_absent(&error) => {
                    tracing::info!(%error, ?family, "IP version is not available");
                    self.slots[family as usize] = Slot::Lost {
                        retry: None,
                        failures: 0,
                    };
                }
                Err(error) => {
                    *failures = failures.saturating_add(1);
                    *retry = Instant::now() + BACKOFF.after(*failures);
                    problem = Some(describe(port, &error));
                }
            }
        }
        let state = match (self.port(), problem) {
            (Some(port), _) => PortState::Bound(port),
            (None, Some(problem)) => PortState::Failed(problem),
            (None, None) => PortState::Failed(PortProblem::Other {
                port: self.wanted,
                error: "the host has neither IPv4 nor IPv6".into(),
            }),
        };
        (state, bound)
    }

    pub(super) fn port(&self) -> Option<u16> {
        self.slots.iter().find_map(|slot| match slot {
            Slot::Bound { port, .. } => Some(*port),
            Slot::Lost { .. } => None,
        })
    }
}

const fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

fn describe(port: u16, error: &io::Error) -> PortProblem {
    match error.kind() {
        io::ErrorKind::AddrInUse => PortProblem::Taken(port),
        _ => PortProblem::Other {
            port,
            error: error.to_string(),
        },
    }
}
