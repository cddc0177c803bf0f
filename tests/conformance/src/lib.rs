//! Comparison with Tailscale's code: generated handshakes and network maps go to both.

pub mod compare;
mod cpu;
pub mod maps;
