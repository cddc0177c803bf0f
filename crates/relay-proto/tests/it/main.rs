//! The relay's state machine, driven from outside as its driver would, in virtual time.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

mod expiry;
mod fuzz;
mod golden;
mod handshake;
mod hostile;
mod limits;
mod model;
mod restart;
mod roaming;
mod sim;
mod soak;
mod vni_filter;
