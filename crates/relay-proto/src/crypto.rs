//! Keys, key agreement and the challenge of the bind handshake.

pub(crate) mod agreement;
pub(crate) mod challenge;
pub(crate) mod key;
pub(crate) mod key_cache;
