//! The data path of a relay without a tailnet, for measurements: `cargo dev bench relay`.
//!
//! Allocation requests come on standard input instead of over DERP, as hexadecimal lines that hold
//! the sealed frame; each is answered by one line, which is empty when the relay is silent. The
//! sender of a frame counts as a tailnet node that the policy allows. The line `count` is answered
//! by the number of open sessions and that of handshake messages answered. It prints `ready`, the
//! disco key to seal requests for, and the port; it ends with its standard input, or when another
//! takes over from it.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process,
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use futures::{StreamExt, stream};
use peerrelay::relay::{
    kernel::{self, Attachment, KernelOptions, KernelPath, PathState, UnavailableReason},
    persistence::{HandoverListener, SealKey, SessionFile, Successor},
    socket_path::{
        self, PortState, RestoredState, SocketPathHandle, SocketPathOptions, SocketSets,
    },
};
use rand::Rng;
use relay_proto::{Config, DiscoSecret, Keys, NodeKey, Peer, disco::Frame};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// Requests that wait for their answer at the same time.
const IN_FLIGHT: usize = 64;
/// How long the kernel goes on forwarding for the process that takes over.
const LEFT: Duration = Duration::from_secs(15);

#[derive(Parser)]
struct Args {
    /// UDP port
    #[arg(long)]
    port: u16,
    /// Address to advertise; may be repeated
    #[arg(long = "address")]
    addresses: Vec<SocketAddr>,
    /// How datagrams are forwarded
    #[arg(long, value_enum, default_value = "socket")]
    data_path: DataPath,
    /// Threads of the data path
    #[arg(long, default_value_t = socket_path::default_threads())]
    threads: usize,
    /// Sessions in total
    #[arg(long, default_value_t = 1 << 20)]
    max_sessions: usize,
    /// Sessions of one node; all of them without
    #[arg(long)]
    max_sessions_per_node: Option<usize>,
    /// Seconds after which a session ends whose clients are silent
    #[arg(long, default_value_t = 300)]
    lifetime: u64,
    /// Private directory in which sessions wait for the next process, and are handed over to it
    #[arg(long)]
    sessions: Option<PathBuf>,
    /// Directory of a BPF file system in which the kernel's program outlives this process
    #[arg(long)]
    pins: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum DataPath {
    Socket,
    Kernel,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    keep_capabilities_of_relays().context("failed to drop capabilities")?;
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(tracing::Level::WARN)
        .init();
    runtime()?.block_on(run(args))
}

/// Those that a relay's pod has, and no more: the kernel makes programs slower, against speculative
/// execution, whose process has not CAP_PERFMON.
fn keep_capabilities_of_relays() -> io::Result<()> {
    let kept = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
    let own = capabilities(None)?;
    let sets = CapabilitySets {
        effective: own.effective & kept,
        permitted: own.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

async fn run(args: Args) -> anyhow::Result<()> {
    let config = Config {
        steady_lifetime: Duration::from_secs(args.lifetime),
        max_sessions: args.max_sessions,
        max_sessions_per_node: args.max_sessions_per_node.unwrap_or(args.max_sessions),
        ..Config::default()
    };
    let kernel = match args.data_path {
        DataPath::Socket => None,
        DataPath::Kernel => Some(kernel::start(KernelOptions {
            pins: args.pins,
            attachment: Attachment::of(args.port),
            ..KernelOptions::new(&config)
        })?),
    };
    // Whoever has the directory is the same relay.
    let seal = SealKey::new(&[0; 32], args.port);
    let (restored_state, sockets) = match &args.sessions {
        Some(dir) => inherit(dir, &seal).await?,
        None => (None, SocketSets::default()),
    };
    let keys = match &restored_state {
        Some(restored_state) => restored_state.state.keys.clone(),
        None => Keys {
            node: DiscoSecret::from_bytes(rand::rng().random()),
            server: DiscoSecret::from_bytes(rand::rng().random()),
        },
    };
    let key = keys.node.public();
    let options = SocketPathOptions {
        port: args.port,
        threads: args.threads,
        config,
        keys,
        seed: rand::rng().random(),
        first_lamport: 1,
        kernel: kernel.clone(),
        restored_state,
        sockets,
    };
    let (handle, driver) = socket_path::spawn(options)?;
    // On a thread of its own, because this one waits for its input.
    let driver = thread::spawn(move || Ok(runtime()?.block_on(driver.run())?));
    handle.set_addresses(args.addresses);
    let port = bound(&handle).await?;
    if let Some(kernel) = &kernel {
        kernel.set_port(Some(port));
        let mut state = kernel.state();
        let ready = |state: &PathState| match &state.0 {
            Err(error) => error.reason != UnavailableReason::Starting,
            Ok(_) => true,
        };
        state.wait_for(ready).await?.0.clone()?;
    }
    if let Some(dir) = args.sessions {
        survive(dir, seal, &handle, kernel.as_ref())?;
    }
    println!("ready {} {port}", hex::encode(key.0));
    serve(&handle).await?;
    handle.stop();
    if let Some(kernel) = kernel {
        kernel.stop(None);
    }
    let ended: anyhow::Result<()> = driver.join().expect("the driver does not panic");
    ended.context("the data path broke")
}

/// What the relay that runs with this directory hands over, or one before has left.
async fn inherit(
    dir: &Path,
    seal: &SealKey,
) -> anyhow::Result<(Option<RestoredState>, SocketSets)> {
    let Some(successor) = Successor::request(dir).await else {
        let file = SessionFile::new(dir, seal.clone())?;
        return Ok((file.read(), SocketSets::default()));
    };
    let handed_over = successor.take_over(seal).await?;
    Ok((Some(handed_over.restored_state?), handed_over.sockets))
}

/// Saves sessions while the process lives, and ends it when another takes over: on a thread of its
/// own, because the first one waits for its input.
fn survive(
    dir: PathBuf,
    seal: SealKey,
    socket_path: &SocketPathHandle,
    kernel: Option<&KernelPath>,
) -> anyhow::Result<()> {
    let (socket_path, kernel) = (socket_path.clone(), kernel.cloned());
    let (listening, listens) = mpsc::channel();
    let work = async move {
        let handover = HandoverListener::listen(&dir)?;
        tokio::spawn(SessionFile::new(&dir, seal.clone())?.keep(socket_path.clone()));
        listening.send(()).ok();
        let taken = handover.accept().await;
        // The successor listens at the same place.
        drop(handover);
        if let Some(kernel) = kernel {
            kernel.stop(Some(LEFT));
        }
        taken.hand_over(&socket_path, &seal).await
    };
    thread::spawn(move || {
        let handed_over = runtime().and_then(|runtime| runtime.block_on(work));
        if let Err(error) = handed_over {
            tracing::error!(%error, "failed to hand over");
            process::exit(1);
        }
        process::exit(0);
    });
    listens.recv().context("failed to listen for another relay")
}

async fn bound(handle: &SocketPathHandle) -> anyhow::Result<u16> {
    let mut port = handle.port();
    let state = port
        .wait_for(|state| !matches!(state, PortState::Binding))
        .await?;
    match &*state {
        PortState::Bound(port) => Ok(*port),
        other => bail!("failed to bind the port: {other:?}"),
    }
}

/// Answers what has been read so far together: requests that wait are in flight at once.
async fn serve(handle: &SocketPathHandle) -> anyhow::Result<()> {
    let mut input = BufReader::new(io::stdin());
    let mut output = io::stdout().lock();
    loop {
        let mut lines = Vec::new();
        // No more than what can be read without waiting, but for the first.
        while lines.is_empty() || (lines.len() < IN_FLIGHT && input.buffer().contains(&b'\n')) {
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            lines.push(line);
        }
        let answers = lines.into_iter().map(|line| answer(handle, line));
        let answers: Vec<_> = stream::iter(answers).buffered(IN_FLIGHT).collect().await;
        output.write_all(answers.concat().as_bytes())?;
        output.flush()?;
    }
}

async fn answer(handle: &SocketPathHandle, line: String) -> String {
    if line.trim() == "count" {
        let counted = handle.snapshot().await;
        let counters = counted.counters;
        let handshakes = counters.challenges + counters.binds + counters.rebinds;
        return format!("{} {handshakes}\n", counted.sessions.open);
    }
    let reply = match hex::decode(line.trim()) {
        Ok(frame) => {
            let sender = peer(&frame);
            handle.handle_derp(|| sender, frame).await.ok()
        }
        Err(_) => None,
    };
    reply.map_or_else(String::new, hex::encode) + "\n"
}

/// The node that sent a frame, as the policy would have it.
fn peer(frame: &[u8]) -> Option<Peer> {
    let sender = Frame::parse(frame)?.sender;
    Some(Peer {
        node_key: NodeKey(sender.0),
        disco: Some(sender),
        may_relay: true,
        unsigned_peer_api_only: false,
    })
}
