//! Values of Go's JSON, read tolerantly and without a copy of each text.

use std::{fmt, marker::PhantomData};

use k8s_openapi::jiff::Timestamp;
use relay_proto::{DiscoPublic, NodeKey};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, SeqAccess, Visitor},
};

use crate::config::peers::decode_key;

/// Go's zero time, in seconds since 1970.
const ZERO_TIME: i64 = -62_135_596_800;

/// Go writes null for an empty slice, map or pointer.
pub(super) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Returns whether a text is neither absent nor empty. Texts of all peers would take memory.
pub(super) fn is_given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let given = parsed(deserializer, |text| Ok(!text.is_empty()))?;
    Ok(given.unwrap_or_default())
}

/// Go's zero time, in the year 1, stands for none.
pub(super) fn point_in_time<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Timestamp>, D::Error> {
    Ok(changed_time(deserializer)?.flatten())
}

/// The same, where null stands for no change.
pub(super) fn changed_time<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<Timestamp>>, D::Error> {
    parsed(deserializer, |text| {
        let time: Timestamp = text.parse().map_err(|_| "invalid time")?;
        Ok((time.as_second() != ZERO_TIME).then_some(time))
    })
}

/// A node key; an empty text and the zero key stand for none.
pub(super) fn node_key<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<NodeKey>, D::Error> {
    Ok(key(deserializer, "nodekey:")?.map(NodeKey))
}

/// A disco key; an empty text and the zero key stand for none.
pub(super) fn disco_key<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<DiscoPublic>, D::Error> {
    Ok(key(deserializer, "discokey:")?.map(DiscoPublic))
}

fn key<'de, D: Deserializer<'de>>(
    deserializer: D,
    prefix: &str,
) -> Result<Option<[u8; 32]>, D::Error> {
    let key = parsed(deserializer, |text| {
        if text.is_empty() {
            return Ok(None);
        }
        let hex = text.strip_prefix(prefix);
        let key = hex.and_then(decode_key).ok_or("invalid key")?;
        Ok((key != [0; 32]).then_some(key))
    })?;
    Ok(key.flatten())
}

/// Parses a text; `None` for null. The error of `parse` must not contain the text, which may name clients.
pub(super) fn parsed<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<T, &'static str>,
) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_option(Text(parse, PhantomData))
}

/// Calls `take` for each text of a list; nulls are left out.
pub(super) fn each_text<'de, A: SeqAccess<'de>>(
    mut texts: A,
    mut take: impl FnMut(&str) -> Result<(), &'static str>,
) -> Result<(), A::Error> {
    while texts
        .next_element_seed(Text(&mut take, PhantomData))?
        .is_some()
    {}
    Ok(())
}

/// Visitor of a text, or of null.
struct Text<F, T>(F, PhantomData<T>);

impl<'de, T, F: FnOnce(&str) -> Result<T, &'static str>> Visitor<'de> for Text<F, T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or null")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let Self(parse, _) = self;
        parse(text).map(Some).map_err(E::custom)
    }
}

impl<'de, T, F: FnOnce(&str) -> Result<T, &'static str>> DeserializeSeed<'de> for Text<F, T> {
    type Value = Option<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_option(self)
    }
}
