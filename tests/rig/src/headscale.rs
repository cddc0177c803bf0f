//! Headscale, beside the rig's own control server: another tailnet, which c1 and c2 join for a while.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    Rig,
    auth_key::AuthKey,
    command::{program_in, run},
    net::CONTROL,
    process::Spec,
    progress::Progress,
    state::write_private,
    tailnet::Client,
    tools::Tools,
};

/// The URL of Headscale, for clients and for pods.
pub const LOGIN_SERVER: &str = "https://10.90.0.1:8443";
const NAME: &str = "headscale";
const READY: Duration = Duration::from_secs(20);
/// The address of STUN and of Headscale's own DERP server; the rig's own has another port.
const STUN: &str = "10.90.0.1:3479";

/// Headscale while it runs. With it, c1 and c2 go back to the rig's tailnet.
#[derive(Debug)]
pub struct Headscale<'a> {
    rig: &'a Rig,
    dir: PathBuf,
    clients: Vec<Client>,
}

/// A device as Headscale knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    /// The number of the node.
    pub id: u64,
    /// The name of the node.
    pub name: String,
    /// The tags of the node.
    pub tags: Vec<String>,
}

impl<'a> Headscale<'a> {
    /// Builds Headscale and starts it with a user and `policy`; then c1 and c2 join with tag:office.
    pub fn start(rig: &'a Rig, policy: &Value) -> Result<Self> {
        Tools::build_only(NAME, &Progress::stderr())?;
        let dir = rig.scratch(NAME)?;
        // The tailnet has no devices yet.
        std::fs::remove_dir_all(&dir)?;
        let mut this = Self {
            rig,
            dir: rig.scratch(NAME)?,
            clients: Vec::new(),
        };
        write_private(&this.config(), this.configuration().to_string())?;
        this.serve()?;
        this.ask(&["users", "create", "rig"])?;
        this.write_policy(policy)?;
        let key = this.key("tag:office")?;
        for name in ["c1", "c2"] {
            let client = rig.tailnet.client(name)?;
            client.stop()?;
            let client = client.elsewhere(&this.dir.join(name), LOGIN_SERVER, &key)?;
            this.clients.push(client.clone());
            client.start()?;
        }
        Ok(this)
    }

    /// Starts the server, also after [`Headscale::stop`].
    pub fn serve(&self) -> Result<()> {
        let config = self.config().display().to_string();
        let program = self.rig.tools().program(NAME);
        let spec = Spec::new(NAME, CONTROL.namespace, &program).args(["serve", "-c", &config]);
        let ready = || self.ask(&["users", "list"]).map(drop);
        self.rig.processes()?.start(&spec)?.wait_until(READY, ready)
    }

    /// Stops the server, and with it its DERP and STUN.
    pub fn stop(&self) -> Result<()> {
        self.rig.processes()?.stop(NAME)
    }

    /// c1 and c2, in this order.
    pub fn clients(&self) -> (&Client, &Client) {
        (&self.clients[0], &self.clients[1])
    }

    /// A reusable auth key that gives its devices a tag.
    pub fn key(&self, tag: &str) -> Result<AuthKey> {
        let words = ["preauthkeys", "create", "--reusable", "--tags", tag];
        let key = self.ask(&words)?["key"].clone();
        key.as_str().map(AuthKey::new).context("it made no key")
    }

    /// Lets Headscale check a policy file against its users and devices, and run its tests.
    pub fn check_policy(&self, file: &str) -> Result<()> {
        self.ask(&["policy", "check", "-f", file]).map(drop)
    }

    /// Replaces the policy by a file.
    pub fn set_policy(&self, file: &str) -> Result<()> {
        self.ask(&["policy", "set", "-f", file]).map(drop)
    }

    /// Text of the policy.
    pub fn policy(&self) -> Result<String> {
        let text = self.say(&["policy", "get"])?;
        // The command adds a line feed.
        Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
    }

    /// An API key, which may do everything.
    pub fn api_key(&self) -> Result<String> {
        let key = self.ask(&["apikeys", "create"])?;
        key.as_str().map(str::to_owned).context("it made no key")
    }

