//! Attachments of the program to where packets enter a device.

use std::{collections::BTreeMap, io};

use aya::{
    pin::PinError,
    programs::{
        Link as _, ProgramError, SchedClassifier, TcAttachType,
        links::LinkError,
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
    },
    util::KernelVersion,
};

use super::availability::{Unavailable, UnavailableReason};
use crate::relay::netlink::Netlink;

/// The first Linux with tcx.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);
/// Upper half of the handles of the relay's filters, "pr": no other program's filters have it.
const HANDLE: u16 = 0x7072;
/// Priority of the relay's filters: the kernel runs the filters of a device by rising numbers.
pub(super) const PRIORITY: u16 = 1;

/// Kind of attachment of the program to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// A tcx link, which Linux has since 6.6: it runs before all other programs, and can be pinned.
    Link,
    /// A clsact filter of the relay with this port. It stays until somebody removes it, so the next
    /// relay with the same port replaces it. No other relay finds the filter of port 0.
    Filter(u16),
}

impl Attachment {
    /// The best kind that this kernel has, for a relay with this port.
    pub fn of(port: u16) -> Self {
        match KernelVersion::current() {
            Ok(version) if version < TCX => Self::Filter(port),
            _ => Self::Link,
        }
    }
}

/// Error from attaching the program to a device.
#[derive(Debug, thiserror::Error)]
#[error("failed to attach the program to {device}")]
pub(super) struct AttachError {
    device: String,
    source: AttachCause,
}

/// Cause of an [`AttachError`].
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachCause {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Filter(#[from] TcError),
    #[error(transparent)]
    File(#[from] io::Error),
}

impl AttachError {
    pub(super) fn new(device: &str, source: AttachCause) -> Self {
        let device = device.to_owned();
        Self { device, source }
    }
}

impl From<AttachError> for Unavailable {
    fn from(error: AttachError) -> Self {
        // The loader's errors name the failed operation, and their sources the kernel's answer.
        let message = format!("{:#}", anyhow::Error::from(error));
        Self::new(UnavailableReason::Failed, message)
    }
}

/// Attaches the program as a filter. It replaces the one that an earlier relay with this port has left;
/// the kernel exchanges them atomically, so every packet meets one of the two.
pub(super) fn attach_filter(
    program: &mut SchedClassifier,
    device: &str,
    port: u16,
) -> Result<SchedClassifierLink, AttachCause> {
    match tc::qdisc_add_clsact(device) {
        // The queueing discipline is there already, or another one that takes filters.
        Ok(()) | Err(TcError::NetlinkError(_) | TcError::AlreadyAttached) => {}
        Err(error) => return Err(error.into()),
    }
    let (handle, ingress) = (handle(port), TcAttachType::Ingress);
    let old = SchedClassifierLink::attached(device, ingress, PRIORITY, handle, None)?;
    // The link is made up from numbers; only replacing it shows whether there is such a filter.
    let id = program.attach_to_link(old).or_else(|_| {
        let options = NlOptions {
            priority: PRIORITY,
            handle,
            classid: None,
        };
        program.attach_with_options(device, ingress, TcAttachOptions::Netlink(options))
    })?;
    Ok(program.take_link(id)?)
}

/// Removes the filters that an earlier relay with this port has left; 0 finds none again.
pub(super) fn remove_filters(port: u16) {
    if port == 0 {
        return;
    }
    let devices = Netlink::new().and_then(|mut netlink| netlink.devices());
    let (handle, ingress) = (handle(port), TcAttachType::Ingress);
    for device in devices.into_iter().flat_map(BTreeMap::into_values) {
        // An error is the rule: most devices have no such filter.
        if let Ok(left) =
            SchedClassifierLink::attached(&device.name, ingress, PRIORITY, handle, None)
        {
            left.detach().ok();
        }
    }
}

const fn handle(port: u16) -> TcHandle {
    match port {
        0 => TcHandle::AUTO_ASSIGN,
        port => TcHandle::new(HANDLE, port),
    }
}
