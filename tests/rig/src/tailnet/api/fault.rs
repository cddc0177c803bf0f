//! Faults that the API injects.

use serde::Serialize;

/// A part of an exchange that gets lost, with the connection.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LostPart {
    /// The request: it has no effect.
    Request,
    /// The answer: the request has its effect.
    Answer,
}

/// A fault of requests whose method and path match. Paths are those of the API, and `/machine/register`
/// and `/machine/map` of the control protocol.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fault {
    method: &'static str,
    path: String,
    skip: u32,
    times: u32,
    delay_ms: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    lose: Option<LostPart>,
    status: u16,
    message: &'static str,
    retry_after: String,
}

impl Fault {
    /// A fault of all requests with this method, or any if it is empty, and a path that matches the
    /// pattern. A `*` stands for any text without a slash. The fault needs an effect, such as
    /// [`Fault::answers`].
    pub fn path(method: &'static str, pattern: &str) -> Self {
        Self {
            method,
            path: pattern.into(),
            skip: 0,
            times: 0,
            delay_ms: 0,
            lose: None,
            status: 0,
            message: "",
            retry_after: String::new(),
        }
    }

    /// Answers with this status and message instead of handling the request.
    pub fn answers(mut self, status: u16, message: &'static str) -> Self {
        (self.status, self.message) = (status, message);
        self
    }

    /// Answers 429 with a Retry-After of so many seconds.
    pub fn limits_rate(mut self, retry_after: u32) -> Self {
        (self.status, self.message) = (429, "rate limit exceeded");
        self.retry_after = retry_after.to_string();
        self
    }

    /// Closes the connection.
    pub fn loses(mut self, part: LostPart) -> Self {
        self.lose = Some(part);
        self
    }

    /// Waits before the request is handled or fails.
    pub fn delays(mut self, milliseconds: u32) -> Self {
        self.delay_ms = milliseconds;
        self
    }

    /// Concerns so many requests only.
    pub fn times(mut self, times: u32) -> Self {
        self.times = times;
        self
    }

    /// Lets so many requests through first.
    pub fn after(mut self, requests: u32) -> Self {
        self.skip = requests;
        self
    }
}
