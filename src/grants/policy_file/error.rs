//! Errors of reading and merging a policy file, with their positions.

/// Error in a policy file, with its position. The first line and the first column are 1; columns
/// count characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {fault}")]
pub struct PolicyFileError {
    /// Line of the error.
    pub line: usize,
    /// Column of the error, in characters.
    pub column: usize,
    /// Description of the error.
    pub fault: PolicyFault,
}

/// Kind of an error in a policy file. The messages name the fix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyFault {
    /// The bytes are not UTF-8.
    #[error("not UTF-8 text: save the file as UTF-8 without a byte order mark")]
    NotText,
    /// The file begins with a byte order mark.
    #[error("a byte order mark, which HuJSON does not allow: save the file as UTF-8 without it")]
    ByteOrderMark,
    /// The file contains no value.
    #[error("there is no policy: expected an object, {{ ... }}")]
    Empty,
    /// The value of the file is not an object.
    #[error("a policy is an object: expected {{ ... }}")]
    NotAnObject,
    /// The text is not HuJSON.
    #[error("{0}")]
    Syntax(String),
    /// A character between values is not allowed.
    #[error("the character {0:?} is not allowed here: use spaces, tabs and line feeds")]
    Character(char),
    /// A comment `//` ends with the file.
    #[error("a comment that begins with // must end with a line feed: the file may be cut off")]
    OpenComment,
    /// An object has a name twice.
    #[error(
        "the name {0:?} is already used in line {1}: programs disagree on which one counts; remove \
         one, or pass --allow-duplicate-names to use the last one"
    )]
    Duplicate(String, usize),
    /// A section has a value of another type.
    #[error("{0} must be {1}")]
    Section(&'static str, &'static str),
    /// The file has neither `acls` nor `grants`, and therefore allows all connections.
    #[error(
        "the policy has neither acls nor grants and therefore allows every connection; the first \
         grants end that, and everybody would be cut off: pass --first-grants=allow-all to keep \
         every connection allowed, or --first-grants=relays-only to allow nothing but relays"
    )]
    FirstGrants,
    /// The merge does not reach a state in which nothing is left to change. This is a bug.
    #[error("the merge does not end, which is a bug of this program: nothing was changed")]
    Endless,
}

impl PolicyFileError {
    /// Creates an error at a byte of the text.
    pub(super) fn at(text: &str, position: usize, fault: PolicyFault) -> Self {
        let before = &text[..position];
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        Self {
            line: line(text, position),
            column: before[start..].chars().count() + 1,
            fault,
        }
    }
}

/// Returns the number of the line that contains a byte. The first line is 1.
pub(super) fn line(text: &str, position: usize) -> usize {
    text[..position].matches('\n').count() + 1
}
