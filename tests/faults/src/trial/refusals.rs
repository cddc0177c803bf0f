//! Objects that the API server refuses for good: the others are applied, and the status says so.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use rig::{deployment::condition, signals};
use tokio::time::{Instant, sleep};

use super::{
    super::{case::Case, names::relay_path, proxy::Refused, snapshot::Snapshot},
    Duration, Golden, Harness, PATIENCE,
};

/// Codes by which an API server refuses for good.
pub const CODES: [u16; 2] = [403, 422];
/// Kinds without which the relays of a region do not start.
const NEEDED: [&str; 4] = ["ServiceAccount", "Role", "RoleBinding", "ConfigMap"];

impl Golden {
    /// Kinds, by their plural, and regions of which the case writes objects.
    pub fn written(&self, regions: &[&str]) -> BTreeSet<(String, String)> {
        let mut written = BTreeSet::new();
        for exchange in self.writes() {
            let request = &exchange.request;
            if matches!(&*request.group, "peerrelay.dev" | "events.k8s.io") {
                continue;
            }
            let mut parts = request.name.split('-').skip(1);
            let of = parts.next().unwrap_or_default();
            if regions.contains(&of) {
                written.insert((request.resource.clone(), of.to_owned()));
            }
        }
        written
    }
}

impl Harness {
    /// Plays a case in which every write to a region's objects of a kind is refused, until the
    /// status reports it and all other objects are as without the refusal; then lets the writes pass.
    pub async fn refusal(
        &mut self,
        case: &Case,
        golden: &Golden,
        (resource, region): (&str, &str),
        code: u16,
    ) -> Result<()> {
        let kind = self.kinds.iter().find(|kind| kind.plural == resource);
        let kind = kind.map(|kind| kind.kind.clone());
        let kind = kind.with_context(|| format!("{resource} are not in snapshots"))?;
        let name = self.next_name();
        for step in &case.before {
            self.step(&name, step).await?;
        }
        self.reach(&name, &golden.before).await?;
        self.recorder.refuse(Some(Refused {
            resource: resource.to_owned(),
            name: format!("{name}-{region}"),
            code,
        }));
        for step in &case.change {
            self.step(&name, step).await?;
        }
        let reported = self.until_refused(&name, golden, &kind, region).await;
        self.recorder.refuse(None);
        reported.context("while it was refused")?;
        self.reach(&name, &golden.after)
            .await
            .context("after it was refused")?;
        ensure!(self.operator.alive(), "the operator ended by itself");
        self.restore(&name).await
    }

    async fn until_refused(
        &self,
        name: &str,
        golden: &Golden,
        kind: &str,
        region: &str,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            signals::check()?;
            let relay = self.control_plane.api.read(&relay_path(name)).await?;
            let current = relay["status"]["observedGeneration"] == relay["metadata"]["generation"];
            let conditions = ["Ready", "Stalled"].map(|type_| condition(&relay, type_));
            let reported = conditions == ["False/ApplyRejected", "True/ApplyRejected"] && current;
            let differs = differences(&self.snapshot(name).await?, golden, kind, region);
            if reported && differs.is_empty() {
                return Ok(());
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "Ready and Stalled are {conditions:?}\n{differs}\nthe operator says\n{}",
                self.operator.log_tail()
            );
            sleep(Duration::from_millis(30)).await;
        }
    }
}

/// The differences that the refusal of a region's objects of `kind` does not explain.
fn differences(now: &Snapshot, golden: &Golden, kind: &str, region: &str) -> String {
    let mut now = now.clone();
    let mut wanted = golden.after.clone();
    let keys: BTreeSet<_> = [&now, &golden.before, &golden.after]
        .iter()
        .flat_map(|snapshot| snapshot.objects.keys().cloned())
        .collect();
    for key in keys {
        let (of, name) = key.split_once('/').unwrap_or_default();
        // The conditions are compared by the caller.
        if of == "PeerRelay" {
            now.objects.remove(&key);
            wanted.objects.remove(&key);
            continue;
        }
        let child = format!("NAME-{region}");
        if name != child && !name.starts_with(&format!("{child}-")) {
            continue;
        }
        let before = golden.before.objects.get(&key);
        let needs =
            NEEDED.contains(&kind) && of == "DaemonSet" || kind == "Role" && of == "RoleBinding";
        let waits = needs && now.objects.get(&key) == before;
        if of == kind || waits {
            match before {
                Some(before) => wanted.objects.insert(key, before.clone()),
                None => wanted.objects.remove(&key),
            };
        }
    }
    now.differences(&wanted)
}
