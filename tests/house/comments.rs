//! Documentation comments: the form of their first sentences.

use crate::source::File;

/// Words that begin a clause, or a question, and no sentence.
const CLAUSE_WORDS: [&str; 9] = [
    "what", "which", "who", "whose", "where", "whether", "when", "why", "how",
];
/// Most letters and digits of a first sentence that says too little.
const SHORT: usize = 12;

/// The form of a first sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A clause such as "Which one it is."
    Clause,
    /// A sentence such as "The port."
    Short,
    Sentence,
}

/// A documentation comment.
pub(crate) struct Comment {
    /// Number of its first line, from 1.
    pub(crate) line: usize,
    pub(crate) first_sentence: String,
}

impl Comment {
    pub(crate) fn form(&self) -> Form {
        let words = self
            .first_sentence
            .split(|letter: char| !letter.is_alphabetic());
        let first = words
            .into_iter()
            .find(|word| !word.is_empty())
            .unwrap_or_default();
        let letters = self
            .first_sentence
            .chars()
            .filter(|letter| letter.is_alphanumeric());
        if CLAUSE_WORDS.contains(&&*first.to_lowercase()) {
            Form::Clause
        } else if letters.count() <= SHORT {
            Form::Short
        } else {
            Form::Sentence
        }
    }
}

/// The documentation comments of a file.
pub(crate) fn comments(file: &File) -> Vec<Comment> {
    let mut comments = Vec::new();
    let mut lines = file.text.lines().enumerate().peekable();
    while let Some((at, line)) = lines.next() {
        let Some(first) = words(line) else {
            continue;
        };
        let mut text = first.to_owned();
        while let Some(more) = lines.peek().and_then(|(_, line)| words(line)) {
            text = format!("{text}\n{more}");
            lines.next();
        }
        comments.push(Comment {
            line: at + 1,
            first_sentence: first_sentence(&text),
        });
    }
    comments
}

/// The words of a line of a documentation comment.
fn words(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let words = line
        .strip_prefix("///")
        .or_else(|| line.strip_prefix("//!"));
    words.map(str::trim)
}

/// The text up to the first full stop or empty line.
fn first_sentence(text: &str) -> String {
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let line = paragraph.replace('\n', " ");
    let end = line.find(". ").unwrap_or(line.len());
    line[..end].trim_end_matches('.').to_owned()
}

#[test]
fn first_sentences_are_judged_by_their_form() {
    let form = |text: &str| {
        let first_sentence = first_sentence(text);
        Comment {
            line: 1,
            first_sentence,
        }
        .form()
    };
    assert_eq!(form("Which one\nit is. More."), Form::Clause);
    assert_eq!(form("`How` it is done."), Form::Clause);
    assert_eq!(form("The port. It is a number."), Form::Short);
    assert_eq!(form("UDP port that relays\nopen.\n\nMore."), Form::Sentence);
}
