//! The bind handshake (docs/wire.md): a bind gets a challenge, and its answer binds the leg.

use std::net::{IpAddr, SocketAddr};

use rand_chacha::rand_core::RngCore;

use super::{Core, REPLY_LEN};
use crate::{
    crypto::key::DiscoPublic,
    event::Event,
    session::Handshake,
    shared_path::{SharedTat, SharedVnis},
    time::Timestamp,
    verdict::{DropReason, Verdict},
    wire::{
        disco::{BindCommon, Frame, Message, NONCE_LEN, seal},
        geneve::{HEADER_LEN, Header, PROTOCOL_DISCO, Vni},
    },
};

impl<P: SharedTat + SharedVnis> Core<P> {
    /// Handles a control datagram. The cheap checks come first: nobody but a session's own clients
    /// can make the relay compute a key agreement.
    pub(super) fn handshake(
        &mut self,
        header: Header,
        (source, local): (SocketAddr, Option<IpAddr>),
        datagram: &[u8],
        now: Timestamp,
        reply: &mut [u8; REPLY_LEN],
    ) -> Result<Verdict, DropReason> {
        let vni = header.vni;
        let session = self.table.get_mut(vni).ok_or(DropReason::UnknownVni)?;
        if header.protocol != PROTOCOL_DISCO {
            return Err(DropReason::NotDisco);
        }
        let frame = Frame::parse(&datagram[HEADER_LEN..]).ok_or(DropReason::NotDisco)?;
        let side = session.pair.side_of(frame.sender);
        let side = side.ok_or(DropReason::UnknownSender)?;
        if !self.policy.may_bind(&source) {
            return Err(DropReason::SourceNotBindable);
        }
        let shared = self.shared_keys.shared_with(frame.sender, now);
        let message = frame.open(shared).ok_or(DropReason::BadSeal)?;
        self.challenges.rotate(&mut self.rng, now);
        // Taken before the handshake, which may open the session.
        let was_open = session.is_open();
        let path = (source, self.locals.id(local));
        match session.handshake(side, &message, path, &self.challenges, now)? {
            Handshake::Challenge(challenge) => {
                self.counters.challenges += 1;
                let len = self.write_challenge(vni, frame.sender, challenge, now, reply);
                return Ok(Verdict::Reply { len });
            }
            Handshake::Bound => self.counters.binds += 1,
            Handshake::Rebound => self.counters.rebinds += 1,
        }
        if let Some((legs, locals)) = session.open_legs() {
            let locals = locals.map(|local| self.locals.address(local));
            if was_open {
                self.events.push_back(Event::Moved { vni, legs, locals });
            } else {
                self.events.push_back(Event::Opened { vni, legs, locals });
                self.table.mark_open(vni);
                self.queue_early_end(vni);
            }
        }
        Ok(Verdict::Consumed)
    }

    /// Writes a sealed challenge for `client` into `reply`; returns its length.
    fn write_challenge(
        &mut self,
        vni: Vni,
        client: DiscoPublic,
        challenge: BindCommon,
        now: Timestamp,
        reply: &mut [u8; REPLY_LEN],
    ) -> usize {
        let (nonce, server) = (self.nonce(), self.shared_keys.public());
        let shared = self.shared_keys.shared_with(client, now);
        let plaintext = Message::Challenge(challenge).marshal();
        let frame = seal(shared, server, nonce, &plaintext);
        let header = Header {
            control: true,
            protocol: PROTOCOL_DISCO,
            vni,
        };
        reply[..HEADER_LEN].copy_from_slice(&header.encode());
        reply[HEADER_LEN..].copy_from_slice(&frame);
        REPLY_LEN
    }

    /// A random nonce for one sealed frame. It has 24 bytes, so random ones do not repeat.
    pub(crate) fn nonce(&mut self) -> [u8; NONCE_LEN] {
        let mut nonce = [0; NONCE_LEN];
        self.rng.fill_bytes(&mut nonce);
        nonce
    }
}
