//! The Tailscale peer relay protocol as a sans-IO state machine.
