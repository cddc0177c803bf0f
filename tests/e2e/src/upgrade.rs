//! `cargo dev upgrade`: two real builds, one after the other and back, on a cluster with sessions and
//! stored objects.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use rig::{
    Rig,
    build::{self, Profile},
    command::{program, query, run as run_program},
    deployment::Deployment,
    image::{self, Image, PROGRAM},
    names::NAMESPACE,
    progress::Progress,
    signals,
    state::{repository, tool_cache},
};
use serde_json::{Value, json};

use crate::{
    evidence,
    scenarios::{
        self, EDGE,
        held::Held,
        restarts::{STALL, longest, stays},
    },
};

/// A PeerRelay that stays through everything, beside the one that carries the session.
const STORED: &str = "stored";
const PORT: u16 = 7_004;

/// The versions between which to upgrade.
#[derive(Debug, clap::Args)]
pub struct UpgradeArgs {
    /// The commit to come from and to go back to
    #[arg(long, value_name = "COMMIT", default_value = "HEAD~1")]
    from: String,
    /// Leave cluster and tailnet up afterwards
    #[arg(long)]
    keep: bool,
}

/// A version that can be installed: sources with a chart, and an image.
struct Version {
    name: String,
    root: PathBuf,
    program: PathBuf,
    image: String,
}

/// Installs the former version, upgrades, and goes back; a session must outlast both.
pub fn run(args: &UpgradeArgs, progress: &Progress) -> Result<()> {
    let from = Version::of_commit(&args.from, progress)?;
    let to = Version::of_tree(progress)?;
    let rig = Rig::up(Profile::Dev, progress)?;
    let result = upgrade_and_back(&rig, &from, &to, progress);
    if !args.keep {
        signals::acknowledge();
        rig.down(progress)?;
    }
    result
}

fn upgrade_and_back(rig: &Rig, from: &Version, to: &Version, progress: &Progress) -> Result<()> {
    for version in [from, to] {
        version.import(rig)?;
    }
    let deployment = Deployment::install_version(rig, &from.root, &from.image)?;
    deployment.write_secret(&rig.tailnet.auth_key()?)?;
    scenarios::reset(&deployment)?;
    deployment.apply(STORED, &json!({"port": 41_000}))?;
    deployment.wait_ready(STORED)?;
    progress.line(format_args!("{} is installed", from.name));
    for version in [to, from, to] {
        let seen = change(&deployment, version).with_context(|| {
            let state = evidence::of(&deployment);
            format!("on the way to {}\n{state}", version.name)
        })?;
        progress.line(format_args!("ok {}: {seen}", version.name));
    }
    for name in [STORED, EDGE] {
        deployment.delete(name)?;
    }
    progress.line("ok stored objects are deleted by the last version");
    Ok(())
}

/// Changes to a version while a connection is open through a relay.
fn change(deployment: &Deployment<'_>, version: &Version) -> Result<String> {
    scenarios::relayed(deployment)?;
    let held = Held::open(deployment, PORT)?;
    let before = scenarios::relayed(deployment)?;
    let start = Instant::now();
    Deployment::install_version(deployment.rig, &version.root, &version.image)?;
    for name in [EDGE, STORED] {
        deployment.eventually("all relays have the image", || {
            has_image(deployment, name, version)
        })?;
        deployment.wait_ready(name)?;
    }
    let took = start.elapsed();
    let after = scenarios::relayed(deployment)?;
    stays(deployment, &before, &after)?;
    let trips = held.finish().context("a TCP connection over the relay")?;
    ensure!(
        longest(&trips)? < STALL,
        "{before} has become {after}; {trips}"
    );
    for name in [EDGE, STORED] {
        is_not_stuck(deployment, name)?;
    }
    Ok(format!(
        "{before}, then {after}; everything ready after {:.1} s; {trips}",
        took.as_secs_f64()
    ))
}

