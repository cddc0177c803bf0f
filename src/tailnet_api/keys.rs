//! Auth keys: single-use, pre-approved and with tags.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use secrecy::SecretString;
use serde_json::json;

use super::{
    Call, TailnetApi,
    error::{ApiError, Scope},
    http::Body,
    path,
};

/// Longest description that the API takes, in characters.
const LONGEST_DESCRIPTION: usize = 50;

/// An auth key to create. It registers one device, without an approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRequest {
    /// Tags of the device. The API takes exactly the tags of the OAuth client, or tags that these
    /// own.
    pub tags: Vec<String>,
    /// True if the control server should remove the device when it is offline.
    pub ephemeral: bool,
    /// Time in which the key can be used, in whole seconds.
    pub lifetime: Duration,
    /// Text that the admin console shows. The API takes letters, digits, hyphens and spaces; other
    /// characters become hyphens.
    pub description: String,
}

/// An auth key, which the API tells only once. The key is not printed.
#[derive(Debug, Clone)]
pub struct MintedKey {
    /// ID with which it can be deleted.
    pub id: String,
    /// The auth key itself.
    pub key: SecretString,
}

impl TailnetApi {
    /// Creates an auth key.
    ///
    /// # Errors
    /// The API refuses or cannot be reached. After [`ApiError::Lost`] there may be a key that nobody
    /// knows; it expires unused.
    pub async fn create_key(&self, request: &KeyRequest) -> Result<MintedKey, ApiError> {
        #[derive(serde::Deserialize)]
        struct Created {
            id: String,
            key: String,
        }

        let operation = "create an auth key";
        let create = json!({
            "reusable": false,
            "ephemeral": request.ephemeral,
            // A device that waits for the approval of an administrator would be a relay that nobody can
            // use.
            "preauthorized": true,
            "tags": request.tags,
        });
        let body = json!({
            "capabilities": {"devices": {"create": create}},
            // Without this value, or with 0, a key can be used for 90 days.
            "expirySeconds": request.lifetime.as_secs(),
            // The API refuses the whole request if a character of the description is not allowed.
            "description": description(&request.description),
        });
        let keys = path(&["tailnet", "-", "keys"]);
        let call = Call {
            body: Body::Json(Bytes::from(body.to_string())),
            tags: &request.tags,
            ..Call::new(operation, Method::POST, keys, Scope::AuthKeys)
        };
        let created: Created = self.call(call).await?.json(operation)?;
        Ok(MintedKey {
            id: created.id,
            key: created.key.into(),
        })
    }

    /// Deletes an auth key. Returns false if there is none with this ID any more.
    ///
    /// # Errors
    /// The API refuses or cannot be reached.
    pub async fn delete_key(&self, id: &str) -> Result<bool, ApiError> {
        let key = path(&["tailnet", "-", "keys", id]);
        let call = Call::new("delete an auth key", Method::DELETE, key, Scope::AuthKeys);
        Ok(self.call_if_found(call).await?.is_some())
    }
}

/// Makes a text that the API takes as a description.
fn description(text: &str) -> String {
    let allowed = |c: char| match c {
        ' ' => c,
        _ if c.is_ascii_alphanumeric() => c,
        _ => '-',
    };
    text.chars()
        .map(allowed)
        .take(LONGEST_DESCRIPTION)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_have_only_what_the_api_takes() {
        assert_eq!(description("relays/edge: n1.test"), "relays-edge- n1-test");
        assert_eq!(description(&"ä".repeat(60)), "-".repeat(50));
    }
}
