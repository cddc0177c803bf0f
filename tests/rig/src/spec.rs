//! PeerRelays that differ from the smallest in one field, to apply over it.

use serde_json::{Value, json};

/// One with this field of `tailnet`.
pub fn tailnet(field: &str, value: Value) -> Value {
    let mut tailnet = json!({"authKey": {"secretName": "tailnet-auth"}});
    tailnet[field] = value;
    json!({"tailnet": tailnet})
}

/// One with this field of its region.
pub fn region(field: &str, value: Value) -> Value {
    let mut region = json!({"name": "office", "clients": ["tag:office"]});
    region[field] = value;
    json!({"regions": [region]})
}
