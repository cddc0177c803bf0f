//! Taking over from a running relay: its sessions and its sockets, over a unix socket that only
//! this user reaches. Datagrams wait in the sockets meanwhile.
//!
//! ```text
//! successor                      incumbent
//!   "PRTAKE1\n"  ---------->            gives up control, DERP, metrics and the identity's lock
//!                <----------  'R'       ready; still forwards
//!   'N'          ---------->            now: its threads end
//!                <----------  number of IPv4 and IPv6 sockets, one byte each, with the descriptors
//!                <----------  sealed state, until the end of the stream
//! ```

use std::{
    io::{self, IoSlice, IoSliceMut, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use relay_proto::Family;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::timeout,
};

use super::{Refusal, RestoredState, SealKey};
use crate::relay::{
    private,
    socket::UdpSocket,
    socket_path::{SocketPathHandle, SocketSets},
};

const SOCKET: &str = "handover.sock";
const TAKE: &[u8; 8] = b"PRTAKE1\n";
const READY: u8 = b'R';
const NOW: u8 = b'N';
/// Longest wait for any step of the other side.
const PATIENCE: Duration = Duration::from_secs(10);
/// Descriptors that one message carries at most (Linux: 253).
const MOST_SOCKETS: usize = 128;

/// Waits for an successor.
pub struct HandoverListener {
    listener: UnixListener,
    path: PathBuf,
}

/// An successor has asked.
pub struct TakeoverRequest(UnixStream);

/// A relay that takes over from a running one.
pub struct Successor(UnixStream);

/// What an successor gets.
pub struct HandoverState {
    /// Keys and sessions; the reason where they cannot be used.
    pub restored_state: Result<RestoredState, Refusal>,
    /// By IP version, in the order in which the kernel steers.
    pub sockets: SocketSets,
}

impl HandoverListener {
    /// Listens in `dir`, a private directory; the caller holds the identity's lock.
    ///
    /// # Errors
    /// The directory is not writable, or its path is too long for a socket (107 bytes).
    pub fn listen(dir: &Path) -> io::Result<Self> {
        let path = dir.join(SOCKET);
        let listener = private::listen(&path)?;
        Ok(Self { listener, path })
    }

    /// Until an successor asks. Anyone else is not answered.
    pub async fn accept(&self) -> TakeoverRequest {
        loop {
            let Ok((mut stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            };
            let mut word = [0; TAKE.len()];
            let asked = timeout(PATIENCE, stream.read_exact(&mut word)).await;
            if matches!(asked, Ok(Ok(_))) && word == *TAKE {
                return TakeoverRequest(stream);
            }
        }
    }
}

impl Drop for HandoverListener {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

impl TakeoverRequest {
    /// Gives away sessions and sockets. Everything else that the successor needs is free by now.
    ///
    /// # Errors
    /// The successor has gone, or the threads have ended.
    pub async fn hand_over(
        mut self,
        socket_path: &SocketPathHandle,
        key: &SealKey,
    ) -> io::Result<()> {
        self.0.write_u8(READY).await?;
        match timeout(PATIENCE, self.0.read_u8()).await?? {
            NOW => {}
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
        let (mut state, sockets) = socket_path
            .hand_over()
            .await
            .ok_or(io::ErrorKind::BrokenPipe)?;
        socket_path.complete(&mut state);
        let sealed = key.seal(&state)?;
        let counts = sockets.each_ref().map(|sockets| sockets.len() as u8);
        let fds: Vec<_> = sockets.iter().flatten().map(AsFd::as_fd).collect();
        let stream = self.0.into_std()?;
        stream.set_nonblocking(false)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !rights.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        sendmsg(
            &stream,
            &[IoSlice::new(&counts)],
            &mut rights,
            SendFlags::empty(),
        )?;
        tokio::task::spawn_blocking(move || io::Write::write_all(&mut &stream, &sealed)).await?
    }
}

impl Successor {
    /// Asks the relay that runs with `dir`, if there is one, and waits until it is ready.
    pub async fn request(dir: &Path) -> Option<Self> {
        let mut stream = UnixStream::connect(dir.join(SOCKET)).await.ok()?;
        stream.write_all(TAKE).await.ok()?;
        match timeout(PATIENCE, stream.read_u8()).await {
            Ok(Ok(READY)) => Some(Self(stream)),
            _ => None,
        }
    }

    /// Takes over now.
    ///
    /// # Errors
    /// The other relay has gone meanwhile.
    pub async fn take_over(mut self, key: &SealKey) -> io::Result<HandoverState> {
        self.0.write_u8(NOW).await?;
        let stream = self.0.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (fds, counts, sealed) = tokio::task::spawn_blocking(move || receive(&stream)).await??;
        let mut fds = fds.into_iter();
        let mut take = |count: u8| -> io::Result<Vec<UdpSocket>> {
            let sockets = fds.by_ref().take(count.into()).map(UdpSocket::adopt);
            sockets.collect()
        };
        let sockets = [take(counts[0])?, take(counts[1])?];
        Ok(HandoverState {
            restored_state: key.open(&sealed),
            sockets,
        })
    }
}

fn receive(mut stream: &StdStream) -> io::Result<(Vec<OwnedFd>, [u8; 2], Vec<u8>)> {
    let mut counts = [0; Family::ALL.len()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut counts)],
        &mut rights,
        flags,
    )?;
    let fds = rights.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    });
    let fds = fds.collect();
    let mut sealed = Vec::new();
    stream.read_to_end(&mut sealed)?;
    Ok((fds, counts, sealed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::io::Write;

    use bolero::{check, produce};

    use super::*;

    #[test]
    fn an_incumbent_that_says_anything_leaves_no_socket_and_no_session() {
        let said = produce::<Vec<u8>>().with().len(0..300_usize);
        let check = check!().with_iterations(100).with_generator(said);
        check.for_each(|said| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            let (mut incumbent, successor) = StdStream::pair().unwrap();
            successor.set_nonblocking(true).unwrap();
            incumbent.write_all(said).unwrap();
            incumbent.shutdown(std::net::Shutdown::Write).unwrap();
            runtime.block_on(async {
                let successor = Successor(UnixStream::from_std(successor).unwrap());
                if let Ok(handed_over) = successor.take_over(&SealKey::new(&[7; 32], 40_000)).await
                {
                    assert!(handed_over.restored_state.is_err());
                    assert!(handed_over.sockets.iter().all(Vec::is_empty));
                }
            });
        });
    }
}
