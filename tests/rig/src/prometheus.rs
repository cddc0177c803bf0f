//! prometheus-operator and Prometheus, outside of the cluster, beside the control plane.
//!
//! The operator makes the configuration, as in any cluster; the Prometheus it describes is started
//! here, with that configuration, as its image cannot be had.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::Path,
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    Rig,
    command::{program, program_in, run},
    names::{NAMESPACE, OPERATOR_NAMESPACE, RELEASE},
    net::ROUTER,
    process::{Spec, wait_until},
    progress::Progress,
    state::write_private,
    tools::{Tools, module},
};

/// The address of Prometheus in the router's namespace, which reaches API server, nodes and pods.
const LISTEN: &str = "127.0.0.1:9090";
const OPERATOR_LISTEN: &str = "127.0.0.1:9091";
const READY: Duration = Duration::from_secs(60);
/// Name of the Prometheus object, and of what is made of it.
const NAME: &str = "rig";
/// The directory in which the configuration expects the rules.
const RULES: &str = "/etc/prometheus/rules";
/// Kinds that are defined. The others are larger than all of these, and no scenario needs them.
const KINDS: [&str; 5] = [
    "servicemonitors",
    "podmonitors",
    "probes",
    "prometheusrules",
    "prometheuses",
];

/// prometheus-operator and its kinds, while they are there.
#[derive(Debug)]
pub struct Prometheus<'a> {
    rig: &'a Rig,
    crds: Vec<String>,
}

impl<'a> Prometheus<'a> {
    /// Builds both, defines the kinds of prometheus-operator and starts it.
    pub fn start(rig: &'a Rig) -> Result<Self> {
        let progress = Progress::stderr();
        Tools::build_only("prometheus-operator", &progress)?;
        Tools::build_only("prometheus", &progress)?;
        let this = Self {
            rig,
            crds: definitions()?,
        };
        let apply = ["apply", "--server-side"].map(str::to_owned);
        rig.kubectl(apply.iter().chain(&this.crds))?;
        // prometheus-operator reads the served kinds once, when it starts.
        wait_until(
            READY,
            || true,
            || {
                let served = rig.kubectl(["get", "--raw", "/apis/monitoring.coreos.com/v1"])?;
                let missing = KINDS.iter().find(|kind| !served.contains(**kind));
                ensure!(missing.is_none(), "{missing:?} is not served yet");
                Ok(())
            },
        )?;
        let spec = Spec::new(
            "prometheus-operator",
            ROUTER,
            &rig.tools().program("prometheus-operator"),
        )
        .args([
            format!("-apiserver={}", this.server()?),
            format!("-ca-file={}", rig.ca().display()),
            format!("-cert-file={}", this.admin("crt")),
            format!("-key-file={}", this.admin("key")),
            format!("-namespaces={NAMESPACE},{OPERATOR_NAMESPACE}"),
            "-kubelet-endpoints=false".to_owned(),
            format!("-web.listen-address={OPERATOR_LISTEN}"),
        ]);
        rig.processes()?.start(&spec)?.wait_until(READY, || {
            let mut curl = program_in(ROUTER, "curl");
            run(curl.args(["-sSf", &format!("http://{OPERATOR_LISTEN}/healthz")])).map(drop)
        })?;
        Ok(this)
    }

