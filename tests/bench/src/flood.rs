//! `cargo dev bench flood`: what sessions lose and wait for, and what memory and CPU time it takes,
//! while a relay is attacked.

pub mod attack;
pub mod report;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use rig::{packages, progress::Progress, signals, state::State};
use serde::{Deserialize, Serialize};

use self::attack::{Attack, Attacker};
use super::{
    case::{Bound, Case},
    conditions, docs,
    implementation::{
        Implementation::{self, Go, Kernel, Socket},
        Programs,
    },
    load::Flow,
    output::Output,
    paced,
    relay::PORT,
    row::Conditions,
    server::{self, Server},
    session::ClientFactory,
    system,
    topology::{Family, Topology},
};

/// Datagrams a second, over all sessions.
const RATE: u32 = 5_000;
/// The load of the sessions.
const CASE: Case = Case {
    sessions: 16,
    size: 200,
    segments: 1,
    families: (Family::V4, Family::V4),
    latency: false,
};
/// Load without an attack, before and after.
const QUIET: Duration = Duration::from_secs(4);
/// From the beginning, before anything counts.
const WARM_UP: Duration = Duration::from_secs(1);
/// The interval at which memory is read.
const SAMPLE: Duration = Duration::from_millis(500);
/// Sessions in total and of one node, as relays have them by default.
const LIMITS: [&str; 2] = ["--max-sessions=65536", "--max-sessions-per-node=4096"];

/// The choice of relays and attacks.
#[derive(Debug, clap::Args)]
pub struct FloodArgs {
    /// Seconds of each attack
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Only rows that contain this, such as "kernel", "socket, junk" or "storm"
    #[arg(long, value_name = "FILTER", default_value = "")]
    rows: String,
    #[command(flatten)]
    output: Output,
}

/// The results of a run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct FloodResults {
    /// The conditions of the run.
    pub conditions: Conditions,
    /// Seconds of each attack.
    pub seconds: u64,
    /// The rows, one for each relay and attack.
    pub rows: Vec<FloodRow>,
}

/// The result of a relay under an attack.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct FloodRow {
    /// The relay that was attacked.
    #[serde(rename = "impl")]
    pub implementation: Implementation,
    /// The kind of attack.
    pub attack: Attack,
    /// Datagrams, or requests, of the attack in a second.
    pub offered: f64,
    /// Datagrams of bound sessions sent.
    pub sent: u64,
    /// Number of datagrams that did not arrive.
    pub lost: u64,
    /// The longest time in which none arrived, in milliseconds.
    pub longest_gap_ms: f64,
    /// One datagram in a hundred was slower than this before the attack, in microseconds; of those
    /// that arrived.
    pub p99_before_us: Option<f64>,
    /// The same quantity during the attack.
    pub p99_us: Option<f64>,
    /// The relay's own CPU time before the attack, in CPUs.
    pub cpus_before: f64,
    /// The same quantity during the attack.
    pub cpus: f64,
    /// Resident memory under load before the attack, in bytes.
    pub rss_before: u64,
    /// The most during the attack.
    pub rss_peak: u64,
}

/// Measures and prints.
pub fn run(args: &FloodArgs) -> Result<()> {
    let progress = Progress::stderr();
    packages::ensure(&progress)?;
    let lock = State::open_named("peerrelay-bench")?.lock()?;
    let programs = Programs::build(&[Kernel, Socket, Go], &progress)?;
    system::raise_descriptor_limit()?;
    let mut bench = Bench {
        programs: &programs,
        clients: ClientFactory::by_clock(),
        time: Duration::from_secs(args.seconds),
    };
    let mut results = FloodResults {
        conditions: conditions::read()?,
        seconds: args.seconds,
        rows: Vec::new(),
    };
    for attack in Attack::ALL {
        for implementation in [Kernel, Socket, Go] {
            // Another's limits are none of ours, but junk comes to everyone.
            if implementation == Go && attack != Attack::Junk {
                continue;
            }
            let row = format!("{implementation}, {attack}");
            if !row.contains(&args.rows) {
                continue;
            }
            progress.line(row);
            results.rows.push(bench.row(implementation, attack)?);
        }
    }
    drop(lock);
    args.output.write(&results, &report::table(&results), || {
        docs::put(docs::FLOOD, &report::markdown(&results))
    })
}

