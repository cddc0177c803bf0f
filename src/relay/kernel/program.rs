//! The program in the kernel: loaded, with its maps, and attached to devices.
//!
//! Where there is a BPF file system, maps and attachments are pinned in a directory of it: then they
//! outlive this process, and the next one takes them over without a packet lost.

mod error;
mod layout;
mod load;
mod maps;
mod pins;

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};

#[cfg(test)]
pub(super) use self::layout::{Layout, of_object as layouts};
pub(super) use self::{
    error::LoadError,
    maps::{CounterMaps, Maps},
    pins::remove as remove_pins,
};
use super::{
    attachment::{self, AttachCause, AttachError, Attachment, attach_filter},
    availability::{Unavailable, UnavailableReason},
    sys,
};
use crate::relay::netlink::Netlink;

/// Name of the program, in its object and in the kernel.
const NAME: &str = "peerrelay";

/// The object that build.rs compiled.
#[cfg(kernel_program)]
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/relay.bpf.o"));
/// Empty: this binary was built without clang.
#[cfg(not(kernel_program))]
pub(super) static OBJECT: &[u8] = &[];

/// The loaded program and its attachments.
pub(super) struct Program {
    ebpf: Ebpf,
    attachment: Attachment,
    pins: Option<PathBuf>,
    unpinned: Option<Unavailable>,
    /// By device index.
    links: BTreeMap<u32, Attached>,
}

/// Attachment to one device. Dropping it detaches the program, unless it is pinned.
enum Attached {
    Pinned(PinnedLink),
    Owned(
        #[allow(dead_code, reason = "held, so that the program stays attached")]
        SchedClassifierLink,
    ),
    Filter(SchedClassifierLink),
}

impl Attached {
    /// Returns whether the kernel still has the program with this id at the device.
    fn holds(&self, id: u32, index: u32, netlink: &mut Netlink) -> io::Result<bool> {
        match self {
            Self::Pinned(_) | Self::Owned(_) => Ok(sys::attached(index)?.contains(&id)),
            Self::Filter(link) => {
                let handle = link.handle().map_err(io::Error::other)?.into();
                let found = netlink.filter(index, attachment::PRIORITY, handle)?;
                Ok(found == Some(id))
            }
        }
    }
}

impl Program {
    /// Loads the program, onto the maps pinned in `pins` if they are there. If nothing can be pinned there,
    /// the program lives as long as this process.
    pub(super) fn load(
        pins: Option<PathBuf>,
        sessions: u32,
        attachment: Attachment,
    ) -> Result<(Self, Maps, CounterMaps), LoadError> {
        if OBJECT.is_empty() {
            return Err(LoadError::NotBuilt);
        }
        let (pinned, unpinned) = match pins
            .as_deref()
            .map(|pins| load::load_pinned(pins, sessions))
        {
            None => (None, None),
            Some(Ok(loaded)) => (Some(loaded), None),
            Some(Err(error)) => (None, Some(error)),
        };
        let pins = pins.filter(|_| pinned.is_some());
        let (ebpf, maps, counters) = pinned.map_or_else(|| load::load(sessions), Ok)?;
        Ok((
            Self {
                ebpf,
                attachment,
                pins,
                unpinned: unpinned.map(|error| not_pinned(&error)),
                links: BTreeMap::new(),
            },
            maps,
            counters,
        ))
    }

    /// The program's descriptor.
    pub(super) fn fd(&mut self) -> io::Result<aya::programs::ProgramFd> {
        let fd = self.classifier().fd().map_err(io::Error::other)?;
        fd.try_clone()
    }

    /// Attaches to exactly these devices, by index and name. Returns what failed, one error for each
    /// device.
    pub(super) fn attach(&mut self, devices: &BTreeMap<u32, String>) -> Vec<AttachError> {
        let gone = self
            .links
            .extract_if(.., |index, _| !devices.contains_key(index));
        for (_, link) in gone {
            if let Attached::Pinned(link) = link {
                // The kernel detaches it once its file and this handle are gone.
                link.unpin().ok();
            }
        }
        if let Some(directory) = &self.pins {
            pins::retain_links(directory, |index| devices.contains_key(&index));
        }
        let mut errors = Vec::new();
        for (index, name) in devices {
            if self.links.contains_key(index) {
                continue;
            }
            match self.attach_one(*index, name) {
                Ok(link) => {
                    self.links.insert(*index, link);
                }
                Err(cause) => errors.push(AttachError::new(name, cause)),
            }
        }
        errors
    }

