//! The data path of a relay without a tailnet, for measurements: `cargo dev bench relay`.
//!
//! Allocation requests come on standard input instead of over DERP, as hexadecimal lines that hold
//! the sealed frame; each is answered by one line, which is empty when the relay is silent. The
//! sender of a frame counts as a tailnet node that the policy allows. It prints `ready`, the disco
//! key to seal requests for, and the port; it ends with its standard input.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
};

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use futures::{StreamExt, stream};
use peerrelay::relay::{
    kernel::{self, KernelOptions, PathState, Reason},
    shard::{self, PortState, ShardHandle, ShardOptions},
};
use rand::Rng;
use relay_proto::{Config, DiscoSecret, Keys, NodeKey, Peer, disco::Frame};

/// Requests that wait for their answer at the same time.
const IN_FLIGHT: usize = 64;

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
    #[arg(long, default_value_t = shard::default_threads())]
    threads: usize,
    /// Sessions in total, and of one node
    #[arg(long, default_value_t = 1 << 20)]
    max_sessions: usize,
}

#[derive(Clone, Copy, ValueEnum)]
enum DataPath {
    Socket,
    Kernel,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(tracing::Level::WARN)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let node = DiscoSecret::from_bytes(rand::rng().random());
    let key = node.public();
    let config = Config {
        max_sessions: args.max_sessions,
        max_sessions_per_node: args.max_sessions,
        ..Config::default()
    };
    let kernel = match args.data_path {
        DataPath::Socket => None,
        DataPath::Kernel => Some(kernel::start(KernelOptions::new(&config))?),
    };
    let options = ShardOptions {
        port: args.port,
        threads: args.threads,
        config,
        keys: Keys {
            node,
            server: DiscoSecret::from_bytes(rand::rng().random()),
        },
        seed: rand::rng().random(),
        first_lamport: 1,
        kernel: kernel.clone(),
        inheritance: None,
        sockets: Default::default(),
    };
    let (handle, ended) = shard::spawn(options)?;
    handle.set_addresses(args.addresses);
    let port = bound(&handle).await?;
    if let Some(kernel) = &kernel {
        kernel.set_port(Some(port));
        let mut state = kernel.state();
        let ready = |state: &PathState| match &state.0 {
            Err(error) => error.reason != Reason::Starting,
            Ok(_) => true,
        };
        state.wait_for(ready).await?.0.clone()?;
    }
    println!("ready {} {port}", to_hex(&key.0));
    serve(&handle).await?;
    handle.stop();
    if let Some(kernel) = kernel {
        kernel.stop(None);
    }
    ended.await.context("the data path broke")
}

async fn bound(handle: &ShardHandle) -> anyhow::Result<u16> {
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
async fn serve(handle: &ShardHandle) -> anyhow::Result<()> {
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

async fn answer(handle: &ShardHandle, line: String) -> String {
    let reply = match from_hex(line.trim()) {
        Some(frame) => handle.handle_derp(peer(&frame), frame).await.ok(),
        None => None,
    };
    reply.map_or_else(String::new, |reply| to_hex(&reply)) + "\n"
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

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map(byte).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
