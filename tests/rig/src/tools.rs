//! Programs built from pinned Go modules, cached by what they are built from.

mod background;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    command::{program, run},
    progress::Progress,
    state,
};

pub use background::BackgroundBuild;

struct ToolSet {
    name: &'static str,
    /// Directory of the Go module.
    module: &'static str,
    packages: &'static [&'static str],
    ldflags: &'static str,
    programs: &'static [&'static str],
    duration: &'static str,
}

/// Ends the names of the programs of the oldest supported Kubernetes.
const OLDEST: &str = "-oldest";

const TOOL_SETS: [ToolSet; 18] = [
    ToolSet {
        name: "kubernetes",
        module: "kubernetes",
        packages: &["tool"],
        // kubelet and API server compare versions; a build without these says v0.0.0.
        ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3 \
                  -X k8s.io/component-base/version.gitMajor=1 \
                  -X k8s.io/component-base/version.gitMinor=36",
        programs: &[
            "etcd",
            "kube-apiserver",
            "kube-controller-manager",
            "kube-proxy",
            "kube-scheduler",
            "kubectl",
            "kubelet",
        ],
        duration: "about 7 min",
    },
    ToolSet {
        name: "kubernetes-oldest",
        module: "kubernetes-oldest",
        packages: &["tool"],
        ldflags: "-s -w -X k8s.io/component-base/version.gitVersion=v1.33.13 \
                  -X k8s.io/component-base/version.gitMajor=1 \
                  -X k8s.io/component-base/version.gitMinor=33",
        programs: &[
            "kube-apiserver-oldest",
            "kube-controller-manager-oldest",
            "kube-proxy-oldest",
            "kube-scheduler-oldest",
            "kubelet-oldest",
        ],
        duration: "about 6 min",
    },
    ToolSet {
        name: "actionlint",
        module: "actionlint",
        packages: &["tool"],
        ldflags: "-s -w",
        programs: &["actionlint"],
        duration: "under 1 min",
    },
    ToolSet {
        name: "helm",
        module: "helm",
        packages: &["tool"],
        ldflags: "-s -w",
        programs: &["helm"],
        duration: "about 1 min",
    },
    ToolSet {
        name: "helm3",
        module: "helm3",
        packages: &["tool"],
        // Templates ask for the version of Kubernetes; a build without these says 1.20.
        ldflags: "-s -w -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 \
                  -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=37",
        programs: &["helm3"],
        duration: "about 1 min",
    },
    ToolSet {
        name: "kube-score",
        module: "kube-score",
        packages: &["tool"],
        ldflags: "-s -w",
        programs: &["kube-score"],
        duration: "about 1 min",
    },
    ToolSet {
        name: "metallb",
        module: "metallb",
        packages: &["tool"],
        ldflags: "-s -w",
        programs: &["controller", "speaker"],
        duration: "about 2 min",
    },
    ToolSet {
        name: "network-policies",
        module: "network-policies",
        packages: &["."],
        ldflags: "-s -w",
        programs: &["network-policies"],
        duration: "about 2 min",
    },
    ToolSet {
        name: "kstatus",
        module: "kstatus",
        packages: &["."],
        ldflags: "-s -w",
        programs: &["kstatus"],
        duration: "under 1 min",
    },
    ToolSet {
        name: "flux",
        module: "flux",
        packages: &[".", "tool"],
        ldflags: "-s -w",
        programs: &["flux", "controller-gen"],
        duration: "about 2 min",
    },
    ToolSet {
        name: "argocd",
        module: "argocd",
        packages: &["."],
        ldflags: "-s -w",
        programs: &["argocd"],
        duration: "about 4 min",
    },
    ToolSet {
        name: "prometheus-operator",
        module: "prometheus-operator",
        packages: &["tool"],
        ldflags: "-s -w",
        programs: &["prometheus-operator"],
        duration: "about 2 min",
    },
    ToolSet {
        name: "prometheus",
        module: "prometheus",
        // Each way to discover targets is a plugin, most with a cloud's whole library.
        packages: &["-tags=remove_all_sd,enable_kubernetes_sd", "tool"],
        ldflags: "-s -w",
        programs: &["prometheus"],
        duration: "about 2 min",
    },
    ToolSet {
        name: "dashboard",
        module: "dashboard",
        packages: &["."],
        ldflags: "-s -w",
        programs: &["dashboard"],
        duration: "under 1 min",
    },
    ToolSet {
        name: "tailnet",
        module: "tailnet",
        packages: &["tool", "./control"],
        ldflags: "-s -w",
        programs: &["control", "tailscale", "tailscaled"],
        duration: "about 3 min",
    },
    ToolSet {
        name: "headscale",
        module: "headscale",
        packages: &["tool"],
        ldflags: "-s -w",
        programs: &["headscale"],
        duration: "about 2 min",
    },
    ToolSet {
        name: "mapmodel",
        module: "tailnet",
        packages: &["./mapmodel"],
        ldflags: "-s -w",
        programs: &["mapmodel"],
        duration: "under 1 min",
    },
    ToolSet {
        name: "relay",
        module: "tailnet",
        packages: &["./relay"],
        ldflags: "-s -w",
        programs: &["relay"],
        duration: "about 1 min",
    },
];

/// Priority of a build among the programs of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Priority {
    /// Somebody waits for the build.
    Normal,
    /// Nobody waits yet; everything else goes first.
    Low,
}

/// The directory with the built programs.
#[derive(Clone, Debug)]
pub struct Tools {
    dir: PathBuf,
    /// Kubernetes is the oldest that is supported.
    oldest: bool,
}

impl Tools {
    /// Uses what an earlier [`Tools::build`] made.
    pub fn open() -> Result<Self> {
        Ok(Self {
            dir: state::tool_cache()?,
            oldest: false,
        })
    }

