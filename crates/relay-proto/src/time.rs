//! Time as the core sees it: handed in by the driver, never read.

use std::{ops::Add, time::Duration};

/// A point in monotonic time, counted from a start that the driver chooses once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(Duration);

impl Timestamp {
    /// The driver's start.
    pub const START: Self = Self(Duration::ZERO);

    /// A point this long after the start.
    pub const fn from_start(since: Duration) -> Self {
        Self(since)
    }

    /// Time since the start.
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// The point this long before; the start when that would be before it.
    #[must_use]
    pub const fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span))
    }

    /// Time since `earlier`; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}
