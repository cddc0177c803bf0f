//! The Tailscale peer relay protocol as a state machine without IO.
//!
//! [`Relay`] is given bytes, addresses and the time, and answers with decisions. It reads no clock,
//! opens no socket and starts no task; the same calls with the same seed give the same answers.
//! `docs/wire.md` has the bytes and where each fact comes from.
//!
//! # The driver's contract
//!
//! - Every datagram of the UDP port goes to [`Relay::handle_datagram`] (or, when
//!   [`geneve::uniform_data`] vouches for a whole super-datagram, to [`Relay::handle_data`]), and
//!   the [`Verdict`] is carried out; a reply leaves from the local address that was addressed.
//! - Every DERP packet goes to [`Relay::handle_derp`]; what it returns goes back to the sender's
//!   node key, through the sender's home region.
//! - [`Relay::handle_timeout`] is called once [`Relay::poll_timeout`] has passed, and, to have memory
//!   back, [`Relay::forget`] once [`Relay::poll_forget`] has.
//! - A driver that forwards open sessions on another path as well (it learns of them from
//!   [`Event`]) says when that last heard from legs, with [`Relay::handle_activity`], of each
//!   session that is [`Relay::due`] before [`Relay::handle_due`]. What that path has counted is its
//!   own to tell: [`SessionInfo::add`]. One that turns away datagrams without a session knows from
//!   [`VniFilter`] which those are, however late events reach it.
//! - [`Relay::poll_event`] is emptied after each of these.
//!
//! A relay outlives its process: [`Relay::export`] gives a [`State`], and a relay made with the
//! state's keys goes on with [`Relay::import`].
//!
//! Several threads share a relay by one [`Relay`] each, made with one [`SharedLimits`]: a [`Allocator`] opens
//! the requests, [`Request::shard`] and [`Shard::of`] say whose each request and datagram is.
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
mod config;
mod core;
mod counters;
mod crypto;
mod event;
mod limits;
mod session;
mod slab;
mod state;
mod time;
mod verdict;
mod wire;

pub use self::core::{REPLY_LEN, Relay};
pub use allocator::{Allocation, Allocator, Request};
pub use config::{Config, Keys, Peer};
pub use counters::{Counters, Family, Traffic};
pub use crypto::{
    agreement::SharedBox,
    key::{DiscoPublic, DiscoSecret, KEY_LEN, NodeKey, Pair, Side},
};
pub use event::{Activity, CloseReason, Event, LegInfo, SessionCounts, SessionInfo};
pub use limits::{
    SharedLimits,
    rate::{RateLimit, SharedTat},
};
pub use session::{shard::Shard, vni_filter::VniFilter};
pub use state::{State, StateError};
pub use time::Timestamp;
pub use verdict::{DropReason, Verdict};
pub use wire::{
    disco,
    geneve::{self, Vni},
};
