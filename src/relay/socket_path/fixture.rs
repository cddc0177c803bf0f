//! Data path without a relay around it, for tests.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::thread;

use relay_proto::{Config, DiscoSecret, Keys};
use tokio::runtime::Builder;

use super::{Driver, SocketPathHandle, SocketPathOptions, SocketSets};

/// Options without kernel path and restored state; port 0 lets the kernel choose.
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

/// Starts a data path, and runs its driver on a thread of its own: like the worker threads, that one
/// is in the network namespace of the caller.
pub(crate) fn spawn(options: SocketPathOptions) -> SocketPathHandle {
    let (handle, driver) = super::spawn(options).unwrap();
    run_in_background(driver);
    handle
}

pub(super) fn run_in_background(driver: Driver) {
    thread::spawn(|| {
        let mut runtime = Builder::new_current_thread();
        let runtime = runtime.enable_time().build().unwrap();
        runtime.block_on(driver.run()).unwrap();
    });
}

/// Waits until the port is bound, and returns its number.
pub(crate) async fn bound(handle: &SocketPathHandle) -> u16 {
    let mut port = handle.port();
    let state = port.wait_for(|state| state.bound().is_some()).await;
    state.unwrap().bound().unwrap()
}
