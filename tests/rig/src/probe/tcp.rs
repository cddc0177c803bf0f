//! TCP through the tunnel.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

/// Longest time without a byte. Clients leave a path 6.5 s after its end; TCP then sends again after twice as
/// long as it has waited, 25 s after the first time at the latest.
const PATIENCE: Duration = Duration::from_secs(45);
/// The first byte of a connection, which selects its use.
const ECHO: u8 = b'e';
const CHECKSUM: u8 = b'c';

/// Serves until it is stopped.
pub(super) fn serve(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    println!("serving");
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || {
            if let Err(error) = answer(stream) {
                eprintln!("{error:#}");
            }
        });
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut kind = [0];
    stream.read_exact(&mut kind)?;
    let mut buffer = vec![0; 64 << 10];
    if kind[0] == CHECKSUM {
        // The end of the bytes is not the end of a connection: proxies close both directions at once.
        let mut length = [0; 8];
        stream.read_exact(&mut length)?;
        let mut hash = Sha256::new();
        io::copy(&mut (&stream).take(u64::from_le_bytes(length)), &mut hash)?;
        return Ok(stream.write_all(&hash.finalize())?);
    }
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            len => stream.write_all(&buffer[..len])?,
        }
    }
}

/// Sends `bytes` that do not repeat, through an HTTP proxy if there is one, and checks what came at the
/// other end.
pub(super) fn send(to: SocketAddr, bytes: u64, proxy: Option<SocketAddr>) -> Result<()> {
    let mut stream = match proxy {
        Some(proxy) => connect_through(proxy, to)?,
        None => connect(to)?,
    };
    stream.write_all(&[CHECKSUM])?;
    stream.write_all(&bytes.to_le_bytes())?;
    let mut hash = Sha256::new();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut left = bytes;
    let mut buffer = vec![0; 64 << 10];
    while left > 0 {
        for word in buffer.chunks_exact_mut(8) {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let len = left.min(buffer.len() as u64);
        let part = &buffer[..usize::try_from(len)?];
        stream.write_all(part)?;
        hash.update(part);
        left -= len;
    }
    let mut theirs = [0; 32];
    stream
        .read_exact(&mut theirs)
        .context("the other end does not answer")?;
    ensure!(
        theirs == hash.finalize().as_slice(),
        "the bytes were changed on their way"
    );
    println!("{bytes} bytes arrived unchanged");
    Ok(())
}

/// Ten round trips a second on one connection, until standard input ends.
pub(super) fn hold(to: SocketAddr) -> Result<()> {
    let stop = thread::spawn(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let mut stream = connect(to)?;
    stream.write_all(&[ECHO])?;
    let mut trips = 0_u64;
    let mut longest = Duration::ZERO;
    while !stop.is_finished() {
        let start = Instant::now();
        stream.write_all(&trips.to_le_bytes())?;
        let mut answer = [0; 8];
        stream
            .read_exact(&mut answer)
            .context("the connection broke")?;
        ensure!(
            u64::from_le_bytes(answer) == trips,
            "the connection mixed up its bytes"
        );
        longest = longest.max(start.elapsed());
        trips += 1;
        if trips == 1 {
            println!("holding");
        }
        thread::sleep(Duration::from_millis(100));
    }
    let longest = longest.as_millis();
    println!("{trips} round trips, the longest {longest} ms");
    Ok(())
}

/// Opens a connection through an HTTP proxy (RFC 9110, section 9.3.6).
fn connect_through(proxy: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    let mut stream = connect(proxy)?;
    write!(stream, "CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n")?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "the proxy says '{status}'");
    Ok(stream)
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            bail!("nothing listens on {to}")
        }
        Err(error) => return Err(error).context("failed to connect"),
    };
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}
