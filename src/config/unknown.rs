//! Unknown fields of a configuration.
//!
//! They do not stop a relay. A relay may restart before its update, with a configuration that a
//! newer operator wrote. Values of known fields must be valid.

use serde::{
    Deserializer,
    de::{DeserializeOwned, Error as _, Visitor, value::Error},
    forward_to_deserialize_any,
};

use super::{
    RelayConfig, ReportConfig,
    endpoints::{EndpointsConfig, NodeEndpoints},
};

/// Maximum number of unknown fields that are reported.
const MAX_REPORTED: usize = 16;
/// Similarity of two names, from 0 to 1, above which one is taken for a misspelling of the other.
const SIMILAR: f64 = 0.8;

/// Field that was ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownField {
    /// Path of the field, such as `endpoints.statics`.
    pub path: String,
    /// Known field with a similar name.
    pub similar: Option<&'static str>,
}

/// Parses a YAML document. Also returns its unknown fields, up to a limit.
///
/// # Errors
/// The text is not YAML, or a known field has a value of the wrong type.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<(T, Vec<UnknownField>), serde_yaml::Error> {
    let mut unknown = Vec::new();
    let record = |path: serde_ignored::Path<'_>| {
        if unknown.len() < MAX_REPORTED {
            let path = path.to_string();
            let similar = similar(path.rsplit('.').next().unwrap_or(&path));
            unknown.push(UnknownField { path, similar });
        }
    };
    let document = serde_yaml::Deserializer::from_str(text);
    let parsed = serde_ignored::deserialize(document, record)?;
    Ok((parsed, unknown))
}

/// Logs a warning for each field.
pub fn warn(unknown: &[UnknownField]) {
    for UnknownField { path, similar } in unknown {
        match similar {
            Some(name) => tracing::warn!(
                field = path,
                "unknown configuration field is ignored: did you mean '{name}'?"
            ),
            None => tracing::warn!(
                field = path,
                "unknown configuration field is ignored: it is misspelled, or belongs to another \
                 version of this program"
            ),
        }
    }
}

fn similar(name: &str) -> Option<&'static str> {
    let known = [
        fields::<RelayConfig>(),
        fields::<EndpointsConfig>(),
        fields::<NodeEndpoints>(),
        fields::<ReportConfig>(),
    ];
    let scored = known.into_iter().flatten().map(|field| {
        let score = strsim::jaro_winkler(name, field);
        (score, *field)
    });
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(score, _)| *score > SIMILAR)
        .map(|(_, field)| field)
}

/// Returns the names of a struct's fields, as its derived implementation passes them.
fn fields<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    drop(T::deserialize(FieldNames(&mut fields)));
    fields
}

/// Deserializer without data, which records the fields of a struct.
struct FieldNames<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for FieldNames<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(Error::custom("no data"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom("no data"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;
    use crate::config::port::RelayPort;

    #[test]
    fn unknown_fields_are_named_and_the_rest_counts() {
        let text = "{port: 41000, quantum: {a: 1}, report: {peerRelay: p, region: r, namespace: n, \
                    shard: 2}, endpoints: {max: 3, statics: []}}";
        let (config, unknown) = parse::<RelayConfig>(text).unwrap();
        assert_eq!(config.port, Some(RelayPort::On(41_000)));
        assert_eq!(config.endpoints.max, Some(3));
        assert_eq!(config.report.unwrap().region, "r");
        let named: Vec<_> = unknown
            .iter()
            .map(|field| (&*field.path, field.similar))
            .collect();
        assert_eq!(
            named,
            [
                ("quantum", None),
                ("report.?.shard", None),
                ("endpoints.statics", Some("static")),
            ]
        );
    }

    #[test]
    fn misspelled_field_is_told_with_the_right_name() {
        for (typo, name) in [("prot: 40000", "port"), ("tag: [a]", "tags")] {
            let (_, unknown) = parse::<RelayConfig>(typo).unwrap();
            assert_eq!(unknown[0].similar, Some(name), "{typo}");
        }
    }

    #[test]
    fn wrong_value_of_a_known_field_is_refused() {
        for text in [
            "port: high",
            "dataPath: Warp",
            "endpoints: {max: many}",
            "tags: 3",
        ] {
            parse::<RelayConfig>(text).unwrap_err();
        }
    }

    #[test]
    fn what_is_told_has_a_limit() {
        let many: String = (0..100).map(|n| format!("x{n}: 1\n")).collect();
        let (_, unknown) = parse::<RelayConfig>(&many).unwrap();
        assert_eq!(unknown.len(), MAX_REPORTED);
    }
}
