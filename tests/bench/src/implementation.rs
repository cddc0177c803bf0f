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
}

impl Implementation {
    /// All, cheapest first.
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
        }
    }

    /// Says whether clients allocate and bind sessions.
    pub const fn is_relay(self) -> bool {
        matches!(self, Self::Go | Self::Socket | Self::Kernel)
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

    /// The program of a relay.
    pub fn of(&self, implementation: Implementation) -> &Path {
        match implementation {
            Implementation::Go => &self.go,
            _ => &self.ours,
        }
    }
}
