//! The commands of `cargo dev`.

use std::{
    env,
    os::unix::process::ExitStatusExt,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail};
use bench::Bench;
use clap::{Parser, Subcommand};
use conformance::{
    compare::{self, CompareArgs},
    maps::{self, MapsArgs},
};
use e2e::{
    demo::{self, DemoArgs},
    suite::{self, TestArgs, share, share::ShareArgs},
    upgrade::{self, UpgradeArgs},
};
use faults::FaultsArgs;
use release::{
    ReleaseArgs,
    image::{self, ImageArgs},
};
use rig::{
    Rig,
    build::Profile,
    command::{program, program_in},
    net,
    probe::Probe,
    progress::Progress,
    signals,
    tools::Tools,
};

use crate::test;

/// A real Kubernetes cluster and a real tailnet on one machine.
#[derive(Debug, Parser)]
#[command(name = "cargo dev", bin_name = "cargo dev")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show the main job: a PeerRelay is applied, and two clients talk through it
    Demo(DemoArgs),
    /// Run every test: cargo's, then the scenarios on a real cluster and tailnet
    Test(TestArgs),
    /// Write docs/tested.md from the outcomes of `test` on this machine
    Tested,
    /// Measure speed and size
    #[command(subcommand)]
    Bench(Bench),
    /// Kill the operator before and after every write, make every request fail, and compare
    Faults(FaultsArgs),
    /// Give generated handshakes to Tailscale's relay and to ours, and compare what they do
    Compare(CompareArgs),
    /// Give generated network maps to Tailscale's code and to ours, and compare who may relay
    Maps(MapsArgs),
    /// Build the container image that is published: OCI layout, archive for docker load, SBOM
    Image(ImageArgs),
    /// Make and check everything that a release publishes
    Release(ReleaseArgs),
    /// Upgrade from an older commit to these sources and back, with a session open
    Upgrade(UpgradeArgs),
    /// Build all programs of others that tests use, so that later runs find them
    Tools,
    /// Bring cluster and tailnet up; import the program again if they are
    Up,
    /// Stop everything and remove it
    Down,
    /// List the processes of the rig and their state
    Status,
    /// Show the log of a part, or which parts have one
    Logs {
        /// A part, as `status` names it
        name: Option<String>,
        /// Go on with what is added
        #[arg(short, long)]
        follow: bool,
    },
    /// Print the path of the kubeconfig; it works inside of `shell`
    Kubeconfig,
    /// Start a shell, or a command, with kubectl, helm and tailscale in PATH
    Shell {
        /// The network namespace, with or without its prefix: cp, ctl, n1, n2, c1, c2, c3
        #[arg(default_value = "cp")]
        namespace: String,
        /// The command; a shell without
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Run scenarios that a process on standard input and output asks for, on a rig beside others
    #[command(hide = true)]
    Share(ShareArgs),
    /// Traffic of tests, run inside of a namespace
    #[command(subcommand, hide = true)]
    Probe(Probe),
}

impl Cli {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self.command {
            Action::Demo(args) => demo::run(&args)?,
            Action::Bench(bench) => bench.run()?,
            Action::Test(args) => return test::run(&args),
            Action::Tested => println!("{}", suite::tested::write_page()?),
            Action::Faults(args) => faults::run(&args)?,
            Action::Compare(args) => compare::run(&args, &Progress::stderr())?,
            Action::Maps(args) => maps::run(&args, &Progress::stderr())?,
            Action::Image(args) => image::run(&args, &Progress::stderr())?,
            Action::Release(args) => release::run(&args, &Progress::stderr())?,
            Action::Upgrade(args) => upgrade::run(&args, &Progress::stderr())?,
            Action::Share(args) => share::run(&args)?,
            Action::Probe(probe) => probe.run()?,
            Action::Tools => Tools::build_all(&Progress::stderr()).map(drop)?,
            Action::Up => up()?,
            Action::Down => Rig::take_down(&Progress::stderr())?,
            Action::Status => return status(),
            Action::Logs { name, follow } => return logs(name.as_deref(), follow),
            Action::Kubeconfig => println!("{}", Rig::attach()?.kubeconfig().display()),
            Action::Shell { namespace, command } => return shell(&namespace, &command),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn up() -> Result<()> {
    let progress = Progress::stderr();
    let rig = Rig::up(Profile::Dev, &progress)?;
    for client in rig.tailnet.clients() {
        let addresses = client.addresses()?.join(" ");
        progress.line(format_args!(
            "client {} has {addresses}",
            client.machine.name
        ));
    }
    progress.line("up; next: cargo dev status, cargo dev shell, cargo dev down");
    Ok(())
}

fn status() -> Result<ExitCode> {
    let parts = Rig::parts()?;
    if parts.is_empty() {
        println!("not up");
        return Ok(ExitCode::FAILURE);
    }
    println!(
        "{:<26} {:<9} {:>7} {:<6} LOG",
        "PART", "NAMESPACE", "PID", "STATE"
    );
    for part in &parts {
        let record = &part.record;
        let state = if part.alive { "runs" } else { "ended" };
        let log = record.log.display();
        println!(
            "{:<26} {:<9} {:>7} {state:<6} {log}",
            record.name, record.namespace, record.pid
        );
    }
    let all = parts.iter().all(|part| part.alive);
    Ok(if all {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn logs(name: Option<&str>, follow: bool) -> Result<ExitCode> {
    let logs = rig::state::State::open()?.path("logs");
    let Some(name) = name else {
        let mut names: Vec<_> = std::fs::read_dir(&logs)
            .context("there are no logs: run `cargo dev up`")?
            .filter_map(|entry| {
                Some(
                    entry
                        .ok()?
                        .path()
                        .file_stem()?
                        .to_string_lossy()
                        .into_owned(),
                )
            })
            .collect();
        names.sort();
        println!("{}", names.join("\n"));
        return Ok(ExitCode::SUCCESS);
    };
    let log = logs.join(format!("{name}.log"));
    if !log.is_file() {
        bail!("there is no log of {name}: `cargo dev logs` lists them");
    }
    let mut show = program(if follow { "tail" } else { "cat" });
    if follow {
        show.args(["-n", "50", "-F"]);
    }
    foreground(show.arg(log))
}

fn shell(namespace: &str, command: &[String]) -> Result<ExitCode> {
    let rig = Rig::attach()?;
    let namespace = net::namespaces()
        .find(|known| *known == namespace || known.strip_prefix("prr-") == Some(namespace))
        .with_context(|| format!("there is no namespace {namespace}"))?;
    let shell = vec![env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into())];
    let words = if command.is_empty() { &shell } else { command };
    let mut path = vec![rig.tools().dir().into()];
    if let Some(client) = rig
        .tailnet
        .clients()
        .iter()
        .find(|c| c.machine.namespace == namespace)
    {
        path.insert(0, client.bin());
    }
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let path = env::join_paths(path)?;
    let mut inside = program_in(namespace, "env");
    inside
        .args(words)
        .env("KUBECONFIG", rig.kubeconfig())
        .env("KUBECACHEDIR", rig.kubectl_cache())
        .env("SSL_CERT_FILE", rig.ca())
        .env("PATH", path);
    foreground(inside.stdin(Stdio::inherit()))
}

/// Runs a program that has the terminal; an interrupt is for it alone.
fn foreground(command: &mut Command) -> Result<ExitCode> {
    let status = command.status().context("failed to start a program")?;
    signals::acknowledge();
    let code = status
        .code()
        .or_else(|| Some(128 + status.signal()?))
        .unwrap_or(1);
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
