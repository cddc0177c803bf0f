//! `cargo dev bench relay`: the same load through every implementation, in turns.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use rig::{packages, progress::Progress, state::State};

use super::{
    case::{Case, Prepared, matrix},
    conditions, docs,
    implementation::{Implementation, Programs},
    latency::{self, Latency},
    load::{self, Delivery},
    memory,
    output::Output,
    row::{Conditions, RelayResults, RelayRow},
    server::Server,
    session::ClientFactory,
    statistics::Figure,
    syscalls, system, table,
    topology::{Sink, Topology},
};

/// The relays' port.
pub const PORT: u16 = 40_000;
/// Share of the machine's CPU time that others may take before only processes are counted.
const FOREIGN: f64 = 0.03;

/// The choice of implementations and rows.
#[derive(Debug, clap::Args)]
pub struct RelayArgs {
    /// Fewer and shorter rounds: for a first look
    #[arg(long)]
    quick: bool,
    /// Only rows whose case contains this, such as "64 x", "200 B", "v6", "segments 1" or "memory"
    #[arg(long, value_name = "FILTER")]
    rows: Option<String>,
    /// Only these implementations; direct is always among them
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Also this relay of another commit, as kernel-before and socket-before: the program that
    /// `cargo build --release --example bare_relay` makes there
    #[arg(long, value_name = "PROGRAM", conflicts_with = "update_docs")]
    before: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// The length of rounds and the number that counts.
#[derive(Clone, Copy, Debug)]
struct Rounds {
    rounds: usize,
    warm_up: Duration,
    time: Duration,
}

impl Rounds {
    const fn of(args: &RelayArgs) -> Self {
        let (rounds, warm_up, time) = if args.quick {
            (3, 100, 400)
        } else {
            (7, 200, 1000)
        };
        Self {
            rounds,
            warm_up: Duration::from_millis(warm_up),
            time: Duration::from_millis(time),
        }
    }
}

/// Measures and prints.
pub fn run(args: &RelayArgs) -> Result<()> {
    let progress = Progress::stderr();
    packages::ensure(&progress)?;
    let lock = State::open_named("peerrelay-bench")?.lock()?;
    let wanted = wanted(args)?;
    let programs = Programs::build(&wanted, &progress)?.with_before(args.before.as_deref());
    system::raise_descriptor_limit()?;
    let results = measure(args, &programs, &wanted, &progress)?;
    drop(lock);
    args.output
        .write(&results, &table::of(&results), || docs::update(&results))
}

fn wanted(args: &RelayArgs) -> Result<Vec<Implementation>> {
    let named = |implementation: &Implementation| {
        *implementation == Implementation::Direct
            || args.only.is_empty()
            || args.only.iter().any(|name| name == implementation.name())
    };
    let before: &[_] = match &args.before {
        Some(program) => {
            ensure!(program.is_file(), "{} is not a file", program.display());
            &Implementation::BEFORE
        }
        None => &[],
    };
    let all = [&Implementation::ALL[..], before].concat();
    for name in &args.only {
        let known = all.iter().any(|i| i.name() == name);
        ensure!(known, "there is no implementation {name}: see --help");
    }
    Ok(all.into_iter().filter(named).collect())
}

fn measure(
    args: &RelayArgs,
    programs: &Programs,
    wanted: &[Implementation],
    progress: &Progress,
) -> Result<RelayResults> {
    let _topology = Topology::create(wanted)?;
    let mut bench = Bench {
        rounds: Rounds::of(args),
        servers: Vec::new(),
        clients: ClientFactory::by_clock(),
        implementations: Vec::new(),
        foreign: Vec::new(),
        progress,
    };
    bench.start(programs, wanted);
    let mut results = RelayResults::default();
    let chosen = |text: &str| args.rows.as_ref().is_none_or(|part| text.contains(part));
    for case in matrix().iter().filter(|case| chosen(&case.to_string())) {
        progress.line(case);
        results.rows.extend(bench.case(case)?);
    }
    if chosen("memory") {
        for server in &bench.servers {
            let implementation = server.implementation;
            progress.line(format_args!("memory and allocations, {implementation}"));
            let row = memory::measure(implementation, programs, &mut bench.clients)?;
            results.rows.push(row);
        }
    }
    results.conditions = Conditions {
        rounds: (bench.rounds.rounds - 1, bench.rounds.time.as_secs_f64()),
        ..conditions::read()?
    };
    bench.finish(&mut results);
    Ok(results)
}

struct Bench<'a> {
    rounds: Rounds,
    servers: Vec<Server>,
    clients: ClientFactory,
    implementations: Vec<Implementation>,
    /// Share of the machine's CPU time that others took, of every round.
    foreign: Vec<f64>,
    progress: &'a Progress,
}

