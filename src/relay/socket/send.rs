//! Sends many datagrams or super-datagrams with one system call.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    ops::Range,
    os::fd::{AsFd, AsRawFd},
    ptr,
    time::Duration,
};

use relay_proto::REPLY_LEN;

use super::{
    Interest, SLOTS, UdpSocket, checked, control::Control, name::Name, segmentation::Segmentation,
    wait,
};

/// Largest number of messages per system call.
const CAPACITY: usize = SLOTS;
/// Longest wait for room in a full send buffer, after which datagrams are dropped.
const ROOM_TIMEOUT: Duration = Duration::from_millis(2);

/// A datagram or super-datagram to send.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Destination address.
    pub to: SocketAddr,
    /// Local address to send from; the kernel chooses one for `None`.
    pub from: Option<IpAddr>,
    /// Contents of the datagram.
    pub payload: Payload,
}

/// The bytes of an [`Outgoing`].
#[derive(Debug, Clone)]
pub enum Payload {
    /// A range of the receive buffers, to be cut into segments of this length.
    Received {
        /// Range in the receive buffers.
        range: Range<usize>,
        /// Length of each segment but the last.
        segment_len: usize,
    },
    /// A reply of this many bytes, from [`SendBatch::reply`].
    Reply(usize),
}

/// Losses of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Number of datagrams that the kernel refused with an error.
    pub failed: u64,
    /// Number of datagrams dropped because the send buffer stayed full.
    pub no_room: u64,
}

/// Messages to be sent from one socket, with buffers that are allocated once.
pub struct SendBatch {
    outgoing: Vec<Outgoing>,
    replies: Vec<[u8; REPLY_LEN]>,
    next_reply: usize,
    segmentation: Segmentation,
    names: Box<[Name; CAPACITY]>,
    controls: Box<[Control; CAPACITY]>,
}

impl Default for SendBatch {
    fn default() -> Self {
        Self {
            outgoing: Vec::with_capacity(CAPACITY),
            replies: vec![[0; REPLY_LEN]; CAPACITY],
            next_reply: 0,
            segmentation: Segmentation::of(&rustix::system::uname().release().to_string_lossy()),
            names: Box::new([Name::EMPTY; CAPACITY]),
            controls: Box::new([Control::EMPTY; CAPACITY]),
        }
    }
}

impl SendBatch {
    /// Returns whether [`SendBatch::flush`] is due before the next push.
    pub const fn is_full(&self) -> bool {
        self.outgoing.len() == CAPACITY
    }

    /// Buffer for one reply, which is used up by pushing a [`Payload::Reply`].
    pub fn reply(&mut self) -> &mut [u8; REPLY_LEN] {
        &mut self.replies[self.next_reply]
    }

    /// Adds a datagram to the batch. The batch must not be full.
    pub fn push(&mut self, outgoing: Outgoing) {
        debug_assert!(!self.is_full());
        if matches!(outgoing.payload, Payload::Reply(_)) {
            self.next_reply += 1;
        }
        self.outgoing.push(outgoing);
    }

