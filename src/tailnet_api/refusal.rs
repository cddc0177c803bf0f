//! Errors of answers that refuse a request.

use http::StatusCode;

use super::{
    ApiCredential,
    error::{ApiError, Scope},
    http::Answer,
};

/// Longest part of a server's message that an error repeats, in characters.
const LONGEST_MESSAGE: usize = 300;
/// Words of a refusal of tags.
const TAGS_REFUSED: &str = "requested tags";
/// Words of a refusal for lack of a scope.
const SCOPE_REFUSED: &str = "enough permissions";

/// The circumstances of a refused request.
pub(super) struct Refusal<'a> {
    pub(super) operation: &'static str,
    /// Scope that the request needs.
    pub(super) scope: Scope,
    /// Tags in the request.
    pub(super) tags: &'a [String],
    /// True if the access token lacks that scope.
    pub(super) lacks_scope: bool,
    /// Tags of the OAuth client.
    pub(super) client_tags: &'a [String],
}

/// Makes the error of an answer to a request with an access token.
pub(super) fn refused(answer: &Answer, refusal: Refusal<'_>) -> ApiError {
    let Refusal {
        operation,
        scope,
        tags,
        lacks_scope,
        client_tags,
    } = refusal;
    let message = printable(&answer.message());
    match answer.status {
        StatusCode::UNAUTHORIZED => ApiError::TokenRefused { operation, message },
        // An object that the scopes do not show is answered like one that does not exist.
        StatusCode::NOT_FOUND if !lacks_scope => ApiError::NotFound { operation },
        // 403 also means that the plan of the tailnet lacks a feature, so the status alone does not mean a
        // scope. Errors of this API have no code: the words distinguish them.
        StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
            if lacks_scope || message.contains(SCOPE_REFUSED) =>
        {
            ApiError::ScopeMissing { operation, scope }
        }
        StatusCode::BAD_REQUEST if message.contains(TAGS_REFUSED) && !tags.is_empty() => {
            ApiError::TagsRefused {
                operation,
                tags: tags.to_vec(),
                client_tags: client_tags.to_vec(),
            }
        }
        _ => without_reason(answer, operation),
    }
}

/// Makes the error of an answer whose status alone says what to do.
pub(super) fn without_reason(answer: &Answer, operation: &'static str) -> ApiError {
    let (status, retry_after) = (answer.status, answer.retry_after);
    let message = printable(&answer.message());
    match status {
        StatusCode::TOO_MANY_REQUESTS => ApiError::RateLimited {
            operation,
            retry_after,
        },
        _ if status.is_server_error() => ApiError::Unavailable {
            operation,
            status: status.as_u16(),
            message,
            retry_after,
        },
        _ => ApiError::Refused {
            operation,
            status: status.as_u16(),
            message,
        },
    }
}

/// Makes the error of an answer that refuses an access token for a credential.
pub(super) fn credential_refused(
    answer: &Answer,
    server: String,
    credential: &ApiCredential,
) -> ApiError {
    let message = printable(&answer.message());
    match credential {
        ApiCredential::ApiKey(_) => ApiError::KeyRefused { server },
        ApiCredential::OAuth(_) => ApiError::ClientRefused { server, message },
        ApiCredential::Federated(client) => ApiError::IdentityRefused {
            server,
            message,
            id: client.id.clone(),
            claims: Box::new(client.token.claims.clone()),
        },
    }
}

/// The beginning of a message, without control characters.
fn printable(message: &str) -> String {
    let printable = message.chars().filter(|c| !c.is_control());
    printable.take(LONGEST_MESSAGE).collect()
}
