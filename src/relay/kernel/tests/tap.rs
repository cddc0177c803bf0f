//! Frames as they are on a device, without an IP stack in between.
#![allow(
    unsafe_code,
    reason = "packet sockets have addresses that only libc can name"
)]

use std::{
    io::{Read, Write},
    net::SocketAddr,
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::relay::{kernel::frame, namespace::Net, netlink::Netlink};

const ETHERTYPE: usize = 12;
const UDP: u8 = 17;

/// Hears every frame that a device has sent or received since, and sends some.
pub(super) struct Tap(Socket);

impl Tap {
    pub(super) fn new(net: &Net, namespace: &str, device: &str) -> Self {
        net.run(namespace, || {
            let devices = Netlink::new().unwrap().devices().unwrap();
            let (index, _) = devices.iter().find(|(_, d)| d.name == device).unwrap();
            let protocol = (libc::ETH_P_ALL as u16).to_be();
            // SAFETY: all-zero bytes are a valid sockaddr_ll.
            let mut name: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            name.sll_family = libc::AF_PACKET as u16;
            name.sll_protocol = protocol;
            name.sll_ifindex = index.cast_signed();
            // SAFETY: the storage is larger than the name, whose length is told.
            let (_, name) = unsafe {
                SockAddr::try_init(|storage, len| {
                    storage.cast::<libc::sockaddr_ll>().write(name);
                    *len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
                    Ok(())
                })
            }
            .unwrap();
            let domain = Domain::from(libc::AF_PACKET);
            let protocol = Protocol::from(i32::from(protocol));
            let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
            socket.bind(&name).unwrap();
            socket.set_nonblocking(true).unwrap();
            Self(socket)
        })
    }

    pub(super) fn send(&self, frame: &[u8]) {
        (&self.0).write_all(frame).unwrap();
    }

    /// Ends of the UDP datagrams since the last time.
    pub(super) fn heard(&self) -> Vec<(SocketAddr, SocketAddr)> {
        let mut heard = Vec::new();
        let mut buffer = vec![0; 1 << 17];
        while let Ok(len) = (&self.0).read(&mut buffer) {
            let frame = &buffer[..len];
            let is_udp = match frame.get(ETHERTYPE..ETHERTYPE + 2) {
                Some([0x08, 0x00]) => frame[ETHERTYPE + 11] == UDP,
                Some([0x86, 0xdd]) => frame[ETHERTYPE + 8] == UDP,
                _ => false,
            };
            if is_udp {
                let (from, to, _) = frame::ends(frame);
                heard.push((from, to));
            }
        }
        heard
    }
}
