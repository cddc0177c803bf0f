//! Flux and Argo CD with our objects, by their own libraries.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use faults::control_plane::ControlPlane;
use rig::{
    deployment::Deployment,
    gitops::{Change, GitOps},
    names::NAMESPACE,
    progress::Progress,
    prometheus,
    state::repository,
    tools::Tools,
};
use serde_json::{Value, json};

use super::{
    EDGE, Scenario,
    status::{Watch, kstatus},
    surroundings,
};

/// A PeerRelay that the loop adds and prunes; it has no relays.
const SPARE: &str = "spare";

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "Flux and Argo CD create, correct, prune and delete PeerRelays without a \
                   remaining diff, and both judge their health correctly at every moment",
            run: loops,
        },
        Scenario {
            name: "Flux and Argo CD install the operator's manifests without a remaining \
                   diff, and their API accepts those of deploy/flux and deploy/argocd",
            run: manifests,
        },
    ]
}

/// A repository of manifests, and the inventory of applied objects.
struct Repository {
    dir: PathBuf,
    inventory: PathBuf,
}

impl Repository {
    fn new(dir: PathBuf) -> Self {
        let inventory = dir.with_extension("inventory");
        fs::remove_file(&inventory).ok();
        Self { dir, inventory }
    }

    /// Replaces the objects of the repository.
    fn commit(&self, objects: &[Value]) -> Result<()> {
        let names: Vec<_> = (0..objects.len()).map(|at| format!("{at}.yaml")).collect();
        for (name, object) in names.iter().zip(objects) {
            fs::write(self.dir.join(name), serde_yaml::to_string(object)?)?;
        }
        let kustomization = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
            "resources": names,
        });
        let file = self.dir.join("kustomization.yaml");
        fs::write(file, serde_yaml::to_string(&kustomization)?).context("failed to commit")
    }
}

fn loops(deployment: &Deployment<'_>) -> Result<String> {
    surroundings(deployment)?;
    deployment.delete(EDGE)?;
    deployment.delete(SPARE)?;
    GitOps::build(deployment.rig.tools())?;
    Tools::build_only("kstatus", &Progress::stderr())?;
    let gitops = GitOps::of(deployment);
    let watch = Watch::start(deployment)?;
    let repository = Repository::new(deployment.rig.scratch("gitops")?);
    flux(deployment, &gitops, &repository).context("Flux")?;
    argo_cd(deployment, &gitops, &repository).context("Argo CD")?;
    let moments = watch.finish()?;
    let health = gitops.health(moments.iter().map(|moment| &moment.object))?;
    let mut seen: Vec<&str> = Vec::new();
    for ((moment, kstatus), health) in moments
        .iter()
        .zip(kstatus(deployment, &moments)?)
        .zip(health.iter())
    {
        let wanted = match kstatus.as_str() {
            "Current" => "Healthy",
            "Failed" => "Degraded",
            // The object is deleted with its children, or its deletion has begun.
            _ => "Progressing",
        };
        ensure!(
            health == wanted,
            "Argo CD says {health}, kstatus says {kstatus}: {}",
            moment.object
        );
        if seen.last() != Some(&health.as_str()) {
            seen.push(health);
        }
    }
    for wanted in ["Progressing", "Healthy", "Degraded"] {
        ensure!(seen.contains(&wanted), "it was never {wanted}");
    }
    ensure!(
        seen.first() == Some(&"Progressing"),
        "it begins as {seen:?}"
    );
    Ok(format!("{} moments: {}", moments.len(), seen.join(", ")))
}

