//! `cargo dev demo`: from nothing to a relayed packet, for people to watch.

use std::time::Instant;

use anyhow::{Result, bail};
use rig::{
    Rig,
    build::Profile,
    deployment::{Deployment, Route},
    progress::Progress,
    signals,
    wait::Wait,
};
use serde_json::json;

use crate::scenarios::{self, carried};

/// The arguments of the demo.
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Take everything down at the end; for scripts
    #[arg(long)]
    once: bool,
}

const PEER_RELAY: &str = "edge";
/// Wait until the clients have the path that the demo shows.
const PATH: Wait = Wait::new(30, 60);
const BYTES: u64 = 50_000_000;

/// Shows the product on a rig of its own.
pub fn run(args: &DemoArgs) -> Result<()> {
    let progress = Progress::stderr();
    progress.line("native: a real Kubernetes cluster and a real tailnet on this machine");
    let rig = Rig::up(Profile::Dev, &progress)?;
    let shown = show(&rig, &progress);
    if args.once || shown.is_err() {
        signals::acknowledge();
        rig.down(&progress)?;
    }
    let path = shown?;
    if args.once {
        println!("demo: ok {path}");
        return Ok(());
    }
    println!(
        "\nIt stays up. Look around:\n  \
         cargo dev shell                      # kubectl get peerrelays,relaynodes,pods -A\n  \
         cargo dev shell c1 -- tailscale status\n  \
         cargo dev shell c1 -- tailscale ping c2\n  \
         cargo dev down                       # removes everything"
    );
    Ok(())
}

fn show(rig: &Rig, progress: &Progress) -> Result<String> {
    progress.line("helm install peerrelay-operator charts/peerrelay-operator");
    let deployment = Deployment::install(rig)?;
    deployment.write_secret(&rig.tailnet.auth_key()?)?;
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    deployment.delete(PEER_RELAY)?;
    let is_derp = |route: &Route| *route == Route::Derp;
    let (before, _) = deployment.wait_route(c1, c2, is_derp, PATH)?;
    progress.line(format_args!(
        "c1 and c2 cannot reach each other directly: they talk by {before}"
    ));

    say("kubectl apply -f peerrelay.yaml");
    let start = Instant::now();
    deployment.apply(PEER_RELAY, &json!({}))?;
    let is_relay = |route: &Route| matches!(route, Route::Relay(_));
    let (route, _) = deployment.wait_route(c1, c2, is_relay, PATH)?;
    let seconds = start.elapsed().as_secs_f64();
    progress.line(format_args!(
        "c1 and c2 talk by {route}, {seconds:.1} s after kubectl apply"
    ));
    deployment.wait_ready(PEER_RELAY)?;
    let list = ["get", "peerrelays,relaynodes", "-n", "relays"];
    say("kubectl get peerrelays,relaynodes -n relays");
    print!("{}", rig.kubectl(list)?);
    say("tailscale ping c2                    # on c1");
    print!(
        "{}",
        c1.tailscale(["ping", "--until-direct=false", "--c=3", "c2"])?
    );

    say("50 MB over TCP from c1 to c2, through the tunnel");
    scenarios::relayed(&deployment)?;
    let start = Instant::now();
    let sent = carried::transfer(&deployment, BYTES)?;
    let seconds = start.elapsed().as_secs_f64();
    progress.line(format_args!("{sent}; it took {seconds:.1} s"));

    say("tailscale status                     # on c1");
    let status = c1.tailscale(["status"])?;
    print!("{status}");
    let path = status.lines().find_map(|line| {
        let path = line.split_once("active; peer-relay ")?.1;
        Some(path.split([' ', ',']).next().unwrap_or(path).to_owned())
    });
    match path {
        Some(path) => Ok(format!("c1 -> c2 active; peer-relay {path}")),
        None => bail!("tailscale status shows no peer-relay path"),
    }
}

fn say(command: &str) {
    println!("\n$ {command}");
}