    /// Reason why the program ends with this process, if it was to outlive it.
    pub(super) fn unpinned(&self) -> Option<Unavailable> {
        self.unpinned.clone()
    }

    /// Number of devices to which the program is attached.
    pub(super) fn attached(&self) -> usize {
        self.links.len()
    }

    /// Devices where another process has detached the program, or has put another one in its place.
    pub(super) fn lost(&mut self, netlink: &mut Netlink) -> Vec<u32> {
        let Ok(id) = self.classifier().info().map(|info| info.id()) else {
            return Vec::new();
        };
        // A device that is gone answers with an error; rtnetlink reports it.
        let links = self.links.iter();
        let lost =
            links.filter(|(index, link)| link.holds(id, **index, netlink).is_ok_and(|it| !it));
        lost.map(|(index, _)| *index).collect()
    }

    /// Drops the handle of an attachment that another process has taken away.
    pub(super) fn forget(&mut self, index: u32) {
        match self.links.remove(&index) {
            Some(Attached::Pinned(link)) => drop(link.unpin()),
            // Dropping it would remove the filter that now has this handle.
            Some(Attached::Filter(link)) => std::mem::forget(link),
            Some(Attached::Owned(_)) | None => {}
        }
    }

    /// Leaves attached what the next process can take over.
    pub(super) fn leave(&mut self) {
        // Without pinned maps the next process could not reach this program.
        if self.pins.is_some() {
            for (_, link) in std::mem::take(&mut self.links) {
                if let Attached::Filter(link) = link {
                    std::mem::forget(link);
                }
            }
        }
    }

    /// Detaches the program from all devices, and leaves nothing in the kernel.
    pub(super) fn remove(&mut self) {
        self.attach(&BTreeMap::new());
        if let Some(directory) = &self.pins {
            pins::remove(directory).ok();
        }
    }

    pub(super) fn classifier(&mut self) -> &mut SchedClassifier {
        let program = self.ebpf.program_mut(NAME).expect("loaded before");
        program.try_into().expect("loaded before as a classifier")
    }

    fn attach_one(&mut self, index: u32, name: &str) -> Result<Attached, AttachCause> {
        let pin = self.pins.as_ref().map(|pins| pins::link(pins, index));
        let attachment = self.attachment;
        let program = self.classifier();
        if let Attachment::Filter(port) = attachment {
            return attach_filter(program, name, port).map(Attached::Filter);
        }
        if let Some(pin) = &pin
            && let Ok(old) = PinnedLink::from_pin(pin)
        {
            match take_over(program, old) {
                Ok(()) => {
                    tracing::info!(device = name, "took over what an earlier process attached");
                    return Ok(Attached::Pinned(PinnedLink::from_pin(pin)?));
                }
                // Its device is gone, and the index was given again.
                Err(_) => fs::remove_file(pin)?,
            }
        }
        // Before all others: what a CNI's program would decide about is not ours, and what is ours
        // would not get past it.
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(name, TcAttachType::Ingress, order)?;
        let link = program.take_link(id)?;
        Ok(match pin {
            Some(pin) => Attached::Pinned(FdLink::try_from(link)?.pin(pin)?),
            None => Attached::Owned(link),
        })
    }
}

/// The reason for a program that works and cannot be pinned.
fn not_pinned(error: &LoadError) -> Unavailable {
    Unavailable::new(
        UnavailableReason::NotPinned,
        format!(
            "the kernel stops forwarding when the relay stops, because nothing can be pinned \
             ({error}): let the relay write below /sys/fs/bpf (mounted read-write, and allowed by its \
             AppArmor or SELinux profile)"
        ),
    )
}

/// Puts the program in the place of the one that `old` attached. The kernel exchanges them atomically, so
/// every packet meets one of the two.
pub(super) fn take_over(program: &mut SchedClassifier, old: PinnedLink) -> Result<(), AttachCause> {
    let link = SchedClassifierLink::try_from(FdLink::from(old))?;
    let id = program.attach_to_link(link)?;
    program.take_link(id)?;
    Ok(())
}
