//! System calls of a load generator for which std has no function.

#![allow(
    unsafe_code,
    reason = "setns, sendmmsg, UDP_SEGMENT, receive timestamps, CPUs and their clocks have no safe form in std"
)]

use std::{
    fs::File,
    io,
    mem::{size_of, zeroed},
    net::UdpSocket,
    os::fd::AsRawFd,
    path::Path,
    ptr, thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};

/// Most messages of one [`send_many`].
pub const BURST: usize = 32;

/// Runs `work` in a network namespace; the sockets and files of /proc that it opens stay there.
pub fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let path = Path::new("/run/netns").join(namespace);
    let file = File::open(&path).with_context(|| format!("failed to open {}", path.display()))?;
    let enter = || {
        // SAFETY: takes no pointer; the descriptor is open. Only this thread changes.
        checked(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) })
            .with_context(|| format!("failed to enter {namespace}"))?;
        work()
    };
    // A thread of its own: the namespace goes with it.
    thread::scope(|scope| scope.spawn(enter).join())
        .map_err(|_| anyhow!("a thread in {namespace} panicked"))?
}

/// Lets the process have as many open sockets as it may.
pub fn raise_descriptor_limit() -> Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer names `limit`.
    checked(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })
        .context("failed to raise the limit of open files")?;
    Ok(())
}

/// Makes the calling thread run whenever it wants to; without the privilege it stays as it is.
pub fn run_first() {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: the pointer names `parameters`; 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
}

/// Gives the calling thread its usual priority again, after [`run_first`].
pub fn run_like_others() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: as above.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameters) };
}

/// CPU time that all threads of a process have used.
pub fn cpu_time(pid: i32) -> Result<Duration> {
    let mut clock = 0;
    // SAFETY: the pointer names `clock`.
    let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error)).context("failed to find a CPU clock");
    }
    now(clock)
}

/// The wall clock, as receive timestamps have it, since 1970.
pub fn wall_clock() -> Result<Duration> {
    now(libc::CLOCK_REALTIME)
}

fn now(clock: libc::clockid_t) -> Result<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer names `time`.
    checked(unsafe { libc::clock_gettime(clock, &raw mut time) })
        .context("failed to read a clock")?;
    Ok(duration(time))
}

/// Has the kernel cut what is sent into datagrams of `len` bytes (UDP_SEGMENT); 0 turns it off.
pub fn set_segment(socket: &UdpSocket, len: usize) -> Result<()> {
    let len = i32::try_from(len)?;
    set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, len).context("failed to set UDP_SEGMENT")
}

/// Notes when the kernel received each datagram, for `receive_times`.
pub fn set_timestamps(socket: &UdpSocket) -> Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)
        .context("failed to set SO_TIMESTAMPNS")
}

/// Room for what waits to be read or sent.
pub fn enlarge_buffers(socket: &UdpSocket, len: i32) -> Result<()> {
    for option in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        set_option(socket, libc::SOL_SOCKET, option, len).context("failed to size a buffer")?;
    }
    Ok(())
}

/// Sends the same datagram `count` times, at most [`BURST`], with one call; says how many went.
pub fn send_many(socket: &UdpSocket, datagram: &[u8], count: usize) -> io::Result<usize> {
    let mut vector = libc::iovec {
        iov_base: datagram.as_ptr().cast_mut().cast(),
        iov_len: datagram.len(),
    };
    // SAFETY: all-zero bytes are a valid mmsghdr.
    let mut messages: [libc::mmsghdr; BURST] = unsafe { zeroed() };
    for message in &mut messages {
        message.msg_hdr.msg_iov = &raw mut vector;
        message.msg_hdr.msg_iovlen = 1;
    }
    let count = count.min(BURST) as u32;
    // SAFETY: the messages name `vector`, which names `datagram`; the kernel only reads from both.
    checked(unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) })
}

/// Takes one datagram that waits and the time at which the kernel received it.
pub fn receive_stamped(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, Duration)> {
    #[repr(C, align(8))]
    struct Control([u8; 64]);
    let mut control = Control([0; 64]);
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut vector;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
    // SAFETY: every pointer in `header` names a buffer of the stated length.
    let len =
        checked(
            unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) }
                as i32,
        )?;
    // SAFETY: the kernel has filled `header`; the first control message lies in `control`.
    let stamp = unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        (!first.is_null() && (*first).cmsg_type == libc::SCM_TIMESTAMPNS)
            .then(|| ptr::read_unaligned(libc::CMSG_DATA(first).cast::<libc::timespec>()))
    };
    let stamp = stamp.ok_or_else(|| io::Error::other("the kernel gave no receive timestamp"))?;
    Ok((len, duration(stamp)))
}

fn set_option(socket: &UdpSocket, level: i32, option: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the pointer and length name `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            len,
        )
    };
    checked(result).map(drop)
}

fn duration(time: libc::timespec) -> Duration {
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn checked(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
