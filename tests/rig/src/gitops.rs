//! Flux and Argo CD by their libraries: they build, apply, compare, prune and judge objects.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    command::{program, program_in, run, run_with_input},
    deployment::Deployment,
    net::ROUTER,
    process::wait_until,
    progress::Progress,
    state::repository,
    tools::{Tools, module, source},
};

/// Packages with the kinds of Flux that `deploy/flux` uses.
const FLUX_KINDS: [&str; 3] = [
    "github.com/fluxcd/helm-controller/api/v2",
    "github.com/fluxcd/kustomize-controller/api/v1",
    "github.com/fluxcd/source-controller/api/v1",
];

/// The longest time until definitions of custom resources are served.
const ESTABLISHED: Duration = Duration::from_secs(30);

/// The programs with Flux's and Argo CD's libraries, and the cluster on which they act.
#[derive(Clone, Debug)]
pub struct GitOps {
    tools: Tools,
    kubeconfig: PathBuf,
    /// Network namespace from which the API server is reached.
    namespace: Option<&'static str>,
}

/// The effect of an operation on an object.
#[derive(Debug)]
pub struct Change {
    /// Kind, namespace and name.
    pub object: String,
    /// `created`, `configured`, `unchanged`, `deleted` or `skipped`.
    pub action: String,
    /// The whole answer.
    pub said: Value,
}

impl GitOps {
    /// Builds the programs.
    pub fn build(tools: &Tools) -> Result<()> {
        let progress = Progress::stderr();
        Tools::build_only("flux", &progress)?;
        Tools::build_only("argocd", &progress)?;
        ensure!(tools.program("flux").is_file(), "there is no flux");
        Ok(())
    }

    /// The programs, acting on the rig's cluster.
    pub fn of(deployment: &Deployment<'_>) -> Self {
        Self {
            tools: deployment.rig.tools().clone(),
            kubeconfig: deployment.rig.kubeconfig(),
            namespace: Some(ROUTER),
        }
    }

    /// The programs, acting on an API server on loopback.
    pub fn local(tools: &Tools, kubeconfig: PathBuf) -> Self {
        Self {
            tools: tools.clone(),
            kubeconfig,
            namespace: None,
        }
    }

    /// kubectl for the same cluster.
    pub fn kubectl(&self, words: &[&str]) -> Result<String> {
        run(self.command("kubectl").args(words))
    }

    /// Applies a kustomization as Flux does, and prunes other objects of the inventory.
    pub fn apply(&self, dir: &Path, inventory: &Path) -> Result<Vec<Change>> {
        changes(&run(self
            .command("flux")
            .arg("apply")
            .args([dir, inventory]))?)
    }

    /// Waits until kstatus judges all objects of a kustomization as current.
    pub fn await_current(&self, dir: &Path) -> Result<()> {
        run(self.command("flux").arg("await").arg(dir)).map(drop)
    }

    /// The changes that an apply would make.
    pub fn diff(&self, dir: &Path) -> Result<Vec<Change>> {
        changes(&run(self.command("flux").arg("diff").arg(dir))?)
    }

    /// Removes the objects of the inventory, and waits until they are gone.
    pub fn delete(&self, inventory: &Path) -> Result<Vec<Change>> {
        changes(&run(self.command("flux").arg("delete").arg(inventory))?)
    }

    /// The objects of a kustomization, one a line.
    pub fn objects(&self, dir: &Path) -> Result<String> {
        run(self.command("flux").arg("build").arg(dir))
    }

    /// Synchronises objects as Argo CD does, in waves, and prunes others of the application.
    pub fn sync(&self, objects: &str) -> Result<Vec<Value>> {
        let mut argocd = self.command("argocd");
        argocd.arg("sync").arg(health_checks());
        lines(&run_with_input(&mut argocd, objects.as_bytes())?)
    }

    /// The objects that Argo CD finds out of sync, by any of its ways of comparing.
    pub fn out_of_sync(&self, objects: &str) -> Result<Vec<String>> {
        let mut argocd = self.command("argocd");
        let said = run_with_input(argocd.arg("diff"), objects.as_bytes())?;
        let all = lines(&said)?;
        ensure!(!all.is_empty(), "Argo CD compared nothing");
        let modified = all.into_iter().filter(|said| said["modified"] == true);
        Ok(modified.map(|said| said.to_string()).collect())
    }

    /// The health of objects, as Argo CD judges it.
    pub fn health<'a>(&self, objects: impl Iterator<Item = &'a Value>) -> Result<Vec<String>> {
        let objects: String = objects.map(|object| format!("{object}\n")).collect();
        let mut argocd = self.command("argocd");
        argocd.arg("health").arg(health_checks());
        let all = lines(&run_with_input(&mut argocd, objects.as_bytes())?)?;
        let status = |said: &Value| said["status"].as_str().unwrap_or_default().to_owned();
        Ok(all.iter().map(status).collect())
    }

    /// Defines the kinds of Flux and Argo CD, so that the API server judges objects of theirs.
    pub fn define_kinds(&self, scratch: &Path) -> Result<()> {
        let mut generate = program(self.tools.program("controller-gen"));
        generate
            .current_dir(source("flux"))
            .env("GOFLAGS", "-mod=readonly")
            .arg("crd")
            .args(FLUX_KINDS.map(|package| format!("paths={package}")))
            .arg(format!("output:crd:dir={}", scratch.display()));
        run(&mut generate)?;
        let argo = module("argocd", "github.com/argoproj/argo-cd/v3")?;
        let application = argo.join("manifests/crds/application-crd.yaml");
        for path in [scratch, &application] {
            let path = path.display().to_string();
            self.kubectl(&["apply", "--server-side", "-f", &path])?;
        }
        // An object that was made a moment ago has no conditions, which `kubectl wait` does not take.
        let words = ["wait", "--for=condition=Established", "crd", "--all"];
        let established = || self.kubectl(&words).map(drop);
        wait_until(ESTABLISHED, || true, established)
    }

    fn command(&self, name: &str) -> Command {
        let path = self.tools.program(name);
        let mut command = match self.namespace {
            Some(namespace) => program_in(namespace, path),
            None => program(path),
        };
        command.env("KUBECONFIG", &self.kubeconfig);
        command
    }
}

fn health_checks() -> PathBuf {
    repository().join("deploy/argocd/resource_customizations")
}

fn changes(text: &str) -> Result<Vec<Change>> {
    let change = |said: Value| {
        let word = |field: &str| said[field].as_str().map(str::to_owned);
        Ok(Change {
            object: word("object").context("an answer names no object")?,
            action: word("action").context("an answer names no action")?,
            said,
        })
    };
    lines(text)?.into_iter().map(change).collect()
}

fn lines(text: &str) -> Result<Vec<Value>> {
    let parse = |line| serde_json::from_str(line).context("a line is no JSON");
    text.lines().map(parse).collect()
}
