//! The judgement of handshake datagrams.

use anyhow::{Context, Result, ensure};
use relay_proto::{
    client,
    disco::{BindCommon, Generation, Message as Wire},
};

use super::{Effect, Reactions, Sequence};
use crate::compare::{
    difference::Difference,
    place::Kind,
    step::{Challenge, Content, Message, Oddity},
    subject::{Both, Which},
};

/// The meaning of a datagram for a relay that reads it as intended.
enum Meaning {
    Message,
    Data,
    Nothing,
}

impl Sequence<'_> {
    pub(super) fn control(&mut self, message: Message, oddity: Option<Oddity>) -> Result<()> {
        let Message {
            session,
            side,
            place,
            content,
        } = message;
        let datagrams = Both::of(|which| self.make_control(which, message, oddity))?;
        let reactions = self.deliver(session, side, place, &datagrams)?;
        let binds = matches!(content, Content::Bind(_));
        let meaning = match oddity {
            Some(Oddity::ControlBit) => Meaning::Data,
            Some(Oddity::GeneveVersion(_)) | None => Meaning::Message,
            Some(Oddity::Challenge) if binds => Meaning::Message,
            Some(oddity) if oddity.is_harmless() => Meaning::Message,
            Some(_) => Meaning::Nothing,
        };
        match (meaning, content) {
            (Meaning::Message, Content::Bind(generation)) => {
                self.judge_bind(message, generation, oddity, reactions)?;
            }
            (Meaning::Message, Content::Answer(at)) => {
                self.judge_answer(message, at, oddity, reactions)?;
            }
            (Meaning::Data, _) => {
                let len = datagrams[Which::Go].len();
                self.judge_data(session, place, len, oddity, reactions)?;
            }
            (Meaning::Nothing, _) => self.alike(reactions)?,
        }
        self.compare(session)
    }

    fn judge_bind(
        &mut self,
        message: Message,
        generation: u32,
        oddity: Option<Oddity>,
        reactions: Reactions,
    ) -> Result<()> {
        let Message {
            session,
            side,
            place,
            ..
        } = message;
        let leg = self.sessions[session].legs[side];
        let Reactions {
            effects,
            macs,
            reason,
        } = reactions;
        let goes_on = effects[Which::Go] != Effect::Silence;
        let stale = generation <= leg.completed || generation < leg.begun[Which::Ours];
        let difference = self
            .of_datagram(place, oddity)
            .or(stale.then_some(Difference::StaleBind))
            .filter(|_| goes_on);
        match difference {
            Some(difference) => {
                ensure!(
                    effects[Which::Ours] == Effect::Silence,
                    "{difference:?} was expected, but ours: {:?}",
                    effects[Which::Ours]
                );
                self.differ(difference, reason)?;
            }
            None => self.alike(reactions)?,
        }
        let session = &mut self.sessions[session];
        for which in Which::ALL {
            if macs[which].is_some() {
                session.legs[side].begun[which] = generation;
            }
        }
        if goes_on {
            session.challenges.push(Challenge {
                side,
                generation,
                place,
                mac: macs,
                difference,
            });
        }
        Ok(())
    }

    fn judge_answer(
        &mut self,
        message: Message,
        at: usize,
        oddity: Option<Oddity>,
        reactions: Reactions,
    ) -> Result<()> {
        let Message {
            session,
            side,
            place,
            ..
        } = message;
        let before = self.sessions[session].bound;
        let leg = self.sessions[session].legs[side];
        self.alike(reactions)?;
        let challenge = &self.sessions[session].challenges[at];
        let generation = challenge.generation;
        let valid = challenge.place == place && challenge.side == side;
        let counts =
            |which| valid && challenge.mac[which].is_some() && leg.begun[which] == generation;
        let (go, may) = (counts(Which::Go), counts(Which::Ours));
        let difference = expected_difference(
            (go, may),
            challenge.difference,
            self.of_datagram(place, oddity),
        );
        let reason = reactions.reason;
        let bound = reason.is_none();
        match difference {
            Some(Difference::DisplacedHandshake) => {
                ensure!(bound, "a displaced handshake was dropped too: {reason:?}");
                self.differ(Difference::DisplacedHandshake, None)?;
            }
            Some(difference) => self.differ(difference, reason)?,
            None => ensure!(bound == go, "Go binds: {go}; ours: {reason:?}"),
        }
        let leg = &mut self.sessions[session].legs[side];
        if go {
            leg.begun[Which::Go] = 0;
        }
        if bound {
            leg.begun[Which::Ours] = 0;
            leg.completed = generation;
            self.tally.binds += 1;
        }
        if difference.is_none() {
            return Ok(());
        }
        let after = self.legs(session)?;
        for (which, moved) in [(Which::Go, go), (Which::Ours, bound)] {
            let expected = if moved { Some(place) } else { before[side] };
            let found = after[which][side].place;
            ensure!(found == expected, "{which:?} has the leg at {found:?}");
        }
        self.reconcile(session, side)
    }

    /// After a difference that bound a leg with one relay only: the next handshake must bind it with
    /// both, and then nothing may differ any more.
    fn reconcile(&mut self, session: usize, side: usize) -> Result<()> {
        let elsewhere = self.places.of(Kind::Elsewhere);
        let place = self.rng.pick(&elsewhere).context("there are places")?;
        self.sessions[session].apart = true;
        self.handshake(session, side, place)?;
        self.sessions[session].apart = false;
        self.compare(session)
            .context("the next handshake does not bring them together")?;
        ensure!(
            self.sessions[session].bound[side] == Some(place),
            "the next handshake does not bind"
        );
        Ok(())
    }

    pub(super) fn handshake(&mut self, session: usize, side: usize, place: usize) -> Result<()> {
        let generation = self.sessions[session].legs[side].fresh();
        let message = |content| Message {
            session,
            side,
            place,
            content,
        };
        self.control(message(Content::Bind(generation)), None)?;
        let newest = self.sessions[session].challenges.len();
        let newest = newest.checked_sub(1).context("there was no challenge")?;
        let challenge = &self.sessions[session].challenges[newest];
        ensure!(challenge.generation == generation, "no challenge came");
        self.control(message(Content::Answer(newest)), None)
    }

    fn make_control(
        &mut self,
        which: Which,
        message: Message,
        oddity: Option<Oddity>,
    ) -> Result<Vec<u8>> {
        let session = &self.sessions[message.session];
        let (sender, other) = (session.pair[message.side], session.pair[1 - message.side]);
        let server = self.server.as_ref().context("no server key is known")?;
        let mut common = BindCommon::first(session.vni[which].number(), 0, self.clients[other].key);
        match message.content {
            Content::Bind(generation) => common.generation = Generation(generation),
            Content::Answer(at) => {
                let challenge = &session.challenges[at];
                common.generation = Generation(challenge.generation);
                common.challenge = challenge.mac[which].unwrap_or_default();
            }
        }
        match oddity {
            Some(Oddity::SealedVni) => common.vni ^= 1,
            Some(Oddity::OwnRemoteKey) => common.remote = self.clients[sender].key,
            Some(Oddity::Challenge) => common.challenge[31] ^= 1,
            _ => {}
        }
        let mut plaintext = match message.content {
            Content::Bind(_) => Wire::Bind(common),
            Content::Answer(_) => Wire::Answer(common),
        }
        .marshal();
        match oddity {
            Some(Oddity::Kind(kind)) => plaintext[0] = kind,
            Some(Oddity::MessageVersion) => plaintext[1] = 7,
            Some(Oddity::Trailing(len)) => plaintext.resize(plaintext.len() + len, 0xee),
            _ => {}
        }
        let (own, nonce) = (&server.clients[sender][which], self.rng.bytes());
        let frame = match oddity {
            // The frame names the sender, and the outsider's key seals it.
            Some(Oddity::ForeignSeal) => server.outsider[which]
                .claiming(self.clients[sender].key)
                .seal(nonce, &plaintext),
            Some(Oddity::Outsider) => server.outsider[which].seal(nonce, &plaintext),
            Some(Oddity::OtherClient) => server.clients[other][which].seal(nonce, &plaintext),
            Some(Oddity::SealedForNode) => {
                self.node_channels[sender][which].seal(nonce, &plaintext)
            }
            _ => own.seal(nonce, &plaintext),
        };
        let mut datagram = client::control(session.vni[which], &frame);
        if let Some(oddity) = oddity {
            oddity.mark(&mut datagram, |session| self.sessions[session].vni[which]);
        }
        Ok(datagram)
    }
}

/// The difference that an answer shows, if it binds with Go and may bind with ours, as `binds` says.
fn expected_difference(
    binds: (bool, bool),
    of_challenge: Option<Difference>,
    of_datagram: Option<Difference>,
) -> Option<Difference> {
    let of_challenge = match of_challenge {
        Some(Difference::StaleBind) => Some(Difference::StaleAnswer),
        other => other,
    };
    match binds {
        (true, true) => of_datagram,
        (true, false) => of_datagram
            .or(of_challenge)
            .or(Some(Difference::StaleAnswer)),
        (false, true) if of_datagram.is_none() => Some(Difference::DisplacedHandshake),
        (false, _) => None,
    }
}
