//! The difference between an object in the cluster and the one that should be there. Pure.
//!
//! The API server completes objects with defaults, which is no drift. It also stores some values in
//! another form: quantities in canonical form, and empty values not at all. A comparison that
//! ignored this would send such an object in every pass.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

/// Maps from resources to quantities.
const QUANTITIES: &[&str] = &["limits", "requests", "overhead", "capacity"];
/// Fields that are a quantity.
const QUANTITY: &[&str] = &["sizeLimit", "divisor"];
/// Maps of free text, in which every character counts. The API server does not store an empty map.
const TEXTS: &[&str] = &[
    "labels",
    "annotations",
    "matchLabels",
    "nodeSelector",
    "selector",
    "data",
    "binaryData",
];
/// Fields for which Kubernetes does not distinguish zero or false from a missing value (`omitempty`
/// without a pointer).
const ZERO_IS_NOTHING: &[&str] = &[
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostPort",
    "initialDelaySeconds",
    "publishNotReadyAddresses",
    "readOnly",
    "stdin",
    "stdinOnce",
    "tty",
];

/// Returns a checksum of the differences between `live` and `wanted`, or `None` without a
/// difference.
///
/// Additional fields of `live` are defaults of the API server.
pub(super) fn drift(live: &Value, wanted: &Value) -> Option<u64> {
    let mut differences = Differences::default();
    differences.compare(Some(live), wanted, "", Kind::Plain);
    (differences.count > 0).then(|| differences.hasher.finish())
}

/// The meaning of the values of an object.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Texts,
    Quantities,
}

impl Kind {
    /// Returns the meaning of the value of `key`.
    fn under(self, key: &str) -> Self {
        match self {
            Self::Texts => Self::Texts,
            _ if TEXTS.contains(&key) => Self::Texts,
            _ if QUANTITIES.contains(&key) => Self::Quantities,
            _ => Self::Plain,
        }
    }
}

#[derive(Default)]
struct Differences {
    count: usize,
    hasher: DefaultHasher,
}

impl Differences {
    /// Compares the values of `key`. `kind` is that of the enclosing object.
    fn compare(&mut self, live: Option<&Value>, wanted: &Value, key: &str, kind: Kind) {
        match (live, wanted) {
            (Some(Value::Object(live)), Value::Object(wanted)) => {
                let kind = kind.under(key);
                for (key, wanted) in wanted {
                    // Objects read through a watch do not repeat their type.
                    let is_type = matches!(key.as_str(), "apiVersion" | "kind");
                    if !is_type || live.contains_key(key) {
                        self.compare(live.get(key), wanted, key, kind);
                    }
                }
            }
            (Some(Value::Array(live)), Value::Array(wanted)) if live.len() == wanted.len() => {
                for (live, wanted) in live.iter().zip(wanted) {
                    self.compare(Some(live), wanted, key, kind);
                }
            }
            _ if same(live, wanted, key, kind) => {}
            _ => {
                self.count += 1;
                (key, live.map(Value::to_string)).hash(&mut self.hasher);
            }
        }
    }
}

/// Returns whether two values that are no objects with fields to compare mean the same.
fn same(live: Option<&Value>, wanted: &Value, key: &str, kind: Kind) -> bool {
    match (live, wanted) {
        (Some(live), wanted) if live == wanted => true,
        (Some(Value::String(live)), Value::String(wanted)) => {
            let are_quantities =
                kind == Kind::Quantities || kind == Kind::Plain && QUANTITY.contains(&key);
            are_quantities && quantity(live).is_some_and(|live| quantity(wanted) == Some(live))
        }
        (None, wanted) if kind != Kind::Texts => is_nothing(wanted, key),
        _ => false,
    }
}

/// Returns whether the API server omits such a value.
fn is_nothing(wanted: &Value, key: &str) -> bool {
    match wanted {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        // An empty struct such as `emptyDir: {}` has a meaning.
        Value::Object(fields) => {
            fields.is_empty() && (TEXTS.contains(&key) || QUANTITIES.contains(&key))
        }
        Value::Bool(is) => !is && ZERO_IS_NOTHING.contains(&key),
        Value::Number(number) => number.as_i64() == Some(0) && ZERO_IS_NOTHING.contains(&key),
    }
}

