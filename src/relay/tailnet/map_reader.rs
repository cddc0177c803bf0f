//! Reader of the map stream. A message is its length in little-endian and JSON, mostly compressed
//! (`controlclient.Direct.sendMapRequest`).
//!
//! A large message is parsed while it comes, in a thread for blocking work, so that neither its text nor
//! its peers are kept whole.

use std::{
    io::{self, BufReader, Cursor, Read},
    time::Duration,
};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::mpsc,
    task::spawn_blocking,
    time::timeout,
};

use super::wire::MapResponse;

/// Compression that this reader understands (`tailcfg.MapRequest.Compress`); messages without compression
/// are understood too.
pub(super) const COMPRESSION: &str = "zstd";
/// A map stream that is silent for longer is dead: control sends a keep-alive about every minute
/// (`controlclient.watchdogTimeout`).
const SILENCE: Duration = Duration::from_secs(120);
/// Largest message, both as received and as JSON, in bytes: a device takes about 1,000 bytes.
const LARGEST: u64 = 1 << 30;
/// Largest message that is parsed at once, as received and as JSON, in bytes.
const SMALL: u64 = 64 << 10;
const SMALL_JSON: u64 = 512 << 10;
/// Largest JSON that is collected before it is parsed, in bytes: that takes half the time.
const WHOLE: u64 = 8 << 20;
/// First bytes of compressed messages (RFC 8878, section 3.1.1).
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Largest window of the compression, in bytes; Go's encoder uses at most 8 MiB at its usual levels.
const LARGEST_WINDOW: u64 = 16 << 20;
/// Bytes that are read at once, and how many such parts may wait for the parser.
const PART: usize = 64 << 10;
const PARTS: usize = 4;

/// The stream of network maps.
pub(crate) struct MapStream<R> {
    body: R,
    decoder: FrameDecoder,
}

/// Error of the stream of network maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MapStreamError {
    /// Nothing came for too long, or the connection broke.
    #[error("lost the connection to the control server while it should send network maps")]
    Lost,
    /// A message is too large.
    #[error(
        "failed to read a network map: it has more than {} MiB, and a relay reads no larger ones",
        LARGEST >> 20
    )]
    TooLarge,
    /// A message is no map. The text tells the place only: the message has names and addresses of clients.
    #[error("failed to read a network map: line {line}, column {column} is not what maps have")]
    Invalid {
        /// Line in the JSON.
        line: usize,
        /// Column in the line.
        column: usize,
    },
}

impl<R: AsyncRead + Unpin> MapStream<R> {
    /// A stream whose first message has not been read yet.
    pub(crate) fn new(body: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(LARGEST_WINDOW);
        Self { body, decoder }
    }

    /// The next message; keep-alives included.
    ///
    /// # Errors
    /// The stream is of no use any more.
    pub(crate) async fn next(&mut self) -> Result<MapResponse, MapStreamError> {
        let mut len = [0; 4];
        self.fill(&mut len).await?;
        let len = u64::from(u32::from_le_bytes(len));
        if len > LARGEST {
            return Err(MapStreamError::TooLarge);
        }
        if len > SMALL {
            return self.next_large(len).await;
        }
        let mut message = vec![0; len as usize];
        self.fill(&mut message).await?;
        match self.parse_small(&message) {
            Some(parsed) => parsed,
            // It is small only while it is compressed.
            None => {
                let parsed = spawn_blocking(move || parse(Cursor::new(message), LARGEST));
                parsed.await.unwrap_or(Err(MapStreamError::Lost))
            }
        }
    }

    async fn next_large(&mut self, len: u64) -> Result<MapResponse, MapStreamError> {
        let (parts, waiting) = mpsc::channel(PARTS);
        let reader = PartReader {
            waiting,
            part: Cursor::default(),
        };
        let parsed = spawn_blocking(move || parse(reader, LARGEST));
        let mut left = len;
        while left > 0 {
            let mut part = vec![0; left.min(PART as u64) as usize];
            self.fill(&mut part).await?;
            left -= part.len() as u64;
            // The parser ends early for a message that is no map; the stream goes on after it.
            parts.send(part).await.ok();
        }
        drop(parts);
        parsed.await.unwrap_or(Err(MapStreamError::Lost))
    }

    /// Parses a message; `None` if it is large.
    fn parse_small(&mut self, message: &[u8]) -> Option<Result<MapResponse, MapStreamError>> {
        if !message.starts_with(&MAGIC) {
            return Some(serde_json::from_slice(message).map_err(invalid));
        }
        let mut text = Vec::new();
        let decoder = StreamingDecoder::new_with_decoder(message, &mut self.decoder);
        let decoded = decoder
            .map_err(io::Error::other)
            .and_then(|decoder| decoder.take(SMALL_JSON + 1).read_to_end(&mut text));
        if decoded.is_err() {
            return Some(Err(MapStreamError::Invalid { line: 0, column: 0 }));
        }
        (text.len() as u64 <= SMALL_JSON).then(|| serde_json::from_slice(&text).map_err(invalid))
    }

    async fn fill(&mut self, bytes: &mut [u8]) -> Result<(), MapStreamError> {
        let read = timeout(SILENCE, self.body.read_exact(bytes)).await;
        let read = read.ok().and_then(Result::ok);
        read.map(drop).ok_or(MapStreamError::Lost)
    }
}

/// Parses a message of at most `most` bytes of JSON.
fn parse(mut message: impl Read, most: u64) -> Result<MapResponse, MapStreamError> {
    let mut head = Vec::new();
    let read = (&mut message)
        .take(MAGIC.len() as u64)
        .read_to_end(&mut head);
    read.map_err(|_| MapStreamError::Lost)?;
    let is_compressed = head == MAGIC;
    let message = Read::chain(Cursor::new(head), message);
    if is_compressed {
        let decoder = StreamingDecoder::new_with_max_window_size(message, LARGEST_WINDOW);
        let decoder = decoder.map_err(|_| MapStreamError::Invalid { line: 0, column: 0 })?;
        parse_json(decoder, most)
    } else {
        parse_json(message, most)
    }
}

fn parse_json(text: impl Read, most: u64) -> Result<MapResponse, MapStreamError> {
    let mut text = text.take(most + 1);
    let mut begin = Vec::new();
    let read = (&mut text).take(WHOLE).read_to_end(&mut begin);
    read.map_err(|_| MapStreamError::Invalid { line: 0, column: 0 })?;
    let parsed = match (begin.len() as u64) < WHOLE {
        true => serde_json::from_slice(&begin),
        false => {
            let text = Read::chain(Cursor::new(begin), &mut text);
            serde_json::from_reader(BufReader::with_capacity(PART, text))
        }
    };
    match text.limit() {
        0 => Err(MapStreamError::TooLarge),
        _ => parsed.map_err(invalid),
    }
}

fn invalid(error: serde_json::Error) -> MapStreamError {
    MapStreamError::Invalid {
        line: error.line(),
        column: error.column(),
    }
}

/// Parts of a message as they come. Its end is the end of the channel.
struct PartReader {
    waiting: mpsc::Receiver<Vec<u8>>,
    part: Cursor<Vec<u8>>,
}

impl Read for PartReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = Read::read(&mut self.part, buffer)?;
        if read > 0 || buffer.is_empty() {
            return Ok(read);
        }
        let Some(part) = self.waiting.blocking_recv() else {
            return Ok(0);
        };
        self.part = Cursor::new(part);
        Read::read(&mut self.part, buffer)
    }
}

#[cfg(test)]
mod tests;
