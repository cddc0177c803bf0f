//! Networks as the field has them between clients and relays.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rig::{
    deployment::Deployment,
    net::{Impairment, Nat},
};

use super::{
    FALLBACK, SEARCH, Scenario,
    carried::{Counters, STRAY_PERCENT, send, transfer},
    held::Held,
    is_relay, observed, relayed, reset,
    restarts::longest,
};

const PORT: u16 = 7_019;
/// Bytes through the tunnel.
const BULK: u64 = 20_000_000;
/// Time between two moves of a client, and the time for which it moves.
const MOVES: Duration = Duration::from_secs(10);
const MOVING: Duration = Duration::from_secs(20);

pub(super) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "clients behind one NAT with random ports, and behind two NATs in a row, are relayed",
            run: translated,
        },
        Scenario {
            name: "a TCP connection continues while the NAT of a client gives it new ports again and again",
            run: rebound,
        },
        Scenario {
            name: "20 MB arrive unchanged with 1 % loss, duplicates and packets out of order",
            run: impaired,
        },
    ]
}

fn translated(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let network = &deployment.rig.network;
    let mut said = Vec::new();
    for nat in [Nat::Symmetric, Nat::Carrier] {
        network.translate(nat)?;
        let took = anew(deployment)?;
        let sent = transfer(deployment, BULK)?;
        said.push(format!(
            "{nat:?}: relayed after {:.1} s, {sent}",
            took.as_secs_f64()
        ));
    }
    network.restore_paths()?;
    Ok(said.join("; "))
}

/// Starts both clients again, and waits until each reaches the other through a relay; returns the time.
fn anew(deployment: &Deployment<'_>) -> Result<Duration> {
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    for client in [c1, c2] {
        client.stop()?;
        client.start()?;
    }
    let start = Instant::now();
    for (from, to) in [(c1, c2), (c2, c1)] {
        deployment.wait_route(from, to, is_relay, SEARCH)?;
    }
    Ok(start.elapsed())
}

fn rebound(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    relayed(deployment)?;
    let held = Held::open(deployment, PORT)?;
    let (start, time) = (Instant::now(), observed(MOVING));
    let mut moves = 0;
    while start.elapsed() < time {
        deployment.rig.network.renumber("c1")?;
        moves += 1;
        thread::sleep(MOVES);
    }
    let trips = held.finish().context("a TCP connection over the relay")?;
    ensure!(longest(&trips)? < FALLBACK, "{trips}");
    let path = relayed(deployment)?;
    Ok(format!("{moves} moves, {trips}; then {path}"))
}

fn impaired(deployment: &Deployment<'_>) -> Result<String> {
    reset(deployment)?;
    let network = &deployment.rig.network;
    relayed(deployment)?;
    network.impair(&Impairment {
        lost: 1,
        duplicated: 1,
        late: 3,
    })?;
    let before = Counters::read(deployment)?;
    let sent = send(deployment, BULK)?;
    let carried = Counters::read(deployment)?.since(&before);
    let ways = carried.through_relays(BULK, STRAY_PERCENT)?;
    let took = anew(deployment)?;
    let [lost, late, duplicated] = network.impaired_packets()?;
    ensure!(
        lost > 0 && late > 0 && duplicated > 0,
        "{lost} packets were lost, {late} late and {duplicated} duplicated"
    );
    network.restore_paths()?;
    Ok(format!(
        "{sent}: {ways}; {lost} packets lost, {late} late, {duplicated} duplicated; after a restart relayed within {:.1} s",
        took.as_secs_f64()
    ))
}
