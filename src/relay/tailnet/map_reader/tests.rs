#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use bolero::check;
use fuzz_edits::{edited, edits};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::*;

const TEXTS: [&str; 3] = [r#"{"KeepAlive":true}"#, "{}", r#"{"Peers":[]}"#];

#[test]
fn a_stream_of_maps_is_read_to_its_end_however_it_is_changed() {
    for compress in [false, true] {
        let message = |text: &str| framed(&encoded(text, compress));
        let whole = TEXTS.map(message).concat();
        let (maps, end) = read(&whole);
        assert_eq!((maps.len(), end), (TEXTS.len(), MapStreamError::Lost));
        assert!(maps[0].keep_alive);
        let check = check!().with_iterations(2_000).with_generator(edits());
        check.for_each(|edits| {
            let bytes = edited(&whole, edits);
            assert!(
                read(&bytes).0.len() * 6 <= bytes.len(),
                "a length and {{}} at least"
            );
        });
    }
}

#[test]
fn large_messages_are_read_with_and_without_compression() {
    let peers: Vec<_> = (0..20_000).map(|id| format!(r#"{{"ID":{id}}}"#)).collect();
    let text = format!(r#"{{"Peers":[{}]}}"#, peers.join(","));
    assert!(text.len() as u64 > SMALL);
    // These two are small while they are compressed.
    let spaces = format!("{{{}}}", " ".repeat(SMALL_JSON as usize));
    let more_spaces = format!("{}{text}", " ".repeat(WHOLE as usize));
    for compress in [false, true] {
        let texts = [
            &*text,
            &spaces,
            &more_spaces,
            TEXTS[0],
            &text[1..],
            TEXTS[0],
        ];
        let stream = texts.map(|text| framed(&encoded(text, compress))).concat();
        let (maps, end) = read(&stream);
        let peers = maps.iter().map(|map| map.peers.len());
        assert_eq!(peers.collect::<Vec<_>>(), [20_000, 0, 20_000, 0]);
        assert!(
            matches!(end, MapStreamError::Invalid { line: 1, .. }),
            "{end}"
        );
        let cut = &stream[..text.len() / 64];
        assert_eq!(read(cut).1, MapStreamError::Lost);
    }
}

#[test]
fn a_message_that_grows_without_end_is_refused() {
    let bomb = encoded(&format!("{{{}}}", " ".repeat(10_000_000)), true);
    assert!(bomb.len() < 100_000);
    let parsed = parse(&bomb[..], 1_000_000);
    assert_eq!(parsed.unwrap_err(), MapStreamError::TooLarge);
    assert!(parse(&bomb[..], 10_000_002).is_ok());
    let length = (LARGEST as u32 + 1).to_le_bytes();
    assert_eq!(read(&length).1, MapStreamError::TooLarge);
}

#[test]
fn a_window_that_needs_much_memory_is_refused() {
    // A frame header with a window of 2 GiB (RFC 8878, section 3.1.1.1.2).
    let frame = [&MAGIC[..], &[0, 21 << 3], &[0; 16]].concat();
    let end = read(&framed(&frame)).1;
    assert_eq!(end, MapStreamError::Invalid { line: 0, column: 0 });
}

fn encoded(text: &str, compress: bool) -> Vec<u8> {
    match compress {
        true => compress_to_vec(text.as_bytes(), CompressionLevel::Fastest),
        false => text.as_bytes().to_vec(),
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_le_bytes()[..], message].concat()
}

/// Messages until the stream ends, and why it ends.
fn read(bytes: &[u8]) -> (Vec<MapResponse>, MapStreamError) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().build().unwrap();
    let mut stream = MapStream::new(bytes);
    let mut maps = Vec::new();
    loop {
        match runtime.block_on(stream.next()) {
            Ok(map) => maps.push(map),
            Err(error) => return (maps, error),
        }
    }
}