    /// Replaces the policy.
    pub fn write_policy(&self, policy: &Value) -> Result<()> {
        let file = self.dir.join("policy.hujson");
        write_private(&file, policy.to_string())?;
        self.set_policy(&file.display().to_string())
    }

    /// The devices of the tailnet.
    pub fn devices(&self) -> Result<Vec<Device>> {
        let nodes = self.ask(&["nodes", "list"])?;
        let device = |node: &Value| {
            let tags = node["tags"].as_array().into_iter().flatten();
            Some(Device {
                id: node["id"].as_u64()?,
                name: node["given_name"].as_str()?.to_owned(),
                tags: tags
                    .filter_map(|tag| Some(tag.as_str()?.to_owned()))
                    .collect(),
            })
        };
        let nodes = nodes.as_array().cloned().unwrap_or_default();
        nodes
            .iter()
            .map(|node| device(node).with_context(|| format!("no device: {node}")))
            .collect()
    }

    /// Removes a device.
    pub fn delete(&self, device: &Device) -> Result<()> {
        self.ask(&["nodes", "delete", "-i", &device.id.to_string(), "--force"])
            .map(drop)
    }

    /// Gives a device another tag.
    pub fn tag(&self, device: &Device, tag: &str) -> Result<()> {
        self.ask(&["nodes", "tag", "-i", &device.id.to_string(), "-t", tag])
            .map(drop)
    }

    /// The end of the server's log.
    pub fn log(&self) -> String {
        let processes = self.rig.processes();
        let record = processes.ok().and_then(|all| all.find(NAME));
        record.map(|record| record.log_tail()).unwrap_or_default()
    }

    fn ask(&self, words: &[&str]) -> Result<Value> {
        let said = self.say(words)?;
        // Some commands print only that they have succeeded.
        Ok(serde_json::from_str(&said).unwrap_or_default())
    }

    fn say(&self, words: &[&str]) -> Result<String> {
        let mut headscale = program_in(CONTROL.namespace, self.rig.tools().program(NAME));
        headscale.arg("-c").arg(self.config()).args(["-o", "json"]);
        run(headscale.args(words))
    }

    fn config(&self) -> PathBuf {
        self.dir.join("config.yaml")
    }

    fn configuration(&self) -> Value {
        let file = |name: &str| self.dir.join(name);
        let pki = |name: &str| self.rig.ca().with_file_name(name);
        json!({
            "server_url": LOGIN_SERVER,
            "listen_addr": format!("{}:8443", CONTROL.v4),
            "metrics_listen_addr": "127.0.0.1:9092",
            "grpc_listen_addr": "127.0.0.1:50444",
            "noise": {"private_key_path": file("noise.key")},
            "prefixes": {"v4": "100.64.0.0/10", "v6": "fd7a:115c:a1e0::/48"},
            "derp": {
                "server": {
                    "enabled": true,
                    "region_id": 900,
                    "region_code": NAME,
                    "region_name": "Headscale",
                    "verify_clients": false,
                    "stun_listen_addr": STUN,
                    "private_key_path": file("derp.key"),
                    "automatically_add_embedded_derp_region": true,
                    "ipv4": CONTROL.v4,
                },
                "urls": [], "paths": [], "auto_update_enabled": false,
            },
            "disable_check_updates": true,
            "database": {"type": "sqlite", "sqlite": {"path": file("db.sqlite")}},
            "policy": {"mode": "database"},
            "dns": {
                "magic_dns": true,
                "base_domain": "headscale.rig",
                "override_local_dns": false,
                "nameservers": {"global": []},
            },
            "tls_cert_path": pki("control.crt"),
            "tls_key_path": pki("control.key"),
            "unix_socket": file("headscale.sock"),
            "unix_socket_permission": "0700",
            "logtail": {"enabled": false},
            "log": {"level": "info"},
        })
    }
}

impl Drop for Headscale<'_> {
    fn drop(&mut self) {
        for client in &self.clients {
            client.stop().ok();
        }
        self.stop().ok();
        for name in ["c1", "c2"] {
            let client = self.rig.tailnet.client(name);
            if let Err(error) = client.and_then(Client::start) {
                Progress::stderr().line(format_args!("{name} did not come back: {error:#}"));
            }
        }
    }
}
