//! The whole: cluster and tailnet, brought up and taken down together.

use std::{ffi::OsStr, fs, path::PathBuf, process::Command, thread, time::Duration};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    build::Profile,
    cluster::{Cluster, Images, Node},
    command::{program_in, run, run_with_input},
    net::{Network, ROUTER},
    packages,
    pki::Pki,
    process::{ProcessRecord, Processes},
    progress::Progress,
    signals,
    state::State,
    tailnet::Tailnet,
    tools::Tools,
};

/// A running cluster and tailnet.
#[derive(Clone, Debug)]
pub struct Rig {
    /// The nodes of the cluster.
    pub nodes: Vec<Node>,
    /// The tailnet and its clients.
    pub tailnet: Tailnet,
    /// The router's filter between clients and everything else.
    pub network: Network,
    state: State,
    cluster: Cluster,
    pki: Pki,
    tools: Tools,
}

/// A process of the rig and its state.
#[derive(Clone, Debug)]
pub struct Part {
    /// The record of the process.
    pub record: ProcessRecord,
    /// True while the process runs.
    pub alive: bool,
}

impl Rig {
    /// Brings everything up, or takes over what runs already, with the program as it is now.
    ///
    /// Takes everything down again when it fails or is interrupted.
    pub fn up(profile: Profile, progress: &Progress) -> Result<Self> {
        packages::ensure(progress)?;
        Self::up_with(Tools::build(progress)?, profile, progress)
    }

    /// Brings everything up as [`Rig::up`] does, with these tools; a rig that runs keeps its own.
    pub fn up_with(tools: Tools, profile: Profile, progress: &Progress) -> Result<Self> {
        packages::ensure(progress)?;
        let state = State::open()?;
        let lock = state.lock()?;
        let rig = Self::open(state.clone(), tools.clone())?;
        if rig.healthy() {
            progress.line("already up");
            rig.load_image(profile, progress)?;
            return Ok(rig);
        }
        if Self::parts()?.is_empty() && Network::exists() {
            bail!("the namespaces of a rig exist, but not by this one: `cargo dev down` ends it");
        }
        take_down(&state, progress)?;
        fs::remove_dir_all(state.path("logs")).ok();
        let result = Self::start(&state, tools, profile, progress);
        if let Err(error) = &result {
            let reason = if signals::acknowledge() {
                "interrupted"
            } else {
                "failed"
            };
            progress.line(format_args!("{reason}, taking down: {error:#}"));
            take_down(&state, progress)?;
        }
        drop(lock);
        result
    }

    /// Uses the rig that runs.
    pub fn attach() -> Result<Self> {
        let rig = Self::open(State::open()?, Tools::open()?)?;
        if !rig.state.is_complete() {
            bail!("the rig is not up: run `cargo dev up`");
        }
        Ok(rig)
    }

    /// Ends all processes of this rig, or of one that did not come up, and removes what they used.
    pub fn take_down(progress: &Progress) -> Result<()> {
        let state = State::open()?;
        let _lock = state.lock()?;
        take_down(&state, progress)
    }

    /// Ends all processes of this rig and removes what they used.
    pub fn down(self, progress: &Progress) -> Result<()> {
        Self::take_down(progress)
    }

    /// All processes that were started and not stopped, in order of their start.
    pub fn parts() -> Result<Vec<Part>> {
        let records = Processes::open(&State::open()?)?.list()?;
        let part = |record: ProcessRecord| Part {
            alive: record.alive(),
            record,
        };
        Ok(records.into_iter().map(part).collect())
    }

    /// Builds the program again and, if it changed, imports it on all nodes.
    ///
    /// Pods that run keep what they started with. Says whether it changed.
    pub fn load_image(&self, profile: Profile, progress: &Progress) -> Result<bool> {
        let images = Images::build(&self.state, profile, progress)?;
        if images.changed() {
            self.nodes
                .iter()
                .try_for_each(|node| node.import(images.archive()))?;
            progress.line("image imported");
        }
        Ok(images.changed())
    }

