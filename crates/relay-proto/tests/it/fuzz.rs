//! Parsers given anything at all, and what is near to what they expect.

use std::time::Duration;

use blake2::{
    Blake2sMac256,
    digest::{FixedOutput, KeyInit, Update},
};
use proptest::{collection::vec, prelude::*, sample::Index};
use relay_proto::{Config, Relay, State, disco::Message, geneve};

use crate::sim::{Client, STATE_KEY, Sim, seconds};

/// One change of bytes.
#[derive(Debug, Clone)]
enum Edit {
    Set(Index, u8),
    Cut(Index),
    Repeat(Index, Index),
    Insert(Index, Vec<u8>),
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Insert(at, more) => {
                let at = at.index(bytes.len() + 1);
                bytes.splice(at..at, more.iter().copied());
            }
            _ if bytes.is_empty() => {}
            Self::Set(at, value) => {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            Self::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Self::Repeat(a, b) => {
                let (a, b) = (a.index(bytes.len()), b.index(bytes.len()));
                bytes.extend_from_within(a.min(b)..a.max(b));
            }
        }
    }
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let number = prop_oneof![Just(0), Just(1), Just(0x7f), Just(0xff), any::<u8>()];
    let edit = prop_oneof![
        8 => (any::<Index>(), number).prop_map(|(at, value)| Edit::Set(at, value)),
        1 => any::<Index>().prop_map(Edit::Cut),
        1 => any::<(Index, Index)>().prop_map(|(a, b)| Edit::Repeat(a, b)),
        1 => (any::<Index>(), vec(any::<u8>(), 0..40)).prop_map(|(at, more)| Edit::Insert(at, more)),
    ];
    vec(edit, 0..6)
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// The state of a relay with open and unbound sessions, without its seal.
fn state() -> Vec<u8> {
    let mut sim = Sim::new();
    let clients: Vec<_> = (1..5).map(Client::new).collect();
    sim.open(&clients[0], &clients[1]);
    sim.open(&clients[2], &clients[1]);
    let begun = sim.vni(&clients[0], &clients[3]);
    sim.challenge(begun, 9, &clients[3], &clients[0]);
    let bytes = sim.relay.export(sim.now).encode(&STATE_KEY);
    bytes[..bytes.len() - 32].to_vec()
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut mac = Blake2sMac256::new_from_slice(&STATE_KEY).expect("32 bytes");
    mac.update(&bytes);
    bytes.extend_from_slice(&mac.finalize_fixed());
    bytes
}

proptest! {
    #![proptest_config(cases(4_000))]

    /// Whoever could seal such a state could do more than this; but a file of another version, or a
    /// fault of ours, must not become a relay that panics or never lets go.
    #[test]
    fn state_under_a_right_seal_is_refused_or_works(
        edits in edits(),
        away in prop_oneof![0..400_u64, Just(u64::MAX)],
    ) {
        thread_local!(static STATE: Vec<u8> = state());
        let mut bytes = STATE.with(Clone::clone);
        edits.iter().for_each(|edit| edit.apply(&mut bytes));
        let bytes = sealed(bytes);
        let Ok(state) = State::decode(&bytes, &STATE_KEY) else {
            return Ok(());
        };
        let again = State::decode(&state.encode(&STATE_KEY), &STATE_KEY);
        prop_assert_eq!(again.map(|again| again.len()).ok(), Some(state.len()));
        let mut now = relay_proto::Timestamp::from_start(seconds(1_000_000));
        let (config, keys) = (Config::default(), state.keys.clone());
        let mut relay = Relay::new(config, keys, [8; 32], state.next_lamport, now);
        let away = Duration::from_secs(away);
        let count = relay.import(&state, 0, |_| true, now, away);
        prop_assert!(count <= state.len());
        prop_assert_eq!(relay.sessions().count(), count);
        now = now + seconds(301);
        relay.handle_timeout(now);
        prop_assert_eq!(relay.session_counts(), Default::default());
        prop_assert_eq!(relay.poll_timeout(), None);
    }
}

proptest! {
    #![proptest_config(cases(50_000))]

    #[test]
    fn message_that_is_read_is_written_the_same(
        kind in 0..12_u8,
        version in prop_oneof![Just(0), any::<u8>()],
        body in vec(any::<u8>(), 0..260),
    ) {
        let plaintext = [&[kind, version][..], &body].concat();
        if let Some(message) = Message::parse(&plaintext) {
            prop_assert_eq!(message.kind(), kind);
            let written = message.marshal();
            prop_assert!(written.len() <= plaintext.len());
            prop_assert_eq!(Message::parse(&written), Some(message));
        }
    }

    #[test]
    fn header_that_is_read_is_written_the_same(
        datagram in vec(any::<u8>(), 0..80),
        segment in 0..80_usize,
    ) {
        let header = geneve::Header::decode(&datagram);
        if let Some(header) = header {
            prop_assert_eq!(geneve::Header::decode(&header.encode()), Some(header));
        }
        if let Some(vni) = geneve::uniform_data(&datagram, segment) {
            prop_assert_eq!(header.map(|header| (header.vni, header.control)), Some((vni, false)));
        }
    }
}
