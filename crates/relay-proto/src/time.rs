//! Time as the core sees it: handed in by the driver, never read.

use std::{ops::Add, time::Duration};

/// A point in monotonic time, counted from a start that the driver chooses once: in nanoseconds,
/// for 584 years; what would lie later is the last of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The driver's start.
    pub const START: Self = Self(0);

    /// A point this long after the start.
    pub const fn from_start(since: Duration) -> Self {
        Self(nanoseconds(since))
    }

    /// Time since the start.
    pub const fn since_start(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// The point this long before; the start when that would be before it.
    #[must_use]
    pub const fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanoseconds(span)))
    }

    /// Time since `earlier`; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(span)))
    }
}

/// As the wire and the state count; the greatest number for what is longer.
pub(crate) const fn nanoseconds(span: Duration) -> u64 {
    let nanoseconds = span.as_nanos();
    if nanoseconds > u64::MAX as u128 {
        u64::MAX
    } else {
        nanoseconds as u64
    }
}