fn flux(deployment: &Deployment<'_>, gitops: &GitOps, repository: &Repository) -> Result<()> {
    let edge = |spec: &Value| deployment.peer_relay(EDGE, spec);
    let spare = deployment.peer_relay(SPARE, &json!({"enabled": false, "port": 40_500}))?;
    let (dir, inventory) = (&repository.dir, &repository.inventory);

    repository.commit(&[edge(&json!({}))?, spare])?;
    flux_creates(deployment, gitops, repository)?;

    patch(deployment, &drift())?;
    let found = gitops.diff(dir)?;
    ensure!(
        actions(&found, "configured") == 1,
        "the drift is not seen: {found:?}"
    );
    gitops.apply(dir, inventory)?;
    settled(deployment, gitops, repository)?;
    let clients = &deployment.object("peerrelay", EDGE)?["spec"]["regions"][0]["clients"];
    ensure!(
        clients == &json!(["tag:office"]),
        "the drift stays: {clients}"
    );

    // A changed port, and a removed PeerRelay.
    repository.commit(&[edge(&json!({"port": 40_100}))?])?;
    let changes = gitops.apply(dir, inventory)?;
    ensure!(
        actions(&changes, "configured") == 1 && actions(&changes, "deleted") == 1,
        "{changes:?}"
    );
    gitops.await_current(dir)?;
    settled(deployment, gitops, repository)?;
    deployment.eventually("the pruned PeerRelay is gone", || {
        let left = deployment.list("all,configmaps,serviceaccounts", SPARE)?;
        ensure!(left.is_empty(), "{} of its objects are there", left.len());
        Ok(())
    })?;

    // A broken image, and its repair.
    let broken = json!({"port": 40_100, "template": {"image": "example.test/none:1"}});
    repository.commit(&[edge(&broken)?])?;
    gitops.apply(dir, inventory)?;
    let failed = gitops.await_current(dir);
    let said = failed.err().map_or_else(String::new, |e| format!("{e:#}"));
    ensure!(said.contains("Failed"), "it did not fail: '{said}'");
    repository.commit(&[edge(&json!({"port": 40_100}))?])?;
    gitops.apply(dir, inventory)?;
    // Flux polls as well: failed pods stay until the DaemonSet's controller has removed them.
    deployment.eventually("it is mended", || gitops.await_current(dir))?;
    settled(deployment, gitops, repository)?;

    all(&gitops.delete(inventory)?, "deleted")?;
    deployment.delete(EDGE)
}

/// Fails unless all objects of a new repository become current, and none of their children is Flux's.
fn flux_creates(
    deployment: &Deployment<'_>,
    gitops: &GitOps,
    repository: &Repository,
) -> Result<()> {
    all(
        &gitops.apply(&repository.dir, &repository.inventory)?,
        "created",
    )?;
    gitops.await_current(&repository.dir)?;
    settled(deployment, gitops, repository)?;
    let children = deployment.list("daemonsets,configmaps,services,serviceaccounts", EDGE)?;
    ensure!(!children.is_empty(), "the PeerRelay has no children");
    for child in &children {
        let text = child["metadata"]["labels"].to_string();
        ensure!(
            !text.contains("toolkit"),
            "a child is owned by Flux: {child}"
        );
    }
    Ok(())
}

/// Fails unless a second apply changes nothing, and says so before.
fn settled(deployment: &Deployment<'_>, gitops: &GitOps, repository: &Repository) -> Result<()> {
    let generation = || -> Result<Value> {
        Ok(deployment.object("peerrelay", EDGE)?["metadata"]["generation"].clone())
    };
    let before = generation()?;
    all(&gitops.diff(&repository.dir)?, "unchanged")?;
    let again = gitops.apply(&repository.dir, &repository.inventory)?;
    all(&again, "unchanged")?;
    ensure!(generation()? == before, "the generation changes");
    Ok(())
}