    /// Starts a Prometheus with what the operator makes of all monitors and rules; `jobs` must be
    /// among them.
    pub fn scrape(&self, jobs: &[String]) -> Result<()> {
        let selected = json!({"matchLabels": {"release": RELEASE}});
        let prometheus = json!({
            "apiVersion": "monitoring.coreos.com/v1", "kind": "Prometheus",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {
                "version": "v3.5.0", "replicas": 0, "scrapeInterval": "2s",
                "evaluationInterval": "2s",
                "serviceMonitorSelector": selected, "serviceMonitorNamespaceSelector": {},
                "ruleSelector": selected, "ruleNamespaceSelector": {},
                "apiserverConfig": {
                    "host": self.server()?,
                    "tlsConfig": {
                        "caFile": self.rig.ca(),
                        "certFile": self.admin("crt"),
                        "keyFile": self.admin("key"),
                    },
                },
            },
        });
        self.rig.apply(&prometheus.to_string())?;
        let dir = self.rig.scratch("prometheus")?;
        let config = dir.join("prometheus.yaml");
        wait_until(READY, || true, || self.configuration(&dir, &config, jobs))
            .with_context(|| format!("prometheus-operator says\n{}", self.log()))?;
        let spec = Spec::new(
            "prometheus",
            ROUTER,
            &self.rig.tools().program("prometheus"),
        )
        .args([
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", dir.join("data").display()),
            format!("--web.listen-address={LISTEN}"),
        ]);
        let running = self.rig.processes()?.start(&spec)?;
        running.wait_until(READY, || self.query("up").map(drop))
    }

    /// The result of a query.
    pub fn query(&self, query: &str) -> Result<Vec<Value>> {
        let answer = ask("query", &[&format!("query={query}")])?;
        Ok(answer["result"].as_array().cloned().unwrap_or_default())
    }

