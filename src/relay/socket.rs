//! UDP sockets of the data path, which receive and send whole batches with one system call each.
//!
//! Receiving keeps super-datagrams (UDP GRO) whole, and returns the local address that was addressed.
//! Sending takes any number of destinations in one call, each from a chosen local address, and has the
//! kernel cut a super-datagram into its segments (UDP GSO). All buffers are allocated once.
#![allow(
    unsafe_code,
    reason = "recvmmsg, sendmmsg, their options and eventfd have no safe wrapper here"
)]

mod control;
mod name;
mod receive;
mod segmentation;
mod send;
mod steer;
mod wake;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use relay_proto::Family;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

pub use receive::{Arrival, ReceiveBatch, SLOTS, Taken};
pub use send::{Outgoing, Payload, SendBatch, Sent};
pub use wake::{Interest, Waker, wait};

use super::netlink::BYPASS_MARK;

/// Requested size of a receive buffer. The kernel doubles it for its own overhead, which for a small
/// datagram is several times its length, so there is room for some 12,000 of them. Memory is used for
/// waiting datagrams only.
const RECEIVE_BUFFER: usize = 8 << 20;
/// Requested size of a send buffer.
const SEND_BUFFER: usize = 2 << 20;

/// A bound UDP socket of one IP version, non-blocking.
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    local: SocketAddr,
}

impl UdpSocket {
    /// Binds `address` with `count` sockets, one for each thread; port 0 lets the kernel choose. The
    /// kernel gives each datagram to the socket that the shard of its VNI names (see `steer`). An IPv6
    /// socket receives IPv6 only.
    ///
    /// # Errors
    /// The error of the kernel, which is `AddrInUse` when another process has the port.
    pub fn bind(address: SocketAddr, count: usize) -> io::Result<Vec<Self>> {
        // The first is bound without SO_REUSEPORT, which would share the port with a socket of another
        // process of the same user that has this option. Such a process must be noticed.
        let first = Self::open(address, false)?;
        if count == 1 {
            return Ok(vec![first]);
        }
        first.socket.set_reuse_port(true)?;
        let mut sockets = vec![first];
        while sockets.len() < count {
            sockets.push(Self::open(sockets[0].local, true)?);
        }
        steer::steer(
            &sockets[0].socket,
            u32::try_from(count).expect("as few as threads"),
        )?;
        Ok(sockets)
    }

    fn open(address: SocketAddr, shared: bool) -> io::Result<Self> {
        let family = Family::of(&address);
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        if shared {
            socket.set_reuse_port(true)?;
        }
        // Otherwise the socket would take the port of IPv4 too, and IPv4's own bind would fail (ipv6(7)).
        if family == Family::V6 {
            socket.set_only_v6(true)?;
        }
        // On a host with several addresses a reply must leave from the one that was addressed: a
        // NAT in front of the client lets nothing else in.
        match family {
            Family::V4 => enable(&socket, libc::SOL_IP, libc::IP_PKTINFO)?,
            Family::V6 => enable(&socket, libc::SOL_IPV6, libc::IPV6_RECVPKTINFO)?,
        }
        // Datagrams then carry the number of those that a full buffer has lost (socket(7)).
        enable(&socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL)?;
        // And with the time of receipt, from which the metric of the time in the relay is sampled.
        enable(&socket, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS)?;
        // Linux before 5.0 has no UDP GRO; then every datagram is received alone.
        if let Err(error) = enable(&socket, libc::SOL_UDP, libc::UDP_GRO) {
            tracing::info!(%error, "no UDP receive offload: datagrams are read one by one");
        }
        enlarge_buffers(&socket)?;
        bypass_tunnel(&socket);
        socket.bind(&SockAddr::from(address))?;
        let local = socket
            .local_addr()?
            .as_socket()
            .expect("a UDP socket has an IP address");
        Ok(Self { socket, local })
    }

    /// Takes over a socket that [`UdpSocket::bind`] has made in another process.
    ///
    /// # Errors
    /// The descriptor is no UDP socket.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(fd);
        let local = socket.local_addr()?.as_socket();
        if socket.r#type()? != Type::DGRAM {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let local = local.ok_or(io::ErrorKind::InvalidInput)?;
        // A relay of an earlier version has not done it.
        bypass_tunnel(&socket);
        Ok(Self { socket, local })
    }

    /// Takes over a socket that is bound already, with the options of [`UdpSocket::bind`] that
    /// matter for sending.
    #[cfg(test)]
    pub(super) fn from_std(socket: std::net::UdpSocket) -> io::Result<Self> {
        let local = socket.local_addr()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: socket.into(),
            local,
        })
    }

    /// Address to which the socket is bound, which is mostly the unspecified one.
    pub const fn local(&self) -> SocketAddr {
        self.local
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Returns an address of packet information unless it is unspecified.
fn specified(ip: IpAddr) -> Option<IpAddr> {
    (!ip.is_unspecified()).then_some(ip)
}

/// Keeps datagrams out of the tunnel of a tailscaled on the same host, if the relay may do so.
fn bypass_tunnel(socket: &Socket) {
    if let Err(error) = socket.set_mark(BYPASS_MARK) {
        tracing::debug!(%error, "datagrams are not marked for tailscaled of this host");
    }
}

/// Enlarges both buffers. The privileged options may exceed `net.core.{r,w}mem_max`; without the
/// privilege, the kernel grants what that limit allows.
fn enlarge_buffers(socket: &Socket) -> io::Result<()> {
    let fd = socket.as_fd();
    let forced = |option, len: usize| {
        let len = i32::try_from(len).expect("a few MiB fit");
        set_option(fd, libc::SOL_SOCKET, option, len)
    };
    if forced(libc::SO_RCVBUFFORCE, RECEIVE_BUFFER).is_err() {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    if forced(libc::SO_SNDBUFFORCE, SEND_BUFFER).is_err() {
        socket.set_send_buffer_size(SEND_BUFFER)?;
    }
    tracing::debug!(
        receive = socket.recv_buffer_size()?,
        send = socket.send_buffer_size()?,
        "socket buffers"
    );
    Ok(())
}

fn enable(socket: &Socket, level: i32, option: i32) -> io::Result<()> {
    set_option(socket.as_fd(), level, option, 1)
}

fn set_option(fd: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the pointer and length name `value`, which outlives the call; the fd is open.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            len,
        )
    };
    checked(result).map(drop)
}

/// Converts the `-1` of a system call into its error.
fn checked(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
