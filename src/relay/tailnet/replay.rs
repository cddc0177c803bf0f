//! Replays map streams from files through the relay's own reader, for `cargo dev bench map`: how long
//! they take, how much memory the map keeps, and how long requests wait meanwhile.
//!
//! The streams are made by tests/bench. `PEERRELAY_MAP_REPLAY` names their directory; the results go to
//! standard output as one line of JSON.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use relay_proto::{DiscoSecret, client::Client};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{map_reader::MapStream, *};
use crate::relay::socket_path::fixture;

const DIRECTORY: &str = "PEERRELAY_MAP_REPLAY";
/// Longest time for the messages of one kind; those that are left are not measured.
const LIMIT: Duration = Duration::from_secs(60);
/// Messages a second while requests are measured, and for how long.
const RATE: u32 = 1_000;
const TIME: Duration = Duration::from_secs(10);
/// Time between two requests.
const PAUSE: Duration = Duration::from_millis(5);
/// Clients that the map has under the numbers from 1 on, and that take turns.
const CLIENTS: u64 = 64;

#[test]
#[ignore = "it is a measurement: cargo dev bench map"]
fn a_map_stream_is_replayed() {
    let directory = PathBuf::from(env::var_os(DIRECTORY).expect("the streams to replay"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (tailnet, _identity) = tailnet();
    let tailnet = Arc::new(tailnet);
    let results = runtime.block_on(async {
        let replayed = tokio::spawn(replay(tailnet, directory));
        replayed.await.unwrap()
    });
    println!("{results}");
}

async fn replay(tailnet: Arc<Tailnet>, directory: PathBuf) -> Value {
    crate::memory::trim();
    let before = memory();
    let start = Instant::now();
    let file = tokio::fs::File::open(directory.join("load")).await.unwrap();
    let mut maps = MapStream::new(file);
    tailnet.netmap.begin_stream();
    let loaded = match maps.next().await {
        Ok(message) => tailnet.learn(message).is_ok(),
        Err(_) => false,
    };
    let load = start.elapsed();
    drop(maps);
    let peak = memory().peak;
    crate::memory::trim();
    let resident = memory().resident;
    if !loaded {
        return json!({"refused": true, "load_ms": load.as_secs_f64() * 1e3});
    }
    let mut results = json!({
        "load_ms": load.as_secs_f64() * 1e3,
        "resident_before": before.resident,
        "resident": resident,
        "peak": peak,
        "known_peers": tailnet.known_peers(),
    });
    for kind in ["unrelated", "device", "filter"] {
        let stream = fs::read(directory.join(kind)).unwrap();
        results[kind] = times(&tailnet, &stream).await;
    }
    results["peak_after"] = memory().peak.into();
    for kind in ["unrelated", "device"] {
        let stream: Arc<[u8]> = fs::read(directory.join(kind)).unwrap().into();
        results[format!("requests_{kind}")] = requests(&tailnet, stream).await;
    }
    results
}

/// Takes in the messages of a stream, one after the other.
async fn times(tailnet: &Tailnet, stream: &[u8]) -> Value {
    let mut maps = MapStream::new(stream);
    let (begin, mut took) = (Instant::now(), Vec::new());
    while begin.elapsed() < LIMIT {
        let start = Instant::now();
        let Ok(message) = maps.next().await else {
            break;
        };
        tailnet.learn(message).unwrap();
        took.push(start.elapsed());
    }
    percentiles(took)
}

/// Requests sessions while messages come. A request is late from the time at which it is due. As in a
/// relay, requests and messages have a task each.
async fn requests(tailnet: &Arc<Tailnet>, stream: Arc<[u8]>) -> Value {
    let begin = Instant::now();
    let (derp, tailnet) = (tailnet.derp(), tailnet.clone());
    let messages = tokio::spawn(async move {
        let mut maps = MapStream::new(&stream[..]);
        let mut count = 0;
        while begin.elapsed() < TIME {
            sleep_until(begin + Duration::from_secs(1) / RATE * count).await;
            let Ok(message) = maps.next().await else {
                maps = MapStream::new(&stream[..]);
                continue;
            };
            tailnet.learn(message).unwrap();
            count += 1;
        }
        count
    });
    let asked = tokio::spawn(async move {
        let (mut due, mut took) = (begin, Vec::new());
        while begin.elapsed() < TIME {
            due += PAUSE;
            sleep_until(due).await;
            ask(&derp, took.len() as u64).await;
            took.push(due.elapsed());
        }
        took
    });
    let (count, took) = tokio::join!(messages, asked);
    let mut results = percentiles(took.unwrap());
    results["messages"] = count.unwrap().into();
    results
}

/// Has one request answered, as [`derp::Derp`] does.
async fn ask(derp: &Derp, number: u64) {
    let relay = DiscoSecret::from_bytes([1; 32]).public();
    let [a, b] = [0, 1].map(|n| Client::numbered(1 + (number + n) % CLIENTS));
    let mut nonce = [0; 24];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    let request = a.channel(relay).request(nonce, [a.key, b.key], 1);
    let answer = derp.answer(a.node_key, request).await;
    answer.expect("the policy allows it");
}

impl Tailnet {
    fn known_peers(&self) -> usize {
        let state = self.senders.control.borrow();
        state.grant.as_ref().map_or(0, |grant| grant.known_peers)
    }
}

fn tailnet() -> (Tailnet, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let identity = Identity::load(directory.path()).unwrap();
    let socket_path = fixture::spawn(fixture::options(0, 2));
    socket_path.set_addresses(vec!["192.0.2.1:40000".parse().unwrap()]);
    let config = TailnetConfig {
        control_url: "http://127.0.0.1".parse().unwrap(),
        auth_key: AuthKey::None,
        hostname: "relay".into(),
        tags: vec!["tag:relay".into()],
        ephemeral: false,
    };
    let senders = TailnetSenders {
        control: watch::Sender::default(),
        derp: watch::Sender::default(),
        stun_servers: watch::Sender::default(),
    };
    let dialer = Dialer::with_authorities(None).unwrap();
    let (_, dynamic) = watch::channel(DynamicConfig::default());
    let tailnet = Tailnet::new(config, identity, dialer, socket_path, senders, dynamic);
    (tailnet, directory)
}

fn percentiles(mut took: Vec<Duration>) -> Value {
    took.sort();
    let at = |part: f64| {
        let at = (took.len() as f64 * part) as usize;
        let took = took.get(at.min(took.len().saturating_sub(1)))?;
        Some(took.as_secs_f64() * 1e6)
    };
    json!({"count": took.len(), "p50_us": at(0.5), "p99_us": at(0.99), "max_us": at(1.0)})
}

struct Memory {
    resident: u64,
    peak: u64,
}

/// Resident memory of this process and its peak, in bytes.
fn memory() -> Memory {
    let status = fs::read_to_string(Path::new("/proc/self/status")).unwrap();
    let bytes = |name: &str| {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)).unwrap();
        let kibibytes: u64 = value.trim().trim_end_matches(" kB").parse().unwrap();
        kibibytes * 1024
    };
    Memory {
        resident: bytes("VmRSS:"),
        peak: bytes("VmHWM:"),
    }
}
