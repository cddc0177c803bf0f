//! Command line of `peerrelay`, with a subcommand for each role.

mod about;
mod check;
mod cluster;
mod collect;
mod drain;
mod failure;
mod firewall;
mod grants;
mod import;
mod input;
mod manifests;
mod operator;
mod output;
mod reader;
#[cfg(feature = "relay")]
mod relay;
mod report;
#[cfg(feature = "relay")]
mod sessions;
#[cfg(feature = "relay")]
mod state;
mod status;
mod table;
mod usage;
mod validate;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::{
    about::{CompletionArgs, ManArgs},
    check::CheckArgs,
    drain::{DrainArgs, UndrainArgs},
    firewall::FirewallArgs,
    grants::GrantsArgs,
    import::ImportArgs,
    operator::OperatorArgs,
    output::{OutputError, print_error},
    report::ReportArgs,
    status::StatusArgs,
    validate::ValidateArgs,
};
#[cfg(feature = "relay")]
use self::{relay::RelayArgs, sessions::SessionsArgs, state::PrepareStateArgs};
use crate::logging::InvalidLog;

/// Version of the program, with commit, profile and target of the build.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("PEERRELAY_BUILD"),
    ")"
);

/// Tailscale peer relays on your own Kubernetes nodes.
#[derive(Parser)]
#[command(version = VERSION, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Logs go to standard error. PEERRELAY_LOG sets the log level, such as 'debug' \
    or 'peerrelay=debug,warn'. PEERRELAY_LOG_FORMAT=json writes JSON lines."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a relay: join a tailnet and forward packets between clients that the policy allows
    #[cfg(feature = "relay")]
    Relay(Box<RelayArgs>),
    /// List the sessions of the relay on this host
    #[cfg(feature = "relay")]
    Sessions(SessionsArgs),
    /// Check an installation: name what is wrong, and how to mend it
    Check(CheckArgs),
    /// Show PeerRelays and their relays
    Status(StatusArgs),
    /// Take the relays off a node, for its maintenance
    Drain(DrainArgs),
    /// Allow relays on a node again
    Undrain(UndrainArgs),
    /// Print the state of an installation without secrets, for a bug report
    Report(ReportArgs),
    /// Run the operator, which creates relays for every PeerRelay of the cluster
    Operator(Box<OperatorArgs>),
    /// Print the custom resource definitions, for kubectl apply --server-side -f -
    Crd,
    /// Check PeerRelays in files as the API server and the operator do
    Validate(ValidateArgs),
    /// Print the tailnet policy for PeerRelays in files
    Grants(GrantsArgs),
    /// Print the firewall rules for PeerRelays in files
    Firewall(FirewallArgs),
    /// Convert relays of Tailscale's operator, or hosts that are relays, to PeerRelays
    Import(ImportArgs),
    /// Print the version, with commit, profile and target of the build
    Version,
    /// Print a script with which a shell completes commands and flags
    Completion(CompletionArgs),
    /// Print a manual page for man -l -
    #[command(hide = true)]
    Man(ManArgs),
    /// Sleep until a signal arrives: the sandbox process of a pod
    #[command(hide = true)]
    Pause,
    /// Prepare the state directory for the user of the relay, then exit
    #[cfg(feature = "relay")]
    #[command(hide = true)]
    PrepareState(PrepareStateArgs),
}

/// Exit code for incorrect usage.
const USAGE: u8 = 2;

/// Parses the command line and runs the command. If it fails, one line on standard error says why
/// and how to fix it. If standard output is closed before everything is written, the command ends
/// quietly with an exit code of its own.
pub fn run() -> ExitCode {
    let error = match run_command() {
        Ok(code) => return code,
        Err(error) => error,
    };
    if matches!(error.downcast_ref(), Some(OutputError::Closed)) {
        return ExitCode::from(output::CLOSED);
    }
    print_error(format_args!("Error: {}", failure::line(&error)));
    if error.is::<InvalidLog>() {
        return ExitCode::from(USAGE);
    }
    #[cfg(feature = "relay")]
    if state::is_unusable(&error) {
        return ExitCode::from(crate::names::STATE_DIRECTORY_UNUSABLE);
    }
    ExitCode::FAILURE
}

fn run_command() -> anyhow::Result<ExitCode> {
    let matches = usage::parse(Cli::command());
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    crate::logging::start()?;
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("nothing has installed another provider before");
    let ended: anyhow::Result<()> = match cli.command {
        #[cfg(feature = "relay")]
        Command::Relay(args) => block_on(crate::relay::run(move || args.options())),
        Command::Operator(args) => block_on(crate::operator::run(args.options()?)),
        #[cfg(feature = "relay")]
        Command::Sessions(args) => args.run(),
        Command::Crd => Ok(output::print(&crate::crd::to_yaml())?),
        Command::Validate(args) => args.run(),
        Command::Grants(args) => return args.run(),
        Command::Firewall(args) => args.run(),
        Command::Import(args) => block_on(args.run()),
        Command::Check(args) => return block_on(args.run()),
        Command::Status(args) => return block_on(args.run()),
        Command::Drain(args) => block_on(args.run()),
        Command::Undrain(args) => block_on(args.run()),
        Command::Report(args) => block_on(args.run()),
        Command::Version => about::version(),
        Command::Completion(args) => args.run(),
        Command::Man(args) => args.run(),
        Command::Pause => block_on(pause()),
        #[cfg(feature = "relay")]
        Command::PrepareState(args) => args.run(),
    };
    ended.map(|()| ExitCode::SUCCESS)
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // Two threads, because one may be busy with cryptography or a large network map.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(work);
    // Name resolution may hang in a thread that cannot be stopped.
    runtime.shutdown_background();
    result
}

async fn pause() -> anyhow::Result<()> {
    crate::supervisor::Supervisor::new()?
        .run(async {}, std::time::Duration::ZERO)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_names_what_was_built_and_how() {
        let target = format!("build for {}-", std::env::consts::ARCH);
        assert!(VERSION.starts_with(env!("CARGO_PKG_VERSION")), "{VERSION}");
        assert!(VERSION.contains(&target), "{VERSION}");
        assert!(VERSION.ends_with(')'), "{VERSION}");
    }
}
