//! The program in the kernel: loaded, with its maps, and attached to devices.
//!
//! Where there is a BPF file system, maps and attachments are pinned in a directory of it: then they
//! outlive this process, and the next one takes them over without a packet lost.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, PerCpuArray},
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};

use relay_proto::VniFilter;

use super::{
    Unavailable, UnavailableReason,
    abi::{self, AddressKey, ConfigValue, TrafficValue},
    attachment::{self, Attachment, attach_filter},
    egress::EgressTable,
    entries::Entries,
    sys,
};
use crate::relay::netlink::Netlink;

/// Name of the program, in its object and in the kernel.
const NAME: &str = "peerrelay";
/// Names of the maps.
const MAPS: [&str; 11] = [
    "SESSIONS4",
    "SESSIONS6",
    "EXITS",
    "LOCALS",
    "ADDRESSES",
    "CONFIG",
    "DEBT",
    "KNOWN",
    "COUNTERS",
    "FORWARDED",
    "SCRATCH",
];
/// Files of pinned attachments begin with this, and end with the device's index.
const LINK: &str = "link-";

/// What build.rs made.
#[cfg(kernel_program)]
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/relay.bpf.o"));
/// Built without clang.
#[cfg(not(kernel_program))]
pub(super) static OBJECT: &[u8] = &[];

/// The loaded program.
pub(super) struct Program {
    ebpf: Ebpf,
    attachment: Attachment,
    pins: Option<PathBuf>,
    links: BTreeMap<u32, Attached>,
}

/// The maps that steer it.
pub(super) struct Maps {
    pub(super) entries: Entries,
    pub(super) egresses: EgressTable,
    pub(super) locals: HashMap<MapData, AddressKey, u32>,
    pub(super) addresses: Array<MapData, AddressKey>,
    pub(super) config: Array<MapData, ConfigValue>,
    pub(super) debt: MapData,
    pub(super) known: MapData,
}

/// The maps in which it counts.
pub(super) struct CounterMaps {
    pub(super) counters: PerCpuArray<MapData, u64>,
    pub(super) forwarded: PerCpuArray<MapData, TrafficValue>,
}

/// An attachment: dropping it detaches, unless it is pinned.
enum Attached {
    Pinned(PinnedLink),
    Owned(
        #[allow(dead_code, reason = "held, so that the program stays attached")]
        SchedClassifierLink,
    ),
    Filter(SchedClassifierLink),
}