    /// Builds what each rig needs and is missing, or was built from other sources.
    pub fn build(progress: &Progress) -> Result<Self> {
        let of_few = [
            "actionlint",
            "argocd",
            "dashboard",
            "flux",
            "headscale",
            "helm3",
            "kstatus",
            "kube-score",
            "kubernetes-oldest",
            "mapmodel",
            "metallb",
            "network-policies",
            "prometheus",
            "prometheus-operator",
            "relay",
        ];
        Self::build_those(Priority::Normal, progress, |set| {
            !of_few.contains(&set.name)
        })
    }

    /// Builds all tools, also those that few tests need.
    pub fn build_all(progress: &Progress) -> Result<Self> {
        Self::build_those(Priority::Normal, progress, |_| true)
    }

    /// Builds one set of tools, if it is missing or was built from other sources.
    pub fn build_only(name: &str, progress: &Progress) -> Result<Self> {
        Self::build_set(name, Priority::Normal, progress)
    }

    fn build_set(name: &str, priority: Priority, progress: &Progress) -> Result<Self> {
        Self::build_those(priority, progress, |set| set.name == name)
    }

    fn build_those(
        priority: Priority,
        progress: &Progress,
        wanted: impl Fn(&ToolSet) -> bool,
    ) -> Result<Self> {
        let tools = Self::open()?;
        for set in TOOL_SETS.iter().filter(|set| wanted(set)) {
            tools
                .ensure(set, priority, progress)
                .with_context(|| format!("failed to build the {} tools", set.name))?;
        }
        Ok(tools)
    }

    /// Replaces Kubernetes by the oldest that is supported, which it builds: control plane and nodes, because none of
    /// their programs may be newer than the API server.
    pub fn with_oldest_kubernetes(self, progress: &Progress) -> Result<Self> {
        Self::build_only("kubernetes-oldest", progress)?;
        Ok(Self {
            oldest: true,
            ..self
        })
    }

    /// The path of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        let older = format!("{name}{OLDEST}");
        let has_older = TOOL_SETS
            .iter()
            .any(|set| set.programs.contains(&older.as_str()));
        match self.oldest && has_older {
            true => self.dir.join(older),
            false => self.dir.join(name),
        }
    }

    /// The directory, for PATH.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Builds a set unless it is in the cache. Of several builds of one set, also by other
    /// processes, the first builds and the others wait for it.
    fn ensure(&self, set: &ToolSet, priority: Priority, progress: &Progress) -> Result<()> {
        let lock = File::create(self.dir.join(format!(".{}.lock", set.name)))?;
        lock.lock()?;
        let source = source(set.module);
        let key = key(set, &source)?;
        let key_file = self.dir.join(format!("{}.key", set.name));
        let built = set.programs.iter().all(|name| self.program(name).is_file());
        if built && fs::read_to_string(&key_file).is_ok_and(|recorded| recorded == key) {
            return Ok(());
        }
        progress.line(format_args!(
            "building {} ({} on 2 cores, cached afterwards)",
            set.programs.join(", "),
            set.duration
        ));
        // Built aside and renamed: a program that runs cannot be written to.
        let staging = self.dir.join(format!(".{}", set.name));
        fs::create_dir_all(&staging)?;
        let mut build = match priority {
            Priority::Normal => program("go"),
            Priority::Low => {
                let mut nice = program("nice");
                nice.args(["-n", "15", "go"]);
                nice
            }
        };
        build
            .current_dir(&source)
            .env("GOFLAGS", "-mod=readonly")
            .args(["build", "-trimpath", "-ldflags", set.ldflags, "-o"])
            .arg(format!("{}/", staging.display()))
            .args(set.packages);
        run(&mut build)?;
        for name in set.programs {
            // Go names programs by the directory of their main package.
            let output = match *name {
                "etcd" => "server",
                "prometheus-operator" => "operator",
                "helm3" => "helm",
                name => name.trim_end_matches(OLDEST),
            };
            fs::rename(staging.join(output), self.program(name))
                .with_context(|| format!("the build made no {output}"))?;
        }
        fs::remove_dir_all(&staging)?;
        fs::write(key_file, key)?;
        progress.line(format_args!("{} tools built", set.name));
        Ok(())
    }
}

/// The directory with the source of a module of a set of tools, in Go's module cache.
pub fn module(set: &str, name: &str) -> Result<PathBuf> {
    let mut go = program("go");
    go.current_dir(source(set))
        .env("GOFLAGS", "-mod=readonly")
        .args(["mod", "download", "-json", name]);
    let module: Value = serde_json::from_str(&run(&mut go)?)?;
    let dir = module["Dir"].as_str();
    dir.map(PathBuf::from)
        .with_context(|| format!("Go has no module {name}"))
}

/// The Go module of a set of tools.
pub fn source(module: &str) -> PathBuf {
    state::repository().join("tests/rig/tools").join(module)
}

/// A hash over everything that decides what a build makes.
fn key(set: &ToolSet, source: &Path) -> Result<String> {
    let mut files = Vec::new();
    collect(source, &mut files)?;
    files.sort();
    let mut hash = Sha256::new();
    hash.update(set.ldflags);
    for file in files {
        hash.update(file.strip_prefix(source)?.to_string_lossy().as_bytes());
        hash.update([0]);
        hash.update(fs::read(&file)?);
        hash.update([0]);
    }
    Ok(format!("{:x}", hash.finalize()))
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("failed to list {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if is_source(&path) {
            files.push(path);
        }
    }
    Ok(())
}

/// Says whether a build reads the file; it does not read those of tests.
fn is_source(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name == "go.mod" || name == "go.sum" || name.ends_with(".go") && !name.ends_with("_test.go")
}
