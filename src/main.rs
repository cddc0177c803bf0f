//! The `peerrelay` program.

fn main() {}
