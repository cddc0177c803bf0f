//! A data path by itself, for tests of what uses one.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use relay_proto::{Config, DiscoSecret, Keys};

use super::{PortState, SocketPathHandle, SocketPathOptions, SocketSets};

/// Without kernel path, and with nothing inherited; port 0 lets the kernel choose.
pub(crate) fn options(port: u16, threads: usize) -> SocketPathOptions {
    SocketPathOptions {
        port,
        threads,
        config: Config::default(),
        keys: Keys {
            node: DiscoSecret::from_bytes([1; 32]),
            server: DiscoSecret::from_bytes([2; 32]),
        },
        seed: [3; 32],
        first_lamport: 1,
        kernel: None,
        restored_state: None,
        sockets: SocketSets::default(),
    }
}

/// Its port, once it has one.
pub(crate) async fn bound(handle: &SocketPathHandle) -> u16 {
    let mut port = handle.port();
    let bound = port.wait_for(|state| matches!(state, PortState::Bound(_)));
    match *bound.await.unwrap() {
        PortState::Bound(port) => port,
        _ => unreachable!("waited for it"),
    }
}
