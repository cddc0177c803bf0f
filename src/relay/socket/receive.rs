//! Receives many datagrams or super-datagrams with one system call.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    ops::Range,
    os::fd::{AsFd, AsRawFd},
    ptr,
    time::{Duration, SystemTime},
};

use super::{UdpSocket, checked, control::Control, name::Name};

/// Largest number of datagrams or super-datagrams per system call.
pub const SLOTS: usize = 96;
/// Number of slots that a call offers after one that received few, because each costs some
/// nanoseconds.
const MIN_SLOTS: usize = 16;
/// Size of a slot, which has room for the largest super-datagram.
const SLOT_LEN: usize = 65_536;
/// Distance of two slots. It is no power of two, because then the first lines of all slots would
/// compete for the same sets of the caches.
const STRIDE: usize = SLOT_LEN + 33 * 64;

/// Unit of [`ReceiveBatch::release`], a multiple of the page size on every machine.
const PAGE: usize = 65_536;

/// Buffers for one call, which are allocated once. Only those that data arrives in use memory.
pub struct ReceiveBatch {
    data: Vec<u8>,
    names: [Name; SLOTS],
    controls: [Control; SLOTS],
    arrivals: [Option<Arrival>; SLOTS],
    offered: usize,
    overflow: Option<u32>,
    stamp: Option<Duration>,
}

/// Number of datagrams that one call received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Number of datagrams and super-datagrams.
    pub count: usize,
    /// `true` if all offered slots were used, so that more datagrams may wait.
    pub full: bool,
}

/// A datagram, or a super-datagram of segments from the same source.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Address of the sender.
    pub source: SocketAddr,
    /// Local address to which it was sent.
    pub local: Option<IpAddr>,
    /// Length of each segment but the last, in bytes.
    pub segment_len: usize,
    /// Range in the buffer that it came with.
    pub range: Range<usize>,
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self {
            data: vec![0; SLOTS * STRIDE],
            names: [Name::EMPTY; SLOTS],
            controls: [Control::EMPTY; SLOTS],
            arrivals: [const { None }; SLOTS],
            offered: MIN_SLOTS,
            overflow: None,
            stamp: None,
        }
    }
}

impl ReceiveBatch {
    /// Receives waiting (super-)datagrams: at most [`SLOTS`], and four times as many as the last call.
    ///
    /// # Errors
    /// The error of the kernel, which is `WouldBlock` when nothing waits.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<Taken> {
        let offered = self.offered;
        // SAFETY: all-zero bytes are a valid mmsghdr and iovec: null pointers of length zero.
        let mut messages: [libc::mmsghdr; SLOTS] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut vectors: [libc::iovec; SLOTS] = unsafe { std::mem::zeroed() };
        let buffers = self.data.chunks_exact_mut(STRIDE);
        for (slot, buffer) in buffers.enumerate().take(offered) {
            vectors[slot] = libc::iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: SLOT_LEN,
            };
            let header = &mut messages[slot].msg_hdr;
            header.msg_name = ptr::from_mut(&mut self.names[slot]).cast();
            header.msg_namelen = Name::LEN as libc::socklen_t;
            header.msg_iov = &raw mut vectors[slot];
            header.msg_iovlen = 1;
            header.msg_control = ptr::from_mut(&mut self.controls[slot]).cast();
            header.msg_controllen = Control::LEN as _;
        }
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: every pointer in `messages` names a buffer of the stated length that lives, and
        // is not touched by anyone else, until the call returns.
        let count = unsafe {
            libc::recvmmsg(
                fd,
                messages.as_mut_ptr(),
                offered as _,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let count = checked(count)?;
        self.offered = (4 * count).clamp(MIN_SLOTS, SLOTS);
        for (slot, message) in messages.iter().enumerate().take(count) {
            self.arrivals[slot] = self.decode(slot, message);
        }
        Ok(Taken {
            count,
            full: count == offered,
        })
    }

    /// Returns what the last call received, except datagrams that were cut off or have no IP source.
    pub fn arrivals(&self, taken: Taken) -> impl Iterator<Item = &Arrival> {
        self.arrivals[..taken.count].iter().flatten()
    }

    /// All buffers, in which [`Arrival::range`] lies.
    pub fn all(&self) -> &[u8] {
        &self.data
    }

    /// Returns the number of datagrams that the socket has lost so far because its buffer was full, if
    /// the last call reported it.
    pub const fn take_overflow(&mut self) -> Option<u32> {
        self.overflow.take()
    }

    /// Returns the time at which the kernel received the first datagram of the last call, if it
    /// reported that.
    pub fn take_stamp(&mut self) -> Option<SystemTime> {
        self.stamp
            .take()
            .map(|since| SystemTime::UNIX_EPOCH + since)
    }

    /// Returns the memory of received data to the system. This is for times without datagrams.
    pub fn release(&mut self) {
        let start = self.data.as_mut_ptr();
        let skip = start.align_offset(PAGE);
        let len = self.data.len().saturating_sub(skip) / PAGE * PAGE;
        // SAFETY: whole pages inside a buffer that is ours alone and holds plain bytes, whose
        // values nobody relies on; a failure leaves them as they are.
        unsafe { libc::madvise(start.add(skip).cast(), len, libc::MADV_DONTNEED) };
    }

    fn decode(&mut self, slot: usize, message: &libc::mmsghdr) -> Option<Arrival> {
        let header = &message.msg_hdr;
        let received = self.controls[slot].decode(header.msg_controllen);
        // The kernel leaves the count out while it is zero (`sock_recv_drops`).
        self.overflow = received.overflow.or(self.overflow);
        if slot == 0 {
            self.stamp = received.stamp;
        }
        if header.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let len = message.msg_len as usize;
        let start = slot * STRIDE;
        Some(Arrival {
            source: self.names[slot].decode(header.msg_namelen as usize)?,
            local: received.local,
            segment_len: received.segment_len.map_or(len, usize::from),
            range: start..start + len,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_burst_is_received_in_order_by_calls_that_offer_more_and_more() {
        let mut sockets = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into(), 1).unwrap();
        let socket = sockets.remove(0);
        let sender = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for n in 0..200 {
            // Not of one length, or the kernel might put them together.
            sender
                .send_to(&vec![n; 1 + usize::from(n % 2)], socket.local())
                .unwrap();
        }
        let mut batch = ReceiveBatch::default();
        let (mut calls, mut came) = (Vec::new(), Vec::new());
        while calls.last().is_none_or(|taken: &Taken| taken.full) {
            let taken = batch.receive(&socket).unwrap();
            let firsts = batch
                .arrivals(taken)
                .map(|arrival| batch.all()[arrival.range.start]);
            came.extend(firsts);
            calls.push(taken);
        }
        assert_eq!(came, (0..200).collect::<Vec<u8>>());
        let counts: Vec<_> = calls.iter().map(|taken| taken.count).collect();
        assert_eq!(counts, [16, 64, 96, 24]);
        let nothing = batch.receive(&socket).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }
}
