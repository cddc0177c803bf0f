//! Errors from loading the program.

use std::io;

use aya::{maps::MapError, programs::ProgramError};

use super::{
    super::availability::{Unavailable, UnavailableReason},
    NAME,
};

/// Error from loading the program or opening its maps.
#[derive(Debug, thiserror::Error)]
pub(in crate::relay::kernel) enum LoadError {
    #[error("this binary was built without clang: install clang and build again")]
    NotBuilt,
    #[error("the kernel does not permit it ({0}): give the relay CAP_BPF and CAP_NET_ADMIN")]
    NotPermitted(String),
    #[error("this kernel has no bpf(2)")]
    NoBpf,
    #[error("the kernel refuses the program: {0}")]
    Refused(String),
    #[error("failed to read the object: {0}")]
    Object(String),
    #[error("the object has no program {NAME}")]
    NoProgram,
    #[error("the object has no map {0}")]
    NoMap(&'static str),
    #[error("the map {0} is no array")]
    NoArray(&'static str),
    #[error("another version has pinned other maps")]
    OtherPins,
    #[error("the pinned map {0} has another layout")]
    OtherLayout(&'static str),
    #[error("failed to change the directory for pinned maps: {0}")]
    Pins(#[source] io::Error),
    #[error("failed to open a map of the program: {0}")]
    Map(#[from] MapError),
    #[error("failed to take the program from the object: {0}")]
    Program(#[source] ProgramError),
}

impl LoadError {
    /// The name of this error in status and metrics.
    const fn reason(&self) -> UnavailableReason {
        match self {
            Self::NotBuilt => UnavailableReason::NotBuilt,
            Self::NotPermitted(_) => UnavailableReason::NotPermitted,
            Self::NoBpf => UnavailableReason::KernelTooOld,
            Self::Refused(_) => UnavailableReason::Refused,
            Self::Object(_)
            | Self::NoProgram
            | Self::NoMap(_)
            | Self::NoArray(_)
            | Self::OtherPins
            | Self::OtherLayout(_)
            | Self::Pins(_)
            | Self::Map(_)
            | Self::Program(_) => UnavailableReason::Failed,
        }
    }
}

impl From<LoadError> for Unavailable {
    fn from(error: LoadError) -> Self {
        Self::new(error.reason(), error.to_string())
    }
}
