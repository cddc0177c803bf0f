//! A stock Tailscale client with a real TUN device in its own namespace.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::LOGIN_SERVER;
use crate::{
    auth_key::AuthKey,
    command::{program_in, run},
    net::Machine,
    pki::Pki,
    process::{Processes, Spec},
    state::write_private,
    tools::Tools,
};

const READY: Duration = Duration::from_secs(15);
/// Address of the HTTP proxy of a client without a TUN device, in its own namespace.
pub const CLIENT_PROXY: &str = "127.0.0.1:1055";

/// A client of the tailnet.
#[derive(Clone, Debug)]
pub struct Client {
    /// The name, addresses below the tailnet, and namespace of the client.
    pub machine: Machine,
    login_server: String,
    /// Tag to ask for; otherwise the auth key brings one.
    tag: Option<&'static str>,
    /// True if it has no TUN device.
    in_userspace: bool,
    dir: PathBuf,
    auth_key_file: PathBuf,
    processes: Processes,
    pki: Pki,
    tools: Tools,
}

/// The answer to `tailscale ping`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pong {
    /// The path as tailscale names it: `DERP(rig1)`, `peer-relay(10.89.0.11:7777:vni:1)`, an
    /// address.
    pub via: String,
}

impl Client {
    pub(super) fn new(
        machine: Machine,
        tailnet: &Path,
        processes: &Processes,
        pki: &Pki,
        tools: &Tools,
    ) -> Self {
        Self {
            machine,
            login_server: LOGIN_SERVER.into(),
            // c3 is the one that no grant names.
            tag: Some(if machine.name == "c3" {
                "tag:other"
            } else {
                "tag:office"
            }),
            in_userspace: false,
            dir: tailnet.join(machine.name),
            auth_key_file: tailnet.join("auth-key"),
            processes: processes.clone(),
            pki: pki.clone(),
            tools: tools.clone(),
        }
    }

    /// The same device with a tag of its own and without a TUN device: it leaves the network of its
    /// machine as it is.
    pub(super) fn in_userspace(self, tag: &'static str) -> Self {
        Self {
            tag: Some(tag),
            in_userspace: true,
            ..self
        }
    }

    /// The same device without a TUN device, as containers without privileges run it. Programs beside it
    /// reach the tailnet through the proxy at [`CLIENT_PROXY`]. Only one of the two may run.
    pub fn without_tun(&self) -> Self {
        Self {
            in_userspace: true,
            ..self.clone()
        }
    }

