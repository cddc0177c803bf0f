//! Paths by which bytes between clients went, as relays and clients count them.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Result, ensure};

use rig::{deployment::Deployment, names::METRICS_PORT};

/// Share of a transfer, in percent, that clients may send elsewhere: looking for paths takes some bytes.
pub(crate) const STRAY_PERCENT: f64 = 1.0;

/// TCP port at which c2 receives transfers.
const PORT: u16 = 7_005;

/// Sends so many bytes from c1 to c2 over TCP, which relays must carry. Says that they arrived unchanged, and
/// how many bytes went by which relay.
pub(crate) fn transfer(deployment: &Deployment<'_>, bytes: u64) -> Result<String> {
    let before = Counters::read(deployment)?;
    let sent = send(deployment, bytes)?;
    let carried = Counters::read(deployment)?.since(&before);
    let ways = carried.through_relays(bytes, STRAY_PERCENT)?;
    Ok(format!("{sent}: {ways}"))
}

/// Sends so many bytes from c1 to c2 over TCP, by whatever path. Says that they arrived unchanged.
pub(crate) fn send(deployment: &Deployment<'_>, bytes: u64) -> Result<String> {
    let (c1, c2) = (deployment.client("c1")?, deployment.client("c2")?);
    let server = deployment.probe(c2, &["serve", &PORT.to_string()])?;
    let to = SocketAddr::new(c2.addresses()?[0].parse()?, PORT).to_string();
    let sent = deployment
        .probe(c1, &["send", &to, &bytes.to_string()])?
        .finish();
    drop(server);
    sent
}

/// Counters at a moment.
#[derive(Debug)]
pub(crate) struct Counters {
    /// Bytes that the relay on each node has forwarded; none where no relay answers.
    relays: BTreeMap<&'static str, f64>,
    /// Bytes that c1 and c2 have sent, by path as tailscaled names it.
    clients: BTreeMap<String, f64>,
}

/// Bytes between two moments.
#[derive(Debug, PartialEq)]
pub(crate) struct Carried {
    relays: BTreeMap<&'static str, f64>,
    relayed: f64,
    derp: f64,
    direct: f64,
}

impl Counters {
    /// Reads the counters of all relays, and those of c1 and c2.
    pub(crate) fn read(deployment: &Deployment<'_>) -> Result<Self> {
        Self::read_at(deployment, METRICS_PORT)
    }

    /// Reads the counters of relays that have this port for their metrics, and those of c1 and c2.
    pub(crate) fn read_at(deployment: &Deployment<'_>, port: u16) -> Result<Self> {
        let mut relays = BTreeMap::new();
        for node in &deployment.rig.nodes {
            // A relay that is being replaced does not answer.
            let samples = deployment.metrics_at(node, port).unwrap_or_default();
            let forwarded = samples
                .iter()
                .filter(|(name, _)| name.starts_with("peerrelay_forwarded_bytes_total"));
            relays.insert(node.machine.name, forwarded.map(|(_, value)| value).sum());
        }
        let mut clients = BTreeMap::new();
        for name in ["c1", "c2"] {
            for (path, bytes) in deployment.client(name)?.sent_bytes()? {
                *clients.entry(path).or_default() += bytes;
            }
        }
        Ok(Self { relays, clients })
    }

    /// Bytes since then. A relay that was replaced begins to count at zero.
    pub(crate) fn since(&self, before: &Self) -> Carried {
        let relays = self.relays.iter().map(|(&node, &bytes)| {
            let before = before.relays.get(node).copied().unwrap_or_default();
            let more = if bytes < before {
                bytes
            } else {
                bytes - before
            };
            (node, more)
        });
        let sent = |prefix: &str| {
            let sum = |counters: &BTreeMap<String, f64>| -> f64 {
                let matching = counters.iter().filter(|(path, _)| path.starts_with(prefix));
                matching.map(|(_, bytes)| bytes).sum()
            };
            sum(&self.clients) - sum(&before.clients)
        };
        Carried {
            relays: relays.collect(),
            relayed: sent("peer_relay"),
            derp: sent("derp"),
            direct: sent("direct"),
        }
    }
}

impl Carried {
    /// Checks that relays forwarded at least so many bytes, and that the clients sent these to relays.
    pub(crate) fn through_relays(&self, bytes: u64, stray_percent: f64) -> Result<String> {
        let forwarded: f64 = self.relays.values().sum();
        ensure!(
            forwarded > bytes as f64,
            "the relays forwarded less than {bytes} bytes: {self:?}"
        );
        self.sent_to_relays(bytes, stray_percent)
    }

    /// Checks what the clients sent only, for relays that were replaced meanwhile: at most this share of the
    /// bytes elsewhere.
    pub(crate) fn sent_to_relays(&self, bytes: u64, stray_percent: f64) -> Result<String> {
        let limit = bytes as f64 * stray_percent / 100.0;
        ensure!(
            self.derp < limit && self.direct < limit && self.relayed > bytes as f64 - limit,
            "not only relays carried {bytes} bytes: {self:?}"
        );
        Ok(self.to_string())
    }

    /// Checks that the clients sent at most this share of their bytes elsewhere than to relays.
    pub(crate) fn mostly_to_relays(&self, stray_percent: f64) -> Result<String> {
        let stray = self.derp + self.direct;
        ensure!(
            stray * 100.0 < (self.relayed + stray) * stray_percent,
            "not only relays carried the traffic: {self:?}"
        );
        Ok(self.to_string())
    }

    /// Bytes that the relay on a node has forwarded.
    #[cfg(test)]
    fn by(&self, node: &str) -> f64 {
        self.relays.get(node).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Carried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (node, bytes) in &self.relays {
            write!(f, "{:.2} MB by {node}, ", bytes / 1e6)?;
        }
        write!(f, "{:.2} MB by DERP", self.derp / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(n1: f64, relay: f64, derp: f64) -> Counters {
        let paths = [
            ("peer_relay_ipv4", relay / 2.0),
            ("peer_relay_ipv6", relay / 2.0),
            ("derp", derp),
            ("direct_ipv4", 5.0),
        ];
        Counters {
            relays: BTreeMap::from([("n1", n1)]),
            clients: paths.map(|(path, bytes)| (path.into(), bytes)).into(),
        }
    }

    #[test]
    fn a_transfer_by_derp_is_not_taken_for_a_relayed_one() {
        let before = counters(50.0, 100.0, 7.0);
        let carried = |n1, relay, derp| counters(n1, relay, derp).since(&before);
        let relayed = |n1, relay, derp| {
            let carried = carried(n1, relay, derp);
            carried.through_relays(1_000, STRAY_PERCENT).is_ok()
        };
        assert!(relayed(1_060.0, 1_110.0, 8.0));
        assert!(!relayed(1_060.0, 1_110.0, 30.0));
        assert!(!relayed(900.0, 1_110.0, 8.0));
        assert!(!relayed(1_060.0, 900.0, 8.0));
        // The relay was replaced.
        assert!((carried(40.0, 1_110.0, 8.0).by("n1") - 40.0).abs() < 1e-9);
    }
}
