//! System calls that have no safe wrapper: the monotonic clock as a number, taking an entry out of
//! a map, memory shared with a map, running a program on a packet, and which programs are attached
//! to a device.
#![allow(
    unsafe_code,
    reason = "bpf(2) commands that the loader does not offer, mmap and clock_gettime"
)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    sync::atomic::AtomicU64,
};

/// `BPF_PROG_TEST_RUN`, `BPF_PROG_QUERY` and `BPF_MAP_LOOKUP_AND_DELETE_ELEM` (linux/bpf.h).
const TEST_RUN: libc::c_int = 10;
const QUERY: libc::c_int = 16;
const LOOKUP_AND_DELETE: libc::c_int = 21;
/// `BPF_TCX_INGRESS`, and the most programs that one hook takes (`BPF_MPROG_MAX`).
const TCX_INGRESS: u32 = 46;
const TCX_MOST: usize = 64;
/// Size of `union bpf_attr` up to the last field used here. The kernel takes any size, as long as bytes
/// that it does not know are zero (`bpf_check_uarg_tail_zero`).
const ATTR_LEN: usize = 80;
/// Size of `struct __sk_buff`, and where the fields are that a test sets.
const CONTEXT_LEN: usize = 192;
const GSO_SIZE_AT: usize = 176;

/// A command's argument, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Attr([u8; ATTR_LEN]);

impl Attr {
    const fn new() -> Self {
        Self([0; ATTR_LEN])
    }

    fn set_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    fn set_u64(&mut self, at: usize, value: u64) {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(*self.0[at..].first_chunk().expect("offsets are inside"))
    }

    fn set_fd(&mut self, at: usize, fd: BorrowedFd<'_>) {
        self.0[at..at + 4].copy_from_slice(&fd.as_raw_fd().to_ne_bytes());
    }

    /// # Safety
    /// Every address that was set must name memory that is long enough, and writable where the
    /// command writes.
    unsafe fn run(&mut self, command: libc::c_int) -> io::Result<()> {
        // SAFETY: pointer and length name this attribute; the caller vouches for what it refers to.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), ATTR_LEN) };
        match result {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Nanoseconds of CLOCK_MONOTONIC, which is also `Instant`'s and the program's clock.
pub(super) fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer names `now`. This clock exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Takes the entry of `key` out of a hash map whose values have `N` bytes; `None` when there is
/// none.
///
/// # Errors
/// What the kernel says (Linux before 5.14 cannot do it).
pub(super) fn take<const N: usize>(map: BorrowedFd<'_>, key: u32) -> io::Result<Option<[u8; N]>> {
    let mut value = [0_u8; N];
    let mut attr = Attr::new();
    attr.set_fd(0, map);
    // The kernel gets addresses as numbers. The compiler must know that somebody may use them to read
    // `key` and to write `value`, which exposing them says.
    attr.set_u64(8, (&raw const key).expose_provenance() as u64);
    attr.set_u64(16, value.as_mut_ptr().expose_provenance() as u64);
    // SAFETY: key and value live until the call returns, and are as long as the map's: callers name
    // the map of sessions, whose value type says so.
    match unsafe { attr.run(LOOKUP_AND_DELETE) } {
        Ok(()) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Ids of the programs where packets enter a device (tcx), in their order. The loader asks for more
/// about each, which takes CAP_SYS_ADMIN.
///
/// # Errors
/// What the kernel says; `ENODEV` when there is no such device.
pub(super) fn attached(index: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; TCX_MOST];
    let mut attr = Attr::new();
    attr.set_u32(0, index);
    attr.set_u32(4, TCX_INGRESS);
    attr.set_u64(16, ids.as_mut_ptr().expose_provenance() as u64);
    attr.set_u32(24, TCX_MOST as u32);
    // SAFETY: the ids live until the call returns; their number was set.
    unsafe { attr.run(QUERY)? };
    ids.truncate(attr.u32(24) as usize);
    Ok(ids)
}

/// The first `count` numbers of a map that the kernel lets be mapped (`BPF_F_MMAPABLE`), for as long
/// as this process lives: what it writes, the program reads, and the other way round.
///
/// # Errors
/// What the kernel says.
pub(super) fn share(map: BorrowedFd<'_>, count: u32) -> io::Result<&'static [AtomicU64]> {
    // An array map stores values of 8 bytes without gaps (`array_map_alloc` rounds sizes up to 8).
    let count = count as usize;
    let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: asks for new memory; the kernel checks the descriptor, and that the map is that long.
    let pages = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            count * size_of::<u64>(),
            access,
            flags,
            map.as_raw_fd(),
            0,
        )
    };
    if pages == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: pages are aligned, are as long as was asked for, and are never unmapped. The program
    // changes numbers by atomic additions and by writes of whole ones.
    Ok(unsafe { std::slice::from_raw_parts(pages.cast::<AtomicU64>(), count) })
}

/// Result of a run of a program on a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TestRun {
    /// Return value of the program.
    pub(super) verdict: i32,
    /// The packet after the run.
    pub(super) packet: Vec<u8>,
    /// Nanoseconds for one run.
    pub(super) duration: u32,
}

/// Runs a program `repeat` times on an Ethernet frame; `gso_size` 0 is a single packet.
///
/// # Errors
/// What the kernel says.
pub(super) fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    gso_size: u32,
    repeat: u32,
) -> io::Result<TestRun> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(io::Error::other);
    // All other fields stay zero: the kernel refuses a context that sets one which a test may not set
    // (`convert___skb_to_skb`).
    let mut context = [0_u8; CONTEXT_LEN];
    context[GSO_SIZE_AT..][..4].copy_from_slice(&gso_size.to_ne_bytes());
    let mut output = vec![0; packet.len() + 256];
    let mut attr = Attr::new();
    attr.set_fd(0, program);
    attr.set_u32(8, length(packet)?);
    attr.set_u32(12, length(&output)?);
    attr.set_u64(16, packet.as_ptr().expose_provenance() as u64);
    attr.set_u64(24, output.as_mut_ptr().expose_provenance() as u64);
    attr.set_u32(32, repeat);
    attr.set_u32(40, CONTEXT_LEN as u32);
    attr.set_u64(48, context.as_ptr().expose_provenance() as u64);
    // SAFETY: packet, output and context live until the call returns; their lengths were set.
    unsafe { attr.run(TEST_RUN)? };
    output.truncate(attr.u32(12) as usize);
    Ok(TestRun {
        verdict: attr.u32(4).cast_signed(),
        packet: output,
        duration: attr.u32(36),
    })
}
