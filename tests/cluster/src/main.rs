//! `cargo dev`: a real cluster and a real tailnet on one machine.

fn main() {}
