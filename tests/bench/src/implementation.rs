//! The implementations that are compared.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::Result;
use rig::{
    build::{self, Profile},
    progress::Progress,
    tools::Tools,
};
use serde::{Deserialize, Serialize};

/// A way from one client to the other.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Implementation {
    /// One link with nothing between: the cost of load and network alone.
    Direct,
    /// Routing by the kernel.
    Route,
    /// nftables DNAT and masquerading, with connection tracking.
    Dnat,
    /// Tailscale's relay, `net/udprelay`.
    Go,
    /// Our relay, in user space.
    Socket,
    /// Our relay, in the kernel.
    Kernel,
    /// Our relay of another commit, in user space.
    #[serde(rename = "socket-before")]
    SocketBefore,
    /// Our relay of another commit, in the kernel.
    #[serde(rename = "kernel-before")]
    KernelBefore,
}

impl Implementation {
    /// Relays of another commit, cheapest first.
    pub const BEFORE: [Self; 2] = [Self::KernelBefore, Self::SocketBefore];

    /// All of this commit, cheapest first.
    pub const ALL: [Self; 6] = [
        Self::Direct,
        Self::Route,
        Self::Dnat,
        Self::Kernel,
        Self::Socket,
        Self::Go,
    ];

    /// The name in results, and of the devices.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Route => "route",
            Self::Dnat => "dnat",
            Self::Go => "go",
            Self::Socket => "socket",
            Self::Kernel => "kernel",
            Self::SocketBefore => "socket-before",
            Self::KernelBefore => "kernel-before",
        }
    }

    /// Says whether clients allocate and bind sessions.
    pub const fn is_relay(self) -> bool {
        matches!(self, Self::Go) || self.data_path().is_some()
    }

    /// The data path of our relay, as its `--data-path` has it; `None` of what is not ours.
    pub const fn data_path(self) -> Option<&'static str> {
        match self {
            Self::Socket | Self::SocketBefore => Some("socket"),
            Self::Kernel | Self::KernelBefore => Some("kernel"),
            _ => None,
        }
    }
}

impl fmt::Display for Implementation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The programs that are measured.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    /// Tailscale's relay server.
    go: PathBuf,
    /// Our data path without a tailnet.
    ours: PathBuf,
    /// The same of another commit; empty without one.
    before: PathBuf,
}

impl Programs {
    /// Builds what of `wanted` is missing or stale; ours as it is released.
    pub fn build(wanted: &[Implementation], progress: &Progress) -> Result<Self> {
        let mut programs = Self::default();
        if wanted.contains(&Implementation::Go) {
            programs.go = Tools::build_only("relay", progress)?.program("relay");
        }
        let ours = [Implementation::Socket, Implementation::Kernel];
        if wanted.iter().any(|one| ours.contains(one)) {
            progress.line("building the bare relay, as released (some minutes the first time)");
            programs.ours =
                build::part(Profile::Release, &["--example", "bare_relay"], "bare_relay")?;
        }
        Ok(programs)
    }

    /// Adds the bare relay of another commit: its `examples/bare_relay.rs`, built for release.
    pub fn with_before(self, before: Option<&Path>) -> Self {
        let before = before.unwrap_or(Path::new("")).to_owned();
        Self { before, ..self }
    }

    /// The program of a relay.
    pub fn of(&self, implementation: Implementation) -> &Path {
        match implementation {
            Implementation::Go => &self.go,
            Implementation::SocketBefore | Implementation::KernelBefore => &self.before,
            _ => &self.ours,
        }
    }
}
