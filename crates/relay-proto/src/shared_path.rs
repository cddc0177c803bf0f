//! Memory that a relay's cores share with another data path of the same relay.
//!
//! A second path, such as a program in the kernel, forwards data that no core sees. These traits
//! let it keep the same bandwidth limit, and know VNIs without a session from those that have one.
//! `()` is the relay without such a path; `Option` chooses at run time.

pub(crate) mod vni_filter;

use std::sync::{Arc, atomic::AtomicU64};

/// The TAT of the relay's bandwidth limit, where another data path counts against the same limit.
pub trait SharedTat {
    /// The TAT and its clock; `None` if the path keeps none, and the cores count alone.
    ///
    /// Cores call this for each datagram while the relay has a bandwidth limit.
    fn shared_tat(&self) -> Option<ClockedTat<'_>>;
}

/// A TAT on the clock of another data path.
#[derive(Debug, Clone, Copy)]
pub struct ClockedTat<'a> {
    /// Nanoseconds of the path's clock; either side moves it forward.
    pub tat: &'a AtomicU64,
    /// The path's clock less the relay's, in nanoseconds; wraps around.
    pub offset: u64,
}

/// The bits from which another data path learns which VNIs may have a session.
pub trait SharedVnis {
    /// The words of a [`VniFilter`](crate::VniFilter), a power of two of them; `None` if the path
    /// reads none.
    fn shared_vnis(&self) -> Option<&[AtomicU64]>;
}

impl SharedTat for () {
    fn shared_tat(&self) -> Option<ClockedTat<'_>> {
        None
    }
}

impl SharedVnis for () {
    fn shared_vnis(&self) -> Option<&[AtomicU64]> {
        None
    }
}

impl<P: SharedTat> SharedTat for Option<P> {
    fn shared_tat(&self) -> Option<ClockedTat<'_>> {
        self.as_ref()?.shared_tat()
    }
}

impl<P: SharedVnis> SharedVnis for Option<P> {
    fn shared_vnis(&self) -> Option<&[AtomicU64]> {
        self.as_ref()?.shared_vnis()
    }
}

impl<P: SharedTat> SharedTat for Arc<P> {
    fn shared_tat(&self) -> Option<ClockedTat<'_>> {
        (**self).shared_tat()
    }
}

impl<P: SharedVnis> SharedVnis for Arc<P> {
    fn shared_vnis(&self) -> Option<&[AtomicU64]> {
        (**self).shared_vnis()
    }
}
