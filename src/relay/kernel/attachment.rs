//! How the program gets to where packets enter a device.

use std::collections::BTreeMap;

use aya::{
    programs::{
        Link as _, SchedClassifier, TcAttachType,
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
    },
    util::KernelVersion,
};

use crate::relay::netlink::Netlink;

/// The first Linux with tcx.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);
/// Upper half of a filter's handle: no other program's filters have it.
const HANDLE: u16 = 0x7072;
/// Among the filters of a device, by rising numbers.
pub(super) const PRIORITY: u16 = 1;

/// What holds the program at a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// A tcx link, which Linux has since 6.6: it comes before all other programs, and can be pinned.
    Link,
    /// A clsact filter of the relay with this port. It stays until somebody removes it, so the next
    /// relay with the same port puts its own in this one's place; 0 is a port that nobody finds
    /// again.
    Filter(u16),
}

impl Attachment {
    /// The best that this kernel has for a relay with this port.
    pub fn of(port: u16) -> Self {
        match KernelVersion::current() {
            Ok(version) if version < TCX => Self::Filter(port),
            _ => Self::Link,
        }
    }
}

/// Attaches the program as a filter, in the place of the one that an earlier relay with this port
/// has left: no packet sees neither.
pub(super) fn attach_filter(
    program: &mut SchedClassifier,
    device: &str,
    port: u16,
) -> anyhow::Result<SchedClassifierLink> {
    match tc::qdisc_add_clsact(device) {
        // It is there already, or something else that takes filters.
        Ok(()) | Err(TcError::NetlinkError(_) | TcError::AlreadyAttached) => {}
        Err(error) => return Err(error.into()),
    }
    let (handle, ingress) = (handle(port), TcAttachType::Ingress);
    let old = SchedClassifierLink::attached(device, ingress, PRIORITY, handle, None)?;
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
        // Most devices have none.
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
