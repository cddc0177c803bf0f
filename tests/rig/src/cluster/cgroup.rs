//! Control groups of the nodes: one for its daemons, one that its kubelet divides among pods.
//!
//! All processes of a node stay inside, so that they can be ended without a search by name.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{instance, signals};

const ROOT: &str = "/sys/fs/cgroup";
/// Holds the daemons of a node: in version 2 a group with children holds no process itself.
const DAEMONS: &str = "daemons";
const REMOVAL: Duration = Duration::from_secs(15);

/// Name of the group of a node, which no node of another rig has.
pub(super) fn name(namespace: &str) -> String {
    instance::named(namespace)
}

/// Makes the groups of a node in every hierarchy; returns those for its daemons.
pub(super) fn create(namespace: &str) -> Result<Vec<PathBuf>> {
    let mut daemons = Vec::new();
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name(namespace));
        if hierarchy.join("cgroup.controllers").exists() {
            delegate(&hierarchy)?;
            fs::create_dir_all(&group)?;
            delegate(&group)?;
        }
        let own = group.join(DAEMONS);
        for (parent, group) in [(&hierarchy, &group), (&group, &own)] {
            fs::create_dir_all(group)
                .with_context(|| format!("failed to make {}", group.display()))?;
            inherit_cpuset(parent, group)?;
        }
        daemons.push(own);
    }
    Ok(daemons)
}

/// Ids of the processes in a node's groups, those of its pods among them. Any may end while it is looked at.
pub(super) fn processes(namespace: &str) -> Result<BTreeSet<i32>> {
    let mut found = BTreeSet::new();
    let mut groups: Vec<_> = hierarchies()?
        .iter()
        .map(|hierarchy| hierarchy.join(name(namespace)))
        .collect();
    while let Some(group) = groups.pop() {
        let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        found.extend(listed.lines().filter_map(|id| id.parse::<i32>().ok()));
        groups.extend(children(&group));
    }
    Ok(found)
}

/// Kills everything in a node's groups and removes them.
pub(super) fn remove(namespace: &str) -> Result<()> {
    let start = Instant::now();
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name(namespace));
        while group.exists() && !remove_tree(&group) {
            if start.elapsed() > REMOVAL {
                bail!("failed to empty {}", group.display());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

/// Removes a group from the leaves up; false when processes were still in it.
fn remove_tree(group: &Path) -> bool {
    for child in children(group) {
        remove_tree(&child);
    }
    let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in processes.lines().filter_map(|line| line.parse().ok()) {
        signals::kill(pid);
    }
    fs::remove_dir(group).is_ok()
}

fn children(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

/// Version 2 has one hierarchy; version 1 has one for each controller.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = PathBuf::from(ROOT);
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root]);
    }
    let mut found: Vec<_> = children(&root)
        .into_iter()
        .filter(|path| !path.is_symlink() && path.join("cgroup.procs").exists())
        .collect();
    if found.is_empty() {
        bail!("no control groups in {ROOT}");
    }
    found.sort();
    Ok(found)
}

/// Enables all controllers of a version 2 group for its children.
fn delegate(group: &Path) -> Result<()> {
    let controllers = fs::read_to_string(group.join("cgroup.controllers"))?;
    for controller in controllers.split_whitespace() {
        // Some cannot be enabled for children; the kubelet reports those that it lacks.
        fs::write(
            group.join("cgroup.subtree_control"),
            format!("+{controller}"),
        )
        .ok();
    }
    Ok(())
}

/// A version 1 cpuset starts empty, and takes no process until it is filled.
fn inherit_cpuset(parent: &Path, group: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = group.join(file);
        if own.exists() && !group.join("cgroup.controllers").exists() {
            fs::write(&own, fs::read(parent.join(file))?)
                .with_context(|| format!("failed to write {}", own.display()))?;
        }
    }
    Ok(())
}
