//! YAML of a converted PeerRelay, with notes as comments.

use super::{
    draft::Draft,
    note::{Effect, Note},
};

/// Longest line of a comment.
const WIDTH: usize = 100;

/// Renders a PeerRelay as one YAML document.
pub(super) fn render(
    draft: &Draft,
    document: usize,
    notes: &[Note],
    describe: impl Fn(usize) -> String,
) -> String {
    let mut text = format!(
        "---\n# Converted by 'peerrelay import' from {}.\n",
        describe(document)
    );
    for (effect, title) in [
        (Effect::ToDo, "To do before it is applied:"),
        (Effect::Lost, "Not kept:"),
        (Effect::Changed, "Changed:"),
    ] {
        let mut some = notes.iter().filter(|note| note.effect == effect).peekable();
        if some.peek().is_some() {
            text += &format!("#\n# {title}\n");
        }
        for note in some {
            let mut words = String::new();
            if note.place.document != document {
                words += &format!("{}: ", describe(note.place.document));
            }
            if !note.place.path.is_empty() {
                words += &format!("{}: ", note.place.path);
            }
            words += &note.message;
            text += &comment(&words);
        }
    }
    text + &serde_yaml::to_string(draft).expect("a PeerRelay is plain data")
}

/// Returns an item of a list as lines of a comment.
fn comment(words: &str) -> String {
    let mut text = String::new();
    let mut line = "# -".to_owned();
    for word in words.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH && line.len() > 3 {
            text += &line;
            text.push('\n');
            line = "#  ".to_owned();
        }
        line.push(' ');
        line += word;
    }
    text + &line + "\n"
}
