//! The run of one case, with or without a fault.

pub mod refusals;

use std::{path::Path, time::Duration};

use anyhow::{Context, Error, Result, anyhow, ensure};
use rig::{
    names::{NAMESPACE, SECRET},
    signals,
    spec::peer_relay,
    tools::Tools,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    api::Resource,
    case::{Case, Step},
    control_plane::ControlPlane,
    names::{other_name, relay_path},
    operator::Operator,
    proxy::{Fault, PlannedFault, Recorder},
    record::Exchange,
    snapshot::{Snapshot, kinds, snapshot},
};

/// Time without requests after which the operator has nothing more to do.
const QUIET: Duration = Duration::from_millis(250);
/// The time without requests after which an unknown outcome is taken for the end.
const SETTLED: Duration = Duration::from_millis(800);
/// Longest time to an end state.
const PATIENCE: Duration = Duration::from_secs(120);

/// A control plane with an operator whose requests can go wrong.
#[derive(Debug)]
pub struct Harness {
    /// The control plane.
    pub control_plane: ControlPlane,
    /// The log of requests.
    pub recorder: Recorder,
    /// The operator, a process of its own.
    pub operator: Operator,
    kinds: Vec<Resource>,
    trials: usize,
}

/// The course of a case without a fault.
#[derive(Debug)]
pub struct Golden {
    before: Snapshot,
    after: Snapshot,
    /// The time of the change.
    pub start: std::time::Instant,
    /// Requests from the change to the end.
    pub requests: Vec<Exchange>,
    /// Time from the change to the last request.
    pub took: Duration,
}

impl Golden {
    /// Requests that changed something.
    pub fn writes(&self) -> impl Iterator<Item = &Exchange> {
        self.requests.iter().filter(|e| e.request.writes())
    }

    fn deletes(&self) -> usize {
        deletes(&self.requests)
    }

    /// Fails if objects were replaced that this course only changes.
    fn ensure_kept(&self, before: &Snapshot, now: &Snapshot) -> Result<()> {
        // A fault may spare an object: of two Services that exchange their ports, the one that could
        // not be removed at first gets the port that the other one gave back.
        let kept = now.kept(before);
        let should = self.after.kept(&self.before);
        let lost: Vec<_> = should.difference(&kept).collect();
        ensure!(
            lost.is_empty(),
            "objects were replaced that should have been changed: {lost:?}"
        );
        Ok(())
    }
}

/// Objects that were deleted; asking again for one that is gone deletes nothing.
fn deletes(requests: &[Exchange]) -> usize {
    let done =
        |e: &&Exchange| e.request.verb == "delete" && e.status.is_some_and(|status| status < 300);
    requests.iter().filter(done).count()
}

impl Harness {
    /// Starts a control plane with two nodes and the operator.
    pub async fn open(tools: &Tools, program: &Path) -> Result<Self> {
        let control_plane = ControlPlane::start(tools).await?;
        control_plane.namespace(NAMESPACE).await?;
        for node in ["n1", "n2"] {
            control_plane.node(node).await?;
        }
        let recorder = Recorder::default();
        let mut operator = Operator::new(&control_plane, &recorder, program, "first").await?;
        operator.start()?;
        let kinds = kinds(&control_plane.api, &control_plane.rules);
        ensure!(
            !kinds.is_empty(),
            "the operator's role lets it make nothing"
        );
        Ok(Self {
            control_plane,
            recorder,
            operator,
            kinds,
            trials: 0,
        })
    }

    /// Plays a case without a fault.
    pub async fn golden(&mut self, case: &Case) -> Result<Golden> {
        let name = self.next_name();
        for step in &case.before {
            self.step(&name, step).await?;
        }
        self.settle(&name).await?;
        let before = self.snapshot(&name).await?;
        let mark = self.recorder.len();
        let start = std::time::Instant::now();
        for step in &case.change {
            let events = self.recorder.event_count();
            self.step(&name, step).await?;
            self.until_event(events, &name, step).await?;
        }
        self.settle(&name).await?;
        let after = self.snapshot(&name).await?;
        let mut requests = self.recorder.since(mark);
        requests.retain(|e| e.request.verb != "watch" && !e.request.is_lease());
        let took = requests
            .last()
            .map_or(Duration::ZERO, |last| last.at.duration_since(start));
        self.restore(&name).await?;
        Ok(Golden {
            before,
            after,
            start,
            requests,
            took,
        })
    }

