//! The tailnet: a control server with DERP and STUN, and stock clients.

mod admin;
mod api;
mod client;

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{
    auth_key::AuthKey,
    command::{program_in, run_with_input},
    net::{CLIENTS, CONTROL, Machine},
    pki::Pki,
    process::{Processes, Spec, wait_until},
    progress::Progress,
    state::{State, write_private},
    tools::Tools,
};
pub use admin::NodeStatus;
use admin::PolicyWrite;
pub use api::{
    Api, ApiRequest, Device, Fault, FederatedIdentity, LostPart, MintedKey, NewKey, OauthClient,
    User,
};
pub use client::{CLIENT_PROXY, Client, Pong};

/// The URL of the control server, for clients and for pods.
pub const LOGIN_SERVER: &str = "https://10.90.0.1:443";
const READY: Duration = Duration::from_secs(15);

/// The URL of an HTTP proxy on the control server's host, with its credentials.
pub const PROXY: &str = "http://rig:through@10.90.0.1:3128";
const PROXY_PORT: u16 = 3128;

/// The DERP regions that the control server serves.
pub const DERP_REGIONS: [u32; 2] = [1, 2];

/// The longest time until control has taken over a policy.
const SOON: Duration = Duration::from_secs(5);

/// The policy that `up` starts with: clients may talk to each other, and c1 and c2 may relay through
/// nodes tagged relay-office. Nothing else is allowed, so devices see no others.
pub const DEFAULT_POLICY: &str = r#"{
  "tagOwners": {
    "tag:office":       ["autogroup:admin"],
    "tag:other":        ["autogroup:admin"],
    "tag:relay-office": ["autogroup:admin"],
    "tag:relay-lab":    ["autogroup:admin"],
    "tag:relay-annex":  ["autogroup:admin"],
  },
  "grants": [
    {"src": ["tag:office", "tag:other"], "dst": ["tag:office", "tag:other"], "ip": ["*"]},
    {
      "src": ["tag:office"],
      "dst": ["tag:relay-office"],
      "app": {"tailscale.com/cap/relay": [{}]},
    },
  ],
}
"#;

/// A tailnet that runs.
#[derive(Clone, Debug)]
pub struct Tailnet {
    dir: PathBuf,
    clients: Vec<Client>,
    processes: Processes,
    pki: Pki,
    tools: Tools,
}

impl Tailnet {
    /// Uses the tailnet whose processes are recorded.
    pub fn open(state: &State, pki: &Pki, tools: &Tools) -> Result<Self> {
        let dir = state.dir("tailnet")?;
        let processes = Processes::open(state)?;
        let clients = CLIENTS.map(|machine| Client::new(machine, &dir, &processes, pki, tools));
        Ok(Self {
            dir,
            clients: clients.into(),
            processes,
            pki: pki.clone(),
            tools: tools.clone(),
        })
    }

    /// Starts control server and clients, and waits until the clients have joined.
    pub fn start(&self, progress: &Progress) -> Result<()> {
        self.write_policy(DEFAULT_POLICY)?;
        self.start_control()?;
        let key = self.api(User::Admin)?.mint(&NewKey::reusable())?;
        write_private(&self.auth_key_file(), key.as_str())?;
        progress.line("tailnet control ready");
        thread::scope(|scope| {
            let joins: Vec<_> = self
                .clients
                .iter()
                .map(|client| scope.spawn(|| client.start()))
                .collect();
            for join in joins {
                join.join()
                    .map_err(|_| anyhow!("a client's thread panicked"))??;
            }
            Ok::<_, anyhow::Error>(())
        })?;
        progress.line("tailnet clients c1, c2, c3 joined");
        Ok(())
    }

    /// Starts the control server, also after it was stopped; it then knows no node, and every auth key
    /// and credential that it knew.
    pub fn start_control(&self) -> Result<()> {
        let file = |path: PathBuf| path.display().to_string();
        let spec = Spec::new(
            CONTROL.name,
            CONTROL.namespace,
            &self.tools.program("control"),
        )
        .args([
            format!("--addr={}", CONTROL.v4),
            format!("--addr6={}", CONTROL.v6),
            format!("--cert={}", file(self.pki.path("control.crt"))),
            format!("--key={}", file(self.pki.path("control.key"))),
            format!("--policy={}", file(self.policy_file())),
            format!("--state={}", file(self.dir.join("control.json"))),
            format!("--admin={}", file(self.admin_socket())),
            format!("--regions={}", DERP_REGIONS.len()),
            format!("--proxy-port={PROXY_PORT}"),
        ]);
        self.processes
            .start(&spec)?
            .wait_until(READY, || self.nodes().map(drop))
    }

    /// Cuts control, DERP and STUN off from everyone, or lets packets through again.
    pub fn cut_off(&self, cut: bool) -> Result<()> {
        filter_input("cut", if cut { "drop" } else { "accept" }, "iif lo accept")
    }

    /// Drops TCP from nodes of the cluster to control and DERP, except through the proxy, or lets it pass
    /// again.
    pub fn require_proxy(&self, required: bool) -> Result<()> {
        let verdict = if required { "drop" } else { "accept" };
        let ports = "tcp dport 443-444";
        let rules = format!(
            "ip saddr 10.89.0.0/24 {ports} {verdict}\n ip6 saddr fd00:89::/64 {ports} {verdict}"
        );
        filter_input("proxied", "accept", &rules)
    }

    /// Stops the control server, and with it DERP and STUN.
    pub fn stop_control(&self) -> Result<()> {
        self.processes.stop(CONTROL.name)
    }

    /// The clients of the tailnet, in order of their names.
    pub fn clients(&self) -> &[Client] {
        &self.clients
    }

