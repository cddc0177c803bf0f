//! Everyone who reads the status of a PeerRelay reads the same.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Stdio},
};

use anyhow::{Context, Result, ensure};
use rig::{
    command::{program, program_in, run_with_input},
    deployment::Deployment,
    names::NAMESPACE,
    net::ROUTER,
    progress::Progress,
    tools::Tools,
};
use serde_json::{Value, json};

use super::{EDGE, Scenario, surroundings};

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "kubectl wait, kstatus and columns agree at every moment, from create to delete",
        run: agree,
    }]
}

fn agree(deployment: &Deployment<'_>) -> Result<String> {
    surroundings(deployment)?;
    deployment.delete(EDGE)?;
    Tools::build_only("kstatus", &Progress::stderr())?;
    let watch = Watch::start(deployment)?;

    deployment.apply(EDGE, &json!({}))?;
    deployment.wait_ready(EDGE)?;
    ensure!(
        waits(deployment),
        "kubectl wait does not see that it is ready"
    );
    deployment.apply(EDGE, &json!({"port": 40_100}))?;
    deployment.wait_ready(EDGE)?;
    let pods = deployment.list("pods", EDGE)?;
    let pod = pods.first().and_then(|p| p["metadata"]["name"].as_str());
    let pod = pod.context("no relay runs")?;
    let image = r#"{"spec":{"containers":[{"name":"relay","image":"example.test/none:1"}]}}"#;
    deployment
        .rig
        .kubectl(["patch", "pod", pod, "-n", NAMESPACE, "-p", image])?;
    deployment.eventually("it stalls", || {
        let stalled = deployment.condition(EDGE, "Stalled")?;
        ensure!(stalled.starts_with("True/"), "Stalled is '{stalled}'");
        Ok(())
    })?;
    ensure!(!waits(deployment), "kubectl wait takes it for ready");
    deployment
        .rig
        .kubectl(["delete", "pod", pod, "-n", NAMESPACE])?;
    deployment.wait_ready(EDGE)?;
    ensure!(
        waits(deployment),
        "kubectl wait does not see that it is mended"
    );
    deployment.delete(EDGE)?;

    let moments = watch.finish()?;
    judge(deployment, &moments)
}

/// Says whether `kubectl wait` finds the PeerRelay ready at once.
pub(super) fn waits(deployment: &Deployment<'_>) -> bool {
    let relay = format!("peerrelay/{EDGE}");
    let words = ["wait", &relay, "-n", NAMESPACE];
    let all = words
        .into_iter()
        .chain(["--for=condition=Ready", "--timeout=1s"]);
    deployment.rig.kubectl(all).is_ok()
}

/// A PeerRelay as it was, and its line in `kubectl get`.
#[derive(Debug)]
pub(super) struct Moment {
    pub(super) object: Value,
    columns: Value,
}

/// Compares what all say of each moment.
fn judge(deployment: &Deployment<'_>, moments: &[Moment]) -> Result<String> {
    let said = kstatus(deployment, moments)?;
    let mut seen = Vec::new();
    for (moment, kstatus) in moments.iter().zip(&said) {
        let (object, kstatus) = (&moment.object, kstatus.as_str());
        let is_current = object["status"]["observedGeneration"] == object["metadata"]["generation"];
        let ready = is_true(object, "Ready");
        let stalled = is_true(object, "Stalled");
        let agrees = (kstatus == "Current") == ready && (kstatus == "Failed") == stalled;
        ensure!(
            agrees,
            "kstatus says {kstatus}, Ready is {ready}, Stalled is {stalled}: {}",
            object["status"]
        );
        let column = &moment.columns["Ready"];
        ensure!(
            !is_current || (column == "True") == ready,
            "the column says {column}, Ready is {ready}"
        );
        if seen.last() != Some(&kstatus) {
            seen.push(kstatus);
        }
    }
    for wanted in ["InProgress", "Current", "Failed"] {
        ensure!(seen.contains(&wanted), "it was never {wanted}");
    }
    ensure!(
        seen.first() == Some(&"InProgress"),
        "it begins as {:?}",
        seen.first()
    );
    Ok(format!("{} moments: {}", moments.len(), seen.join(", ")))
}

