//! The Tailscale peer relay protocol as a state machine without IO.
//!
//! A relay is given bytes, addresses and the time, and answers with decisions. It reads no clock,
//! opens no socket and starts no task; the same calls with the same seed give the same answers.
//! `docs/wire.md` describes the bytes and names the source of each fact.
//!
//! # Parts
//!
//! - [`Allocator`] opens allocation requests that came over DERP, and seals the answers.
//! - [`Core`] has sessions, and decides about each datagram. Several threads share a relay by one
//!   core each: [`Request::shard`] and [`Shard::of`] name the core of a request or a datagram.
//! - [`SharedLimits`] are the limits that hold over all cores of a relay.
//! - [`Relay`] is an allocator and a core on one thread, for small drivers and tests.
//! - [`State`] is what outlives a process: [`Core::export`] makes it, [`Core::import`] goes on with it.
//!
//! # The driver's contract
//!
//! - Every datagram of the UDP port goes to [`Core::handle_datagram`], or to [`Core::handle_data`] if
//!   [`geneve::uniform_data`] accepts a whole super-datagram. The driver carries out the [`Verdict`];
//!   a reply leaves from the local address that the datagram was sent to.
//! - Every DERP packet goes to [`Relay::handle_derp`] (or [`Allocator::open`], [`Core::allocate`] and
//!   [`Allocator::answer`]); the answer goes back to the sender's node key, through the sender's home
//!   region.
//! - [`Core::handle_timeout`] is called once [`Core::poll_timeout`] has passed. [`Core::forget`] frees
//!   memory once [`Core::poll_forget`] has passed, and so does [`Allocator::forget`].
//! - [`Core::poll_event`] is emptied after each of these calls.
//! - A driver that forwards open sessions on a second data path learns of them from [`Event`]. Before
//!   [`Core::handle_due`] it reports the activity of the session that is [`Core::due`], with
//!   [`Core::handle_activity`]. It adds its own counts with [`SessionInfo::add`]. [`SharedTat`] and
//!   [`SharedVnis`] are memory that such a path shares with the cores.
//!
//! ```
//! use relay_proto::{Config, DiscoSecret, Keys, REPLY_LEN, Relay, Timestamp, Verdict};
//! use std::{net::SocketAddr, time::Duration};
//!
//! let keys = Keys {
//!     node: DiscoSecret::from_bytes([1; 32]),
//!     server: DiscoSecret::from_bytes([2; 32]),
//! };
//! let mut now = Timestamp::START;
//! let mut relay = Relay::new(Config::default(), keys, [3; 32], 1, now);
//! relay.set_addresses(vec!["203.0.113.10:40000".parse()?]);
//!
//! let received: Vec<(SocketAddr, Vec<u8>)> = vec![("198.51.100.7:41641".parse()?, vec![0; 32])];
//! let mut reply = [0; REPLY_LEN];
//! for (source, datagram) in &received {
//!     match relay.handle_datagram(*source, None, datagram, now, &mut reply) {
//!         Verdict::Forward { to, .. } => println!("send {} bytes to {to}", datagram.len()),
//!         Verdict::Reply { len } => println!("send {:?} to {source}", &reply[..len]),
//!         Verdict::Consumed => {}
//!         Verdict::Drop(reason) => println!("{}", reason.as_str()),
//!     }
//!     while let Some(event) = relay.poll_event() {
//!         println!("{event:?}");
//!     }
//! }
//! now = now + Duration::from_secs(1);
//! if relay.poll_timeout().is_some_and(|due| due <= now) {
//!     relay.handle_timeout(now);
//! }
//! # Ok::<(), std::net::AddrParseError>(())
//! ```
#![forbid(unsafe_code)]

mod allocator;
#[cfg(feature = "client")]
pub mod client;
mod config;
mod core;
mod counters;
mod crypto;
mod event;
mod limits;
mod relay;
mod session;
mod shared_path;
mod slab;
mod state;
mod time;
mod verdict;
mod wire;

pub use self::core::{Core, REPLY_LEN};
pub use allocator::{Allocation, Allocator, Request};
pub use config::{Config, Keys, Peer};
pub use counters::{Counters, Family, Traffic};
pub use crypto::{
    agreement::SharedBox,
    key::{DiscoPublic, DiscoSecret, KEY_LEN, NodeKey, Pair, Side},
};
pub use event::{Activity, CloseReason, Event, LegInfo, SessionCounts, SessionInfo};
pub use limits::{SharedLimits, rate::RateLimit};
pub use relay::Relay;
pub use session::shard::Shard;
pub use shared_path::{ClockedTat, SharedTat, SharedVnis, vni_filter::VniFilter};
pub use state::{State, StateError};
pub use time::Timestamp;
pub use verdict::{DropReason, Verdict};
pub use wire::{
    disco,
    geneve::{self, Vni},
};