/// Every pod of a PeerRelay runs the image of the version.
fn has_image(deployment: &Deployment<'_>, name: &str, version: &Version) -> Result<()> {
    let pods = deployment.list("pods", name)?;
    ensure!(!pods.is_empty(), "{name} has no pods");
    for pod in &pods {
        let image = &pod["spec"]["containers"][0]["image"];
        let ready = pod["status"]["containerStatuses"][0]["ready"] == true;
        ensure!(
            *image == version.image && ready && pod["metadata"]["deletionTimestamp"].is_null(),
            "a pod has {image}, ready: {ready}"
        );
    }
    Ok(())
}

/// The operator has seen the newest state of an object, and can still change it.
fn is_not_stuck(deployment: &Deployment<'_>, name: &str) -> Result<()> {
    let patch = |value: Value| {
        let patch = json!({"spec": {"maxSessions": value}}).to_string();
        deployment.rig.kubectl([
            "patch",
            "peerrelay",
            name,
            "-n",
            NAMESPACE,
            "--type=merge",
            "-p",
            &patch,
        ])
    };
    patch(json!(1_000))?;
    deployment.soon("the operator follows a change", || {
        let object = deployment.object("peerrelay", name)?;
        let (generation, seen) = (
            &object["metadata"]["generation"],
            &object["status"]["observedGeneration"],
        );
        ensure!(generation == seen, "{generation} was written, {seen} seen");
        Ok(())
    })?;
    patch(Value::Null)?;
    deployment.wait_ready(name)
}

impl Version {
    /// Builds an older commit, in the cache.
    fn of_commit(commit: &str, progress: &Progress) -> Result<Self> {
        let id = query(program("git").current_dir(repository()).args([
            "rev-parse",
            "--verify",
            "--short=12",
            &format!("{commit}^{{commit}}"),
        ]))?;
        let id = id.trim();
        let cache = tool_cache()?.join("../upgrade");
        let root = cache.join(id);
        if !root.join("Cargo.toml").is_file() {
            unpack(id, &root)?;
        }
        let root = root.canonicalize()?;
        progress.line(format_args!("building {id} (some minutes the first time)"));
        let program = build::peerrelay_of(&root, Profile::Dev, Some(&cache.join("target")))?;
        // The next build of another commit takes its place.
        let kept = root.join("peerrelay.built");
        fs::copy(program, &kept)?;
        Ok(Self {
            name: format!("commit {id}"),
            root,
            program: kept,
            image: "peerrelay.dev/peerrelay:from".into(),
        })
    }

    /// Builds the sources as they are.
    fn of_tree(progress: &Progress) -> Result<Self> {
        Ok(Self {
            name: "these sources".into(),
            root: repository(),
            program: build::peerrelay(Profile::Dev, progress)?,
            image: "peerrelay.dev/peerrelay:to".into(),
        })
    }

    fn import(&self, rig: &Rig) -> Result<()> {
        let images = [Image::new(&self.image, &[PROGRAM])];
        let archive = rig.scratch("upgrade")?.join("image.tar");
        fs::write(&archive, image::for_rig(&self.program, &images)?.to_tar()?)?;
        for node in &rig.nodes {
            node.import(&archive)?;
        }
        Ok(())
    }
}

/// Writes the sources of a commit into a directory.
fn unpack(id: &str, root: &Path) -> Result<()> {
    let staging = tempfile::tempdir_in(
        root.parent()
            .filter(|parent| fs::create_dir_all(parent).is_ok())
            .context("the cache cannot be written")?,
    )?;
    let archive = staging.path().join("sources.tar");
    let mut git = program("git");
    git.current_dir(repository())
        .args(["archive", "--format=tar", "--output"])
        .arg(&archive)
        .arg(id);
    run_program(&mut git)?;
    fs::create_dir_all(root)?;
    let mut tar = program("tar");
    run_program(tar.arg("-xf").arg(&archive).arg("-C").arg(root))?;
    Ok(())
}
