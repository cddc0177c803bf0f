//! The policy file of the tailnet.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;

use super::{
    Call, TailnetApi,
    error::{ApiError, Scope},
    http::{Answer, Body, HUJSON},
    path,
};

/// Operations, for errors.
pub(super) const READ: &str = "read the tailnet policy";
pub(super) const VALIDATE: &str = "validate the tailnet policy";
pub(super) const WRITE: &str = "write the tailnet policy";

/// A policy file, as the API has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyText {
    /// Bytes of the file, as its owner wrote them.
    pub text: Bytes,
    /// Condition of a write. `None` if the API should give an entity tag and gives none.
    pub guard: Option<PolicyGuard>,
}

/// Condition of a write that keeps it from undoing the changes of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyGuard {
    /// The policy has this entity tag, which includes its quotes.
    EntityTag(String),
    /// The policy is this text. Headscale has no entity tags.
    Text(Bytes),
}

impl TailnetApi {
    /// Reads the policy file.
    ///
    /// # Errors
    /// The API refuses or cannot be reached.
    pub async fn policy(&self) -> Result<PolicyText, ApiError> {
        if self.is_headscale() {
            return self.headscale_policy().await;
        }
        let mut call = Call::new(READ, Method::GET, acl(), Scope::PolicyRead);
        // By default the API answers with JSON, and the comments of the policy would be lost with the next
        // write.
        call.accept = HUJSON;
        let answer = self.call(call).await?;
        Ok(PolicyText {
            text: answer.body,
            guard: answer.etag.map(PolicyGuard::EntityTag),
        })
    }

    /// Checks a policy file without writing it. Returns its faults; there are none if the API would
    /// accept it. Warnings are no faults.
    ///
    /// # Errors
    /// The API refuses to check it or cannot be reached.
    pub async fn validate_policy(&self, text: &str) -> Result<Vec<String>, ApiError> {
        if self.is_headscale() {
            return self.headscale_check(text).await;
        }
        let path = path(&["tailnet", "-", "acl", "validate"]);
        let mut call = Call::new(VALIDATE, Method::POST, path, Scope::PolicyRead);
        call.body = hujson(text);
        match self.call(call).await {
            Ok(answer) => faults(&answer),
            Err(ApiError::Refused {
                status, message, ..
            }) if status == StatusCode::BAD_REQUEST => Ok(vec![message]),
            Err(error) => Err(error),
        }
    }

    /// Replaces the policy file, if the condition still holds. Returns false if it does not: then
    /// nothing is written.
    ///
    /// # Errors
    /// The API refuses or cannot be reached.
    pub async fn write_policy(&self, text: &str, guard: &PolicyGuard) -> Result<bool, ApiError> {
        let etag = match guard {
            PolicyGuard::EntityTag(etag) => etag,
            PolicyGuard::Text(before) => return self.headscale_replace(before, text).await,
        };
        let mut call = Call::new(WRITE, Method::POST, acl(), Scope::Policy);
        call.body = hujson(text);
        call.accept = HUJSON;
        // The tag is sent with the quotes that it came with: servers compute it from different forms of
        // the text.
        call.if_match = Some(etag);
        match self.call(call).await {
            Ok(_) => Ok(true),
            Err(ApiError::Refused { status, .. }) if status == StatusCode::PRECONDITION_FAILED => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

fn acl() -> String {
    // `-` stands for the tailnet that the credential belongs to.
    path(&["tailnet", "-", "acl"])
}

fn hujson(text: &str) -> Body {
    Body::HuJson(Bytes::copy_from_slice(text.as_bytes()))
}

/// Reads the verdict of a check, whose status is 200 for a faulty policy too.
fn faults(answer: &Answer) -> Result<Vec<String>, ApiError> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Verdict {
        message: String,
        data: Option<Vec<Complaint>>,
    }

    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Complaint {
        user: String,
        errors: Option<Vec<String>>,
    }

    // The answer about a policy without faults is empty or `{}`.
    if answer.body.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let verdict: Verdict = answer.json(VALIDATE)?;
    let complaints = verdict.data.unwrap_or_default();
    // `message` is also set if there are only warnings ("warning(s) found"): then the complaints have no
    // errors.
    if complaints.is_empty() && !verdict.message.is_empty() {
        return Ok(vec![verdict.message]);
    }
    let texts = complaints.into_iter().flat_map(|complaint| {
        let user = complaint.user;
        let errors = complaint.errors.unwrap_or_default().into_iter();
        errors.map(move |error| match &*user {
            "" => error,
            user => format!("{user}: {error}"),
        })
    });
    Ok(texts.collect())
}