    /// Runs kubectl as administrator.
    pub fn kubectl<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        self.cluster.kubectl(args)
    }

    /// kubectl as administrator, to add arguments to.
    pub fn kubectl_command(&self) -> Command {
        self.cluster.kubectl_command()
    }

    /// Applies manifests.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        let mut kubectl = self.cluster.kubectl_command();
        run_with_input(kubectl.args(["apply", "-f", "-"]), yaml.as_bytes())
    }

    /// Runs Helm 4 as administrator.
    pub fn helm<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        self.run_helm("helm", args)
    }

    /// Runs Helm 3 as administrator.
    pub fn helm3<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        self.run_helm("helm3", args)
    }

    fn run_helm<S: AsRef<OsStr>>(
        &self,
        name: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        let mut helm = program_in(ROUTER, self.tools.program(name));
        // Its cache and settings are not those of who runs the rig.
        helm.env("KUBECONFIG", self.kubeconfig())
            .env("KUBECACHEDIR", self.kubectl_cache())
            .env("HELM_CACHE_HOME", self.state.path("helm/cache"))
            .env("HELM_CONFIG_HOME", self.state.path("helm/config"))
            .env("HELM_DATA_HOME", self.state.path("helm/data"));
        run(helm.args(args))
    }

    /// The administrator's kubeconfig; it works in the rig's namespaces.
    pub fn kubeconfig(&self) -> PathBuf {
        self.pki.kubeconfig("admin")
    }

    /// The directory with the cache of kubectl and helm.
    pub fn kubectl_cache(&self) -> PathBuf {
        self.cluster.kubectl_cache()
    }

    /// The certificate of the authority of cluster and tailnet.
    pub fn ca(&self) -> PathBuf {
        self.pki.ca()
    }

    /// The built tools.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The program under test, as it was built last.
    pub fn program(&self) -> Result<PathBuf> {
        Images::program(&self.state)
    }

    /// A checksum of the image, which differs when the program does.
    pub fn image_digest(&self) -> Result<String> {
        Images::digest(&self.state)
    }

    /// Directory with the logs of all parts.
    pub fn logs(&self) -> PathBuf {
        self.state.path("logs")
    }

    /// The API server's audit log of the requests of service accounts.
    pub fn audit_log(&self) -> PathBuf {
        self.logs().join("audit.log")
    }

    /// A directory for files of a test; gone with the rig.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        self.state.dir(PathBuf::from("scratch").join(name))
    }

    /// Starts, stops and finds processes of the rig, also further ones of a test.
    pub fn processes(&self) -> Result<Processes> {
        Processes::open(&self.state)
    }

    fn open(state: State, tools: Tools) -> Result<Self> {
        let pki = Pki::open(&state);
        let cluster = Cluster::open(&state, &pki, &tools)?;
        Ok(Self {
            nodes: cluster.nodes.clone(),
            tailnet: Tailnet::open(&state, &pki, &tools)?,
            network: Network::open(&state),
            state,
            cluster,
            pki,
            tools,
        })
    }

    fn start(state: &State, tools: Tools, profile: Profile, progress: &Progress) -> Result<Self> {
        let images = Images::build(state, profile, progress)?;
        Network::create(state)?;
        Pki::create(state)?;
        progress.line("network and certificates made");
        let rig = Self::open(state.clone(), tools)?;
        thread::scope(|scope| {
            let tailnet = scope.spawn(|| rig.tailnet.start(progress));
            let cluster = rig.cluster.start(&images, progress);
            let tailnet = tailnet
                .join()
                .map_err(|_| anyhow!("the tailnet's thread panicked"));
            cluster.context("failed to start the cluster")?;
            tailnet?.context("failed to start the tailnet")
        })?;
        state.complete()?;
        Ok(rig)
    }

    fn healthy(&self) -> bool {
        self.state.is_complete()
            && Self::parts().is_ok_and(|parts| parts.iter().all(|part| part.alive))
            && self.cluster.check().is_ok()
    }
}

/// An interrupt while taking down makes it start over: nothing may stay.
fn take_down(state: &State, progress: &Progress) -> Result<()> {
    loop {
        let result = try_take_down(state, progress);
        if result.is_ok() || !signals::acknowledge() {
            return result;
        }
    }
}

fn try_take_down(state: &State, progress: &Progress) -> Result<()> {
    let processes = Processes::open(state)?;
    let records = processes.list()?;
    // Nothing of it is kept, so an API server need not wait until its clients have left.
    processes.stop_all(&records, Duration::from_secs(1))?;
    // Containers and their shims, which containerd leaves behind so that it can be restarted.
    Cluster::remove_groups()?;
    Network::remove()?;
    // Nodes of another rig mount something there, which would end with the directories.
    if !state.has_neighbours() {
        // Fails when they were there before and something else uses them.
        fs::remove_dir("/var/lib/cni").ok();
        fs::remove_dir("/var/lib/peerrelay").ok();
    }
    state.clear()?;
    if !records.is_empty() {
        progress.line(format_args!("down: {} processes stopped", records.len()));
    }
    Ok(())
}
