//! Generated map streams, read by [`Netmap`] and by Tailscale's own code: who may relay is the same
//! after every message.
//!
//! Tailscale's side is a program (tests/rig/tools/tailnet/mapmodel). `PEERRELAY_MAPMODEL` names
//! it, as `cargo dev test` and `cargo dev maps` do.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod generate;

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{tests::allowed, *};
use generate::Stream;

/// Streams of a seed, unless `PEERRELAY_MAP_STREAMS` says another number.
const STREAMS: u64 = 60;
/// Seeds beside one that is new with each run, unless `PEERRELAY_MAP_SEED` names the only one.
const SEEDS: [u64; 3] = [1, 2, 3];

/// One step of a stream; [`Step::json`] is how the other side reads it.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    now: Timestamp,
    event: Event,
}

#[derive(Debug, Clone, PartialEq)]
enum Event {
    /// The stream ends and another one begins.
    Restart,
    Message(Value),
    TimePasses,
}

/// Decisions of a relay after a step.
#[derive(Debug, PartialEq, Deserialize)]
struct Judgement {
    /// The stream was given up.
    ended: bool,
    /// The policy turns the relay off.
    disabled: bool,
    peers: Vec<JudgedPeer>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase")]
struct JudgedPeer {
    key: String,
    disco: String,
    home: u32,
    may_relay: bool,
}

/// Counts of what the comparison saw, so that a comparison of nothing fails.
#[derive(Debug, Default)]
struct Tally {
    steps: u64,
    maps_with_some: u64,
    ended: u64,
    disabled: u64,
    ended_by_time: u64,
}

#[test]
fn who_may_relay_is_what_tailscale_says_after_every_message() {
    let Some(program) = skips::program("PEERRELAY_MAPMODEL") else {
        return;
    };
    let number = |name| Some(std::env::var(name).ok()?.parse::<u64>().unwrap());
    let streams = number("PEERRELAY_MAP_STREAMS").unwrap_or(STREAMS);
    let fresh = u64::try_from(Timestamp::now().as_second()).unwrap();
    let several = || SEEDS.into_iter().chain([fresh]).collect();
    let seeds: Vec<_> = number("PEERRELAY_MAP_SEED").map_or_else(several, |seed| vec![seed]);
    let mut tally = Tally::default();
    let mut tailscale = Tailscale::start(&program);
    for seed in seeds {
        for stream in 0..streams {
            let steps = Stream::new(seed, stream).steps();
            let Some(difference) = compare(&steps, &mut tailscale, &mut tally) else {
                continue;
            };
            let steps = shrunk(steps[..=difference.at].to_vec(), &mut tailscale);
            let difference = compare(&steps, &mut tailscale, &mut tally).unwrap();
            let lines: Vec<_> = steps.iter().map(|step| step.json().to_string()).collect();
            panic!(
                "seed {seed}, stream {stream}: ours and Tailscale's differ after the last of\n{}\n\
                 ours: {:#?}\nTailscale's: {:#?}",
                lines.join("\n"),
                difference.ours,
                difference.theirs,
            );
        }
    }
    println!("{tally:?}");
    let seen = [
        tally.maps_with_some * 4 > tally.steps,
        tally.ended > 0,
        tally.disabled > 0,
        tally.ended_by_time > 0,
    ];
    assert!(seen.iter().all(|seen| *seen), "little was seen: {tally:?}");
}

struct Difference {
    at: usize,
    ours: Judgement,
    theirs: Judgement,
}

/// Plays the steps to both sides, from an empty map, until they differ.
fn compare(steps: &[Step], tailscale: &mut Tailscale, tally: &mut Tally) -> Option<Difference> {
    let mut relay = Ours::default();
    relay.map.begin_stream();
    tailscale.forget();
    let mut last = 0;
    for (at, step) in steps.iter().enumerate() {
        let (ours, theirs) = (relay.judge(step), tailscale.judge(step));
        if ours != theirs {
            return Some(Difference { at, ours, theirs });
        }
        let may = ours.peers.iter().filter(|peer| peer.may_relay).count();
        tally.steps += 1;
        tally.maps_with_some += u64::from(may > 0);
        tally.ended += u64::from(ours.ended);
        tally.disabled += u64::from(ours.disabled);
        tally.ended_by_time += u64::from(step.event == Event::TimePasses && may < last);
        last = may;
    }
    None
}

/// Leaves out what the difference does not need.
fn shrunk(mut steps: Vec<Step>, tailscale: &mut Tailscale) -> Vec<Step> {
    for at in (0..steps.len()).rev() {
        if at >= steps.len() {
            continue;
        }
        let mut fewer = steps.clone();
        fewer.remove(at);
        let difference = compare(&fewer, tailscale, &mut Tally::default());
        if let Some(difference) = difference {
            fewer.truncate(difference.at + 1);
            steps = fewer;
        }
    }
    steps
}

/// This relay: its map, and the nodes that have sessions.
#[derive(Default)]
struct Ours {
    map: SharedNetmap,
    holders: BTreeSet<NodeKey>,
    /// Number of messages.
    count: usize,
}

impl Ours {
    /// Plays a step to the map of this relay. Everybody who may relay has a session then; those that have lost their right must be
    /// among the changes.
    fn judge(&mut self, step: &Step) -> Judgement {
        let mut ended = false;
        match &step.event {
            Event::Restart => self.map.begin_stream(),
            Event::TimePasses => {}
            Event::Message(message) => {
                let message = serde_json::from_value(message.clone()).unwrap();
                // In a copy, in place, and in place if there are few.
                self.count += 1;
                let most = [0, usize::MAX, 2][self.count % 3];
                match self.map.apply_in_place(message, step.now, most) {
                    Ok(changes) => self.revoke(&changes.judged, step.now),
                    Err(DeviceMissing) => {
                        ended = true;
                        self.map.begin_stream();
                    }
                }
            }
        }
        // As the task that follows expiries does.
        let next = self.map.next_expiry(step.now);
        if next == Some(Duration::ZERO) {
            self.map.find_next_expiry(step.now);
            self.revoke(&Judged::All, step.now);
        }
        let may = allowed(&self.map.read(), step.now).unwrap_or_default();
        let lost: Vec<_> = self.holders.difference(&may).collect();
        assert!(lost.is_empty(), "they keep their sessions: {lost:?}");
        self.holders = may;
        let map = self.map.read();
        let judged = |peer: &Peer| {
            let key = peer.key.unwrap();
            let (peer, home) = map.peer(key, step.now).unwrap();
            JudgedPeer {
                key: format!("nodekey:{}", hex(key.0)),
                disco: format!("discokey:{}", hex(peer.disco.map_or([0; 32], |key| key.0))),
                home: home.unwrap_or_default(),
                may_relay: peer.may_relay,
            }
        };
        let mut peers: Vec<_> = map.peers.iter().map(judged).collect();
        peers.sort();
        Judgement {
            ended,
            disabled: map.relay_disabled(),
            peers,
        }
    }

