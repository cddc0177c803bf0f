//! The server's side of the bind handshake: one X25519 per client and handshake, not one per
//! pair, and none for a client that never binds. A client's box does not outlive its use by much:
//! once bound, a session costs no memory for it.

use crate::{
    agreement::SharedBox,
    boxes::Boxes,
    key::{DiscoPublic, DiscoSecret},
    time::Timestamp,
};

/// Clients, in each of two generations, whose handshakes need no other X25519: those of a second
/// at a rate of a thousand.
const MOST_BOXES: usize = (1 << 10) / 8 * 7;

/// Boxes between the server's disco key and clients.
pub(crate) struct Sealer {
    secret: DiscoSecret,
    public: DiscoPublic,
    boxes: Boxes,
}

impl Sealer {
    pub(crate) fn new(secret: DiscoSecret) -> Self {
        Self {
            public: secret.public(),
            boxes: Boxes::new(&secret, MOST_BOXES),
            secret,
        }
    }

    pub(crate) const fn public(&self) -> DiscoPublic {
        self.public
    }

    pub(crate) const fn secret(&self) -> &DiscoSecret {
        &self.secret
    }

    /// The box of a client; only those of sessions may cost an X25519.
    pub(crate) fn of(&mut self, client: DiscoPublic, now: Timestamp) -> &SharedBox {
        self.boxes.with(client, now)
    }

    /// See [`Boxes::poll_forget`].
    pub(crate) const fn poll_forget(&self) -> Option<Timestamp> {
        self.boxes.poll_forget()
    }

    /// See [`Boxes::forget`].
    pub(crate) fn forget(&mut self, now: Timestamp) -> bool {
        self.boxes.forget(now)
    }
}
