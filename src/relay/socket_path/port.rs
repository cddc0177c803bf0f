//! State of the relay's UDP port: one set of sockets per IP version, bound again when one breaks.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use relay_proto::Family;

use crate::{backoff::Backoff, relay::socket::UdpSocket};

/// Waits between attempts to bind sockets.
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

    /// Reason for which the port is not bound, if binding failed.
    pub const fn problem(&self) -> Option<&PortProblem> {
        match self {
            Self::Failed(problem) => Some(problem),
            Self::Binding | Self::Bound(_) => None,
        }
    }
}

/// Reason for which the UDP port is not bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortProblem {
    /// Another process has the port.
    #[error(
        "UDP port {0} is taken by another process on this host: stop that process or choose another \
         port (--port, spec.port in a PeerRelay); binding is retried"
    )]
    Taken(u16),
    /// The system refuses for another reason.
    #[error("failed to bind UDP port {port}: {error}; binding is retried")]
    Other {
        /// Number of the port.
        port: u16,
        /// Error of the system.
        error: String,
    },
}

/// The port: which IP versions are bound, and when to try the others again.
pub(super) struct Port {
    wanted: u16,
    threads: usize,
    slots: [Slot; 2],
    generation: u64,
}

/// State of the port for one IP version.
enum Slot {
    Bound {
        port: u16,
        generation: u64,
    },
    /// Not bound; `retry` is `None` when the host has no such IP version.
    Lost {
        retry: Option<Instant>,
        failures: u32,
    },
}

/// Sockets of one IP version, one for each thread, in their order.
pub(super) struct BoundSockets {
    pub(super) family: Family,
    /// Number that tells these sockets from earlier ones.
    pub(super) generation: u64,
    pub(super) sockets: Vec<UdpSocket>,
}

/// Sockets of one worker thread, by IP version.
pub(super) type Sockets = [Option<UdpSocket>; 2];

/// Message of the port binder to a worker thread.
pub(super) enum SocketChange {
    /// Has the worker use this socket. The one before is gone.
    Use {
        family: Family,
        generation: u64,
        socket: UdpSocket,
    },
    /// Has the worker close its socket, because another one of this generation broke.
    Close { family: Family, generation: u64 },
}

impl Port {
    /// A port that is not bound yet; number 0 lets the kernel choose.
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

    /// Takes sockets that are bound already.
    pub(super) fn adopt(&mut self, family: Family, sockets: Vec<UdpSocket>) -> BoundSockets {
        self.generation += 1;
        let (port, generation) = (sockets[0].local().port(), self.generation);
        self.slots[family as usize] = Slot::Bound { port, generation };
        BoundSockets {
            family,
            generation,
            sockets,
        }
    }

    /// Gives up the sockets of one IP version, which are bound again after a while. Returns `false`
    /// when those of generation `broken` have been given up already.
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

    /// Time of the next call of [`Port::bind`].
    pub(super) fn due(&self) -> Option<Instant> {
        let due = |slot: &Slot| match slot {
            Slot::Lost { retry, .. } => *retry,
            Slot::Bound { .. } => None,
        };
        self.slots.iter().filter_map(due).min()
    }

    /// Binds the IP versions that are due. Returns the new state, and the new sockets.
    pub(super) fn bind(&mut self) -> (PortState, Vec<BoundSockets>) {
        let mut problem = None;
        let mut bound = Vec::new();
        for family in Family::ALL {
            // Both IP versions have one number, also where the kernel has chosen it.
            let port = self.number().unwrap_or(self.wanted);
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
        (self.state(problem), bound)
    }

    /// Number of the port, once it is bound on an IP version.
    pub(super) fn number(&self) -> Option<u16> {
        self.slots.iter().find_map(|slot| match slot {
            Slot::Bound { port, .. } => Some(*port),
            Slot::Lost { .. } => None,
        })
    }

    fn state(&self, problem: Option<PortProblem>) -> PortState {
        match (self.number(), problem) {
            (Some(port), _) => PortState::Bound(port),
            (None, Some(problem)) => PortState::Failed(problem),
            (None, None) => PortState::Failed(PortProblem::Other {
                port: self.wanted,
                error: "the host has neither IPv4 nor IPv6".into(),
            }),
        }
    }
}

const fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// Returns whether `error` says that the host lacks this IP version.
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
