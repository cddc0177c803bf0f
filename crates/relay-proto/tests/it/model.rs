//! The relay against a model that is too simple to be wrong: any order of allocations, handshakes,
//! replays, data and time.
//!
//! The model knows no keys, MACs, indexes or queues. It keeps a list of sessions, looks through all
//! of it at every step, and says what must become of a message from what the message *means*.

mod reference;

use std::{net::SocketAddr, time::Duration};

use bolero::{Driver, TypeGenerator, ValueGenerator, check, one_of, one_value_of, produce};
use relay_proto::{Config, Counters, Event, Vni};

use crate::sim::{Client, Outcome, Sim, at, data, seconds};
use reference::{Expected, Meaning, Model, Proof};

const CLIENTS: u8 = 4;

#[test]
fn relay_does_what_the_model_says() {
    let steps = produce::<Vec<Step>>().with().len(1..60_usize);
    let check = check!().with_iterations(256);
    let check = check.with_generator((config(), steps));
    check.for_each(|(config, steps)| {
        let mut world = World::new(config.clone());
        for step in steps {
            world.take(step);
            world.compare();
        }
    });
}

/// A step of a generated history. Numbers select a client, session or record that exists.
#[derive(Debug, Clone)]
enum Step {
    /// One client asks for a session with another.
    Allocate { client: usize, other: usize },
    /// One client asks for a session, and both clients bind.
    Open {
        client: usize,
        other: usize,
        generation: u32,
    },
    /// A client begins a handshake.
    Bind {
        session: usize,
        side: usize,
        generation: u32,
        source: SocketAddr,
    },
    /// The newest challenges are answered, from where they arrived or from elsewhere.
    Answer {
        age: usize,
        source: Option<SocketAddr>,
    },
    /// Any bind or answer that was ever sent is sent again.
    Replay {
        record: usize,
        source: Option<SocketAddr>,
    },
    /// Data from anywhere.
    Data {
        session: usize,
        source: SocketAddr,
        len: usize,
    },
    /// Data from where a leg may be.
    Chat { session: usize, side: usize },
    /// The clock advances by `span`.
    Pass { span: Duration },
    /// Another process takes over.
    Restart,
}

impl TypeGenerator for Step {
    fn generate<D: Driver>(driver: &mut D) -> Option<Self> {
        let index = 0..64_usize;
        let side = 0..2_usize;
        let elsewhere = (0..10_u8, address()).map_gen(|(n, address)| (n < 3).then_some(address));
        Some(match (0..25_u8).generate(driver)? {
            0..2 => Self::Allocate {
                client: index.generate(driver)?,
                other: index.generate(driver)?,
            },
            2..4 => Self::Open {
                client: index.generate(driver)?,
                other: index.generate(driver)?,
                generation: (0..4_u32).generate(driver)?,
            },
            4..8 => Self::Bind {
                session: index.generate(driver)?,
                side: side.generate(driver)?,
                generation: (0..6_u32).generate(driver)?,
                source: address().generate(driver)?,
            },
            8..12 => Self::Answer {
                age: (0..3_usize).generate(driver)?,
                source: elsewhere.generate(driver)?,
            },
            12..15 => Self::Replay {
                record: index.generate(driver)?,
                source: elsewhere.generate(driver)?,
            },
            15..17 => Self::Data {
                session: index.generate(driver)?,
                source: address().generate(driver)?,
                len: (0..2_000_usize).generate(driver)?,
            },
            17..20 => Self::Chat {
                session: index.generate(driver)?,
                side: side.generate(driver)?,
            },
            20..24 => Self::Pass {
                span: span().generate(driver)?,
            },
            _ => Self::Restart,
        })
    }
}

/// Homes of the clients, others, one shared by all, and one that may not bind.
fn address() -> impl ValueGenerator<Output = SocketAddr> {
    let home = (1..=CLIENTS).map_gen(Client::home);
    let other = one_value_of([
        "192.0.2.7:3478",
        "[2001:db8::7]:3478",
        "192.0.2.7:9",
        "127.0.0.1:9",
    ]);
    one_of((home, other.map_gen(at)))
}

