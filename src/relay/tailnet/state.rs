//! State that the tailnet task publishes.

use std::net::IpAddr;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::relay::{addresses::StunServer, grant::GrantView, problem::Problem};

/// Senders of the state, to which only the tailnet task sends.
#[derive(Debug)]
pub struct TailnetSenders {
    /// State of the control connection.
    pub control: watch::Sender<ControlState>,
    /// State of the DERP connection.
    pub derp: watch::Sender<DerpState>,
    /// STUN servers of the DERP map.
    pub stun_servers: watch::Sender<Vec<StunServer>>,
}

/// State of the control connection, and contents of the last network map.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControlState {
    /// Control knows the device and has sent a network map on a stream that is open.
    pub map_received: bool,
    /// Problem of the connection or of the device, while there is one.
    pub problem: Option<Problem>,
    /// Public key of the relay's request for an auth key, in hex, while there is one.
    pub auth_key_request: Option<String>,
    /// The relay as a tailnet device.
    pub device: Option<TailnetIdentity>,
    /// Devices that may use this relay.
    pub grant: Option<GrantView>,
}

/// The relay as a tailnet device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TailnetIdentity {
    /// Name of the device in the tailnet.
    pub name: String,
    /// Device name that the relay asked for, if another device has it.
    pub taken_name: Option<String>,
    /// Stable node id, as control gives it.
    pub node_id: String,
    /// Tailnet addresses.
    pub addresses: Vec<IpAddr>,
    /// Tags that control gave the device.
    pub tags: Vec<String>,
    /// Expiry of the node key; keys of tagged devices mostly have none.
    pub key_expiry: Option<Timestamp>,
}

/// State of the connection to the home DERP region.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DerpState {
    /// Name of the home region, while connected.
    pub home: Option<String>,
    /// Problem of the connection, while there is one.
    pub problem: Option<Problem>,
}
