//! Random edits of bytes. A test of a parser edits bytes that the parser accepts, and so gets past
//! its first checks.
#![forbid(unsafe_code)]

use bolero::{Driver, TypeGenerator, ValueGenerator, one_of, one_value_of, produce};

/// Generates a few edits, often none.
pub fn edits() -> impl ValueGenerator<Output = Vec<Edit>> {
    produce::<Vec<Edit>>().with().len(0..6_usize)
}

/// The bytes after these edits, applied in order.
pub fn edited(bytes: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    edits.iter().for_each(|edit| edit.apply(&mut bytes));
    bytes
}

/// One edit of bytes. Positions are taken modulo the length.
#[derive(Debug, Clone)]
pub enum Edit {
    /// Sets the byte at a position.
    Set(usize, u8),
    /// Truncates at a position.
    Cut(usize),
    /// Appends a copy of the bytes between two positions.
    Repeat(usize, usize),
    /// Inserts bytes at a position.
    Insert(usize, Vec<u8>),
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        match self {
            Self::Insert(at, more) => {
                let at = at % (len + 1);
                bytes.splice(at..at, more.iter().copied());
            }
            _ if bytes.is_empty() => {}
            Self::Set(at, value) => bytes[at % len] = *value,
            Self::Cut(at) => bytes.truncate(at % len),
            Self::Repeat(a, b) => {
                let (a, b) = (a % len, b % len);
                bytes.extend_from_within(a.min(b)..a.max(b));
            }
        }
    }
}

impl TypeGenerator for Edit {
    fn generate<D: Driver>(driver: &mut D) -> Option<Self> {
        let more = produce::<Vec<u8>>().with().len(0..40_usize);
        let number = one_of((one_value_of([0, 1, 0x7f, 0xff]), produce::<u8>()));
        Some(match (0..11_u8).generate(driver)? {
            0 => Self::Cut(driver.produce()?),
            1 => Self::Repeat(driver.produce()?, driver.produce()?),
            2 => Self::Insert(driver.produce()?, more.generate(driver)?),
            _ => Self::Set(driver.produce()?, number.generate(driver)?),
        })
    }
}
