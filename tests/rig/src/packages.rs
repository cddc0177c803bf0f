//! Debian packages with the programs that the rig runs but does not build.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, Result, bail};

use crate::{
    command::{find, program, run},
    progress::Progress,
};

/// A program, its package, and its purpose.
const PROGRAMS: [(&str, &str, &str); 15] = [
    ("containerd", "containerd", "runs the pods of each node"),
    ("ctr", "containerd", "imports images"),
    ("runc", "runc", "starts containers"),
    (CNI_BRIDGE, "containernetworking-plugins", "connects pods"),
    ("ip", "iproute2", "makes network namespaces"),
    ("nft", "nftables", "filters between namespaces, kube-proxy"),
    ("iptables", "iptables", "host ports of pods, tailscaled"),
    ("conntrack", "conntrack", "lets a client change its port"),
    ("nsenter", "util-linux", "enters namespaces"),
    ("unshare", "util-linux", "gives each node its own mounts"),
    ("tcpdump", "tcpdump", "shows that no plain text passes"),
    (
        "clang",
        "clang",
        "builds the program that forwards in the kernel",
    ),
    ("promtool", "prometheus", "scrapes relays, checks alerts"),
    ("shellcheck", "shellcheck", "lints scripts of workflows"),
    ("curl", "curl", "reads metrics in a node's namespace"),
];

/// The directory with Debian's CNI plugins.
pub const CNI_PLUGINS: &str = "/usr/lib/cni";
const CNI_BRIDGE: &str = "/usr/lib/cni/bridge";

/// Installs the packages that are missing, with apt-get.
pub fn ensure(progress: &Progress) -> Result<()> {
    if !root()? {
        bail!("the rig makes network namespaces and runs kubelets: run it as root");
    }
    if find(Path::new("go")).is_none() {
        bail!("failed to find go: install Go 1.26 or later, it builds Kubernetes and Tailscale");
    }
    let mut missing = Vec::new();
    for (name, package, purpose) in PROGRAMS {
        if find(Path::new(name)).is_none() {
            progress.line(format_args!(
                "package {package} is missing: {name} {purpose}"
            ));
            missing.push(package);
        }
    }
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    if find(Path::new("apt-get")).is_none() {
        bail!(
            "install these first, there is no apt-get here: {}",
            missing.join(" ")
        );
    }
    progress.line(format_args!("installing {}", missing.join(" ")));
    run(program("apt-get").args(["-qq", "update"]))?;
    let mut install = program("apt-get");
    install
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-qq", "install", "-y", "--no-install-recommends"])
        .args(&missing);
    run(&mut install)?;
    Ok(())
}

fn root() -> Result<bool> {
    let own = fs::metadata("/proc/self").context("failed to read /proc/self")?;
    Ok(own.uid() == 0)
}