impl Attached {
    /// Whether the kernel still has the program with this id at the device.
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
    /// Loads the program, onto the maps pinned in `pins` if they are there.
    pub(super) fn load(
        pins: Option<PathBuf>,
        sessions: u32,
        attachment: Attachment,
    ) -> Result<(Self, Maps, CounterMaps), Unavailable> {
        if OBJECT.is_empty() {
            return Err(Unavailable::new(
                UnavailableReason::NotBuilt,
                "this binary was built without clang: install clang and build again",
            ));
        }
        let pins = pins.filter(|directory| match fs::create_dir_all(directory) {
            Ok(()) => true,
            Err(error) => {
                let directory = directory.display();
                tracing::info!(%error, %directory, "no BPF file system: forwarding ends with this process");
                false
            }
        });
        let loaded = match &pins {
            Some(directory) => load_onto(directory, sessions).or_else(|error| {
                // Left by another version, or by other limits: nothing of it can be used.
                tracing::info!(%error, "what an earlier process left in the kernel is replaced");
                remove_pins(directory);
                fs::create_dir_all(directory).map_err(Unavailable::failed)?;
                load(Some(directory), sessions)
            }),
            None => load(None, sessions),
        };
        let (ebpf, maps, counters) = loaded?;
        Ok((
            Self {
                ebpf,
                attachment,
                pins,
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

    /// Attaches to exactly these devices, by index and name; says what did not work.
    pub(super) fn attach(&mut self, devices: &BTreeMap<u32, String>) -> Vec<String> {
        let gone = self
            .links
            .extract_if(.., |index, _| !devices.contains_key(index));
        for (_, link) in gone {
            if let Attached::Pinned(link) = link {
                // It is detached once its file and this handle are gone.
                link.unpin().ok();
            }
        }
        self.forget_pins_of_others(devices);
        let mut problems = Vec::new();
        for (index, name) in devices {
            if self.links.contains_key(index) {
                continue;
            }
            match self.attach_one(*index, name) {
                Ok(link) => {
                    self.links.insert(*index, link);
                }
                Err(error) => problems.push(format!("{name}: {error:#}")),
            }
        }
        problems
    }

    /// Devices to which it is attached.
    pub(super) fn attached(&self) -> usize {
        self.links.len()
    }

    /// Devices where somebody else has detached it, or has put another program in its place.
    pub(super) fn lost(&mut self, netlink: &mut Netlink) -> Vec<u32> {
        let Ok(id) = self.classifier().info().map(|info| info.id()) else {
            return Vec::new();
        };
        // A device that is gone is told by the network.
        let links = self.links.iter();
        let lost =
            links.filter(|(index, link)| link.holds(id, **index, netlink).is_ok_and(|it| !it));
        lost.map(|(index, _)| *index).collect()
    }

    /// Lets go of an attachment that does nothing any more.
    pub(super) fn forget(&mut self, index: u32) {
        match self.links.remove(&index) {
            Some(Attached::Pinned(link)) => drop(link.unpin()),
            // It would take away what now has its place.
            Some(Attached::Filter(link)) => std::mem::forget(link),
            Some(Attached::Owned(_)) | None => {}
        }
    }

    /// Lets everything go on that the next process can take over.
    pub(super) fn leave(&mut self) {
        // Without pinned maps it could not tell the program anything.
        if self.pins.is_some() {
            for (_, link) in std::mem::take(&mut self.links) {
                if let Attached::Filter(link) = link {
                    std::mem::forget(link);
                }
            }
        }
    }

    /// Detaches, and leaves nothing in the kernel.
    pub(super) fn remove(&mut self) {
        self.attach(&BTreeMap::new());
        if let Some(directory) = &self.pins {
            remove_pins(directory);
        }
    }

    pub(super) fn classifier(&mut self) -> &mut SchedClassifier {
        let program = self.ebpf.program_mut(NAME).expect("loaded before");
        program.try_into().expect("loaded before as a classifier")
    }

    fn attach_one(&mut self, index: u32, name: &str) -> anyhow::Result<Attached> {
        let pin = self
            .pins
            .as_ref()
            .map(|pins| pins.join(format!("{LINK}{index}")));
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

    /// Attachments of an earlier process to devices that are no longer wanted.
    fn forget_pins_of_others(&self, devices: &BTreeMap<u32, String>) {
        let Some(directory) = &self.pins else { return };
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let index = name.to_str().and_then(|name| name.strip_prefix(LINK));
            if let Some(index) = index
                && index
                    .parse()
                    .is_ok_and(|index: u32| !devices.contains_key(&index))
            {
                fs::remove_file(entry.path()).ok();
            }
        }
    }
}

fn load_onto(pins: &Path, sessions: u32) -> Result<(Ebpf, Maps, CounterMaps), Unavailable> {
    let ours = |name: &str| MAPS.contains(&name) || name.starts_with(LINK);
    for entry in fs::read_dir(pins).into_iter().flatten().flatten() {
        if !entry.file_name().to_str().is_some_and(ours) {
            return Err(Unavailable::failed("another version has pinned other maps"));
        }
    }
    load(Some(pins), sessions)
}

fn load(pins: Option<&Path>, sessions: u32) -> Result<(Ebpf, Maps, CounterMaps), Unavailable> {
    let mut loader = EbpfLoader::new();
    // Nothing in the program is relocated by types, and parsing the kernel's costs megabytes.
    loader.btf(None);
    loader.map_max_entries("SESSIONS4", sessions);
    loader.map_max_entries("SESSIONS6", sessions);
    loader.map_max_entries("KNOWN", known_words(sessions));
    if let Some(directory) = pins {
        for name in MAPS {
            loader.map_pin_path(name, directory.join(name));
        }
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| unavailable(&error))?;
    let (maps, counters) = take_maps(&mut ebpf)?;
    maps.check(sessions)?;
    counters.check()?;
    let program = ebpf.program_mut(NAME);
    let program = program.ok_or_else(|| Unavailable::failed("the object has no program"))?;
    let program: &mut SchedClassifier = program.try_into().map_err(Unavailable::failed)?;
    program.load().map_err(refused)?;
    Ok((ebpf, maps, counters))
}

fn take_maps(ebpf: &mut Ebpf) -> Result<(Maps, CounterMaps), Unavailable> {
    let mut take = |name| -> Result<Map, Unavailable> {
        let map = ebpf.take_map(name);
        map.ok_or_else(|| Unavailable::failed(format!("the object has no map {name}")))
    };
    let array = |name, map| match map {
        Map::Array(data) => Ok(data),
        _ => Err(Unavailable::failed(format!("the map {name} is no array"))),
    };
    let maps = Maps {
        entries: Entries::new(take("SESSIONS4")?, take("SESSIONS6")?)?,
        egresses: EgressTable::new(take("EXITS")?.try_into().map_err(Unavailable::failed)?),
        locals: take("LOCALS")?.try_into().map_err(Unavailable::failed)?,
        addresses: take("ADDRESSES")?.try_into().map_err(Unavailable::failed)?,
        config: take("CONFIG")?.try_into().map_err(Unavailable::failed)?,
        debt: array("DEBT", take("DEBT")?)?,
        known: array("KNOWN", take("KNOWN")?)?,
    };
    let counters = CounterMaps {
        counters: take("COUNTERS")?.try_into().map_err(Unavailable::failed)?,
        forwarded: take("FORWARDED")?.try_into().map_err(Unavailable::failed)?,
    };
    Ok((maps, counters))
}

/// Words of known VNIs for this many sessions.
fn known_words(sessions: u32) -> u32 {
    let words = VniFilter::words(sessions as usize);
    u32::try_from(words).expect("VNIs have 24 bits")
}

impl Maps {
    /// Whether the kernel's maps are those that this version expects: pinned ones need not be.
    fn check(&self, sessions: u32) -> Result<(), Unavailable> {
        if !self.entries.fit(sessions)? || self.known_words()? != known_words(sessions) {
            return Err(Unavailable::failed("pinned maps have another layout"));
        }
        Ok(())
    }

    /// Number of words in the map of known VNIs.
    pub(super) fn known_words(&self) -> Result<u32, Unavailable> {
        let info = self.known.info().map_err(Unavailable::failed)?;
        Ok(info.max_entries())
    }
}

impl CounterMaps {
    /// The same of what has been counted so far.
    fn check(&self) -> Result<(), Unavailable> {
        if self.counters.len() != abi::COUNTERS {
            return Err(Unavailable::failed(
                "pinned counters are of another version",
            ));
        }
        Ok(())
    }
}

/// Puts the program in the place of the one that `old` attached; no packet sees neither.
pub(super) fn take_over(program: &mut SchedClassifier, old: PinnedLink) -> anyhow::Result<()> {
    let link = SchedClassifierLink::try_from(FdLink::from(old))?;
    let id = program.attach_to_link(link)?;
    program.take_link(id)?;
    Ok(())
}

/// Attachments first, then the maps that they use.
pub(super) fn remove_pins(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        fs::remove_file(entry.path()).ok();
    }
    fs::remove_dir(directory).ok();
}

/// What the verifier says, if it is what refuses the program, whatever error the kernel answers.
fn refused(error: ProgramError) -> Unavailable {
    if let ProgramError::LoadError { verifier_log, .. } = &error
        && let Some(reason) = verdict(&verifier_log.to_string())
    {
        let message = format!("the kernel refuses the program: {reason}");
        return Unavailable::new(UnavailableReason::Refused, message);
    }
    unavailable(&error.into())
}

/// The line of a verifier's log that says why: the last one before what it counts at the end.
fn verdict(log: &str) -> Option<&str> {
    let counts = ["verification time ", "stack depth ", "processed "];
    let says = |line: &&str| !line.is_empty() && !counts.iter().any(|c| line.starts_with(c));
    log.lines().map(str::trim).rfind(says)
}

/// What is to be done about a refusal of the kernel.
fn unavailable(error: &aya::EbpfError) -> Unavailable {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut text = String::new();
    let mut code = None;
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            code = io.raw_os_error();
        }
        text = error.to_string();
        source = error.source();
    }
    let text = text.lines().last().unwrap_or_default().to_owned();
    match code {
        Some(libc::EPERM | libc::EACCES) => Unavailable::new(
            UnavailableReason::NotPermitted,
            format!(
                "the kernel does not permit it ({text}): give the relay CAP_BPF and CAP_NET_ADMIN"
            ),
        ),
        Some(libc::ENOSYS) => {
            Unavailable::new(UnavailableReason::KernelTooOld, "this kernel has no bpf(2)")
        }
        _ => Unavailable::new(
            UnavailableReason::Refused,
            format!("the kernel refuses the program: {text}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::verdict;

    #[test]
    fn verifier_is_quoted_with_its_reason() {
        let log = "893: (07) r5 += 4\n\
                   R5 pointer arithmetic of map value goes out of range, prohibited for !root\n\
                   verification time 5157 usec\n\
                   stack depth 264+0\n\
                   processed 871 insns (limit 1000000) max_states_per_insn 1\n";
        assert_eq!(
            verdict(log),
            Some("R5 pointer arithmetic of map value goes out of range, prohibited for !root")
        );
        assert_eq!(verdict(""), None);
        assert_eq!(verdict("processed 0 insns\n"), None);
    }
}