struct Bench<'a> {
    programs: &'a Programs,
    clients: ClientFactory,
    time: Duration,
}

/// The readings of a relay during an attack.
struct Reading {
    offered: f64,
    cpus: f64,
    rss_before: u64,
    rss_peak: u64,
}

/// The relay's CPU time.
struct Use {
    since: Instant,
    before: Duration,
}

impl Use {
    fn of(server: &Server) -> Result<Self> {
        let (since, before) = (Instant::now(), server.cpu_time()?);
        Ok(Self { since, before })
    }

    /// The CPU time since the reading, in CPUs.
    fn cpus(&self, server: &Server) -> Result<f64> {
        let used = server.cpu_time()? - self.before;
        Ok(used.as_secs_f64() / self.since.elapsed().as_secs_f64())
    }
}

impl Bench<'_> {
    fn row(&mut self, implementation: Implementation, attack: Attack) -> Result<FloodRow> {
        let _topology = Topology::create(&[implementation])?;
        let limits = match implementation {
            Go => Vec::new(),
            _ => LIMITS.map(String::from).to_vec(),
        };
        let mut server = Server::start_with(implementation, self.programs, PORT, &limits)?;
        let bound = Bound::open(&mut server, &CASE, &mut self.clients)?;
        let (mut flows, mut receivers) = (Vec::new(), Vec::new());
        for (socket, receiver, bytes) in bound.pairs(CASE.size)? {
            flows.push(Flow { socket, bytes });
            receivers.push(receiver);
        }
        let mut attacker = Attacker::new(attack, &mut server, &bound)?;
        let (delivery, latencies, phases) = paced::run(&mut flows, &receivers, RATE, |schedule| {
            signals::pause(WARM_UP)?;
            let (first, quiet) = (schedule.due(), Use::of(&server)?);
            signals::pause(QUIET)?;
            let (begin, cpus_before) = (schedule.due(), quiet.cpus(&server)?);
            let seen = watched(&mut server, &mut attacker, self.time)?;
            let end = schedule.due();
            signals::pause(QUIET)?;
            Ok((seen, cpus_before, first..begin, begin..end))
        })?;
        let (seen, cpus_before, before, during) = phases;
        Ok(FloodRow {
            implementation,
            attack,
            offered: seen.offered,
            sent: delivery.sent,
            lost: delivery.lost,
            longest_gap_ms: delivery.longest_gap.as_secs_f64() * 1e3,
            p99_before_us: latencies.p99_us(before),
            p99_us: latencies.p99_us(during),
            cpus_before,
            cpus: seen.cpus,
            rss_before: seen.rss_before,
            rss_peak: seen.rss_peak,
        })
    }
}

/// Attacks for `time`.
fn watched(server: &mut Server, attacker: &mut Attacker, time: Duration) -> Result<Reading> {
    let pid = server.pid()?;
    let rss_before = server::memory(pid)?.rss;
    let (start, work) = (Instant::now(), Use::of(server)?);
    let stop = AtomicBool::new(false);
    let (sent, rss_peak) = thread::scope(|scope| {
        let attack = scope.spawn(|| attacker.run(server, &stop));
        let mut peak = rss_before;
        let mut sample = || -> Result<()> {
            while start.elapsed() < time && !attack.is_finished() {
                signals::pause(SAMPLE)?;
                peak = peak.max(server::memory(pid)?.rss);
            }
            Ok(())
        };
        let sampled = sample();
        stop.store(true, Ordering::Relaxed);
        (attack.join(), sampled.map(|()| peak))
    });
    let sent = sent.map_err(|_| anyhow!("the attacker panicked"))??;
    Ok(Reading {
        offered: sent as f64 / start.elapsed().as_secs_f64(),
        cpus: work.cpus(server)?,
        rss_before,
        rss_peak: rss_peak?,
    })
}