/// Spans around every lifetime, so that ends are met exactly, just missed and passed.
fn span() -> impl ValueGenerator<Output = Duration> {
    let any = (0..10_000_u64).map_gen(Duration::from_millis);
    let lifetime = one_value_of([1, 5, 30, 60, 120, 240, 300]).map_gen(seconds);
    let around = (lifetime, 0..3_u64)
        .map_gen(|(span, around)| span + Duration::from_millis(around) - Duration::from_millis(1));
    one_of((any, around))
}

fn config() -> impl ValueGenerator<Output = Config> {
    let sessions = (1..6_usize, 1..4_usize);
    (one_value_of([5, 300]), sessions).map_gen(|(steady, (max_sessions, max_sessions_per_node))| {
        Config {
            steady_lifetime: seconds(steady),
            max_sessions,
            max_sessions_per_node,
            ..Config::default()
        }
    })
}

/// A datagram that was sent or could be, and what it means.
#[derive(Debug, Clone)]
struct Record {
    datagram: Vec<u8>,
    source: SocketAddr,
    meaning: Meaning,
}

/// The relay, its model, and what clients and an eavesdropper remember.
struct World {
    sim: Sim,
    model: Model,
    clients: Vec<Client>,
    /// Every session there ever was.
    known: Vec<(Vni, [usize; 2])>,
    records: Vec<Record>,
    /// Answers that clients can give, oldest first; an answer given is a record.
    answers: Vec<Record>,
}

impl World {
    fn new(config: Config) -> Self {
        let mut clients: Vec<_> = (1..=CLIENTS).map(Client::new).collect();
        clients.sort_by_key(|client| client.key);
        let sim = Sim::with(config.clone());
        Self {
            model: Model::new(config, sim.now),
            sim,
            clients,
            known: Vec::new(),
            records: Vec::new(),
            answers: Vec::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Allocate { client, other } => {
                self.allocate(client, other);
            }
            Step::Open {
                client,
                other,
                generation,
            } => {
                let Some((vni, pair)) = self.allocate(client, other) else {
                    return;
                };
                for side in [0, 1] {
                    let home = self.clients[pair[side]].address;
                    self.bind(vni, pair, side, generation, home);
                    self.answer(0, None);
                }
            }
            Step::Bind {
                session,
                side,
                generation,
                source,
            } => {
                if let Some((vni, pair)) = pick(&self.known, session) {
                    self.bind(vni, pair, side, generation, source);
                }
            }
            Step::Answer { age, source } => self.answer(age, source),
            Step::Replay { record, source } => {
                if let Some(record) = pick(&self.records, record) {
                    self.send(&record, source.unwrap_or(record.source));
                }
            }
            Step::Data {
                session,
                source,
                len,
            } => {
                if let Some((vni, _)) = pick(&self.known, session) {
                    self.data(vni, source, len);
                }
            }
            Step::Chat { session, side } => {
                if let Some((vni, pair)) = pick(&self.known, session) {
                    let home = self.clients[pair[side]].address;
                    let source = self.model.leg_address(vni, side).unwrap_or(home);
                    self.data(vni, source, 32);
                }
            }
            Step::Pass { span } => self.sim.pass(span),
            Step::Restart => self.restart(),
        }
    }

    /// The model goes on as if nothing had happened, but for counters and what is told anew.
    fn restart(&mut self) {
        self.sim.restart(Duration::ZERO);
        let told = self.sim.events();
        assert!(told.iter().all(|e| matches!(e, Event::Opened { .. })));
        assert_eq!(told.len(), self.model.counts().open);
        self.model.counters = Counters::default();
    }

    fn allocate(&mut self, client: usize, other: usize) -> Option<(Vni, [usize; 2])> {
        let client = client % self.clients.len();
        let other = (client + 1 + other % (self.clients.len() - 1)) % self.clients.len();
        let pair = [client.min(other), client.max(other)];
        let answer = self
            .sim
            .allocate(&self.clients[client], &self.clients[other]);
        let given = answer.map(|endpoint| {
            let keys = pair.map(|client| self.clients[client].key);
            assert_eq!(endpoint.clients.keys(), keys);
            (Vni::new(endpoint.vni).expect("a VNI"), endpoint.lamport)
        });
        self.model.allocate(client, pair, given);
        let (vni, _) = given.ok()?;
        if !self.known.contains(&(vni, pair)) {
            self.known.push((vni, pair));
        }
        Some((vni, pair))
    }

