//! The shared boxes with each client: one X25519 per client key, not one per pair, and none for a
//! client that never binds.

use std::collections::BTreeMap;

use crypto_box::SalsaBox;

use crate::key::{DiscoPublic, DiscoSecret};

#[derive(Default)]
struct Client {
    shared: Option<SalsaBox>,
    sessions: usize,
}

/// Boxes between the server's disco key and every client that has a session.
pub(crate) struct Sealer {
    secret: DiscoSecret,
    public: DiscoPublic,
    clients: BTreeMap<DiscoPublic, Client>,
}

impl Sealer {
    pub(crate) fn new(secret: DiscoSecret) -> Self {
        Self {
            public: secret.public(),
            secret,
            clients: BTreeMap::new(),
        }
    }

    pub(crate) const fn public(&self) -> DiscoPublic {
        self.public
    }

    pub(crate) const fn secret(&self) -> &DiscoSecret {
        &self.secret
    }

    /// The box of a client that has a session, made when it is first asked for.
    pub(crate) fn of(&mut self, client: DiscoPublic) -> Option<&SalsaBox> {
        let known = self.clients.get_mut(&client)?;
        let make = || SalsaBox::new(&client.to_box(), &self.secret.to_box());
        Some(known.shared.get_or_insert_with(make))
    }

    /// Keeps a client's box for one more session.
    pub(crate) fn retain(&mut self, client: DiscoPublic) {
        self.clients.entry(client).or_default().sessions += 1;
    }

    /// Gives up one session of a client; the box goes with the last.
    pub(crate) fn release(&mut self, client: DiscoPublic) {
        if let Some(known) = self.clients.get_mut(&client) {
            known.sessions -= 1;
            if known.sessions == 0 {
                self.clients.remove(&client);
            }
        }
    }
}