    /// A client by name: c1 and c2 are tagged office, c3 other.
    pub fn client(&self, name: &str) -> Result<&Client> {
        self.clients
            .iter()
            .find(|client| client.machine.name == name)
            .with_context(|| format!("there is no client {name}"))
    }

    /// Another stock device, on a node of the cluster, which may run Tailscale's own relay. It is not
    /// started.
    pub fn device_on(&self, node: Machine, name: &'static str, tag: &'static str) -> Client {
        let mut machine = node;
        machine.name = name;
        Client::new(machine, &self.dir, &self.processes, &self.pki, &self.tools).in_userspace(tag)
    }

    /// The auth key of an administrator with which any number of nodes join, with tags that they
    /// request.
    pub fn auth_key(&self) -> Result<AuthKey> {
        let file = self.auth_key_file();
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("failed to read {}", file.display()))?;
        Ok(AuthKey::new(text))
    }

    /// The API of the tailnet, for requests of a user.
    pub fn api(&self, user: User) -> Result<Api> {
        Api::open(self.admin_socket(), user)
    }

    /// The file with the auth key.
    pub fn auth_key_file(&self) -> PathBuf {
        self.dir.join("auth-key")
    }

    /// Replaces the policy, and waits until control has taken it over. A policy that control
    /// refuses is an error with its words, and the one before stays; without control the policy
    /// waits in its file.
    pub fn write_policy(&self, policy: &str) -> Result<()> {
        let before = std::fs::read_to_string(self.policy_file());
        self.write_policy_file(policy)?;
        let control = self.processes.find(CONTROL.name);
        if !control.is_some_and(|control| control.alive()) {
            return Ok(());
        }
        match self.refusal(policy)? {
            None => Ok(()),
            Some(words) => {
                self.write_policy_file(&before.unwrap_or_default())?;
                bail!("control refuses the policy: {words}")
            }
        }
    }

    /// The reason why control refuses the policy that was written, if it does.
    fn refusal(&self, policy: &str) -> Result<Option<String>> {
        let mut written = PolicyWrite::default();
        wait_until(
            SOON,
            || true,
            || {
                let body = admin::request(&self.admin_socket(), "GET", "/policy")?;
                written = serde_json::from_str(&body)?;
                ensure!(written.text == policy, "control has not read the policy");
                Ok(())
            },
        )?;
        Ok(Some(written.refused).filter(|words| !words.is_empty()))
    }

    fn write_policy_file(&self, policy: &str) -> Result<()> {
        // Renamed into place: control would read a half written file as an invalid one.
        let staging = self.dir.join("policy.new");
        write_private(&staging, policy)?;
        std::fs::rename(&staging, self.policy_file()).context("failed to replace the policy")
    }

    /// The nodes that control knows.
    pub fn nodes(&self) -> Result<Vec<NodeStatus>> {
        let body = admin::request(&self.admin_socket(), "GET", "/nodes")?;
        serde_json::from_str(&body).context("failed to parse what control answered")
    }

    /// Gives nodes of that name an attribute, or takes all their attributes.
    pub fn set_attribute(&self, node: &str, attribute: &str, set: bool) -> Result<()> {
        let path = format!("/attr?name={node}&attr={attribute}&set={set}");
        admin::request(&self.admin_socket(), "POST", &path).map(drop)
    }

    /// Lets the keys of nodes of that name expire, or makes them good for ever.
    pub fn expire(&self, node: &str, expired: bool) -> Result<()> {
        let path = format!("/expire?name={node}&set={expired}");
        admin::request(&self.admin_socket(), "POST", &path).map(drop)
    }

    /// Gives nodes of that name these tags, as an administrator may.
    pub fn set_tags(&self, node: &str, tags: &[&str]) -> Result<()> {
        let path = format!("/tags?name={node}&tags={}", tags.join(","));
        admin::request(&self.admin_socket(), "POST", &path).map(drop)
    }

    /// Lets the keys of nodes of that name expire in so many seconds.
    pub fn expire_in(&self, node: &str, seconds: u32) -> Result<()> {
        let path = format!("/expire?name={node}&set=true&in={seconds}s");
        admin::request(&self.admin_socket(), "POST", &path).map(drop)
    }

    /// Stalls the DERP server of a region, or lets it work again. It stays reachable by TCP and TLS.
    pub fn stall_derp(&self, region: u32, stalled: bool) -> Result<()> {
        let path = format!("/derp?region={region}&stalled={stalled}");
        admin::request(&self.admin_socket(), "POST", &path).map(drop)
    }

    /// Ends each network map stream of relays at this age, as some proxies do, or lets all of them last
    /// (`None`). Each stream has at least one map.
    pub fn end_relay_streams(&self, age: Option<Duration>) -> Result<()> {
        let path = format!("/streams?age={}ms", age.unwrap_or_default().as_millis());
        admin::request(&self.admin_socket(), "POST", &path).map(drop)
    }

    /// The path of control's admin interface.
    pub fn admin_socket(&self) -> PathBuf {
        self.dir.join("admin.sock")
    }

    fn policy_file(&self) -> PathBuf {
        self.dir.join("policy.hujson")
    }
}

/// Filters what arrives at the control server's host, in place of the table's earlier rules.
fn filter_input(table: &str, policy: &str, rules: &str) -> Result<()> {
    let chain = format!("type filter hook input priority 0; policy {policy};\n {rules}");
    let text = format!(
        "table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n chain input {{\n {chain}\n }}\n}}\n"
    );
    let mut nft = program_in(CONTROL.namespace, "nft");
    run_with_input(nft.args(["-f", "-"]), text.as_bytes()).map(drop)
}
