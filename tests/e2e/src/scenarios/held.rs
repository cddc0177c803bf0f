//! TCP connections between clients that stay open while something changes.

use std::net::SocketAddr;

use anyhow::Result;
use rig::deployment::{Deployment, ProbeHandle};

/// Connection from c1 to c2, with a round trip every tenth of a second.
pub(crate) struct Held {
    connection: ProbeHandle,
    server: ProbeHandle,
}

impl Held {
    /// Connects to a TCP port of c2, by the path that clients use then.
    pub(crate) fn open(deployment: &Deployment<'_>, port: u16) -> Result<Self> {
        let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
        let server = deployment.probe(c2, &["serve", &port.to_string()])?;
        let to = SocketAddr::new(c2.addresses()?[0].parse()?, port).to_string();
        let connection = deployment.probe(c1, &["hold", &to])?;
        Ok(Self { connection, server })
    }

    /// Closes the connection, and returns its round trips in words. Fails if it has ended before.
    pub(crate) fn finish(self) -> Result<String> {
        let trips = self.connection.finish();
        drop(self.server);
        trips
    }
}
