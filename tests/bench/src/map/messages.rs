//! Synthetic network maps, in the form in which Tailscale's control server sends them.

use std::{
    fmt::Display,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::Result;
use relay_proto::client::Client;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::{Value, json};

/// Devices that have the keys of [`Client::numbered`], from number 1 on, so that the replay can ask in their
/// names.
const CLIENTS: u32 = 64;
/// Messages of each kind.
const MESSAGES: u32 = 2_000;
/// Messages with the whole packet filter.
const FILTERS: u32 = 20;

/// A tailnet with so many devices beside the relay. Half of them are servers with a tag, and each two of
/// the others belong to one user.
#[derive(Clone, Copy, Debug)]
pub struct Tailnet {
    /// Number of devices.
    pub devices: u32,
}

impl Tailnet {
    /// Writes the streams of all kinds. Returns the number of bytes of the full map as JSON, and as it is
    /// sent.
    pub fn write(self, directory: &Path) -> Result<[u64; 2]> {
        let map = self.full_map();
        let received = write(&directory.join("load"), [&map])?;
        let numbers = 0..MESSAGES;
        write(
            &directory.join("unrelated"),
            numbers.clone().map(|number| self.unrelated(number)),
        )?;
        write(
            &directory.join("device"),
            numbers.map(|number| self.restarted(number)),
        )?;
        let filters = (0..FILTERS).map(|number| {
            let filter = self.filter(number % 2);
            format!(r#"{{"PacketFilter":{filter}}}"#)
        });
        write(&directory.join("filter"), filters)?;
        Ok([map.len() as u64, received])
    }

    /// The first message of a stream.
    fn full_map(self) -> String {
        let mut own = device(1, 0);
        own["Tags"] = json!(["tag:relay"]);
        let mut map = format!(r#"{{"KeepAlive":false,"Node":{own},"Peers":["#);
        for number in self.numbers() {
            if number > 2 {
                map.push(',');
            }
            map += &device(number, 0).to_string();
        }
        let users = self.numbers().step_by(4).map(|number| {
            json!({"ID": user(number), "LoginName": format!("user-{number}@example.com"),
                   "DisplayName": format!("User {number}"), "ProfilePicURL": ""})
        });
        let users: Value = users.collect();
        let filter = self.filter(0);
        let time = "2026-11-29T12:00:00Z";
        map += &format!(
            r#"],"PacketFilter":{filter},"UserProfiles":{users},"ControlTime":"{time}","Domain":"example.com"}}"#
        );
        map
    }

    /// A message that changes nothing for a relay: a device went online or offline.
    fn unrelated(self, number: u32) -> String {
        let id = 2 + number.wrapping_mul(7919) % self.devices;
        let online = number.is_multiple_of(2);
        let time = "2026-11-29T12:00:00Z";
        match number % 2 {
            0 => json!({"OnlineChange": {id.to_string(): online}, "PeerSeenChange": {id.to_string(): online}}),
            _ => json!({"PeersChangedPatch": [{"NodeID": id, "Online": online, "LastSeen": time,
                        "Endpoints": ["198.51.100.7:41641", "10.0.0.7:41641"]}]}),
        }
        .to_string()
    }

    /// A message with a device that has restarted: it has another disco key and other ports.
    fn restarted(self, number: u32) -> String {
        let others = self.devices - CLIENTS;
        let id = 2 + CLIENTS + number.wrapping_mul(7919) % others;
        json!({"PeersChanged": [device(id, number + 1)]}).to_string()
    }

    /// The packet filter, as control servers write a grant for tags: with the addresses of all its devices.
    /// `without` devices are not in it.
    fn filter(self, without: u32) -> Value {
        let named = self.numbers().take((self.devices - without) as usize);
        let addresses: Value = named.flat_map(addresses).collect();
        let own = addresses_with_length(1);
        json!([
            {"SrcIPs": ["*"], "DstPorts": [{"IP": "*", "Ports": {"First": 443, "Last": 443}}]},
            {"SrcIPs": addresses, "CapGrant": [{"Dsts": own, "CapMap": {"tailscale.com/cap/relay": null}}]},
        ])
    }

    fn numbers(self) -> impl Iterator<Item = u32> + Clone {
        2..2 + self.devices
    }
}

/// A device of the tailnet in full form, about as long as Tailscale's.
fn device(id: u32, restarts: u32) -> Value {
    let client = match (2..2 + CLIENTS).contains(&id) {
        true => Some(Client::numbered(u64::from(id - 1))),
        false => None,
    };
    let (node, disco) = match client {
        Some(client) => (hex(&client.node_key.0), hex(&client.key.0)),
        None => (key(id, 1), key(id, 2 + restarts)),
    };
    let addresses = addresses_with_length(id);
    let port = 41_641 + restarts % 1_000;
    let name = format!("{}-{id:06}", if id % 4 < 2 { "server" } else { "laptop" });
    let mut device = json!({
        "ID": id,
        "StableID": format!("n{id:07}CNTRL"),
        "Name": format!("{name}.tail1a2b3c.ts.net."),
        "User": user(id),
        "Key": format!("nodekey:{node}"),
        "KeyExpiry": "2027-05-29T12:00:00Z",
        "Machine": format!("mkey:{}", key(id, 0)),
        "DiscoKey": format!("discokey:{disco}"),
        "Addresses": addresses,
        "AllowedIPs": addresses,
        "Endpoints": [format!("198.51.100.7:{port}"), format!("10.0.0.7:{port}")],
        "HomeDERP": 1 + id % 20,
        "Hostinfo": {"OS": "linux", "Hostname": name, "Services": [
            {"Proto": "peerapi4", "Port": 40_000 + id % 20_000},
            {"Proto": "peerapi6", "Port": 40_000 + id % 20_000},
        ]},
        "Created": "2025-03-01T08:00:00Z",
        "Cap": 131,
        "Online": true,
        "MachineAuthorized": true,
        "ComputedName": name,
        "ComputedNameWithHost": name,
    });
    if id % 4 < 2 {
        let tags = ["tag:prod", "tag:lab", "tag:db", "tag:web"];
        device["Tags"] = json!(["tag:server", tags[id as usize / 4 % 4]]);
        device["KeyExpiry"] = json!("0001-01-01T00:00:00Z");
    }
    device
}

/// A user has two devices of each four; the others have tags.
fn user(id: u32) -> u64 {
    1_000_000_000 + u64::from(id / 4)
}

fn addresses(id: u32) -> [String; 2] {
    let [_, a, b, c] = (id + 256).to_be_bytes();
    [
        format!("100.{}.{b}.{c}", 64 + a),
        format!(
            "fd7a:115c:a1e0::{:x}:{:x}",
            0x2b00 + u32::from(a),
            (id + 256) & 0xffff
        ),
    ]
}

fn addresses_with_length(id: u32) -> [String; 2] {
    let [v4, v6] = addresses(id);
    [v4 + "/32", v6 + "/128"]
}

/// A key in hex that no other device and kind has.
fn key(id: u32, kind: u32) -> String {
    let mut key = [0x5a; 32];
    key[..4].copy_from_slice(&id.wrapping_mul(0x9e37_79b1).to_be_bytes());
    key[4..8].copy_from_slice(&kind.to_be_bytes());
    hex(&key)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes messages as a stream: each is compressed, and preceded by its length. Returns the number of bytes.
fn write<T: Display>(path: &Path, messages: impl IntoIterator<Item = T>) -> Result<u64> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut count = 0;
    for message in messages {
        let message = message.to_string();
        let bytes = compress_to_vec(message.as_bytes(), CompressionLevel::Fastest);
        file.write_all(&u32::try_from(bytes.len())?.to_le_bytes())?;
        file.write_all(&bytes)?;
        count += bytes.len() as u64;
    }
    file.flush()?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_devices_have_their_own_keys_and_addresses() {
        let tailnet = Tailnet { devices: 100_000 };
        let mut all: Vec<_> = tailnet.numbers().flat_map(addresses).collect();
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
        let [few, more] = [100, 200].map(|devices| Tailnet { devices }.full_map());
        let each = (more.len() - few.len()) / 100;
        assert!((900..1_400).contains(&each), "{each} bytes");
    }
}