/// The result of kstatus for each moment.
pub(super) fn kstatus(deployment: &Deployment<'_>, moments: &[Moment]) -> Result<Vec<String>> {
    let lines: Vec<_> = moments.iter().map(|m| m.object.to_string()).collect();
    let mut kstatus = program(deployment.rig.tools().program("kstatus"));
    let said = run_with_input(&mut kstatus, (lines.join("\n") + "\n").as_bytes())?;
    let said: Vec<_> = said.lines().map(str::to_owned).collect();
    ensure!(said.len() == moments.len(), "kstatus judged {}", said.len());
    Ok(said)
}

/// Says whether a condition is true as `kubectl wait` judges it: one of an earlier generation is not.
fn is_true(object: &Value, kind: &str) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    let mut all = conditions.into_iter().flatten();
    all.any(|condition| {
        condition["type"] == kind
            && condition["status"] == "True"
            && condition["observedGeneration"] == object["metadata"]["generation"]
    })
}

/// Follows a PeerRelay as `kubectl get --watch` does, and keeps the objects, too.
pub(super) struct Watch {
    child: Child,
    file: PathBuf,
}

impl Watch {
    pub(super) fn start(deployment: &Deployment<'_>) -> Result<Self> {
        let config: Value =
            serde_yaml::from_str(&fs::read_to_string(deployment.rig.kubeconfig())?)?;
        let server = config["clusters"][0]["cluster"]["server"].as_str();
        let server = server.context("the kubeconfig names no server")?;
        let file = deployment.rig.scratch("status")?.join("watch");
        let admin = |what: &str| deployment.rig.kubeconfig().with_file_name(what);
        let mut curl = program_in(ROUTER, "curl");
        curl.args(["-sSN", "--cacert"]).arg(deployment.rig.ca());
        curl.arg("--cert").arg(admin("admin.crt"));
        curl.arg("--key").arg(admin("admin.key"));
        curl.args(["-H", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io"]);
        curl.arg(format!(
            "{server}/apis/peerrelay.dev/v1alpha1/namespaces/{NAMESPACE}/peerrelays?watch=true\
             &includeObject=Object&fieldSelector=metadata.name%3D{EDGE}"
        ));
        let child = curl
            .stdin(Stdio::null())
            .stdout(File::create(&file)?)
            .spawn()
            .context("failed to start curl")?;
        Ok(Self { child, file })
    }

    /// Every moment until now, the deletion left out.
    pub(super) fn finish(mut self) -> Result<Vec<Moment>> {
        ensure!(self.child.try_wait()?.is_none(), "the watch has ended");
        let text = fs::read_to_string(&self.file)?;
        let mut names = Vec::new();
        let mut moments = Vec::new();
        // The last line may not be whole.
        for line in text.split_inclusive('\n').filter(|l| l.ends_with('\n')) {
            let event: Value = serde_json::from_str(line)?;
            let table = &event["object"];
            // Only the first event names the columns.
            if let Some(columns) = table["columnDefinitions"].as_array() {
                names = columns.iter().map(|c| c["name"].clone()).collect();
            }
            let row = &table["rows"][0];
            if event["type"] == "DELETED" || !row.is_object() {
                continue;
            }
            let cells = row["cells"].as_array().into_iter().flatten();
            let named = names
                .iter()
                .filter_map(Value::as_str)
                .zip(cells)
                .map(|(name, cell)| (name.to_owned(), cell.clone()));
            moments.push(Moment {
                object: row["object"].clone(),
                columns: named.collect::<serde_json::Map<_, _>>().into(),
            });
        }
        ensure!(!moments.is_empty(), "the watch printed nothing: {text}");
        Ok(moments)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