fn argo_cd(deployment: &Deployment<'_>, gitops: &GitOps, repository: &Repository) -> Result<()> {
    let edge = deployment.peer_relay(EDGE, &json!({}))?;
    // The ConfigMap has a later wave, so that the sync waits for the PeerRelay.
    let wave = json!({"argocd.argoproj.io/sync-wave": "1"});
    let note = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "gitops-note", "namespace": NAMESPACE, "annotations": wave}});
    repository.commit(&[edge.clone(), note])?;
    gitops.sync(&gitops.objects(&repository.dir)?)?;
    ensure!(
        super::status::waits(deployment),
        "the sync ended before it was ready"
    );
    let objects = gitops.objects(&repository.dir)?;
    in_sync(gitops, &objects)?;
    let children = deployment.list("daemonsets,configmaps,services,serviceaccounts", EDGE)?;
    for child in &children {
        let text = child["metadata"]["annotations"].to_string();
        ensure!(
            !text.contains("argocd"),
            "Argo CD would prune a child: {child}"
        );
    }

    patch(deployment, &drift())?;
    let drifted = gitops.out_of_sync(&objects)?;
    ensure!(!drifted.is_empty(), "Argo CD sees no drift");
    gitops.sync(&objects)?;
    in_sync(gitops, &objects)?;
    let clients = &deployment.object("peerrelay", EDGE)?["spec"]["regions"][0]["clients"];
    ensure!(
        clients == &json!(["tag:office"]),
        "the drift stays: {clients}"
    );

    // The ConfigMap is pruned, then everything.
    repository.commit(&[edge])?;
    gitops.sync(&gitops.objects(&repository.dir)?)?;
    let note = ["get", "configmap", "gitops-note", "-n", NAMESPACE];
    ensure!(
        deployment.rig.kubectl(note).is_err(),
        "the note is not pruned"
    );
    ensure!(
        !deployment.list("daemonsets", EDGE)?.is_empty(),
        "children were pruned"
    );
    gitops.sync("")?;
    deployment.eventually("the pruned PeerRelay is gone", || {
        ensure!(deployment.object("peerrelay", EDGE).is_err(), "it is there");
        Ok(())
    })?;
    deployment.delete(EDGE)
}

fn in_sync(gitops: &GitOps, objects: &str) -> Result<()> {
    let modified = gitops.out_of_sync(objects)?;
    ensure!(modified.is_empty(), "out of sync: {}", modified.join("\n"));
    Ok(())
}

/// A change of a field that is in the repository, and of Flux's own label.
fn drift() -> Value {
    json!({"metadata": {"labels": {"kustomize.toolkit.fluxcd.io/name": "other"}},
        "spec": {"regions": [{"name": "office", "clients": ["tag:stranger"]}]}})
}

/// Changes the PeerRelay as a user of kubectl does.
fn patch(deployment: &Deployment<'_>, patch: &Value) -> Result<()> {
    let patch = patch.to_string();
    let words = ["patch", "peerrelay", EDGE, "-n", NAMESPACE];
    let how = ["--type=merge", "--field-manager=somebody", "-p", &patch];
    deployment
        .rig
        .kubectl(words.into_iter().chain(how))
        .map(drop)
}

fn all(changes: &[Change], action: &str) -> Result<()> {
    ensure!(!changes.is_empty(), "there are no objects");
    for change in changes {
        ensure!(change.action == action, "not {action}: {}", change.said);
    }
    Ok(())
}

fn actions(changes: &[Change], action: &str) -> usize {
    changes.iter().filter(|c| c.action == action).count()
}

fn manifests(deployment: &Deployment<'_>) -> Result<String> {
    let tools = deployment.rig.tools();
    GitOps::build(tools)?;
    let runtime = faults::runtime()?;
    let (control_plane, kubeconfig) = runtime.block_on(ControlPlane::empty(tools))?;
    let gitops = GitOps::local(tools, kubeconfig);
    let deploy = repository().join("deploy");
    let dir = control_plane.dir().join("kinds");
    fs::create_dir(&dir)?;
    gitops.define_kinds(&dir)?;
    let mut apply = vec!["apply".to_owned(), "--server-side".to_owned()];
    apply.extend(prometheus::definitions()?);
    gitops.kubectl(&apply.iter().map(String::as_str).collect::<Vec<_>>())?;
    accepted(&gitops, &deploy)?;
    let overlay = deploy.join("kustomize/overlays/operator");
    let count = operator_by_flux(&gitops, &overlay, control_plane.dir())?;
    operator_by_argo_cd(&gitops, &overlay)?;
    Ok(format!("{count} objects of the operator"))
}