    /// The results of a query in the last `seconds`.
    pub fn range(&self, query: &str, seconds: u64) -> Result<Vec<Value>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let (start, end) = (now - seconds, now);
        let fields = [
            format!("query={query}"),
            format!("start={start}"),
            format!("end={end}"),
            "step=2".to_owned(),
        ];
        let answer = ask("query_range", &fields.each_ref().map(String::as_str))?;
        Ok(answer["result"].as_array().cloned().unwrap_or_default())
    }

    /// Parses a query into its tree.
    pub fn parse(&self, query: &str) -> Result<Value> {
        ask("parse_query", &[&format!("query={query}")])
    }

    /// Names and expressions of the alerts that it has loaded.
    pub fn alert_rules(&self) -> Result<Vec<(String, String)>> {
        let answer = ask("rules", &["type=alert"])?;
        let groups = answer["groups"].as_array().into_iter().flatten();
        let rules = groups.flat_map(|group| group["rules"].as_array().into_iter().flatten());
        let text = |rule: &Value, field: &str| rule[field].as_str().map(str::to_owned);
        Ok(rules
            .filter_map(|rule| text(rule, "name").zip(text(rule, "query")))
            .collect())
    }

    /// Names of the alerts whose condition holds, be it long enough or not yet.
    pub fn pending_alerts(&self) -> Result<BTreeSet<String>> {
        let series = self.query("ALERTS")?;
        let names = series
            .iter()
            .filter_map(|alert| alert["metric"]["alertname"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// The state of each target.
    pub fn targets(&self) -> Result<String> {
        let answer = ask("targets", &["state=any"])?;
        let targets = answer["activeTargets"].as_array().into_iter().flatten();
        let lines = targets.map(|target| {
            let text = |field: &str| target[field].as_str().unwrap_or_default();
            let (job, url) = (text("scrapePool"), text("scrapeUrl"));
            format!("{job} {url}: {} {}", text("health"), text("lastError"))
        });
        Ok(lines.collect::<Vec<_>>().join("\n"))
    }

    /// The ends of both logs.
    pub fn log(&self) -> String {
        let Ok(processes) = self.rig.processes() else {
            return String::new();
        };
        let records = ["prometheus-operator", "prometheus"]
            .into_iter()
            .filter_map(|name| processes.find(name));
        let tails: Vec<_> = records.map(|record| record.log_tail()).collect();
        tails.join("\n")
    }

    /// Ends both and removes the kinds with all their objects.
    pub fn remove(self) -> Result<()> {
        self.stop();
        self.undefine("--timeout=60s")
    }

    /// Writes configuration and rules where the Prometheus finds them.
    fn configuration(&self, dir: &Path, file: &Path, jobs: &[String]) -> Result<()> {
        let secret = self.object("secret", &format!("prometheus-{NAME}"))?;
        let packed = secret["data"]["prometheus.yaml.gz"].as_str();
        let packed = packed.context("there is no configuration")?;
        let text = unpacked(packed)?;
        for job in jobs {
            ensure!(text.contains(job), "there is no job {job}");
        }
        let name = format!("prometheus-{NAME}-rulefiles-0");
        let rules = self.object("configmap", &name)?;
        let here = dir.join("rules");
        fs::create_dir_all(here.join(&name))?;
        let files = rules["data"].as_object().context("there are no rules")?;
        for (name_of_file, content) in files {
            let path = here.join(&name).join(name_of_file);
            fs::write(path, content.as_str().unwrap_or_default())?;
        }
        // In a pod, the reloader beside Prometheus puts in what depends on the pod.
        let text = text.replace("$(SHARD)", "0").replace("$(POD_NAME)", NAME);
        write_private(file, text.replace(RULES, &here.display().to_string()))
    }

    fn object(&self, kind: &str, name: &str) -> Result<Value> {
        let words = ["get", kind, name, "-n", NAMESPACE, "-o", "json"];
        Ok(serde_json::from_str(&self.rig.kubectl(words)?)?)
    }

    fn server(&self) -> Result<String> {
        let config: Value = serde_yaml::from_str(&fs::read_to_string(self.rig.kubeconfig())?)?;
        let server = config["clusters"][0]["cluster"]["server"].as_str();
        let server = server.context("the kubeconfig names no server")?;
        Ok(server.to_owned())
    }

    /// The administrator's certificate or key.
    fn admin(&self, what: &str) -> String {
        let path = self.rig.kubeconfig();
        path.with_file_name(format!("admin.{what}"))
            .display()
            .to_string()
    }

    fn stop(&self) {
        let processes = self.rig.processes();
        for part in ["prometheus", "prometheus-operator"] {
            processes.as_ref().ok().map(|all| all.kill(part));
        }
    }

    fn undefine(&self, wait: &str) -> Result<()> {
        let words = ["delete", "--ignore-not-found", wait].map(str::to_owned);
        self.rig.kubectl(words.iter().chain(&self.crds)).map(drop)
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        self.stop();
        self.undefine("--wait=false").ok();
    }
}

/// Asks Prometheus' HTTP API.
fn ask(what: &str, fields: &[&str]) -> Result<Value> {
    let mut curl = program_in(ROUTER, "curl");
    curl.args(["-sSf", "--max-time", "5", "-G"]);
    for field in fields {
        curl.args(["--data-urlencode", field]);
    }
    let answer = run(curl.arg(format!("http://{LISTEN}/api/v1/{what}")))?;
    let answer: Value = serde_json::from_str(&answer)?;
    Ok(answer["data"].clone())
}

/// The content of a field of a Secret, which is compressed with gzip.
fn unpacked(encoded: &str) -> Result<String> {
    let mut shell = program("sh");
    shell.args(["-c", "base64 -d | gzip -dc"]);
    shell.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = shell.spawn().context("failed to start a shell")?;
    let mut input = child.stdin.take().context("it has an input")?;
    input.write_all(encoded.as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "failed to unpack a configuration");
    String::from_utf8(output.stdout).context("a configuration is text")
}

/// Arguments of kubectl for the definitions of prometheus-operator's kinds.
pub fn definitions() -> Result<Vec<String>> {
    let name = "github.com/prometheus-operator/prometheus-operator";
    let dir = module("prometheus-operator", name)?.join("example/prometheus-operator-crd");
    let file = |kind: &str| {
        let path = dir.join(format!("monitoring.coreos.com_{kind}.yaml"));
        ["-f".to_owned(), path.display().to_string()]
    };
    Ok(KINDS.into_iter().flat_map(file).collect())
}