    fn bind(
        &mut self,
        vni: Vni,
        pair: [usize; 2],
        side: usize,
        generation: u32,
        source: SocketAddr,
    ) {
        let [client, other] = [pair[side], pair[1 - side]].map(|client| &self.clients[client]);
        let record = Record {
            datagram: client.bind(vni, generation, other),
            source,
            meaning: Meaning {
                vni,
                side,
                client: pair[side],
                generation,
                proof: None,
            },
        };
        self.records.push(record.clone());
        self.send(&record, source);
    }

    fn answer(&mut self, age: usize, source: Option<SocketAddr>) {
        if let Some(at) = self.answers.len().checked_sub(1 + age) {
            let record = self.answers[at].clone();
            self.records.push(record.clone());
            self.send(&record, source.unwrap_or(record.source));
        }
    }

    fn send(&mut self, record: &Record, source: SocketAddr) {
        let outcome = self.sim.receive(source, &record.datagram);
        match (self.model.control(&record.meaning, source), outcome) {
            (Expected::Challenge, Outcome::Reply(reply)) => self.challenged(record, source, &reply),
            (Expected::Drop(expected), Outcome::Drop(reason)) => assert_eq!(reason, expected),
            (Expected::Bound { .. }, Outcome::Consumed) => {
                self.model.complete(&record.meaning, source);
            }
            (Expected::Bound { or_too_old: true }, Outcome::Drop(reason)) => {
                self.model.too_old(reason);
            }
            (expected, outcome) => panic!("{outcome:?} instead of {expected:?}"),
        }
    }

    /// Remembers the answer to a challenge. The same challenge may be given out more than once.
    fn challenged(&mut self, bind: &Record, source: SocketAddr, reply: &[u8]) {
        let client = &self.clients[bind.meaning.client];
        let challenge = client.read_challenge(reply);
        assert_eq!(challenge.vni, bind.meaning.vni.number());
        assert_eq!(challenge.generation.0, bind.meaning.generation);
        let now = self.sim.now;
        let same = |record: &&mut Record| {
            let proof = record.meaning.proof.as_ref();
            proof.is_some_and(|proof| proof.mac == challenge.challenge)
        };
        let earlier = self.answers.iter_mut().chain(&mut self.records);
        let mut first = now;
        for record in earlier.filter(same) {
            let proof = record
                .meaning
                .proof
                .as_mut()
                .expect("only answers are the same");
            assert_eq!(proof.source, source, "one challenge for two addresses");
            proof.last = now;
            first = proof.first;
        }
        self.answers.push(Record {
            datagram: client.answer(bind.meaning.vni, reply),
            source,
            meaning: Meaning {
                proof: Some(Proof {
                    mac: challenge.challenge,
                    source,
                    first,
                    last: now,
                }),
                ..bind.meaning.clone()
            },
        });
    }

    fn data(&mut self, vni: Vni, source: SocketAddr, len: usize) {
        let datagram = data(vni, &vec![0xda; len]);
        let expected = match self.model.data(vni, source, datagram.len() as u64) {
            Ok(to) => Outcome::Forward(to),
            Err(reason) => Outcome::Drop(reason),
        };
        assert_eq!(self.sim.receive(source, &datagram), expected);
    }

    /// Lets both come to the same point in time, and compares all that shows.
    fn compare(&mut self) {
        self.sim.pass(Duration::ZERO);
        self.model.pass_until(self.sim.now);
        assert_eq!(self.sim.events(), self.model.take_events());
        let relay = &self.sim.relay;
        assert_eq!(relay.counters(), &self.model.counters);
        assert_eq!(relay.session_counts(), self.model.counts());
        assert_eq!(relay.next_lamport(), self.model.next_lamport);
        let keys: Vec<_> = self.clients.iter().map(|client| client.key).collect();
        assert_eq!(self.sim.sessions(), self.model.infos(&keys));
        match (relay.poll_timeout(), self.model.next_end()) {
            (None, None) => {}
            (Some(due), Some(end)) => assert!(self.sim.now < due && due <= end),
            (due, end) => panic!("wake-up at {due:?}, next end at {end:?}"),
        }
    }
}

/// One of the newest: much older ones tell nothing new.
fn pick<T: Clone>(list: &[T], index: usize) -> Option<T> {
    let newest = &list[list.len().saturating_sub(12)..];
    (!newest.is_empty()).then(|| newest[index % newest.len()].clone())
}
