//! The admin interface of the control server: HTTP on a unix socket.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// A node as control knows it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NodeStatus {
    /// The name of the device in the tailnet.
    pub name: String,
    /// The node key of the device.
    pub key: String,
    /// The tailnet addresses.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub addresses: Vec<String>,
    /// The tags of the device.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub tags: Vec<String>,
    /// True if the device said that it is a peer relay.
    pub peer_relay: bool,
    /// The home DERP region; zero while there is none.
    #[serde(rename = "HomeDERP")]
    pub home_derp: u32,
    /// True while the device listens for network maps.
    pub streaming: bool,
    /// Number of times that it has begun to.
    pub streams: u32,
}

/// The policy that control read last.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PolicyWrite {
    /// The whole text of the policy file.
    pub(super) text: String,
    /// The reason why control refuses the policy; empty while it is in force.
    pub(super) refused: String,
}

/// Sends a request without a body and returns the body of the answer.
pub(super) fn request(socket: &Path, method: &str, path: &str) -> Result<String> {
    send(socket, method, path, None, "")
}

/// Sends a request, with a token of the API if there is one, and returns the body of the answer.
pub(super) fn send(
    socket: &Path,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &str,
) -> Result<String> {
    let mut stream = UnixStream::connect(socket)
        .with_context(|| format!("failed to connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // HTTP/1.0 ends the answer with the connection and knows no chunks.
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: control\r\n{}Content-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        token.unwrap_or_default(),
        body.len()
    )?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("failed to read what control answered")?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("control answered no HTTP")?;
    if head.split_whitespace().nth(1) != Some("200") {
        bail!("control refused {path}: {}", body.trim());
    }
    Ok(body.into())
}

/// Go writes an empty list as null.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(list: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(list)?.unwrap_or_default())
}
