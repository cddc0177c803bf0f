//! Waits for sockets, and wakes threads that wait for them.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use super::checked;

/// Wakes the thread that waits for it. Clones wake the same thread.
#[derive(Debug, Clone)]
pub struct Waker(Arc<OwnedFd>);

/// Event on a descriptor to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// The descriptor can be read.
    Read,
    /// The descriptor can be written.
    Write,
}

impl Waker {
    /// Creates a waker that is not woken.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        checked(fd)?;
        // SAFETY: the descriptor is new and owned by nobody else.
        Ok(Self(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Makes the present or the next [`wait`] return.
    pub fn wake(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the pointer and length name `one`. A failure means that the counter is at its
        // maximum, so the waker is woken already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Forgets all wakes so far.
    pub fn clear(&self) {
        let mut count = [0; 8];
        // SAFETY: the pointer and length name `count`. A failure means that there were no wakes.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Largest number of descriptors that [`wait`] takes.
const MAX_DESCRIPTORS: usize = 4;

/// Waits at most `time` until one of at most four descriptors is ready. Returns which are, in their
/// order.
///
/// # Errors
/// The error of the kernel.
pub fn wait(
    fds: &[(BorrowedFd<'_>, Interest)],
    time: Option<Duration>,
) -> io::Result<[bool; MAX_DESCRIPTORS]> {
    let mut polls = [libc::pollfd {
        fd: -1,
        events: 0,
        revents: 0,
    }; MAX_DESCRIPTORS];
    for (poll, (fd, interest)) in polls.iter_mut().zip(fds) {
        poll.fd = fd.as_raw_fd();
        poll.events = match interest {
            Interest::Read => libc::POLLIN,
            Interest::Write => libc::POLLOUT,
        };
    }
    // The kernel rounds up, so a deadline has passed when it returns.
    let timeout = time.map(|time| libc::timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    });
    let timeout = timeout
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the pointers name `polls`, with its length, and `timeout` or nothing; negative
    // descriptors are skipped, and no signal mask is changed.
    let ready = unsafe {
        libc::ppoll(
            polls.as_mut_ptr(),
            MAX_DESCRIPTORS as _,
            timeout,
            std::ptr::null(),
        )
    };
    match checked(ready) {
        Ok(_) => Ok(polls.map(|poll| poll.revents != 0)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok([false; MAX_DESCRIPTORS]),
        Err(error) => Err(error),
    }
}
