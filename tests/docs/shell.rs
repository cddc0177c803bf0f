//! The commands of a shell script, as far as documents need it.

use std::mem;

/// Simple command: words, and the file of its output.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Simple {
    pub(crate) words: Vec<String>,
    pub(crate) output: Option<String>,
    /// The command reads what another one writes, or writes for another one.
    pub(crate) is_piped: bool,
}

/// The simple commands of a script. Words in quotes are one word, and comments are left out.
pub(crate) fn commands(script: &str) -> Vec<Simple> {
    let mut reader = Reader::default();
    let script = script.replace("\\\n", " ");
    let mut letters = script.chars().peekable();
    let mut quote = None;
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(letter);
                reader.word.get_or_insert_default();
            }
            (None, '\\') => reader.push(letters.next().unwrap_or_default()),
            (None, '#') if reader.word.is_none() => {
                while letters.next_if(|letter| *letter != '\n').is_some() {}
            }
            (None, ' ') => reader.end_word(),
            (None, '\n' | ';' | '&') => reader.end_command(false),
            (None, '|') => reader.end_command(letters.next_if_eq(&'|').is_none()),
            (None, '>') => {
                reader.end_word();
                reader.is_redirected = true;
            }
            _ => reader.push(letter),
        }
    }
    reader.end_command(false);
    reader.commands
}

#[derive(Default)]
struct Reader {
    word: Option<String>,
    command: Simple,
    is_redirected: bool,
    commands: Vec<Simple>,
}

impl Reader {
    fn push(&mut self, letter: char) {
        self.word.get_or_insert_default().push(letter);
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        if mem::take(&mut self.is_redirected) {
            self.command.output = Some(word);
        } else {
            self.command.words.push(word);
        }
    }

    fn end_command(&mut self, pipes: bool) {
        self.end_word();
        let mut command = mem::take(&mut self.command);
        command.is_piped |= pipes;
        self.command.is_piped = pipes;
        if !command.words.is_empty() {
            self.commands.push(command);
        }
    }
}

#[test]
fn scripts_are_split_into_commands_and_words() {
    let script = "a --b 'c d' \\\n  e # f\ng | h \"i#\" > j\nk\\ l && m\n";
    let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
    let simple = |list: &[&str], output: Option<&str>, is_piped| Simple {
        words: words(list),
        output: output.map(str::to_owned),
        is_piped,
    };
    let wanted = [
        simple(&["a", "--b", "c d", "e"], None, false),
        simple(&["g"], None, true),
        simple(&["h", "i#"], Some("j"), true),
        simple(&["k l"], None, false),
        simple(&["m"], None, false),
    ];
    assert_eq!(commands(script), wanted);
}
