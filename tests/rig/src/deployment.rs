//! The operator on a rig: its installation, PeerRelays, and the paths between clients.

use std::{
    fmt,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    Rig,
    auth_key::AuthKey,
    cluster::{Node, PEERRELAY},
    command::{program_in, run},
    names::{CHART, METRICS_PORT, NAMESPACE, OPERATOR_NAMESPACE, RELEASE, SECRET},
    seed, spec,
    state::repository,
    tailnet::{Client, LOGIN_SERVER},
    wait::Wait,
};

/// A rig on which the operator is installed.
#[derive(Clone, Copy, Debug)]
pub struct Deployment<'a> {
    /// The rig on which the operator is installed.
    pub rig: &'a Rig,
    /// The seed of random choices in scenarios.
    pub seed: u64,
}

/// The path on which two clients talk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Through a DERP server.
    Derp,
    /// Through a relay, `IP:PORT:vni:N`.
    Relay(String),
    /// Directly, without a relay or a DERP server.
    Direct,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Derp => f.write_str("DERP"),
            Self::Relay(address) => write!(f, "peer-relay {address}"),
            Self::Direct => f.write_str("direct"),
        }
    }
}

/// A condition of an object as `Status/Reason`, whatever its generation is; empty if there is none.
pub fn condition(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten();
    let mut found = conditions.filter(|c| c["type"] == kind);
    found.next().map_or_else(String::new, |c| {
        let text = |field: &str| c[field].as_str().unwrap_or_default().to_owned();
        format!("{}/{}", text("status"), text("reason"))
    })
}

/// The message of a condition of an object; empty if there is no such condition.
pub fn message(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == kind);
    let message = found.and_then(|condition| condition["message"].as_str());
    message.unwrap_or_default().to_owned()
}

/// An image as values of the chart, for `--set`.
pub fn image_values(image: &str) -> [String; 2] {
    let (repository, tag) = image.rsplit_once(':').expect("the image has a tag");
    [
        format!("image.repository={repository}"),
        format!("image.tag={tag}"),
    ]
}

impl<'a> Deployment<'a> {
    /// Installs the chart, and what a user prepares: a namespace and the auth key.
    pub fn install(rig: &'a Rig) -> Result<Self> {
        Self::install_version(rig, &repository(), PEERRELAY)
    }

    /// Installs the chart of the sources in `root` with an image.
    pub fn install_version(rig: &'a Rig, root: &Path, image: &str) -> Result<Self> {
        let deployment = Self::of(rig);
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        deployment.namespace(OPERATOR_NAMESPACE, &labels)?;
        let chart = root.join("charts").join(CHART).display().to_string();
        let [repository, tag] = image_values(image);
        // The name of the image stays the same; the changed annotation replaces the pods.
        let image = format!("podAnnotations.rig/image={}", rig.image_digest()?);
        let selected = format!("metrics.labels.release={RELEASE}");
        rig.helm([
            "upgrade",
            "--install",
            CHART,
            &chart,
            "--namespace",
            OPERATOR_NAMESPACE,
            "--set",
            &repository,
            "--set",
            &tag,
            "--set",
            "image.pullPolicy=Never",
            "--set",
            &selected,
            "--set-string",
            &image,
            "--wait",
            "--timeout",
            "120s",
        ])
        .context("failed to install the chart")?;
        let labels = json!({"pod-security.kubernetes.io/enforce": "privileged"});
        deployment.namespace(NAMESPACE, &labels)?;
        Ok(deployment)
    }