    /// Plays a case in which one write goes wrong; says whether there was such a write.
    pub async fn trial(
        &mut self,
        case: &Case,
        golden: &Golden,
        nth: usize,
        fault: Fault,
    ) -> Result<bool> {
        let name = self.next_name();
        for step in &case.before {
            self.step(&name, step).await?;
        }
        self.reach(&name, &golden.before)
            .await
            .context("before the fault")?;
        let before = self.snapshot(&name).await?;
        let mark = self.recorder.len();
        let planned = PlannedFault {
            about: name.clone(),
            nth,
            fault,
            times: 1,
        };
        let mut struck = self.recorder.arm(planned);
        for step in &case.change {
            self.step(&name, step).await?;
        }
        let start = Instant::now();
        let mut hit = false;
        let differs = |now: &Snapshot| now.differences(&golden.after);
        loop {
            signals::check()?;
            if !hit && struck.has_changed()? {
                struck.mark_unchanged();
                hit = true;
                if fault.kills() {
                    self.operator.kill();
                    self.operator.start()?;
                }
            }
            self.operator.revive()?;
            if let Some((now, differs)) = self.snapshot_at_rest(&name, &differs).await?
                && differs.is_empty()
            {
                golden.ensure_kept(&before, &now)?;
                break;
            }
            if start.elapsed() > PATIENCE {
                return Err(self.unreached(differs(&self.snapshot(&name).await?)));
            }
        }
        self.recorder.disarm();
        let (removed, wanted) = (deletes(&self.recorder.since(mark)), golden.deletes());
        ensure!(
            removed <= wanted,
            "{removed} objects were deleted instead of {wanted}"
        );
        self.ensure_alive()?;
        self.restore(&name).await?;
        Ok(hit)
    }

    /// The error that these differences from the end state have stayed.
    fn unreached(&self, differs: String) -> Error {
        let log = self.operator.log_tail();
        anyhow!("the end state was not reached\n{differs}\nthe operator says\n{log}")
    }

    fn ensure_alive(&mut self) -> Result<()> {
        ensure!(
            self.operator.alive(),
            "the operator ended by itself; the end of its log is\n{}",
            self.operator.log_tail()
        );
        Ok(())
    }

