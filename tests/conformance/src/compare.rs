//! `cargo dev compare`: generated sequences of requests, handshakes and data go to Tailscale's relay
//! and to ours, and what each accepts, drops and replies is the same, but for the differences of
//! [`difference::Difference`].
//!
//! Ours is the core alone; Go's is a process on loopback ([`mod@reference`] explains why nothing is waited
//! for). Each has its own keys, VNIs and challenges, so a step is described once and made twice.

pub mod difference;
pub mod ours;
pub mod place;
pub mod reference;
pub mod sequence;
pub mod step;
pub mod subject;
pub mod tally;

use std::{path::Path, rc::Rc, thread};

use anyhow::{Context, Result, anyhow, ensure};
use relay_proto::{DiscoSecret, NodeKey, client::Client};
use rig::{progress::Progress, rng, seed, signals, tools::Tools};

use self::{place::Places, reference::Reference, rng::Rng, sequence::Sequence, tally::Tally};
use crate::cpu::stay_on_one_cpu;

/// The seed that every run of the tests has.
const SEED: u64 = 1;
const SEQUENCES: u64 = 400;
/// Sequences of a new seed that the tests add.
const FRESH_SEQUENCES: u64 = 100;
/// Steps of a sequence; it is over long before Go ends a session that is not bound, after 30 s.
const STEPS: usize = 60;
/// Sequences until Go's relay is started anew, which finds sessions among all it ever had.
const ROUND: u64 = 40;
/// Steps that a failure shows.
const SHOWN: usize = 8;

/// The number of sequences and their seed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct CompareArgs {
    /// Seed of the generated sequences; new in each run unless given
    #[arg(long)]
    seed: Option<u64>,
    /// Number of sequences
    #[arg(long, default_value_t = SEQUENCES)]
    sequences: u64,
    /// Only the sequence with this number
    #[arg(long, value_name = "NUMBER")]
    only: Option<u64>,
}

/// Sequences of one seed.
#[derive(Clone, Copy, Debug)]
struct Selection {
    seed: u64,
    sequences: u64,
    /// The number of the only sequence.
    only: Option<u64>,
}

/// Compares and says what was seen.
///
/// # Errors
/// A difference that is not on purpose, or one of those that was not seen.
pub fn run(args: &CompareArgs, progress: &Progress) -> Result<()> {
    let selection = Selection {
        seed: args.seed.unwrap_or_else(seed::fresh),
        sequences: args.sequences,
        only: args.only,
    };
    let tally = compare_selection(selection, progress)?;
    let unseen = tally.unseen();
    ensure!(
        unseen.is_empty() || args.only.is_some(),
        "differences that no sequence has shown: {unseen:?}"
    );
    Ok(())
}

/// Compares sequences of a seed that stays, which show every difference on purpose, and some of the
/// seed `fresh`.
///
/// # Errors
/// As [`run`].
pub fn run_short(fresh: u64, progress: &Progress) -> Result<()> {
    let args = CompareArgs {
        seed: Some(SEED),
        sequences: SEQUENCES,
        only: None,
    };
    run(&args, progress)?;
    let selection = Selection {
        seed: fresh,
        sequences: FRESH_SEQUENCES,
        only: None,
    };
    compare_selection(selection, progress).map(drop)
}

fn compare_selection(selection: Selection, progress: &Progress) -> Result<Tally> {
    let go = Tools::build_only("relay", progress)?.program("relay");
    // A thread of its own: only this one, and Go's relay, stay on one CPU.
    let tally = thread::spawn(move || compare(&selection, &go)).join();
    let tally = tally.map_err(|_| anyhow!("the comparison panicked"))??;
    progress.line(format_args!(
        "Go's relay and ours are alike in {tally}; on purpose they differ in (seed {}){}",
        selection.seed,
        tally.differences()
    ));
    Ok(tally)
}

fn compare(args: &Selection, go: &Path) -> Result<Tally> {
    stay_on_one_cpu()?;
    let places = Rc::new(Places::open()?);
    let mut tally = Tally::default();
    let numbers: Vec<_> = match args.only {
        Some(number) => vec![number],
        None => (0..args.sequences).collect(),
    };
    for round in numbers.chunks(ROUND as usize) {
        let mut go = Reference::start(go, places.clone(), &mut Rng::new(args.seed))?;
        let mut newest = go.first_session();
        for number in round {
            signals::check()?;
            let seed = args.seed.wrapping_mul(1 << 20).wrapping_add(*number);
            let mut history = Vec::new();
            let sequence = Sequence::new(seed, &mut go, &mut newest, places.clone(), &mut tally);
            play(sequence, &mut history).with_context(|| {
                let steps = history[history.len().saturating_sub(SHOWN)..].join("\n  ");
                let (seed, step) = (args.seed, history.len());
                format!(
                    "step {step} of sequence {number} (cargo dev compare --seed {seed} \
                     --only {number}):\n  {steps}\n"
                )
            })?;
            tally.sequences += 1;
        }
    }
    Ok(tally)
}

fn play(mut sequence: Sequence<'_>, history: &mut Vec<String>) -> Result<()> {
    for _ in 0..STEPS {
        let step = sequence.draw();
        history.push(format!("{step:?}"));
        sequence.take(&step)?;
    }
    sequence.close()
}

/// A client with a random disco key. The relays learn its node from the harness.
fn random_client(rng: &mut Rng) -> Client {
    Client::new(DiscoSecret::from_bytes(rng.bytes()), NodeKey([0; 32]))
}
