//! Waiting for sockets, and being woken by other threads.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use super::checked;

/// Wakes the thread that waits for it; any number of clones.
#[derive(Debug, Clone)]
pub struct Waker(Arc<OwnedFd>);

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Something to read.
    Read,
    /// Room to write.
    Write,
}

impl Waker {
    /// A waker that nobody has woken.
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

    /// Makes [`wait`] return, now or the next time.
    pub fn wake(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: the pointer and length name `one`. A failure means that the counter is at its
        // maximum, so the waiter is awake already.
        unsafe { libc::write(self.0.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Forgets all wakes so far.
    pub fn clear(&self) {
        let mut count = [0; 8];
        // SAFETY: the pointer and length name `count`. A failure means that nobody has woken it.
        unsafe { libc::read(self.0.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Most descriptors that [`wait`] takes.
const MOST: usize = 4;

/// Waits until one of at most four descriptors is ready, for no longer than `time`; says which are,
/// in their order.
///
/// # Errors
/// What the kernel says.
pub fn wait(
    fds: &[(BorrowedFd<'_>, Interest)],
    time: Option<Duration>,
) -> io::Result<[bool; MOST]> {
    let mut polls = [libc::pollfd {
        fd: -1,
        events: 0,
        revents: 0,
    }; MOST];
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
    let ready = unsafe { libc::ppoll(polls.as_mut_ptr(), MOST as _, timeout, std::ptr::null()) };
    match checked(ready) {
        Ok(_) => Ok(polls.map(|poll| poll.revents != 0)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok([false; MOST]),
        Err(error) => Err(error),
    }
}
