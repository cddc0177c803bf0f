//! Requests for sessions, and what relays give out.

use anyhow::{Context, Result, bail, ensure};
use relay_proto::{
    DropReason, Vni,
    disco::{Endpoint, Generation, Message as Wire},
};

use super::{Leg, PairedSession, Sequence, Server, channels};
use crate::compare::{
    difference::Difference,
    ours::MOST_SESSIONS_PER_NODE,
    place::Kind,
    step::{Party, RequestFlaw},
    subject::{Both, Which},
};

impl Sequence<'_> {
    pub(super) fn request(
        &mut self,
        client: usize,
        pair: [Party; 2],
        flaw: Option<RequestFlaw>,
    ) -> Result<()> {
        let generation = self.rng.below(1 << 20) as u32 + 1;
        let reactions = Both::of(|which| {
            let request = self.make_request(which, client, pair, generation, flaw)?;
            self.subject(which).allocate(client as u8 + 1, &request)
        })?;
        let given = Both::of(|which| {
            let Some(answer) = &reactions[which].sent else {
                return Ok(None);
            };
            let channel = &self.node_channels[client][which];
            let endpoint = channel.allocation(generation, answer);
            let opened = || {
                format!(
                    "{which:?} answered a request with {:?}",
                    channel.open(answer)
                )
            };
            endpoint.with_context(opened).map(Some)
        })?;
        let fresh = self.note_newest(&given)?;
        let reason = reactions[Which::Ours].reason;
        let difference = given[Which::Go].as_ref().and_then(|_| {
            if pair[0] == pair[1] {
                Some(Difference::SameClientTwice)
            } else if pair.contains(&Party::Node) {
                Some(Difference::NodeKeyAsClient)
            } else {
                self.is_full(client, &fresh)
                    .then_some(Difference::SessionLimit)
            }
        });
        if let Some(difference) = difference {
            self.differ(difference, reason)?;
            if difference == Difference::SessionLimit {
                self.barred.push(clients_of(pair)?);
            }
            return Ok(());
        }
        match (&given[Which::Go], &given[Which::Ours]) {
            (None, None) => {
                self.tally.refusals += 1;
                Ok(())
            }
            (Some(go), Some(ours)) => self.give(client, pair, [go, ours]),
            (go, ours) => bail!("Go gave {go:?}, ours {ours:?} ({reason:?})"),
        }
    }

    /// Says of each relay whether it gave out a new session; records the one difference that every new
    /// session shows.
    fn note_newest(&mut self, given: &Both<Option<Endpoint>>) -> Result<Both<bool>> {
        let mut fresh = Both::from([false, false]);
        let mut follows = Both::from([false, false]);
        for which in Which::ALL {
            let Some(endpoint) = &given[which] else {
                continue;
            };
            let newest = match which {
                Which::Go => &mut *self.newest,
                Which::Ours => &mut self.our_newest,
            };
            fresh[which] = endpoint.lamport > newest.1;
            if fresh[which] {
                follows[which] = endpoint.vni == newest.0 + 1;
                *newest = (endpoint.vni, endpoint.lamport);
            }
        }
        if fresh[Which::Go] {
            ensure!(follows[Which::Go], "Go does not count VNIs up");
        }
        if fresh[Which::Ours] {
            ensure!(!follows[Which::Ours], "ours counts VNIs up");
            self.differ(Difference::CountedVni, None)?;
        }
        Ok(fresh)
    }

    /// Says whether our relay gives `client` no other session: all that it may have are open.
    fn is_full(&self, client: usize, fresh: &Both<bool>) -> bool {
        let mut own = self
            .sessions
            .iter()
            .filter(|session| !session.ended && session.owner == client);
        self.limits
            && fresh[Which::Go]
            && own.clone().count() >= MOST_SESSIONS_PER_NODE
            && own.all(PairedSession::is_open)
    }

    fn give(&mut self, client: usize, pair: [Party; 2], [go, ours]: [&Endpoint; 2]) -> Result<()> {
        let mut pair = clients_of(pair)?;
        pair.sort_by_key(|client| self.clients[*client].key);
        for endpoint in [go, ours] {
            let keys = pair.map(|client| self.clients[client].key);
            ensure!(endpoint.clients.keys() == keys, "it is for another pair");
            let own = self.places.of(Kind::Own);
            let own = own.iter().map(|at| {
                let place = self.places.get(*at);
                [place.real, place.seen]
            });
            let advertised = &endpoint.addresses;
            ensure!(
                advertised.len() == own.len()
                    && advertised
                        .iter()
                        .zip(own)
                        .all(|(address, own)| own.contains(address)),
                "it advertises {advertised:?}"
            );
        }
        ensure!(
            go.bind_lifetime_ns == ours.bind_lifetime_ns
                && go.steady_lifetime_ns == ours.steady_lifetime_ns,
            "lifetimes differ"
        );
        let key = Both::from([go.server, ours.server]);
        let server = self.server.get_or_insert_with(|| Server {
            key,
            clients: self.clients.iter().map(|c| channels(c, key)).collect(),
            outsider: channels(&self.outsider, key),
        });
        ensure!(server.key == key, "another server key than before");
        let vni = |endpoint: &Endpoint| Vni::new(endpoint.vni).context("it has VNI 0");
        let vni = Both::from([vni(go)?, vni(ours)?]);
        let lamport = Both::from([go.lamport, ours.lamport]);
        self.read_evicted(client)?;
        if let Some(known) = self.sessions.iter().find(|s| !s.ended && s.pair == pair) {
            ensure!(
                known.vni == vni && known.lamport == lamport,
                "another session than before"
            );
            self.tally.reallocations += 1;
            return Ok(());
        }
        self.tally.allocations += 1;
        self.sessions.push(PairedSession {
            vni,
            lamport,
            pair,
            owner: client,
            legs: [Leg::default(); 2],
            challenges: Vec::new(),
            bound: [None; 2],
            surplus: [(0, 0); 2],
            apart: false,
            ended: false,
        });
        self.compare(self.sessions.len() - 1)
    }

    /// Ends the session that gave way when ours gave `client` a new one.
    fn read_evicted(&mut self, client: usize) -> Result<()> {
        while let Some(vni) = self.ours.take_evicted() {
            let oldest = self
                .sessions
                .iter_mut()
                .find(|s| !s.ended && s.owner == client && !s.is_open());
            let oldest = oldest.context("a session gave way that should not")?;
            ensure!(oldest.vni[Which::Ours] == vni, "another session gave way");
            oldest.ended = true;
            self.barred.push(oldest.pair);
            self.differ(Difference::SessionLimit, Some(DropReason::NodeLimit))?;
        }
        Ok(())
    }

    fn make_request(
        &mut self,
        which: Which,
        client: usize,
        pair: [Party; 2],
        generation: u32,
        flaw: Option<RequestFlaw>,
    ) -> Result<Vec<u8>> {
        let node = self.subject(which).node();
        let server = self.server.as_ref();
        let key_of = |party| -> Result<_> {
            Ok(match party {
                Party::Client(client) => self.clients[client].key,
                Party::Node => node,
                Party::Server => server.context("no server key is known")?.key[which],
            })
        };
        let mut plaintext = Wire::AllocateRequest {
            clients: [key_of(pair[0])?, key_of(pair[1])?],
            generation: Generation(generation),
        }
        .marshal();
        let mut channel = &self.node_channels[client][which];
        match flaw {
            Some(RequestFlaw::Kind(kind)) => plaintext[0] = kind,
            Some(RequestFlaw::Version) => plaintext[1] = 1,
            Some(RequestFlaw::SealedForServer) => {
                channel = &server.context("no server key is known")?.clients[client][which];
            }
            _ => {}
        }
        let mut request = channel.seal(self.rng.bytes(), &plaintext);
        match flaw {
            Some(RequestFlaw::Changed(at)) => {
                let at = at % request.len();
                request[at] ^= 0x40;
            }
            Some(RequestFlaw::Cut(len)) => request.truncate(len),
            _ => {}
        }
        Ok(request)
    }
}

fn clients_of(pair: [Party; 2]) -> Result<[usize; 2]> {
    match pair {
        [Party::Client(a), Party::Client(b)] => Ok([a, b]),
        pair => bail!("a session of {pair:?}"),
    }
}