    /// The same machine as a device of another tailnet, with its state in `dir`. Only one of the two
    /// may run.
    pub fn elsewhere(&self, dir: &Path, login_server: &str, auth_key: &AuthKey) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let auth_key_file = dir.join("auth-key");
        write_private(&auth_key_file, auth_key.as_str())?;
        Ok(Self {
            login_server: login_server.into(),
            tag: None,
            dir: dir.into(),
            auth_key_file,
            ..self.clone()
        })
    }

    /// Starts tailscaled and joins the tailnet; also after [`Client::stop`].
    pub fn start(&self) -> Result<()> {
        self.write_wrapper()?;
        let dir = self.dir.display();
        let tailscaled = self.tools.program("tailscaled");
        let spec = Spec::new(self.part(), self.machine.namespace, &tailscaled)
            .args([
                "--no-logs-no-support".to_owned(),
                format!("--statedir={dir}"),
                format!("--socket={}", self.socket().display()),
            ])
            .args(self.in_userspace.then_some("--tun=userspace-networking"))
            .args(
                self.in_userspace
                    .then(|| format!("--outbound-http-proxy-listen={CLIENT_PROXY}")),
            )
            .env("SSL_CERT_FILE", self.pki.ca().display().to_string())
            .env("SSL_CERT_DIR", "/nonexistent");
        let daemon = self.processes.start(&spec)?;
        daemon.wait_until(READY, || self.tailscale(["debug", "prefs"]).map(drop))?;
        // What tailscaled asks by itself after a restart is refused for want of a key, and `up` may
        // hear of that.
        daemon.wait_until(READY, || self.join())
    }

    /// Stops tailscaled; its state is kept.
    pub fn stop(&self) -> Result<()> {
        self.processes.stop(&self.part())
    }

    /// Registers with control under the client's name and tag.
    pub fn join(&self) -> Result<()> {
        self.up(&[])
    }

    /// Joins the tailnet with a new node key, as after the device was deleted.
    pub fn join_anew(&self) -> Result<()> {
        self.up(&["--force-reauth"])
    }

    fn up(&self, more: &[&str]) -> Result<()> {
        let words = [
            "up".to_owned(),
            "--accept-dns=false".to_owned(),
            "--timeout=30s".to_owned(),
            format!("--login-server={}", self.login_server),
            format!("--auth-key=file:{}", self.auth_key_file.display()),
            format!("--hostname={}", self.machine.name),
        ];
        let tags = self.tag.map(|tag| format!("--advertise-tags={tag}"));
        let more = more.iter().map(|&word| word.to_owned());
        self.tailscale(words.into_iter().chain(tags).chain(more))
            .map(drop)
    }

    /// The tailscale program talking to this client, to add arguments to.
    pub fn tailscale_command(&self) -> Command {
        let mut tailscale = self.command(self.tools.program("tailscale"));
        tailscale.arg(format!("--socket={}", self.socket().display()));
        tailscale
    }

    /// Runs the tailscale program.
    pub fn tailscale<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        run(self.tailscale_command().args(args))
    }

    /// A program in the client's namespace, to add arguments to.
    pub fn command(&self, name: impl AsRef<Path>) -> Command {
        program_in(self.machine.namespace, name)
    }

    /// `tailscale status --json`.
    pub fn status(&self) -> Result<Value> {
        let status = self.tailscale(["status", "--json"])?;
        serde_json::from_str(&status).context("failed to parse the status")
    }

    /// Bytes that it has sent, by path as tailscaled names it: `derp`, `direct_ipv4`, `peer_relay_ipv6`.
    pub fn sent_bytes(&self) -> Result<Vec<(String, f64)>> {
        let text = self.tailscale(["metrics", "print"])?;
        let sent = text.lines().filter_map(|line| {
            let rest = line.strip_prefix("tailscaled_outbound_bytes_total{path=\"")?;
            let (path, value) = rest.split_once("\"} ")?;
            Some((path.to_owned(), value.parse().ok()?))
        });
        let sent: Vec<_> = sent.collect();
        ensure!(!sent.is_empty(), "it counts no bytes: {text}");
        Ok(sent)
    }

    /// The client's tailnet addresses, IPv4 first.
    pub fn addresses(&self) -> Result<Vec<String>> {
        let addresses = self.tailscale(["ip"])?;
        Ok(addresses.lines().map(str::to_owned).collect())
    }

    /// Pings a peer once, and returns the path of the answer.
    pub fn ping(&self, peer: &str) -> Result<Pong> {
        let answer = self.tailscale([
            "ping",
            "--until-direct=false",
            "--c=1",
            "--timeout=5s",
            peer,
        ])?;
        // "pong from c2 (100.64.0.2) via DERP(rig1) in 2ms"
        let via = answer
            .lines()
            .find_map(|line| line.split_once(" via ")?.1.split_once(" in "))
            .map(|(via, _)| via.to_owned());
        match via {
            Some(via) => Ok(Pong { via }),
            None => bail!("no pong from {peer}: {}", answer.trim()),
        }
    }

    /// The relays that the client knows, as `tailscale debug peer-relay-servers` prints them.
    pub fn debug_peer_relay_servers(&self) -> Result<String> {
        self.tailscale(["debug", "peer-relay-servers"])
    }

    /// The name of its tailscaled in logs and records.
    pub fn part(&self) -> String {
        format!("tailscaled-{}", self.machine.name)
    }

    /// A directory for PATH, where `tailscale` talks to this client.
    pub fn bin(&self) -> PathBuf {
        self.dir.join("bin")
    }

    /// The program has an argument for the socket, but no variable.
    fn write_wrapper(&self) -> Result<()> {
        let (program, socket) = (self.tools.program("tailscale"), self.socket());
        let (program, socket) = (program.display(), socket.display());
        let wrapper = self.bin().join("tailscale");
        fs::create_dir_all(self.bin())?;
        fs::write(
            &wrapper,
            format!("#!/bin/sh\nexec '{program}' --socket='{socket}' \"$@\"\n"),
        )?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o700))?;
        Ok(())
    }

    /// The socket of tailscaled.
    fn socket(&self) -> PathBuf {
        self.dir.join("tailscaled.sock")
    }
}
