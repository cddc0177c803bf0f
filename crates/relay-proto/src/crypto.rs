//! Keys and key agreement.

pub(crate) mod agreement;
pub(crate) mod key;
pub(crate) mod key_cache;
