//! Changes of a PeerRelay while clients talk: data comes back in the time that stock clients need.

mod traffic;

use std::{
    collections::BTreeMap,
    env,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rig::{
    deployment::Deployment, names::NAMESPACE, progress::Progress, rng::Rng, signals,
    tailnet::Client,
};
use serde_json::json;

use self::traffic::{Traffic, millis};
use super::{EDGE, SEARCH, Scenario, carried::Counters, relayed, reset};

/// UDP ports that the PeerRelay has in turn, and the ports of the relays' metrics beside them.
const PORTS: [(u16, u16); 2] = [(40_000, 9_440), (40_100, 40_101)];
/// Rounds unless the environment says otherwise: two of the kinds of change, as the seed chooses.
const ROUNDS: u64 = 2;
/// Environment variable with the number of rounds. The long form has 50 or more, and is run by hand.
const ROUNDS_VARIABLE: &str = "PEERRELAY_CHANGE_ROUNDS";
/// Longest time in which nothing arrives in one direction. A stock client trusts a path for 6.5 s after
/// the last pong on it (`trustUDPAddrDuration` in magicsock), and sends by DERP as well afterwards. A
/// pong shows that the path carried data at that moment, so this is the longest silence; the rest is for
/// a machine with other things to do.
const LONGEST_SILENCE: Duration = Duration::from_secs(8);
/// A little more than the time for which clients trust a path.
const TRUST: Duration = Duration::from_secs(7);
/// Time for which a path must stay: longer than clients trust one that carries nothing.
const STAY: Duration = Duration::from_secs(8);
/// Share of the traffic, in percent, that clients may send elsewhere on a path that stays: they keep
/// looking for a direct one.
const STRAY_PERCENT: f64 = 20.0;
/// Longest silence on a path that stays.
const STEADY: Duration = Duration::from_secs(1);
/// Longest time between two changes that are made without waiting for the first.
const PAUSE: Duration = Duration::from_secs(8);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![Scenario {
        name: "data pauses for 8 s at most while a PeerRelay changes its port, is deleted and made \
               again in any order",
        run: any_order,
    }]
}

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    /// The relays get another port.
    Port,
    /// The relays get another port, and the first one again while they are being replaced.
    PortAndBack,
    /// The PeerRelay is deleted, and created again with the same port.
    Recreate,
    /// The PeerRelay is deleted, and created again with another port.
    RecreateElsewhere,
}

impl Change {
    const ALL: [Self; 4] = [
        Self::Port,
        Self::PortAndBack,
        Self::Recreate,
        Self::RecreateElsewhere,
    ];
}

fn any_order(deployment: &Deployment<'_>) -> Result<String> {
    let rounds = from_environment(ROUNDS_VARIABLE)?.unwrap_or(ROUNDS);
    let seed = deployment.seed;
    let progress = Progress::stderr();
    progress.line(format_args!(
        "{rounds} changes; again with {ROUNDS_VARIABLE}={rounds} and --seed {seed}"
    ));
    reset(deployment)?;
    relayed(deployment)?;
    let traffic = Traffic::start(deployment)?;
    let mut run = Run {
        deployment,
        traffic,
        rng: Rng::new(seed),
        port: 0,
        silences: BTreeMap::new(),
    };
    run.settle()?;
    let mut kinds = Vec::new();
    for round in 1..=rounds {
        if kinds.is_empty() {
            kinds = Change::ALL.to_vec();
        }
        let kind = kinds.swap_remove(run.rng.below(kinds.len()));
        // The last change is waited for, so that nothing is left unseen.
        let waits = round == rounds || run.rng.percent(70);
        let seen = run
            .round(kind, waits)
            .with_context(|| format!("round {round}, {kind:?}, seed {seed}"))?;
        progress.line(format_args!("round {round}/{rounds}: {seen}"));
    }
    let silences = run.silences;
    run.traffic.finish()?;
    reset(deployment)?;
    let said = silences.iter().map(|(kind, longest)| {
        let seconds = longest.as_secs_f64();
        format!("{kind:?} {seconds:.1} s")
    });
    let said: Vec<_> = said.collect();
    Ok(format!(
        "{rounds} changes with seed {seed}, longest silence in one direction after {}",
        said.join(", ")
    ))
}

fn from_environment(name: &str) -> Result<Option<u64>> {
    let Ok(text) = env::var(name) else {
        return Ok(None);
    };
    let number = text.parse();
    number
        .map(Some)
        .with_context(|| format!("{name} is '{text}', which is no number"))
}

/// Changes under traffic, and what they have shown.
struct Run<'a> {
    deployment: &'a Deployment<'a>,
    traffic: Traffic,
    rng: Rng,
    /// Index of the PeerRelay's ports in [`PORTS`].
    port: usize,
    /// Longest silence after each kind of change.
    silences: BTreeMap<Change, Duration>,
}

