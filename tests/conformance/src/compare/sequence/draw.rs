//! The choice of the next step: mostly one that clients take, so that sessions open, then any other.

use super::Sequence;
use crate::compare::{
    place::Kind,
    step::{Content, Elsewhere, Message, Oddity, Party, RequestFlaw, Step},
    subject::Which,
};

/// Bytes of a request, and of a bind.
const REQUEST_LEN: usize = 148;
const BIND_LEN: usize = relay_proto::REPLY_LEN;
/// Types of messages that no relay expects over UDP.
const KINDS: [u8; 9] = [0, 1, 2, 3, 5, 7, 8, 9, 0xff];
/// Payloads: none, a keepalive, common sizes, and one that fills a bucket soon.
const LENGTHS: [usize; 6] = [0, 1, 32, 1_280, 1_400, 45_000];

impl Sequence<'_> {
    /// Draws the next step.
    pub fn draw(&mut self) -> Step {
        let live: Vec<_> = (0..self.sessions.len())
            .filter(|session| !self.sessions[*session].ended)
            .collect();
        let session = self.rng.pick(&live);
        match (session, self.rng.below(100)) {
            (None, _) | (_, 0..9) => self.draw_request(),
            (Some(session), 9..22) => Step::Handshake {
                session,
                side: self.rng.below(2),
                place: self.draw_place(session),
            },
            (Some(session), 22..42) => self.draw_bind(session),
            (Some(session), 42..63) => self.draw_answer(session),
            (Some(session), 63..95) => self.draw_data(session),
            _ => self.draw_noise(),
        }
    }

    fn draw_request(&mut self) -> Step {
        let clients = self.clients.len();
        let client = self.rng.below(clients);
        let other = (client + 1 + self.rng.below(clients - 1)) % clients;
        let third = (0..clients).find(|third| ![client, other].contains(third));
        let third = third.unwrap_or(other);
        let mut pair = match self.rng.below(100) {
            0..6 => [Party::Client(client); 2],
            6..12 => [Party::Client(client), Party::Node],
            12..18 if self.server.is_some() => [Party::Client(client), Party::Server],
            18..24 => [Party::Client(other), Party::Client(third)],
            _ => [Party::Client(client), Party::Client(other)],
        };
        if self.rng.percent(50) {
            pair.reverse();
        }
        if self.is_barred(pair) {
            return self.draw_noise();
        }
        let flaw = match self.rng.below(100) {
            0..5 => self.rng.pick(&[1, 4, 6, 7, 9, 0xff]).map(RequestFlaw::Kind),
            5..8 => Some(RequestFlaw::Version),
            8..11 if self.server.is_some() => Some(RequestFlaw::SealedForServer),
            11..16 => Some(RequestFlaw::Changed(self.rng.below(REQUEST_LEN))),
            16..20 => Some(RequestFlaw::Cut(self.rng.below(REQUEST_LEN))),
            _ => None,
        };
        Step::Request { client, pair, flaw }
    }

    fn is_barred(&self, pair: [Party; 2]) -> bool {
        let has = |client: &usize| pair.contains(&Party::Client(*client));
        pair[0] != pair[1] && self.barred.iter().any(|barred| barred.iter().all(has))
    }

    fn draw_bind(&mut self, session: usize) -> Step {
        let side = self.rng.below(2);
        let leg = self.sessions[session].legs[side];
        let (go, ours) = (leg.begun[Which::Go], leg.begun[Which::Ours]);
        let generation = match self.rng.below(100) {
            0..55 => leg.fresh() + self.rng.below(3) as u32,
            55..58 => 0,
            58..66 => leg.completed,
            66..74 => leg.completed.saturating_sub(1),
            74..82 => ours,
            82..90 => ours.saturating_sub(1),
            90..97 => go,
            _ => leg.fresh() + self.rng.below(1 << 20) as u32,
        };
        let message = Message {
            session,
            side,
            place: self.draw_place(session),
            content: Content::Bind(generation),
        };
        let oddity = self.draw_oddity(session);
        Step::Control { message, oddity }
    }

    fn draw_answer(&mut self, session: usize) -> Step {
        let count = self.sessions[session].challenges.len();
        if count == 0 {
            return self.draw_bind(session);
        }
        let recent = if self.rng.percent(75) { 2 } else { count };
        let at = count - 1 - self.rng.below(recent.min(count));
        let challenge = &self.sessions[session].challenges[at];
        let (mut side, mut place) = (challenge.side, challenge.place);
        match self.rng.below(100) {
            0..12 => place = self.rng.below(self.places.count()),
            12..16 => side = 1 - side,
            _ => {}
        }
        let message = Message {
            session,
            side,
            place,
            content: Content::Answer(at),
        };
        let oddity = self.draw_oddity(session);
        Step::Control { message, oddity }
    }

    fn draw_data(&mut self, session: usize) -> Step {
        let side = self.rng.below(2);
        let bound = self.sessions[session].bound[side].filter(|_| self.rng.percent(80));
        let place = bound.unwrap_or_else(|| self.rng.below(self.places.count()));
        let oddity = match self.rng.below(100) {
            0..5 => Some(Oddity::ReservedBits),
            5..9 => Some(Oddity::OptionLength),
            9..14 => Some(Oddity::GeneveVersion(1 + self.rng.below(3) as u8)),
            14..19 => Some(Oddity::Protocol(self.rng.below(1 << 16) as u16)),
            19..23 => Some(Oddity::ControlBit),
            23..25 => Some(Oddity::Header(Elsewhere::Zero)),
            25..28 => Some(Oddity::Header(Elsewhere::Unused)),
            _ => None,
        };
        Step::Data {
            session,
            place,
            len: LENGTHS[self.rng.below(LENGTHS.len())],
            oddity,
        }
    }

    fn draw_oddity(&mut self, session: usize) -> Option<Oddity> {
        let sessions = self.sessions.len();
        let other = (session + 1 + self.rng.below(sessions)) % sessions;
        Some(match self.rng.below(100) {
            0..2 => Oddity::ReservedBits,
            2..4 => Oddity::OptionLength,
            4..7 => Oddity::GeneveVersion(1 + self.rng.below(3) as u8),
            7..8 => Oddity::Protocol(0x7a12),
            8..10 => Oddity::ControlBit,
            10..11 => Oddity::Header(Elsewhere::Zero),
            11..12 => Oddity::Header(Elsewhere::Unused),
            12..14 if other != session => Oddity::Header(Elsewhere::Session(other)),
            14..16 => Oddity::SealedVni,
            16..18 => Oddity::OwnRemoteKey,
            18..21 => Oddity::Challenge,
            21..24 => Oddity::Kind(KINDS[self.rng.below(KINDS.len())]),
            24..25 => Oddity::MessageVersion,
            25..27 => Oddity::Trailing(1 + self.rng.below(40)),
            27..28 => Oddity::ForeignSeal,
            28..30 => Oddity::Outsider,
            30..32 => Oddity::OtherClient,
            32..33 => Oddity::SealedForNode,
            33..36 => Oddity::Changed(self.rng.below(BIND_LEN)),
            36..38 => Oddity::Cut(1 + self.rng.below(BIND_LEN - 1)),
            _ => return None,
        })
    }

    /// Mostly one that a client might be at.
    fn draw_place(&mut self, session: usize) -> usize {
        let elsewhere = self.places.of(Kind::Elsewhere);
        let kind = match self.rng.below(100) {
            0..60 => {
                let client = self.sessions[session].pair[self.rng.below(2)];
                return elsewhere[client % elsewhere.len()];
            }
            60..88 => Kind::Elsewhere,
            88..94 => Kind::Own,
            _ => Kind::Loopback,
        };
        let places = self.places.of(kind);
        places[self.rng.below(places.len())]
    }

    /// Never empty: with an empty datagram Go loses the one that it reads next to it
    /// (`batching.linuxBatchingConn.splitCoalescedMessages`).
    fn draw_noise(&mut self) -> Step {
        let place = self.rng.below(self.places.count());
        let len = 1 + self.rng.below(200);
        let mut bytes: Vec<u8> = (0..len).map(|_| self.rng.below(256) as u8).collect();
        let stun =
            |kind: u8| [&[kind >> 4, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
        match self.rng.below(100) {
            0..10 => bytes.truncate(1 + self.rng.below(7)),
            10..20 => bytes = stun(0x00),
            20..30 => bytes = stun(0x10),
            30..40 => bytes.splice(0..0, relay_proto::disco::MAGIC).for_each(drop),
            _ => {}
        }
        // No VNI that Go will have counted to; STUN's cookie is none either.
        if let Some(byte) = bytes.get_mut(4) {
            *byte |= 0x20;
        }
        Step::Noise { place, bytes }
    }
}
