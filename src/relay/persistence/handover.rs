//! Handover: a relay takes over the sessions and sockets of a running one, over a unix socket that only
//! the same user can open. Datagrams wait in the sockets meanwhile.
//!
//! ```text
//! successor                 incumbent
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

use super::{Refusal, SealKey};
use crate::relay::{
    private,
    socket::UdpSocket,
    socket_path::{RestoredState, SocketPathHandle, SocketSets},
};

/// Name of the unix socket in the session directory.
const SOCKET: &str = "handover.sock";
const TAKE: &[u8; 8] = b"PRTAKE1\n";
const READY: u8 = b'R';
const NOW: u8 = b'N';
/// Longest wait for each step of the other side.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest number of descriptors in a message (Linux allows 253).
const MAX_SOCKETS: usize = 128;

/// Waits for a successor.
pub struct HandoverListener {
    listener: UnixListener,
    path: PathBuf,
}

/// Request of a successor to take over.
pub struct TakeoverRequest(UnixStream);

/// A relay that takes over from a running one, which is ready.
pub struct Successor(UnixStream);

/// Sessions and sockets of the relay that hands over.
pub struct HandoverState {
    /// Keys and sessions, or why they are refused.
    pub restored_state: Result<RestoredState, Refusal>,
    /// Sockets by IP version, in the order in which the kernel steers.
    pub sockets: SocketSets,
}

impl HandoverListener {
    /// Listens in `dir`, a private directory. The caller holds the identity's lock.
    ///
    /// # Errors
    /// The directory is not writable, or its path is too long for a socket (107 bytes).
    pub fn listen(dir: &Path) -> io::Result<Self> {
        let path = dir.join(SOCKET);
        let listener = private::listen(&path)?;
        Ok(Self { listener, path })
    }

    /// Waits until a successor asks. A connection that sends anything else is closed.
    pub async fn accept(&self) -> TakeoverRequest {
        loop {
            let Ok((mut stream, _)) = self.listener.accept().await else {
                // Mostly no descriptor is left (EMFILE), and the next attempt would fail at once.
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            };
            let mut word = [0; TAKE.len()];
            let received = timeout(STEP_TIMEOUT, stream.read_exact(&mut word)).await;
            if matches!(received, Ok(Ok(_))) && word == *TAKE {
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
    /// Hands sessions and sockets over. The caller has released everything else that the successor
    /// needs.
    ///
    /// # Errors
    /// The successor has ended, or a worker thread has.
    pub async fn hand_over(
        mut self,
        socket_path: &SocketPathHandle,
        key: &SealKey,
    ) -> io::Result<()> {
        self.0.write_u8(READY).await?;
        match timeout(STEP_TIMEOUT, self.0.read_u8()).await?? {
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
        // tokio's streams do not block. What follows must not fail because the other side reads slowly.
        stream.set_nonblocking(false)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !rights.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        // Descriptors need a byte of data to travel with (unix(7)): the counts.
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
    /// Asks the relay that runs with `dir` to hand over, and waits until it is ready. Returns `None`
    /// when no relay runs there.
    pub async fn request(dir: &Path) -> Option<Self> {
        let mut stream = UnixStream::connect(dir.join(SOCKET)).await.ok()?;
        stream.write_all(TAKE).await.ok()?;
        match timeout(STEP_TIMEOUT, stream.read_u8()).await {
            Ok(Ok(READY)) => Some(Self(stream)),
            _ => None,
        }
    }

    /// Takes over: the other relay stops forwarding now.
    ///
    /// # Errors
    /// The other relay has ended meanwhile.
    pub async fn take_over(mut self, key: &SealKey) -> io::Result<HandoverState> {
        self.0.write_u8(NOW).await?;
        let stream = self.0.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(STEP_TIMEOUT))?;
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
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
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
