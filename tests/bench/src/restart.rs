//! `cargo dev bench restart`: what clients lose when their relay is killed, and when it is replaced.

pub mod report;

use std::time::Duration;

use anyhow::Result;
use rig::{packages, progress::Progress, signals, state::State};
use serde::{Deserialize, Serialize};

use super::{
    case::{Case, Prepared},
    conditions, docs,
    implementation::{
        Implementation::{self, Go, Kernel, Socket},
        Programs,
    },
    legacy::Legacy,
    output::Output,
    paced,
    relay::PORT,
    row::Conditions,
    server::Server,
    session::ClientFactory,
    system,
    topology::{Family, Topology},
};

/// Datagrams a second, over all sessions.
const RATE: u32 = 50_000;
/// The load during the restarts.
const CASE: Case = Case {
    sessions: 16,
    size: 200,
    segments: 1,
    families: (Family::V4, Family::V4),
    latency: false,
};
/// Before anything happens: a relay saves its sessions within a quarter of a second.
const BEFORE: Duration = Duration::from_secs(3);
/// After the relay is back.
const AFTER: Duration = Duration::from_secs(5);
/// Seconds without a relay, for those that forward nothing meanwhile.
const SHORT: u64 = 1;

/// The choice of relays and events.
#[derive(Debug, clap::Args)]
pub struct RestartArgs {
    /// Seconds for which the relay is away whose program stays in the kernel: at most 300, after
    /// which the program forwards no longer
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=300))]
    seconds: u64,
    /// Only rows that contain this, such as "kernel" or "socket, killed"
    #[arg(long, value_name = "FILTER", default_value = "")]
    rows: String,
    #[command(flatten)]
    output: Output,
}

/// An event that ends or replaces a relay.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// SIGKILL; started again so many seconds later.
    Killed(u64),
    /// The next one is started beside it and takes over.
    Replaced,
}

/// The results of a run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct RestartResults {
    /// The conditions of the run.
    pub conditions: Conditions,
    /// The rows, one for each relay and event.
    pub rows: Vec<RestartRow>,
}

/// The result of one relay and event.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RestartRow {
    /// The relay that was restarted.
    #[serde(rename = "impl")]
    pub implementation: Implementation,
    /// The event that the relay went through.
    pub event: Event,
    /// Sessions that were bound.
    pub sessions: usize,
    /// Datagrams a second, over all of them.
    pub rate: u32,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that did not arrive.
    pub lost: u64,
    /// The longest time in which none arrived, in milliseconds.
    pub longest_gap_ms: f64,
    /// Sessions that passed data in the end.
    pub passing: usize,
    /// Sessions that the relay has in the end.
    pub restored: Option<u64>,
    /// Messages of handshakes that it has seen since it is back.
    pub handshakes: Option<u64>,
}

/// Measures and prints.
pub fn run(args: &RestartArgs) -> Result<()> {
    let progress = Progress::stderr();
    packages::ensure(&progress)?;
    let state = State::open_named("peerrelay-bench")?;
    let lock = state.lock()?;
    let programs = Programs::build(&[Kernel, Socket, Go], &progress)?;
    system::raise_descriptor_limit()?;
    let legacy = Legacy::make(&state)?;
    let mut bench = Bench {
        programs: &programs,
        legacy: &legacy,
        clients: ClientFactory::by_clock(),
    };
    let _topology = Topology::create(&[Kernel, Socket, Go])?;
    let mut results = RestartResults {
        conditions: conditions::read()?,
        rows: Vec::new(),
    };
    for (implementation, event) in [
        (Kernel, Event::Killed(args.seconds)),
        (Kernel, Event::Replaced),
        (Socket, Event::Replaced),
        (Socket, Event::Killed(SHORT)),
        (Go, Event::Killed(SHORT)),
    ] {
        let row = format!("{implementation}, {event}");
        if !row.contains(&args.rows) {
            continue;
        }
        progress.line(row);
        results.rows.push(bench.row(implementation, event)?);
    }
    drop(lock);
    args.output.write(&results, &report::table(&results), || {
        docs::put(docs::RESTART, &report::markdown(&results))
    })
}

struct Bench<'a> {
    programs: &'a Programs,
    legacy: &'a Legacy,
    clients: ClientFactory,
}

impl Bench<'_> {
    fn row(&mut self, implementation: Implementation, event: Event) -> Result<RestartRow> {
        self.legacy.forget(implementation);
        let mut server = self.start(implementation)?;
        let mut prepared =
            Prepared::new(implementation, &CASE, Some(&mut server), &mut self.clients)?;
        let Prepared {
            flows, receivers, ..
        } = &mut prepared;
        // The last relay goes on until everything has arrived.
        let (delivery, _, mut next) = paced::run(flows, receivers, RATE, |_| {
            signals::pause(BEFORE)?;
            let next = match event {
                Event::Killed(away) => {
                    server.relay.kill()?;
                    signals::pause(Duration::from_secs(away))?;
                    self.start(implementation)?
                }
                Event::Replaced => {
                    let next = self.start(implementation)?;
                    drop(server);
                    next
                }
            };
            signals::pause(AFTER)?;
            Ok(next)
        })?;
        let count = next.count()?;
        Ok(RestartRow {
            implementation,
            event,
            sessions: CASE.sessions,
            rate: RATE,
            sent: delivery.sent,
            lost: delivery.lost,
            longest_gap_ms: delivery.longest_gap.as_secs_f64() * 1e3,
            passing: delivery.sessions,
            restored: count.map(|count| count.sessions),
            handshakes: count.map(|count| count.handshakes),
        })
    }

    fn start(&self, implementation: Implementation) -> Result<Server> {
        let arguments = self.legacy.arguments(implementation);
        Server::start_with(implementation, self.programs, PORT, &arguments)
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Killed(away) => write!(f, "killed, away for {away} s"),
            Self::Replaced => f.write_str("replaced by another"),
        }
    }
}
