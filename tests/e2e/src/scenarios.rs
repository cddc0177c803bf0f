//! The scenarios: each shows that a sentence holds on a real cluster and tailnet.

mod access_control;
mod admission;
mod api;
pub(crate) mod carried;
mod changes;
mod chart;
mod check;
mod clients;
mod control;
mod data_path;
mod derp;
mod endpoints;
mod exposure;
mod faults;
mod gitops;
mod grants;
mod headscale;
pub(crate) mod held;
mod hostile;
mod isolation;
mod links;
mod manifests;
mod migration;
mod monitoring;
mod network_policies;
mod networks;
mod nodes;
mod oauth;
mod operator;
mod paths;
mod placement;
mod policy_file;
mod quota;
mod reasons;
mod refusals;
mod regions;
pub(crate) mod restarts;
mod revoked;
mod rights;
mod secrets;
mod skew;
mod standalone;
mod status;
mod tailnet_lock;
mod transitions;
mod underlay;
mod withdrawal;

use std::{env, time::Duration};

use anyhow::Result;
use rig::{
    deployment::{Deployment, Route},
    tailnet::{DEFAULT_POLICY, DERP_REGIONS},
    wait::Wait,
};
use serde_json::json;

/// Name of the PeerRelay that scenarios share.
pub(crate) const EDGE: &str = "edge";
/// Wait for the effect of a change on clients that search for paths at that moment.
const THIRTY: Wait = Wait::new(15, 30);
/// Wait until both clients find a relay that is ready. Stock clients look every 30 s
/// (`discoverUDPRelayPathsInterval` in magicsock), and not while a handshake with a relay that is gone lasts,
/// which is another 30 s at most (`maxHandshakeLifetime`). They leave a path that ended after 6.5 s.
const SEARCH: Wait = Wait::new(45, 75);

/// Longest round trip over TCP on a path that ends without notice. Clients send by DERP as well 6.5 s after
/// the last pong; TCP may have sent again just before, and waits twice as long each time.
const FALLBACK: Duration = Duration::from_secs(15);

/// A sentence, and the function that shows that it holds.
pub struct Scenario {
    /// The sentence that the scenario shows to hold.
    pub name: &'static str,
    /// Runs the scenario, and returns a summary for the report.
    pub run: fn(&Deployment<'_>) -> Result<String>,
}

/// All scenarios, in an order that needs few changes between them.
pub fn all() -> Vec<Scenario> {
    let groups = [
        paths::scenarios(),
        clients::scenarios(),
        data_path::scenarios(),
        access_control::scenarios(),
        endpoints::scenarios(),
        underlay::scenarios(),
        links::scenarios(),
        networks::scenarios(),
        derp::scenarios(),
        control::scenarios(),
        hostile::scenarios(),
        secrets::scenarios(),
        oauth::scenarios(),
        reasons::scenarios(),
        check::scenarios(),
        refusals::scenarios(),
        grants::scenarios(),
        policy_file::scenarios(),
        revoked::scenarios(),
        tailnet_lock::scenarios(),
        api::scenarios(),
        admission::scenarios(),
        manifests::scenarios(),
        rights::scenarios(),
        operator::scenarios(),
        chart::scenarios(),
        exposure::scenarios(),
        transitions::scenarios(),
        network_policies::scenarios(),
        regions::scenarios(),
        withdrawal::scenarios(),
        nodes::scenarios(),
        placement::scenarios(),
        quota::scenarios(),
        monitoring::scenarios(),
        faults::scenarios(),
        restarts::scenarios(),
        status::scenarios(),
        changes::scenarios(),
        skew::scenarios(),
        standalone::scenarios(),
        migration::scenarios(),
        headscale::scenarios(),
        gitops::scenarios(),
        chart::closing(),
    ];
    groups.into_iter().flatten().collect()
}

/// The state in which a scenario begins: the smallest PeerRelay is ready, the policy grants c1 and
/// c2, clients cannot reach each other, and no address family is blocked or translated.
pub fn reset(deployment: &Deployment<'_>) -> Result<()> {
    surroundings(deployment)?;
    deployment.apply(EDGE, &json!({}))?;
    deployment.wait_ready(EDGE)
}

/// Brings about the state of [`reset`], without any PeerRelay.
fn vacant(deployment: &Deployment<'_>) -> Result<()> {
    surroundings(deployment)?;
    deployment.delete(EDGE)
}

/// Brings policy, network, control server and Secret into the state in which a scenario begins, whichever one ran
/// before. PeerRelays stay.
pub(crate) fn surroundings(deployment: &Deployment<'_>) -> Result<()> {
    deployment.rig.tailnet.write_policy(DEFAULT_POLICY)?;
    deployment.rig.tailnet.cut_off(false)?;
    deployment.rig.tailnet.require_proxy(false)?;
    deployment.rig.tailnet.end_relay_streams(None)?;
    for region in DERP_REGIONS {
        deployment.rig.tailnet.stall_derp(region, false)?;
    }
    deployment.rig.network.block_clients(true)?;
    for client in ["c1", "c2"] {
        deployment.rig.network.mend(client)?;
        deployment.rig.network.restore_numbers(client)?;
    }
    deployment.rig.network.restore_links()?;
    deployment.rig.network.restore_paths()?;
    deployment.write_secret(&deployment.rig.tailnet.auth_key()?)
}

fn is_relay(route: &Route) -> bool {
    matches!(route, Route::Relay(_))
}

/// The time for which a scenario observes: `short`, or as many minutes as `PEERRELAY_MINUTES` says.
fn observed(short: Duration) -> Duration {
    let minutes = env::var("PEERRELAY_MINUTES").ok();
    let minutes = minutes.and_then(|minutes| minutes.parse::<u64>().ok());
    minutes.map_or(short, |minutes| Duration::from_secs(60 * minutes))
}

/// Waits until c1 and c2 reach each other through relays, and returns the address of the one that c1 uses.
pub(crate) fn relayed(deployment: &Deployment<'_>) -> Result<String> {
    relayed_by(deployment, |_| true)
}

/// Waits until c1 and c2 reach each other through relays whose addresses `is_wanted` accepts, and returns the
/// address of the one that c1 uses. A scenario that needs a particular relay waits for it: for some seconds
/// after a change, clients still have a path through the relay that they used before.
fn relayed_by(deployment: &Deployment<'_>, is_wanted: impl Fn(&str) -> bool) -> Result<String> {
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    let is_path = |route: &Route| matches!(route, Route::Relay(address) if is_wanted(address));
    deployment.wait_route(c2, c1, is_path, SEARCH)?;
    let (route, _) = deployment.wait_route(c1, c2, is_path, SEARCH)?;
    match route {
        Route::Relay(address) => Ok(address),
        other => unreachable!("waited for a relay, not for {other}"),
    }
}