    fn revoke(&mut self, judged: &Judged, now: Timestamp) {
        let map = self.map.read();
        if map.own().is_none() {
            return;
        }
        self.holders.retain(|key| {
            let is_judged = match judged {
                Judged::All => true,
                Judged::Some(keys) => keys.contains(key),
            };
            !is_judged || map.may_use(*key, now)
        });
    }
}

fn hex(bytes: [u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Step {
    fn json(&self) -> Value {
        let now = self.now.as_second();
        match &self.event {
            Event::Restart => json!({"now": now, "restart": true}),
            Event::Message(message) => json!({"now": now, "map": message}),
            Event::TimePasses => json!({"now": now}),
        }
    }
}

/// Process with Tailscale's own code, which plays the same steps.
struct Tailscale {
    child: Child,
    steps: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Tailscale {
    fn start(program: &Path) -> Self {
        let mut command = Command::new(program);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Self {
            steps: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Goes on as a device that knows nothing yet.
    fn forget(&mut self) {
        self.ask(&json!({"new": true}));
    }

    fn judge(&mut self, step: &Step) -> Judgement {
        let mut judgement = self.ask(&step.json());
        judgement.peers.sort();
        judgement
    }

    fn ask(&mut self, step: &Value) -> Judgement {
        writeln!(self.steps, "{step}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("no answer to {step}"))
    }
}

impl Drop for Tailscale {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
