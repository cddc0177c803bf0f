//! Time as the core sees it: the driver passes it in, and nothing here reads a clock.

use std::{ops::Add, time::Duration};

/// A point in monotonic time, in nanoseconds since a start that the driver chooses once.
///
/// It covers 584 years; later points are all equal to the last one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The driver's start.
    pub const START: Self = Self(0);

    /// The point this long after the start.
    pub const fn from_start(since: Duration) -> Self {
        Self(nanoseconds(since))
    }

    /// The point this many nanoseconds after the start.
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since the start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since the start.
    pub const fn since_start(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// The point `span` earlier, and no earlier than the start.
    #[must_use]
    pub const fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(nanoseconds(span)))
    }

    /// Time since `earlier`; zero if `earlier` is later.
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

/// A duration in nanoseconds, as the wire and the saved state have it; saturates.
pub(crate) const fn nanoseconds(span: Duration) -> u64 {
    let nanoseconds = span.as_nanos();
    if nanoseconds > u64::MAX as u128 {
        u64::MAX
    } else {
        nanoseconds as u64
    }
}
