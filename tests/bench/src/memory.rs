//! Memory of a relay, and what allocations cost it.

use std::time::Duration;

use anyhow::Result;

use super::{
    implementation::{Implementation, Programs},
    row::RelayRow,
    server::Server,
    session::{self, ClientFactory},
    topology::{Family, Side},
};

/// A second relay beside the one that carries load.
const PORT: u16 = 40_001;
/// Sessions between clients of their own.
const SESSIONS: usize = 10_000;
const CHUNK: usize = 500;
/// Clients of the full mesh.
const MESH: usize = 100;

/// Binds sessions at fresh relays.
pub fn measure(
    implementation: Implementation,
    programs: &Programs,
    clients: &mut ClientFactory,
) -> Result<RelayRow> {
    let mut server = Server::start(implementation, programs, PORT)?;
    let idle = server.settled_memory()?;
    // A few at a time: clients need not stay for their sessions to.
    let pairs: Vec<_> = (0..CHUNK).map(|n| [2 * n, 2 * n + 1]).collect();
    let mut used = cpu_time_to_bind(&mut server, clients, 2 * CHUNK, &pairs)?;
    // What starting took, and is given back after the first handshakes, is no session's.
    let first = server.settled_memory()?;
    for _ in 1..SESSIONS / CHUNK {
        used += cpu_time_to_bind(&mut server, clients, 2 * CHUNK, &pairs)?;
    }
    let bound = SESSIONS as f64 / used.as_secs_f64();
    let loaded = server.settled_memory()?;
    let taken = (loaded.rss + loaded.bpf).saturating_sub(first.rss + first.bpf);
    drop(server);

    let mut server = Server::start(implementation, programs, PORT)?;
    let pairs: Vec<_> = (0..MESH)
        .flat_map(|a| (a + 1..MESH).map(move |b| [a, b]))
        .collect();
    let used = cpu_time_to_bind(&mut server, clients, MESH, &pairs)?;
    let mesh = pairs.len() as f64 / used.as_secs_f64();
    Ok(RelayRow {
        idle_rss: Some(idle.rss),
        idle_anonymous: Some(idle.anonymous),
        bpf_memory: (idle.bpf > 0).then_some(loaded.bpf),
        bytes_per_session: Some(taken as f64 / (SESSIONS - CHUNK) as f64),
        bound_per_cpu_second: Some(bound),
        mesh_bound_per_cpu_second: Some(mesh),
        ..RelayRow::new(implementation, "v4", SESSIONS)
    })
}

fn cpu_time_to_bind(
    server: &mut Server,
    clients: &mut ClientFactory,
    count: usize,
    pairs: &[[usize; 2]],
) -> Result<Duration> {
    let sides: Vec<_> = (0..count)
        .map(|n| [(Side::A, Family::V4), (Side::B, Family::V4)][n % 2])
        .collect();
    let mut clients = clients.make(server, &sides)?;
    let before = server.cpu_time()?;
    session::open(server, &mut clients, pairs)?;
    Ok(server.cpu_time()? - before)
}