    /// Waits until the operator has seen the PeerRelay and has nothing more to do.
    pub async fn settle(&mut self, name: &str) -> Result<()> {
        let start = Instant::now();
        loop {
            signals::check()?;
            self.operator.revive()?;
            let relay = self.control_plane.api.find(&relay_path(name)).await?;
            let other = self
                .control_plane
                .api
                .find(&relay_path(&other_name(name)))
                .await?;
            let is_current = [&relay, &other].into_iter().flatten().all(|relay| {
                relay["status"]["observedGeneration"] == relay["metadata"]["generation"]
            });
            let of_other = |key: &String| key.contains(&other_name("NAME"));
            let gone = relay.is_some() || self.snapshot(name).await?.objects.keys().all(of_other);
            if is_current && gone && self.rolled_out().await? && self.recorder.quiet() > SETTLED {
                return Ok(());
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "{name} does not settle; the operator says\n{}",
                self.operator.log_tail()
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a watch has passed on the event of a step that the status of the PeerRelay `name`
    /// does not show; after an upgrade, until the new operator has the event of the PeerRelay.
    async fn until_event(&self, mark: usize, name: &str, step: &Step) -> Result<()> {
        let (kind, name) = match step {
            Step::NodeUp(node) | Step::NodeDown(node) | Step::NodeLabel(node, _) => {
                ("nodes", *node)
            }
            Step::Upgrade(_) => ("peerrelays", name),
            Step::Apply(_)
            | Step::Delete
            | Step::ApplyOther(_)
            | Step::DeleteOther
            | Step::AuthKey(_) => return Ok(()),
        };
        let start = Instant::now();
        while !self.recorder.has_event(mark, kind, name) {
            signals::check()?;
            ensure!(
                start.elapsed() < PATIENCE,
                "the operator gets no event of {kind} {name}"
            );
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Says whether Kubernetes has rolled out all DaemonSets.
    async fn rolled_out(&self) -> Result<bool> {
        let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets");
        let list = self.control_plane.api.read(&path).await?;
        let done = |set: &Value| {
            let status = &set["status"];
            let count = |field: &str| status[field].as_i64().unwrap_or_default();
            status["observedGeneration"] == set["metadata"]["generation"]
                && count("updatedNumberScheduled") == count("desiredNumberScheduled")
        };
        Ok(list["items"]
            .as_array()
            .is_some_and(|sets| sets.iter().all(done)))
    }

    async fn reach(&mut self, name: &str, wanted: &Snapshot) -> Result<()> {
        self.reach_by(name, |now| now.differences(wanted)).await
    }

    /// Waits until nothing differs and the operator has nothing more to do.
    pub async fn reach_by(
        &mut self,
        name: &str,
        differs: impl Fn(&Snapshot) -> String,
    ) -> Result<()> {
        let start = Instant::now();
        loop {
            signals::check()?;
            self.operator.revive()?;
            if let Some((_, differs)) = self.snapshot_at_rest(name, &differs).await?
                && differs.is_empty()
            {
                return Ok(());
            }
            if start.elapsed() > PATIENCE {
                return Err(self.unreached(differs(&self.snapshot(name).await?)));
            }
        }
    }

    /// The snapshot and its differences, once the operator has nothing more to do; otherwise `None`,
    /// a moment later. It costs the API server a list of each kind.
    async fn snapshot_at_rest(
        &self,
        name: &str,
        differs: impl Fn(&Snapshot) -> String,
    ) -> Result<Option<(Snapshot, String)>> {
        if self.recorder.quiet() <= QUIET {
            sleep(Duration::from_millis(20)).await;
            return Ok(None);
        }
        let now = self.snapshot(name).await?;
        let differs = differs(&now);
        if !differs.is_empty() {
            sleep(Duration::from_millis(50)).await;
        }
        // What came meanwhile may be the end of it, or its beginning.
        let quiet = self.recorder.quiet() > QUIET;
        Ok(quiet.then_some((now, differs)))
    }

    /// Takes a snapshot of a PeerRelay and its children.
    pub async fn snapshot(&self, name: &str) -> Result<Snapshot> {
        snapshot(&self.control_plane.api, &self.kinds, name).await
    }

    /// Performs a step of a case.
    pub async fn step(&mut self, name: &str, step: &Step) -> Result<()> {
        let api = &self.control_plane.api;
        match step {
            Step::Apply(spec) => drop(api.apply(&peer_relay(name, spec)).await?),
            Step::Delete => api.delete(&relay_path(name)).await?,
            Step::ApplyOther(spec) => {
                drop(api.apply(&peer_relay(&other_name(name), spec)).await?);
            }
            Step::DeleteOther => api.delete(&relay_path(&other_name(name))).await?,
            Step::NodeUp(node) => self.control_plane.node(node).await?,
            Step::NodeDown(node) => api.delete(&format!("/api/v1/nodes/{node}")).await?,
            Step::NodeLabel(node, zone) => {
                let patch = json!({"metadata": {"labels": {"zone": zone}}});
                api.merge(&format!("/api/v1/nodes/{node}"), &patch).await?;
            }
            Step::AuthKey(key) => {
                let secret = json!({
                    "apiVersion": "v1", "kind": "Secret",
                    "metadata": {"name": SECRET, "namespace": NAMESPACE},
                    "stringData": {"authkey": key},
                });
                api.apply(&secret).await?;
            }
            Step::Upgrade(image) => {
                self.operator.kill();
                self.operator.image = (*image).into();
                self.operator.start()?;
            }
        }
        Ok(())
    }

    /// Brings back what a case may have changed, and removes its PeerRelay with all it had.
    async fn restore(&mut self, name: &str) -> Result<()> {
        let upgraded = self.operator.image != super::operator::IMAGE;
        self.step(name, &Step::Delete).await?;
        self.step(name, &Step::DeleteOther).await?;
        self.step(name, &Step::NodeDown("late")).await?;
        self.step(name, &Step::NodeLabel("n1", None)).await?;
        self.reach(name, &Snapshot::default())
            .await
            .context("orphans are left")?;
        if upgraded {
            self.step(name, &Step::Upgrade(super::operator::IMAGE))
                .await?;
        }
        Ok(())
    }

    /// A name that occurs nowhere else.
    pub fn next_name(&mut self) -> String {
        self.trials += 1;
        format!("t{:05}x", self.trials)
    }
}
