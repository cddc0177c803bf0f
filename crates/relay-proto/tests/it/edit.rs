//! Changes of bytes: how tests of parsers come near to what a parser expects. The root package's
//! tests take this file too.

use bolero::{Driver, TypeGenerator, ValueGenerator, one_of, one_value_of, produce};

/// A few changes, often none.
pub(crate) fn edits() -> impl ValueGenerator<Output = Vec<Edit>> {
    produce::<Vec<Edit>>().with().len(0..6_usize)
}

/// The bytes with the changes, one after the other.
pub(crate) fn edited(bytes: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    edits.iter().for_each(|edit| edit.apply(&mut bytes));
    bytes
}

/// One change of bytes; positions are taken modulo what there is.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    Set(usize, u8),
    Cut(usize),
    Repeat(usize, usize),
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
