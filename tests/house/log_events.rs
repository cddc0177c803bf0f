//! Fields of log events. In JSON, they are beside those that every line has.

use crate::source::File;

/// Fields that every line has.
const RESERVED: [&str; 4] = ["timestamp", "level", "target", "message"];
const LEVELS: [&str; 5] = ["trace", "debug", "info", "warn", "error"];

/// The fields of events that have the name of a field of every line.
pub(crate) fn doubled(file: &File) -> Vec<String> {
    let calls = LEVELS.iter().flat_map(|level| {
        let call = format!("tracing::{level}!(");
        let pieces: Vec<_> = file.text.split(&*call).skip(1).collect();
        pieces
    });
    calls.flat_map(reserved).collect()
}

/// The reserved fields between the bracket and the text of an event.
fn reserved(event: &str) -> Vec<String> {
    let fields = event.split('"').next().unwrap_or_default();
    let names = fields.split(',').map(|field| {
        let name = field.split('=').next().unwrap_or_default();
        name.trim().trim_start_matches(['%', '?'])
    });
    let found = names.filter(|name| RESERVED.contains(name));
    found.map(str::to_owned).collect()
}

#[test]
fn fields_of_every_line_are_found_in_events() {
    assert_eq!(
        reserved("reason, message, \"not connected\");"),
        ["message"]
    );
    assert_eq!(reserved("%level, error = message, \"x\");"), ["level"]);
    assert!(reserved("error = %message, \"no message, level\");").is_empty());
}