    /// Sends all messages. `received` are the receive buffers.
    ///
    /// A super-datagram that cannot be segmented on its way (`EMSGSIZE` for a smaller path MTU,
    /// `EIO` for a device without checksum offload) goes out datagram by datagram, and so do the
    /// next ones to the same destination.
    pub fn flush(&mut self, socket: &UdpSocket, received: &[u8]) -> Sent {
        let mut sent = Sent::default();
        let mut start = 0;
        while start < self.outgoing.len() {
            match self.send_from(socket, received, start) {
                // The kernel counts the messages before the first that fails, and keeps the error to
                // itself (sendmmsg(2)). The next call begins with that message, and returns it.
                Ok(count) => start += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !has_room(socket) {
                        let rest = &self.outgoing[start..];
                        sent.no_room += rest.iter().map(|o| segments(&o.payload)).sum::<u64>();
                        break;
                    }
                }
                Err(error) => {
                    sent.failed += self.send_singly(socket, received, start, &error);
                    start += 1;
                }
            }
        }
        self.outgoing.clear();
        self.next_reply = 0;
        sent
    }

    /// Drops all messages, because there is no socket to send from.
    pub fn discard(&mut self) -> Sent {
        let failed = self.outgoing.iter().map(|o| segments(&o.payload)).sum();
        self.outgoing.clear();
        self.next_reply = 0;
        Sent { failed, no_room: 0 }
    }

    fn send_from(
        &mut self,
        socket: &UdpSocket,
        received: &[u8],
        start: usize,
    ) -> io::Result<usize> {
        // SAFETY: all-zero bytes are a valid mmsghdr: null pointers of length zero.
        let mut messages: [libc::mmsghdr; CAPACITY] = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut vectors: [libc::iovec; CAPACITY] = unsafe { std::mem::zeroed() };
        let (names, controls) = (&mut *self.names, &mut *self.controls);
        let mut reply = self.outgoing[..start]
            .iter()
            .filter(|o| o.is_reply())
            .count();
        let mut count = 0;
        for outgoing in &self.outgoing[start..] {
            let (bytes, segment_len) = match &outgoing.payload {
                Payload::Received { range, segment_len } => {
                    (&received[range.clone()], Some(*segment_len))
                }
                Payload::Reply(len) => {
                    reply += 1;
                    (&self.replies[reply - 1][..*len], None)
                }
            };
            // With UDP_SEGMENT, the kernel neither fragments nor does without offload (`udp_send_skb`).
            let segment_len = segment_len.filter(|len| *len < bytes.len());
            if segment_len.is_some() && !self.segmentation.may(outgoing.to) {
                // What comes before it is sent first. Then it fails as the kernel would let it fail, and
                // goes out datagram by datagram.
                if count == 0 {
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
                break;
            }
            let segment_len = segment_len.map(|len| len as u16);
            let (name, name_len) = Name::encode(outgoing.to);
            let (control, control_len) = Control::encode(outgoing.from, segment_len);
            (names[count], controls[count]) = (name, control);
            // The kernel only reads from what iov_base names.
            let iov_base = bytes.as_ptr().cast_mut().cast();
            vectors[count] = libc::iovec {
                iov_base,
                iov_len: bytes.len(),
            };
            messages[count].msg_hdr = header(
                (&mut names[count], name_len),
                &mut vectors[count],
                (&mut controls[count], control_len),
            );
            count += 1;
        }
        let fd = socket.as_fd().as_raw_fd();
        // SAFETY: the first `count` messages name buffers of the stated lengths that live until
        // the call returns.
        let sent =
            unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), count as _, libc::MSG_DONTWAIT) };
        checked(sent)
    }

    /// Sends message `index` datagram by datagram after `error`. Returns how many were lost.
    fn send_singly(
        &mut self,
        socket: &UdpSocket,
        received: &[u8],
        index: usize,
        error: &io::Error,
    ) -> u64 {
        let outgoing = self.outgoing[index].clone();
        let Payload::Received { range, segment_len } = &outgoing.payload else {
            return 1;
        };
        if range.len() <= *segment_len {
            tracing::trace!(%error, "datagram not sent");
            return 1;
        }
        match error.raw_os_error() {
            // EINVAL is what older kernels answer for a segment above the path MTU (`udp_send_skb`).
            Some(libc::EIO | libc::EMSGSIZE | libc::EINVAL) => {
                self.segmentation.goes_singly(outgoing.to);
            }
            _ => return segments(&outgoing.payload),
        }
        let chunks = received[range.clone()].chunks(*segment_len);
        chunks
            .filter(|chunk| !send_one(socket, &outgoing, chunk))
            .count() as u64
    }
}

impl Outgoing {
    const fn is_reply(&self) -> bool {
        matches!(self.payload, Payload::Reply(_))
    }
}

fn segments(payload: &Payload) -> u64 {
    match payload {
        Payload::Received { range, segment_len } => {
            range.len().div_ceil((*segment_len).max(1)) as u64
        }
        Payload::Reply(_) => 1,
    }
}

fn has_room(socket: &UdpSocket) -> bool {
    wait(&[(socket.as_fd(), Interest::Write)], Some(ROOM_TIMEOUT)).is_ok_and(|[ready, ..]| ready)
}

fn send_one(socket: &UdpSocket, outgoing: &Outgoing, bytes: &[u8]) -> bool {
    let (mut name, name_len) = Name::encode(outgoing.to);
    let (mut control, control_len) = Control::encode(outgoing.from, None);
    let mut vector = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let header = header(
        (&mut name, name_len),
        &mut vector,
        (&mut control, control_len),
    );
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: every pointer in `header` names a buffer of the stated length that lives until the
    // call returns.
    let sent = unsafe { libc::sendmsg(fd, &raw const header, libc::MSG_DONTWAIT) };
    sent >= 0
}

/// Header of a message that goes to `name`. It points to the arguments, which must outlive it.
#[inline]
fn header(
    (name, name_len): (&mut Name, usize),
    bytes: &mut libc::iovec,
    (control, control_len): (&mut Control, usize),
) -> libc::msghdr {
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_name = ptr::from_mut(name).cast();
    header.msg_namelen = name_len as libc::socklen_t;
    header.msg_iov = bytes;
    header.msg_iovlen = 1;
    if control_len > 0 {
        header.msg_control = ptr::from_mut(control).cast();
        header.msg_controllen = control_len as _;
    }
    header
}
