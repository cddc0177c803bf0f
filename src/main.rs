//! The `peerrelay` program.

fn main() -> anyhow::Result<()> {
    peerrelay::cli::run()
}