/// Fails unless the APIs of Flux and Argo CD accept the documented objects.
fn accepted(gitops: &GitOps, deploy: &Path) -> Result<()> {
    for namespace in ["flux-system", "argocd", "peerrelay-system"] {
        gitops.kubectl(&["create", "namespace", namespace])?;
    }
    for (flag, source) in [
        ("-k", "flux/controllers"),
        ("-f", "flux/cluster.yaml"),
        ("-f", "argocd/application.yaml"),
        ("-f", "argocd/applications"),
        ("-f", "argocd/argocd-cm.yaml"),
    ] {
        let path = deploy.join(source).display().to_string();
        gitops.kubectl(&[
            "apply",
            "--server-side",
            "--dry-run=server",
            "--validate=strict",
            flag,
            &path,
        ])?;
    }
    // These are the objects of docs/gitops.md.
    let file = deploy.join("argocd/argocd-cm.yaml").display().to_string();
    let map = ["configmap", "argocd-cm", "-n", "argocd"];
    gitops.kubectl(&[&["create"], &map[..]].concat())?;
    gitops.kubectl(&[&["patch"], &map[..], &["--patch-file", &file]].concat())?;
    let taught = gitops.kubectl(&[&["get"], &map[..], &["-o", "json"]].concat())?;
    for kind in ["PeerRelay", "RelayNode"] {
        let key = format!("resource.customizations.health.peerrelay.dev_{kind}");
        ensure!(taught.contains(&key), "argocd-cm has no {key}");
    }
    Ok(())
}

/// Applies, corrects, prunes and deletes; no pod runs here.
fn operator_by_flux(gitops: &GitOps, overlay: &Path, scratch: &Path) -> Result<usize> {
    let inventory = scratch.join("inventory");
    let created = gitops.apply(overlay, &inventory)?;
    all(&created, "created")?;
    all(&gitops.diff(overlay)?, "unchanged")?;
    all(&gitops.apply(overlay, &inventory)?, "unchanged")?;

    let namespace = ["-n", "relay-operator"];
    let scale = ["scale", "deployment", "--all", "--replicas=1"];
    gitops.kubectl(&[&scale[..], &namespace].concat())?;
    let remove = ["delete", "networkpolicy", "--all"];
    gitops.kubectl(&[&remove[..], &namespace].concat())?;
    let corrected = gitops.apply(overlay, &inventory)?;
    ensure!(
        actions(&corrected, "configured") == 1 && actions(&corrected, "created") == 1,
        "{corrected:?}"
    );
    all(&gitops.diff(overlay)?, "unchanged")?;

    // Without components, the objects that they added are pruned.
    let plain = scratch.join("plain");
    fs::create_dir(&plain)?;
    let file = fs::read_to_string(overlay.join("kustomization.yaml"))?;
    let mut kustomization: Value = serde_yaml::from_str(&file)?;
    let base = repository().join("deploy/kustomize/base");
    let keep = repository().join("deploy/kustomize/components/keep-definitions");
    let relative = |path: &Path| up_to_root(&plain).join(path.strip_prefix("/").unwrap_or(path));
    kustomization["resources"] = json!([relative(&base)]);
    kustomization["components"] = json!([relative(&keep)]);
    fs::write(
        plain.join("kustomization.yaml"),
        serde_yaml::to_string(&kustomization)?,
    )?;
    let pruned = gitops.apply(&plain, &inventory)?;
    ensure!(actions(&pruned, "deleted") == 3, "{pruned:?}");
    all(&gitops.diff(&plain)?, "unchanged")?;

    // The definitions, and with them every PeerRelay, stay.
    let deleted = gitops.delete(&inventory)?;
    for change in &deleted {
        let definition = change.object.starts_with("CustomResourceDefinition");
        let wanted = if definition { "skipped" } else { "deleted" };
        ensure!(change.action == wanted, "{}", change.said);
    }
    Ok(created.len())
}

fn operator_by_argo_cd(gitops: &GitOps, overlay: &Path) -> Result<()> {
    let objects = gitops.objects(overlay)?;
    gitops.sync(&objects)?;
    in_sync(gitops, &objects)
}

/// The relative path from a directory to the root: kustomize takes no absolute paths.
fn up_to_root(dir: &Path) -> PathBuf {
    let depth = dir.components().count().saturating_sub(1);
    vec![".."; depth].iter().collect()
}
