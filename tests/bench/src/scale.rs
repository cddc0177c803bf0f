//! `cargo dev bench scale`: speed with a thousand sessions and with a million, on the real data path.

pub mod report;

use std::{io, net::UdpSocket, time::Duration};

use anyhow::{Context, Result};
use relay_proto::Vni;
use rig::{packages, progress::Progress, state::State};
use serde::{Deserialize, Serialize};

use super::{
    conditions,
    cpu::Cpu,
    docs,
    implementation::{
        Implementation::{self, Kernel, Socket},
        Programs,
    },
    load::{self, Arrivals, Delivery, Source},
    output::Output,
    relay::PORT,
    row::Conditions,
    server::Server,
    session::{self, Client, ClientFactory, Session},
    statistics::Figure,
    system,
    topology::{Family, Link, Side, Sink, Topology},
};

/// Sessions that a run with all of them is compared with.
const FEW: usize = 1_000;
/// Bytes of each datagram's payload, Geneve header included.
const SIZE: usize = 200;
/// Number of sessions after which a line of progress is printed.
const PART: usize = 100_000;
/// Rounds, of which the first does not count, and how long they are.
const ROUNDS: usize = 4;
const WARM_UP: Duration = Duration::from_millis(500);
const TIME: Duration = Duration::from_secs(3);
/// Sessions that were bound first shall live until the last one is, in seconds.
const LIFETIME: &str = "--lifetime=36000";

/// The numbers of sessions to measure.
#[derive(Debug, clap::Args)]
pub struct ScaleArgs {
    /// Sessions, each bound by two handshakes
    #[arg(long, value_name = "NUMBER", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=1_048_576))]
    sessions: u32,
    #[command(flatten)]
    output: Output,
}

/// The results of a run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct ScaleResults {
    /// The conditions of the run.
    pub conditions: Conditions,
    /// Two for each relay: few sessions, and all.
    pub rows: Vec<ScaleRow>,
}

/// The result of a relay with so many of its sessions in use.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ScaleRow {
    /// The relay that was measured.
    #[serde(rename = "impl")]
    pub implementation: Implementation,
    /// Sessions that took turns.
    pub sessions: usize,
    /// Datagrams that arrived in a second.
    pub delivered_pps: f64,
    /// CPU time of the whole machine for each, in microseconds.
    pub cpu_us: f64,
    /// The deviation of the rounds from the median, as a fraction.
    pub noise: f64,
    /// Memory of each session, resident and in BPF maps, in bytes; where all are in use.
    pub bytes_per_session: Option<f64>,
}

/// Measures and prints.
pub fn run(args: &ScaleArgs) -> Result<()> {
    let progress = Progress::stderr();
    packages::ensure(&progress)?;
    let lock = State::open_named("peerrelay-bench")?.lock()?;
    let programs = Programs::build(&[Kernel, Socket], &progress)?;
    system::raise_descriptor_limit()?;
    let mut results = ScaleResults {
        conditions: conditions::read()?,
        rows: Vec::new(),
    };
    for implementation in [Kernel, Socket] {
        let sessions = args.sessions as usize;
        let rows = measure(implementation, &programs, sessions, &progress)?;
        results.rows.extend(rows);
    }
    drop(lock);
    args.output.write(&results, &report::table(&results), || {
        docs::put(docs::SCALE, &report::markdown(&results))
    })
}

fn measure(
    implementation: Implementation,
    programs: &Programs,
    count: usize,
    progress: &Progress,
) -> Result<Vec<ScaleRow>> {
    let _topology = Topology::create(&[implementation])?;
    let mut server = Server::start_with(implementation, programs, PORT, &[LIFETIME.into()])?;
    let idle = server.settled_memory()?;
    // Each client on one side has a session with each on the other.
    let width = (1..).find(|n| n * n >= count).context("there is one")?;
    let sides: Vec<_> = [Side::A, Side::B]
        .into_iter()
        .flat_map(|side| (0..width).map(move |_| (side, Family::V4)))
        .collect();
    let mut clients = ClientFactory::by_clock().make(&server, &sides)?;
    let pairs: Vec<_> = (0..count).map(|n| [n % width, width + n / width]).collect();
    let mut sessions = Vec::with_capacity(count);
    for part in pairs.chunks(PART) {
        progress.line(format_args!(
            "{implementation}, {} sessions",
            sessions.len()
        ));
        sessions.extend(session::open(&mut server, &mut clients, part)?);
    }
    let loaded = server.settled_memory()?;
    let taken = (loaded.rss + loaded.bpf).saturating_sub(idle.rss + idle.bpf);

    // No order that a cache could learn.
    sessions.sort_by_key(|session| session.vni.number().wrapping_mul(0x9e37_79b1));
    let mut crowds = [FEW, count].map(|count| Crowd::new(&clients, &sessions[..count]));
    for client in &clients {
        client.socket.connect(client.relay)?;
    }
    let arrivals = Arrivals::of(Link::of(implementation), Family::V4, SIZE)?;
    let cpu = Cpu::new(Some(server.pid()?))?;
    let _sink = Sink::open(&[implementation])?;
    let mut deliveries = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for (crowd, deliveries) in crowds.iter_mut().zip(&mut deliveries) {
            progress.line(format_args!(
                "{implementation}, round {round} with {} sessions",
                crowd.sessions.len()
            ));
            let delivery = load::run_from(crowd, SIZE, &arrivals, &cpu, WARM_UP, TIME)?;
            if round > 0 {
                deliveries.push(delivery);
            }
        }
    }
    let rows = crowds.iter().zip(&deliveries);
    let rows = rows.map(|(crowd, deliveries)| {
        let sessions = crowd.sessions.len();
        let bytes = (sessions == count).then(|| taken as f64 / count as f64);
        row(implementation, sessions, bytes, deliveries)
    });
    Ok(rows.collect())
}

fn row(
    implementation: Implementation,
    sessions: usize,
    bytes_per_session: Option<f64>,
    deliveries: &[Delivery],
) -> ScaleRow {
    let figure =
        |of: &dyn Fn(&Delivery) -> f64| Figure::of(deliveries.iter().map(of)).unwrap_or_default();
    let datagrams = |d: &Delivery| d.datagrams.max(1) as f64;
    let cpu = figure(&|d| d.used.machine.as_secs_f64() * 1e6 / datagrams(d));
    ScaleRow {
        implementation,
        sessions,
        delivered_pps: figure(&|d| datagrams(d) / d.used.time.as_secs_f64()).median,
        cpu_us: cpu.median,
        noise: cpu.noise(),
        bytes_per_session,
    }
}

/// Sessions that take turns: too many for a socket and a buffer each.
struct Crowd<'a> {
    clients: &'a [Client],
    sessions: Vec<(u32, Vni)>,
    datagram: Vec<u8>,
    next: usize,
}

impl<'a> Crowd<'a> {
    fn new(clients: &'a [Client], sessions: &[Session]) -> Self {
        let sessions = sessions.iter().map(|s| (s.clients[0] as u32, s.vni));
        let sessions: Vec<_> = sessions.collect();
        Self {
            clients,
            datagram: Client::datagram(sessions[0].1, SIZE),
            sessions,
            next: 0,
        }
    }
}

impl Source for Crowd<'_> {
    fn send(&mut self) -> io::Result<u64> {
        let (client, vni) = self.sessions[self.next];
        self.next = (self.next + 1) % self.sessions.len();
        self.datagram[4..7].copy_from_slice(&vni.number().to_be_bytes()[1..]);
        let socket: &UdpSocket = &self.clients[client as usize].socket;
        socket.send(&self.datagram).map(|_| 1)
    }
}
