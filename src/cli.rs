//! Command line of `peerrelay`, with a subcommand for each role.

mod cluster;
mod firewall;
mod grants;
mod import;
mod input;
mod manifests;
mod operator;
mod output;
#[cfg(feature = "relay")]
mod relay;
#[cfg(feature = "relay")]
mod sessions;
#[cfg(feature = "relay")]
mod state;
mod validate;

use std::{env, net::SocketAddr, path::Path, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use self::{
    firewall::FirewallArgs, grants::GrantsArgs, import::ImportArgs, operator::OperatorArgs,
    output::OutputError, validate::ValidateArgs,
};
#[cfg(feature = "relay")]
use self::{relay::RelayArgs, sessions::SessionsArgs, state::PrepareStateArgs};

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
    /// Sleep until a signal arrives: the sandbox process of a pod
    #[command(hide = true)]
    Pause,
    /// Prepare the state directory for the user of the relay, then exit
    #[cfg(feature = "relay")]
    #[command(hide = true)]
    PrepareState(PrepareStateArgs),
}

/// Parses the command line and runs the command. If standard output is closed before everything is
/// written, the command ends quietly with an exit code of its own.
///
/// # Errors
/// The command failed. The message says why and how to fix it.
pub fn run() -> anyhow::Result<ExitCode> {
    match run_command() {
        Ok(code) => Ok(code),
        Err(error) if matches!(error.downcast_ref(), Some(OutputError::Closed)) => {
            Ok(ExitCode::from(output::CLOSED))
        }
        Err(error) => Err(error),
    }
}

fn run_command() -> anyhow::Result<ExitCode> {
    let cli = parse();
    crate::logging::start();
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
        Command::Pause => block_on(pause()),
        #[cfg(feature = "relay")]
        Command::PrepareState(args) => args.run(),
    };
    ended.map(|()| ExitCode::SUCCESS)
}

/// Parses the command line. As a kubectl plugin, help and errors show the name that users type.
fn parse() -> Cli {
    let mut command = Cli::command();
    let own = env::args_os().next().unwrap_or_default();
    if is_plugin(Path::new(&own)) {
        command = command
            .name("kubectl peer-relay")
            .bin_name("kubectl peer-relay");
    }
    let matches = command.get_matches();
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Returns whether kubectl started this program, judged by the name of the executable.
fn is_plugin(own: &Path) -> bool {
    let name = own.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("kubectl-")
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

fn endpoint(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "expected IP:PORT, such as 203.0.113.10:40000 or [2001:db8::1]:40000".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_names_plugins() {
        assert!(is_plugin(Path::new("/usr/local/bin/kubectl-peer_relay")));
        assert!(!is_plugin(Path::new("/usr/bin/peerrelay")));
        assert!(!is_plugin(Path::new("/usr/bin/kubectl")));
    }

    #[test]
    fn version_names_what_was_built_and_how() {
        let target = format!("build for {}-", std::env::consts::ARCH);
        assert!(VERSION.starts_with(env!("CARGO_PKG_VERSION")), "{VERSION}");
        assert!(VERSION.contains(&target), "{VERSION}");
        assert!(VERSION.ends_with(')'), "{VERSION}");
    }
}
