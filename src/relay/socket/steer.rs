//! Steering of datagrams to one of several sockets on a port.

use std::{io, os::fd::AsRawFd};

use relay_proto::Shard;
use socket2::Socket;

use super::checked;

/// Offset of the word that holds the VNI. In a STUN message, its magic cookie is there.
const WORD: u32 = 4;
const STUN_COOKIE: u32 = 0x2112_a442;

/// Makes the kernel give each datagram to the socket of its VNI's shard: of `sockets` sockets that
/// share the port, number `shard mod sockets`, in the order in which they were bound. STUN, and what
/// is too short to have a VNI, goes to the first.
///
/// The program is classic BPF, which needs no privilege. It sees the first segment of a
/// super-datagram only, so other segments may belong to another socket.
pub(super) fn steer(socket: &Socket, sockets: u32) -> io::Result<()> {
    let op = |code: u32, jt, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf: 0,
        k,
    };
    // A load beyond the end of the datagram ends the program with 0.
    let mut program = [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, WORD),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 4, STUN_COOKIE),
        op(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, 0, 8),
        op(
            libc::BPF_ALU | libc::BPF_AND | libc::BPF_K,
            0,
            Shard::COUNT - 1,
        ),
        op(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, sockets),
        op(libc::BPF_RET | libc::BPF_A, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the pointer and length name `program`, and its pointer and length the instructions;
    // the kernel copies both before the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    checked(result).map(drop)
}