/// Parses a Kubernetes quantity into billionths. `None` if it is not a quantity or out of range.
fn quantity(text: &str) -> Option<i128> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (negative, number) = match number.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let power = |base: i128, exponent: u32| base.checked_pow(exponent);
    let scale = match suffix {
        "" => power(10, 9),
        "n" => Some(1),
        "u" => power(10, 3),
        "m" => power(10, 6),
        "k" => power(10, 12),
        "M" => power(10, 15),
        "G" => power(10, 18),
        "T" => power(10, 21),
        "P" => power(10, 24),
        "E" => power(10, 27),
        "Ki" | "Mi" | "Gi" | "Ti" | "Pi" | "Ei" => {
            let exponent = 1 + "KMGTPE".find(suffix.get(..1)?)?;
            power(1_024, u32::try_from(exponent).ok()?)?.checked_mul(power(10, 9)?)
        }
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok()?;
            power(10, u32::try_from(exponent.checked_add(9)?).ok()?)
        }
    }?;
    let scaled = digits.checked_mul(scale)?;
    let parts = power(10, u32::try_from(fraction.len()).ok()?)?;
    // Kubernetes rounds smaller parts up.
    let rounded = scaled.checked_add(parts - 1)? / parts;
    Some(if negative { -rounded } else { rounded })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_of_the_server_are_no_drift_and_changes_are() {
        let wanted = json!({"spec": {"port": 1, "list": [{"name": "a"}]}});
        let live =
            json!({"spec": {"port": 1, "list": [{"name": "a", "x": 1}], "d": 0}, "status": {}});
        assert_eq!(drift(&live, &wanted), None);
        for drifted in [
            json!({"spec": {"port": 2, "list": [{"name": "a"}]}}),
            json!({"spec": {"port": 1, "list": [{"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"port": 1}}),
        ] {
            assert!(drift(&drifted, &wanted).is_some(), "{drifted}");
        }
    }

    #[test]
    fn values_in_their_canonical_form_are_no_drift() {
        for (wanted, live) in [
            (
                json!({"limits": {"cpu": "0.5"}}),
                json!({"limits": {"cpu": "500m"}}),
            ),
            (
                json!({"requests": {"memory": "1024Mi"}}),
                json!({"requests": {"memory": "1Gi"}}),
            ),
            (
                json!({"requests": {"memory": "1e9"}}),
                json!({"requests": {"memory": "1G"}}),
            ),
            (
                json!({"emptyDir": {"sizeLimit": "0.5Gi"}}),
                json!({"emptyDir": {"sizeLimit": "512Mi"}}),
            ),
            (
                json!({"env": [{"name": "A", "value": ""}]}),
                json!({"env": [{"name": "A"}]}),
            ),
            (json!({"tolerations": [], "nodeSelector": {}}), json!({})),
            (json!({"tty": false, "hostPort": 0}), json!({})),
        ] {
            assert_eq!(drift(&live, &wanted), None, "{wanted} {live}");
        }
    }

    #[test]
    fn what_only_looks_alike_is_drift() {
        for (wanted, live) in [
            (
                json!({"limits": {"cpu": "0.5"}}),
                json!({"limits": {"cpu": "50m"}}),
            ),
            (json!({"limits": {"cpu": "0.5"}}), json!({"limits": {}})),
            (
                json!({"env": [{"name": "A", "value": "1024Mi"}]}),
                json!({"env": [{"name": "A", "value": "1Gi"}]}),
            ),
            (
                json!({"labels": {"limits": "1024Mi"}}),
                json!({"labels": {"limits": "1Gi"}}),
            ),
            (json!({"data": {"limits": ""}}), json!({"data": {}})),
            (json!({"emptyDir": {}}), json!({"hostPath": {}})),
            (json!({"automountServiceAccountToken": false}), json!({})),
            (
                json!({"env": [{"name": "A", "value": ""}]}),
                json!({"env": [{"name": "A", "value": "b"}]}),
            ),
        ] {
            assert!(drift(&live, &wanted).is_some(), "{wanted} {live}");
        }
    }

    #[test]
    fn the_same_difference_has_the_same_checksum() {
        let wanted = json!({"image": "a", "tag": "b"});
        let mirrored = drift(&json!({"image": "mirror/a", "tag": "b"}), &wanted);
        assert!(mirrored.is_some());
        assert_eq!(
            drift(&json!({"image": "mirror/a", "tag": "b", "d": 1}), &wanted),
            mirrored
        );
        assert_ne!(
            drift(&json!({"image": "evil/a", "tag": "b"}), &wanted),
            mirrored
        );
        assert_ne!(drift(&json!({"image": "mirror/a"}), &wanted), mirrored);
    }

    #[test]
    fn quantities_are_read_as_kubernetes_does() {
        for (text, nano) in [
            ("1", 1_000_000_000),
            ("0.5", 500_000_000),
            (".5", 500_000_000),
            ("500m", 500_000_000),
            ("1u", 1_000),
            ("1n", 1),
            ("0.1n", 1),
            ("-1m", -1_000_000),
            ("+1m", 1_000_000),
            ("1k", 1_000_000_000_000),
            ("1e3", 1_000_000_000_000),
            ("1E-3", 1_000_000),
            ("1Ki", 1_024_000_000_000),
        ] {
            assert_eq!(quantity(text), Some(nano), "{text}");
        }
        for text in [
            "",
            ".",
            "m",
            "1x",
            "1KiB",
            "a1",
            "1e",
            "1-1",
            "99999999999999999999Ei",
        ] {
            assert_eq!(quantity(text), None, "{text}");
        }
    }
}