impl Bench<'_> {
    /// Starts the relays; one that does not start here is not measured.
    fn start(&mut self, programs: &Programs, wanted: &[Implementation]) {
        for implementation in wanted {
            if implementation.is_relay() {
                match Server::start(*implementation, programs, PORT) {
                    Ok(server) => self.servers.push(server),
                    Err(error) => {
                        let progress = self.progress;
                        progress.line(format_args!("no {implementation} rows: {error:#}"));
                        continue;
                    }
                }
            }
            self.implementations.push(*implementation);
        }
    }

    fn case(&mut self, case: &Case) -> Result<Vec<RelayRow>> {
        let mut prepared = Vec::new();
        for implementation in &self.implementations {
            if case.suits(*implementation) {
                let mut servers = self.servers.iter_mut();
                let server = servers.find(|server| server.implementation == *implementation);
                let ready = Prepared::new(*implementation, case, server, &mut self.clients);
                prepared.push(ready.with_context(|| format!("{implementation}, {case}"))?);
            }
        }
        let latencies = if case.latency {
            self.latencies(&mut prepared)?
        } else {
            Vec::new()
        };
        let deliveries = self.deliveries(&prepared, case)?;
        let mut rows = Vec::new();
        for (index, ready) in prepared.iter().enumerate() {
            let mut row = row(ready.implementation, case, &deliveries[index]);
            if let Some(latencies) = latencies.get(index) {
                row.p50_us = Figure::of(latencies.iter().map(|l| l.p50)).map(|f| f.median);
                row.p99_us = Figure::of(latencies.iter().map(|l| l.p99)).map(|f| f.median);
            }
            let mut servers = self.servers.iter();
            let server = servers.find(|server| server.implementation == ready.implementation);
            if let Some(server) = server {
                row.syscalls_per_packet =
                    syscalls::per_packet(server.pid()?, ready, case, self.rounds.time)?;
            }
            rows.push(row);
        }
        Ok(rows)
    }

    /// Latencies by implementation, of every round that counts.
    fn latencies(&self, prepared: &mut [Prepared]) -> Result<Vec<Vec<Latency>>> {
        let mut all = vec![Vec::new(); prepared.len()];
        for round in 0..self.rounds.rounds {
            for index in turns(prepared.len(), round) {
                let Prepared {
                    flows, receivers, ..
                } = &mut prepared[index];
                let latency = latency::run(flows, receivers, self.rounds.time)?;
                if round > 0 {
                    all[index].push(latency);
                }
            }
        }
        Ok(all)
    }

    /// Deliveries by implementation, of every round that counts.
    fn deliveries(&mut self, prepared: &[Prepared], case: &Case) -> Result<Vec<Vec<Delivery>>> {
        let _sink = Sink::open(&self.implementations)?;
        let mut all = vec![Vec::new(); prepared.len()];
        for round in 0..self.rounds.rounds {
            for index in turns(prepared.len(), round) {
                let ready = &prepared[index];
                let (warm_up, time) = (self.rounds.warm_up, self.rounds.time);
                let delivery = load::run(
                    &ready.flows,
                    case.size,
                    &ready.arrivals,
                    &ready.cpu,
                    warm_up,
                    time,
                )?;
                ensure!(
                    delivery.datagrams > 0,
                    "nothing arrived through {}, {case}",
                    ready.implementation
                );
                if round > 0 {
                    let used = delivery.used;
                    let own = used.participants.as_secs_f64() / used.machine.as_secs_f64();
                    self.foreign.push((1.0 - own).max(0.0));
                    all[index].push(delivery);
                }
            }
        }
        Ok(all)
    }

    /// Decides whose CPU time counts, and takes the direct path's from everyone else's.
    fn finish(&self, results: &mut RelayResults) {
        let foreign = Figure::of(self.foreign.iter().copied()).unwrap_or_default();
        results.conditions.foreign_cpu = foreign.median;
        results.conditions.cpu = match foreign.median > FOREIGN {
            true => "processes",
            false => "machine",
        }
        .into();
        let conditions = results.conditions.clone();
        let direct: Vec<_> = results
            .rows
            .iter()
            .filter(|row| row.implementation == Implementation::Direct)
            .cloned()
            .collect();
        for row in &mut results.rows {
            let same = |other: &&RelayRow| {
                (&other.path, other.sessions, other.size, other.segments)
                    == (&row.path, row.sessions, row.size, row.segments)
            };
            let base = direct
                .iter()
                .find(same)
                .and_then(|row| row.cpu(&conditions));
            if let (Some(own), Some(base)) = (row.cpu(&conditions), base)
                && row.implementation != Implementation::Direct
            {
                row.relay_cost_us_per_packet = Some(own - base);
            }
        }
    }
}

/// Everyone once, from another one on in each round.
fn turns(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |index| (index + round) % count)
}

fn row(implementation: Implementation, case: &Case, deliveries: &[Delivery]) -> RelayRow {
    let figure = |of: &dyn Fn(&Delivery) -> f64| Figure::of(deliveries.iter().map(of));
    let datagrams = |d: &Delivery| d.datagrams.max(1) as f64;
    let pps = figure(&|d| datagrams(d) / d.used.time.as_secs_f64());
    let machine = figure(&|d| d.used.machine.as_secs_f64() * 1e6 / datagrams(d));
    let own = figure(&|d| d.used.participants.as_secs_f64() * 1e6 / datagrams(d));
    let median = |figure: Option<Figure>| figure.map(|figure| figure.median);
    RelayRow {
        size: Some(case.size),
        segments: Some(case.segments),
        delivered_pps: median(pps),
        delivered_gbps: median(pps).map(|pps| pps * case.size as f64 * 8.0 / 1e9),
        machine_cpu_us_per_packet: median(machine),
        process_cpu_us_per_packet: median(own),
        noise: own.map(|figure| figure.noise()),
        lost: median(figure(&|d| d.lost as f64 / (d.lost as f64 + datagrams(d)))),
        datagrams_per_buffer: median(figure(&|d| datagrams(d) / d.buffers.max(1) as f64)),
        ..RelayRow::new(implementation, case.path(), case.sessions)
    }
}