impl Run<'_> {
    fn round(&mut self, kind: Change, waits: bool) -> Result<String> {
        let start = millis()?;
        let mut said = self.make(kind)?;
        if waits {
            said += &format!(", {}", self.settle()?);
        } else {
            said += &format!(", left alone for {:.1} s", self.pause()?);
        }
        let longest = self.traffic.longest_until_after(start)?;
        let known = self.silences.entry(kind).or_default();
        *known = longest.max(*known);
        Ok(format!(
            "{kind:?} {said}; longest silence {:.1} s",
            longest.as_secs_f64()
        ))
    }

    /// Makes a change, with a pause where it has two steps.
    fn make(&mut self, kind: Change) -> Result<String> {
        let other = 1 - self.port;
        match kind {
            Change::Port => {
                self.apply(other)?;
                Ok(format!("to {}", PORTS[other].0))
            }
            Change::PortAndBack => {
                let before = self.port;
                self.apply(other)?;
                let pause = self.pause()?;
                self.apply(before)?;
                Ok(format!("{} for {pause:.1} s", PORTS[other].0))
            }
            Change::Recreate => self.recreate(self.port),
            Change::RecreateElsewhere => self.recreate(other),
        }
    }

    fn recreate(&mut self, port: usize) -> Result<String> {
        // Pods may still end when the next ones start.
        let words = ["delete", "peerrelay", EDGE, "-n", NAMESPACE];
        self.deployment.rig.kubectl(words)?;
        let pause = self.pause()?;
        self.apply(port)?;
        Ok(format!("with {} after {pause:.1} s", PORTS[port].0))
    }

    fn apply(&mut self, port: usize) -> Result<()> {
        self.port = port;
        self.deployment.apply(EDGE, &json!({"port": PORTS[port].0}))
    }

    /// Waits for a random time, in seconds; half of the times for none.
    fn pause(&mut self) -> Result<f64> {
        let millis = match self.rng.percent(50) {
            true => 0,
            false => self.rng.below(PAUSE.as_millis() as usize),
        };
        let pause = Duration::from_millis(millis as u64);
        self.watch(pause, || Ok(false))?;
        Ok(pause.as_secs_f64())
    }

    /// Waits until the relays are ready and both clients use one, and sees that this stays.
    fn settle(&self) -> Result<String> {
        let deployment = self.deployment;
        let start = Instant::now();
        let ready = || {
            let ready = deployment.condition(EDGE, "Ready")?;
            Ok(ready == "True/RelaysReady")
        };
        ensure!(
            self.watch(Duration::from_secs(90), ready)?,
            "the PeerRelay is not ready after 90 s"
        );
        let ready = start.elapsed();
        // Until then clients may trust a path through a relay that is gone.
        self.watch(TRUST, || Ok(false))?;
        let port = format!(":{}:vni:", PORTS[self.port].0);
        let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
        let paths = || anyhow::Ok((relay_of(c1, c2)?, relay_of(c2, c1)?));
        let both = || {
            let (there, back): (String, String) = paths()?;
            let flows = self.traffic.silent(STEADY / 2)?.is_none();
            Ok(there.contains(&port) && back.contains(&port) && flows)
        };
        ensure!(
            self.watch(SEARCH.longest(), both)?,
            "clients have {:?} after {} s, not a relay at {port}",
            paths()?,
            SEARCH.longest().as_secs()
        );
        let found = start.elapsed();
        let (before, from) = (self.counters()?, millis()?);
        self.watch(STAY, || Ok(false))?;
        let (carried, silence) = (
            self.counters()?.since(&before),
            self.traffic.longest_since(from)?,
        );
        ensure!(
            both()? && silence < STEADY,
            "a path did not stay: {:?}, silent for {} ms",
            paths()?,
            silence.as_millis()
        );
        carried.through_relays(STAY.as_secs() * traffic::BYTES_A_SECOND, STRAY_PERCENT)?;
        Ok(format!(
            "ready after {:.1} s, relayed after {:.1} s",
            ready.as_secs_f64(),
            found.as_secs_f64()
        ))
    }

    fn counters(&self) -> Result<Counters> {
        Counters::read_at(self.deployment, PORTS[self.port].1)
    }

    /// Waits until `done`, or until the time is over, and fails when data stops for too long.
    fn watch(&self, time: Duration, done: impl Fn() -> Result<bool>) -> Result<bool> {
        let start = Instant::now();
        loop {
            if let Some(silence) = self.traffic.silent(LONGEST_SILENCE)? {
                bail!("{silence}");
            }
            // What cannot be asked now can be asked again.
            if done().unwrap_or(false) {
                return Ok(true);
            }
            let left = time.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            signals::pause(left.min(Duration::from_millis(300)))?;
        }
    }
}

/// The relay by which a client sends to another one, as IP:PORT:vni:N; empty without one.
fn relay_of(client: &Client, peer: &Client) -> Result<String> {
    let status = client.status()?;
    let peers = status["Peer"].as_object().context("there are no peers")?;
    let peer = peers
        .values()
        .find(|other| other["HostName"] == peer.machine.name);
    let relay = peer.context("the peer is not in the status")?["PeerRelay"].as_str();
    Ok(relay.unwrap_or_default().to_owned())
}
