//! The shared boxes with each client: one X25519 per client key, not one per pair.

use std::collections::BTreeMap;

use crypto_box::SalsaBox;

use crate::key::{DiscoPublic, DiscoSecret};

struct Client {
    shared: SalsaBox,
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

    /// A fresh box, not kept.
    pub(crate) fn shared_with(&self, client: DiscoPublic) -> SalsaBox {
        SalsaBox::new(&client.to_box(), &self.secret.to_box())
    }

    /// The kept box of a client that has a session.
    pub(crate) fn kept(&self, client: DiscoPublic) -> Option<&SalsaBox> {
        self.clients.get(&client).map(|client| &client.shared)
    }

    /// Keeps a client's box for one more session.
    pub(crate) fn retain(&mut self, client: DiscoPublic) {
        if let Some(known) = self.clients.get_mut(&client) {
            known.sessions += 1;
            return;
        }
        let shared = self.shared_with(client);
        self.clients.insert(
            client,
            Client {
                shared,
                sessions: 1,
            },
        );
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
