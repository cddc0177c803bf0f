//! Answers of the API, as far as scenarios read them.

use serde::{Deserialize, Deserializer};

/// An OAuth client.
#[derive(Clone, Debug)]
pub struct OauthClient {
    /// The ID of the client.
    pub id: String,
    /// The secret of the client.
    pub secret: String,
}

/// A federated identity.
#[derive(Clone, Debug)]
pub struct FederatedIdentity {
    /// The client ID of token exchanges.
    pub id: String,
    /// The audience that tokens must have.
    pub audience: String,
}

/// An auth key that the API made.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MintedKey {
    /// The ID of the key.
    #[serde(rename = "ID")]
    pub id: String,
    /// The ID of the OAuth client that made it; empty for a user.
    pub client: String,
    /// The tags of devices that join with it.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub tags: Vec<String>,
    /// True if any number of devices join with it.
    pub reusable: bool,
    /// True if devices that join with it are ephemeral.
    pub ephemeral: bool,
    /// The time of its revocation; the year is 1 while it is not revoked.
    pub revoked: String,
    /// The node IDs of the devices that have joined with it.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub devices: Vec<String>,
}

impl MintedKey {
    /// Says whether no further device can join with the key, by use or revocation.
    pub fn is_spent(&self) -> bool {
        self.is_revoked() || !self.reusable && !self.devices.is_empty()
    }

    /// Says whether the key is revoked.
    pub fn is_revoked(&self) -> bool {
        !self.revoked.starts_with("0001-")
    }
}

/// A device of the tailnet.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// The node ID, by which the API names the device.
    pub node_id: String,
    /// The full name in the tailnet.
    pub name: String,
    /// The tags of the device.
    #[serde(default)]
    pub tags: Vec<String>,
    /// True if the device needs no approval, or has it.
    pub authorized: bool,
    /// True if the tailnet removes the device after it has left.
    pub is_ephemeral: bool,
    /// True while the device listens for network maps.
    pub connected_to_control: bool,
}

/// A request that the API has answered.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiRequest {
    /// The HTTP method.
    pub method: String,
    /// The path of the URL.
    pub path: String,
    /// The status of the answer; 0 if the connection was closed without one.
    pub status: u16,
    /// The ID of the OAuth client whose token it had; empty if there was none.
    #[serde(default)]
    pub client: String,
    /// The reason of a refusal that the answer does not tell.
    #[serde(default)]
    pub note: String,
}

#[derive(Deserialize)]
pub(super) struct Token {
    pub(super) token: String,
}

#[derive(Deserialize)]
pub(super) struct Devices {
    pub(super) devices: Vec<Device>,
}

#[derive(Deserialize)]
pub(super) struct Created {
    pub(super) id: String,
    #[serde(default)]
    pub(super) key: String,
    #[serde(default)]
    pub(super) audience: String,
}

/// Go writes an empty list as null.
fn null_is_empty<'de, D: Deserializer<'de>>(list: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(list)?.unwrap_or_default())
}