    /// Makes a Node without a machine: Linux on amd64, unless `labels` say otherwise.
    pub fn add_node(&self, name: &str, labels: &Value) -> Result<()> {
        let mut node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
            }},
        });
        for (key, value) in labels.as_object().into_iter().flatten() {
            node["metadata"]["labels"][key] = value.clone();
        }
        self.rig.apply(&node.to_string()).map(drop)
    }

    /// Deletes a Node, if it is there.
    pub fn remove_node(&self, name: &str) -> Result<()> {
        let words = ["delete", "node", name, "--ignore-not-found"];
        self.rig.kubectl(words).map(drop)
    }

    /// Uses a rig on which the operator is installed already.
    pub fn of(rig: &'a Rig) -> Self {
        Self {
            rig,
            seed: seed::fresh(),
        }
    }

    /// Replaces the seed of random choices.
    pub const fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Puts an auth key into the Secret that PeerRelays name.
    pub fn write_secret(&self, auth_key: &AuthKey) -> Result<()> {
        self.write_secret_named(SECRET, &json!({"authkey": auth_key.as_str()}))
    }

    /// Writes a Secret with these texts into the namespace of relays.
    pub fn write_secret_named(&self, name: &str, texts: &Value) -> Result<()> {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "stringData": texts,
        });
        self.rig.apply(&secret.to_string()).map(drop)
    }

    /// Removes the Secret with the auth key.
    pub fn remove_secret(&self) -> Result<()> {
        self.remove_secret_named(SECRET)
    }

    /// Removes a Secret of the namespace of relays, if it exists.
    pub fn remove_secret_named(&self, name: &str) -> Result<()> {
        let words = [
            "delete",
            "secret",
            name,
            "-n",
            NAMESPACE,
            "--ignore-not-found",
        ];
        self.rig.kubectl(words).map(drop)
    }

    /// The smallest PeerRelay for the rig's tailnet, with `spec` on top.
    pub fn peer_relay(&self, name: &str, spec: &Value) -> Result<Value> {
        let ca = std::fs::read_to_string(self.rig.ca())?;
        let mut smallest = spec::tailnet("controlURL", json!(LOGIN_SERVER));
        smallest["tailnet"]["caBundle"] = json!(ca);
        for (field, value) in spec.as_object().into_iter().flatten() {
            smallest[field] = value.clone();
        }
        Ok(spec::peer_relay(name, &smallest))
    }

    /// Applies the smallest PeerRelay for the rig's tailnet, with `spec` on top.
    pub fn apply(&self, name: &str, spec: &Value) -> Result<()> {
        self.rig
            .apply(&self.peer_relay(name, spec)?.to_string())
            .map(drop)
    }

    /// Removes a PeerRelay and waits until its pods are gone.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.rig.kubectl([
            "delete",
            "peerrelay",
            name,
            "-n",
            NAMESPACE,
            "--ignore-not-found",
            "--timeout=60s",
        ])?;
        self.eventually("pods are gone", || {
            let pods = self.list("pods", name)?;
            ensure!(pods.is_empty(), "{} pods are there", pods.len());
            Ok(())
        })
    }

    /// Reads an object.
    pub fn object(&self, kind: &str, name: &str) -> Result<Value> {
        let text = self
            .rig
            .kubectl(["get", kind, name, "-n", NAMESPACE, "-o", "json"])?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Objects of a kind that belong to a PeerRelay.
    pub fn list(&self, kinds: &str, name: &str) -> Result<Vec<Value>> {
        let label = format!("peerrelay.dev/peer-relay={name}");
        let text = self
            .rig
            .kubectl(["get", kinds, "-n", NAMESPACE, "-l", &label, "-o", "json"])?;
        let list: Value = serde_json::from_str(&text)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// A condition of a PeerRelay as `Status/Reason`; empty while it is of an older generation.
    pub fn condition(&self, name: &str, kind: &str) -> Result<String> {
        let relay = self.object("peerrelay", name)?;
        let current = relay["status"]["observedGeneration"] == relay["metadata"]["generation"];
        Ok(match current {
            true => condition(&relay, kind),
            false => String::new(),
        })
    }

    /// The RelayNode objects of a PeerRelay.
    pub fn reports(&self, name: &str) -> Result<Vec<Value>> {
        let list = ["get", "relaynodes", "-n", NAMESPACE, "-o", "json"];
        let list: Value = serde_json::from_str(&self.rig.kubectl(list)?)?;
        let mut all = list["items"].as_array().cloned().unwrap_or_default();
        all.retain(|report| report["spec"]["peerRelay"] == name);
        Ok(all)
    }

    /// Annotates a PeerRelay, so that the operator reconciles it.
    pub fn annotate(&self, name: &str, annotation: &str) -> Result<()> {
        let words = ["annotate", "peerrelay", name, "-n", NAMESPACE];
        let words = words.into_iter().chain(["--overwrite", annotation]);
        self.rig.kubectl(words).map(drop)
    }

    /// Waits until a PeerRelay is ready.
    pub fn wait_ready(&self, name: &str) -> Result<()> {
        self.eventually("PeerRelay is ready", || {
            let ready = self.condition(name, "Ready")?;
            ensure!(ready == "True/RelaysReady", "Ready is '{ready}'");
            Ok(())
        })
    }

    /// The path from one client to another at the moment, by one `tailscale ping`.
    pub fn route(&self, from: &Client, to: &Client) -> Result<Route> {
        let via = from.ping(to.machine.name)?.via;
        Ok(if via.starts_with("DERP") {
            Route::Derp
        } else if let Some(address) = via.strip_prefix("peer-relay(") {
            Route::Relay(address.trim_end_matches(')').to_owned())
        } else {
            Route::Direct
        })
    }

    /// Pings until the route is as wanted and stays so; returns the route, and the time until it was
    /// found.
    pub fn wait_route(
        &self,
        from: &Client,
        to: &Client,
        wanted: impl Fn(&Route) -> bool,
        wait: Wait,
    ) -> Result<(Route, Duration)> {
        let mut found = None;
        let what = format!("the path from {} to {}", from.machine.name, to.machine.name);
        let took = wait.until(&what, || {
            let route = self.route(from, to)?;
            let is_wanted = wanted(&route);
            let text = route.to_string();
            found = Some(route);
            ensure!(is_wanted, "it is {text}");
            Ok(())
        })?;
        Ok((found.context("no path was found")?, took))
    }

    /// A client by name.
    pub fn client(&self, name: &str) -> Result<&'a Client> {
        self.rig.tailnet.client(name)
    }

    /// Metrics of the relay on a node, at the port that it has for them by default.
    pub fn metrics(&self, node: &Node) -> Result<Vec<(String, f64)>> {
        self.metrics_at(node, METRICS_PORT)
    }

    /// Metrics of the relay that has this port for them on a node.
    pub fn metrics_at(&self, node: &Node, port: u16) -> Result<Vec<(String, f64)>> {
        let url = format!("http://127.0.0.1:{port}/metrics");
        let mut curl = program_in(node.machine.namespace, "curl");
        let text = run(curl.args(["-sS", "--max-time", "5", &url]))?;
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        Ok(samples
            .filter_map(|line| {
                let (name, value) = line.rsplit_once(' ')?;
                Some((name.to_owned(), value.parse().ok()?))
            })
            .collect())
    }

    /// Sum of a metric over all relays and over labels that begin with `prefix`.
    pub fn metric(&self, prefix: &str) -> Result<f64> {
        let mut sum = 0.0;
        for node in &self.rig.nodes {
            let samples = self.metrics(node)?;
            sum += samples
                .iter()
                .filter(|(n, _)| n.starts_with(prefix))
                .map(|(_, v)| v)
                .sum::<f64>();
        }
        Ok(sum)
    }

    /// Starts this program's probe in a client's namespace.
    pub fn probe(&self, client: &Client, words: &[&str]) -> Result<ProbeHandle> {
        self.hold(client.command(this_program()?), words)
    }

    /// Starts this program's probe on a node, outside of Kubernetes.
    pub fn probe_on(&self, node: &Node, words: &[&str]) -> Result<ProbeHandle> {
        self.hold(program_in(node.machine.namespace, this_program()?), words)
    }

    fn hold(&self, mut command: Command, words: &[&str]) -> Result<ProbeHandle> {
        let mut child = command
            .arg("probe")
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let mut first = String::new();
        output.read_line(&mut first)?;
        ensure!(!first.is_empty(), "probe {words:?} ended at once");
        Ok(ProbeHandle {
            child,
            output,
            first: first.trim().to_owned(),
        })
    }

    /// Patches an object of the group peerrelay.dev with a bearer token, and returns the text of the answer.
    /// kubectl would read the object first, for which a relay has no right.
    pub fn patch_as(&self, token: &str, path: &str) -> Result<String> {
        let path = format!("/apis/peerrelay.dev/v1alpha1/namespaces/{NAMESPACE}/{path}");
        let body = r#"{"status":{"message":"hello"}}"#;
        self.ask_as(token, "PATCH", &path, body)
            .map(|(_, said)| said)
    }

    /// Sends a request to the API server with a bearer token; returns code and text of the answer. GET
    /// sends no body.
    pub fn ask_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<(u16, String)> {
        let config: Value = serde_yaml::from_str(&std::fs::read_to_string(self.rig.kubeconfig())?)?;
        let server = config["clusters"][0]["cluster"]["server"]
            .as_str()
            .context("no server")?;
        let header = self.rig.scratch("tokens")?.join("header");
        crate::state::write_private(&header, format!("Authorization: Bearer {token}\n"))?;
        let mut curl = program_in(crate::net::ROUTER, "curl");
        curl.args(["-sS", "--max-time", "10", "-X", method, "--cacert"])
            .arg(self.rig.ca());
        curl.arg("-H").arg(format!("@{}", header.display()));
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        curl.arg("-H").arg(format!("Content-Type: {kind}"));
        if method != "GET" {
            curl.args(["-d", body]);
        }
        let said = run(curl
            .args(["-w", "\n%{http_code}"])
            .arg(format!("{server}{path}")))?;
        let (text, code) = said.trim_end().rsplit_once('\n').unwrap_or(("", &said));
        let code = code.trim().parse().context("curl printed no code")?;
        Ok((code, text.to_owned()))
    }

    /// Waits for a state that needs pods, until it holds and stays.
    pub fn eventually(&self, what: &str, probe: impl FnMut() -> Result<()>) -> Result<()> {
        Wait::PODS.until(what, probe).map(drop)
    }

    /// Waits for a state that needs no pods, until it holds and stays.
    pub fn soon(&self, what: &str, probe: impl FnMut() -> Result<()>) -> Result<()> {
        Wait::STATUS.until(what, probe).map(drop)
    }

    fn namespace(&self, name: &str, labels: &Value) -> Result<()> {
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": labels},
        });
        self.rig.apply(&namespace.to_string()).map(drop)
    }
}

/// A probe that runs until this is dropped.
#[derive(Debug)]
pub struct ProbeHandle {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    /// The first line that the probe printed.
    pub first: String,
}

impl ProbeHandle {
    /// Closes the input of the probe, and returns the last line that the probe prints.
    pub fn finish(mut self) -> Result<String> {
        drop(self.child.stdin.take());
        let last = self.output.by_ref().lines().map_while(Result::ok).last();
        let status = self.child.wait()?;
        ensure!(status.success(), "the probe failed: {status}");
        Ok(last.unwrap_or_else(|| self.first.clone()))
    }
}

impl Drop for ProbeHandle {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context("failed to find this program")
}
