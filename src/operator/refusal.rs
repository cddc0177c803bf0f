//! Refusals of objects by the API server, and their summary for the status. Pure.

use std::time::Duration;

use kube::core::Status;

/// Longest part of the API server's message in the status, in characters.
const LONGEST_WORDS: usize = 400;
/// Number of refusals in a message. Others are counted.
const SHOWN: usize = 2;
/// Longest wait that an API server may request.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);

/// Object of a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// Kind of the object.
    pub kind: String,
    /// Name of the object.
    pub name: String,
    /// Region of the object. `None` for objects of the whole PeerRelay.
    pub region: Option<String>,
}

/// Reason why an object could not be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The API server refuses the object until something changes.
    Rejected,
    /// An object of another owner has the name. The operator does not change it.
    NameTaken,
    /// The request failed temporarily: overload, timeout, conflict, no response.
    Failed,
}

impl Cause {
    /// The reason in conditions and events.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Rejected => "ApplyRejected",
            Self::NameTaken => "NameTaken",
            Self::Failed => "ApplyFailed",
        }
    }

    /// Returns whether only a user can fix it.
    pub const fn needs_user(self) -> bool {
        matches!(self, Self::Rejected | Self::NameTaken)
    }
}

/// Failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Object that was refused.
    pub subject: Subject,
    /// Request that was made: `read`, `apply` or `remove`.
    pub verb: &'static str,
    /// The kind of failure.
    pub cause: Cause,
    /// Shortened message of the API server.
    pub words: String,
    /// Time for which the API server requests no further attempt.
    pub retry_after: Duration,
    /// True if further requests would fail for the same reason: the API server does not respond or
    /// is overloaded, or the namespace accepts no new objects.
    pub concerns_all: bool,
}

impl Refusal {
    /// Creates the refusal of an error of a request.
    pub fn new(subject: Subject, verb: &'static str, error: &kube::Error) -> Self {
        let (cause, words, concerns_all) = match error {
            kube::Error::Api(status) => (
                cause(status),
                status.message.clone(),
                concerns_all(status, &subject),
            ),
            // The response has an unexpected form.
            kube::Error::SerdeError(error) => (Cause::Failed, error.to_string(), false),
            other => (Cause::Failed, chain(other), true),
        };
        Self {
            subject,
            verb,
            cause,
            words: cut(&words),
            retry_after: retry_after(error),
            concerns_all,
        }
    }

    /// Creates the refusal for a name that an object of another owner has.
    pub fn name_taken(subject: Subject) -> Self {
        let fix = match subject.region {
            Some(_) => "rename the region, or remove it",
            None => "rename the PeerRelay, or remove it",
        };
        Self {
            subject,
            verb: "apply",
            cause: Cause::NameTaken,
            words: format!("exists and does not belong to this PeerRelay: {fix}"),
            retry_after: Duration::ZERO,
            concerns_all: false,
        }
    }

    fn message(&self) -> String {
        let Subject { kind, name, region } = &self.subject;
        let region = region.as_ref();
        let region = region.map_or_else(String::new, |region| format!(" of region {region}"));
        match self.cause {
            Cause::NameTaken => format!("{kind} {name}{region} {}", self.words),
            _ => format!(
                "failed to {} {kind} {name}{region}: {}",
                self.verb, self.words
            ),
        }
    }
}

/// Several refusals as one reason and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Most severe cause.
    pub cause: Cause,
    /// Message with the first objects and the number of others.
    pub message: String,
}

impl Summary {
    /// Summarizes `refusals`, in any order. `None` if there are none.
    pub fn new(refusals: &[Refusal]) -> Option<Self> {
        let mut sorted: Vec<_> = refusals.iter().collect();
        sorted.sort_by_key(|refusal| (refusal.cause, &refusal.subject));
        let first = sorted.first()?;
        let shown: Vec<_> = sorted.iter().take(SHOWN).map(|r| r.message()).collect();
        let mut message = shown.join("; ");
        let others = sorted.len().saturating_sub(SHOWN);
        if others > 0 {
            message += &format!("; and {others} more");
        }
        Some(Self {
            cause: first.cause,
            message,
        })
    }
}

/// Returns whether the response to a write is final or temporary.
fn cause(status: &Status) -> Cause {
    match status.code {
        // Admission has not started yet (apiserver, `admission/initializer` and plugins).
        403 if status.message.contains("not yet ready to handle request") => Cause::Failed,
        // The operator's own token has expired and is read anew, a timeout, a conflict, a watch or
        // a list that is too old, too many requests.
        401 | 408 | 409 | 410 | 429 => Cause::Failed,
        400..=499 => Cause::Rejected,
        _ => Cause::Failed,
    }
}

fn concerns_all(status: &Status, subject: &Subject) -> bool {
    let terminating = || {
        let causes = status.details.iter().flat_map(|details| &details.causes);
        causes
            .into_iter()
            .any(|cause| cause.reason == "NamespaceTerminating")
            || status.message.contains("because it is being terminated")
    };
    let gone = || {
        let about = status.details.as_ref();
        about.is_some_and(|about| about.kind == "namespaces" && about.name != subject.name)
    };
    match status.code {
        401 | 429 => true,
        403 => terminating(),
        404 => gone(),
        _ => false,
    }
}

/// Returns the time for which an overloaded API server requests no further attempt, at most a
/// minute.
pub fn retry_after(error: &kube::Error) -> Duration {
    let kube::Error::Api(status) = error else {
        return Duration::ZERO;
    };
    let asked = status.details.as_ref().map(|d| d.retry_after_seconds);
    Duration::from_secs(asked.unwrap_or(0).into()).min(LONGEST_RETRY_AFTER)
}

/// An error and its causes, on one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let parts: Vec<_> = anyhow::Chain::new(error).map(ToString::to_string).collect();
    parts.join(": ")
}

/// One line of bounded length.
fn cut(words: &str) -> String {
    let plain = words.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut plain = plain.take(LONGEST_WORDS + 1).collect::<String>();
    if plain.chars().count() > LONGEST_WORDS {
        plain = plain.chars().take(LONGEST_WORDS - 1).collect();
        plain.push('…');
    }
    plain
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use serde_json::json;

    use super::*;

    #[test]
    fn refusals_that_need_a_person_are_told_from_those_that_pass() {
        let quota = "services \"edge-office\" is forbidden: exceeded quota: none, requested: count/services=1";
        let policy = "daemonsets.apps \"edge-office\" is forbidden: ValidatingAdmissionPolicy 'p' denied request";
        let early = "services \"a\" is forbidden: not yet ready to handle request";
        for (code, message, wanted) in [
            (400, "unknown field", Cause::Rejected),
            (403, quota, Cause::Rejected),
            (403, policy, Cause::Rejected),
            (403, early, Cause::Failed),
            (
                404,
                "the server could not find the requested resource",
                Cause::Rejected,
            ),
            (405, "", Cause::Rejected),
            (413, "too large", Cause::Rejected),
            (
                422,
                "must be less than or equal to memory limit",
                Cause::Rejected,
            ),
            (401, "Unauthorized", Cause::Failed),
            (408, "", Cause::Failed),
            (409, "the object has been modified", Cause::Failed),
            (410, "", Cause::Failed),
            (429, "", Cause::Failed),
            (500, "failed calling webhook", Cause::Failed),
            (503, "", Cause::Failed),
            (504, "", Cause::Failed),
            (0, "", Cause::Failed),
        ] {
            let refusal = refusal(code, message, json!(null));
            assert_eq!(refusal.cause, wanted, "{code} {message}");
        }
    }

    #[test]
    fn refusals_of_every_object_are_told_from_those_of_one() {
        let terminating = json!({"causes": [{"reason": "NamespaceTerminating"}]});
        let namespace = json!({"kind": "namespaces", "name": "relays"});
        for (code, details, all) in [
            (403, json!(null), false),
            (403, terminating, true),
            (404, json!(null), false),
            (404, namespace, true),
            (409, json!(null), false),
            (422, json!(null), false),
            (429, json!(null), true),
            (500, json!(null), false),
            (503, json!(null), false),
        ] {
            let refusal = refusal(code, "", details);
            assert_eq!(refusal.concerns_all, all, "{code}");
        }
        let lost = kube::Error::Service("connection refused".into());
        let lost = Refusal::new(subject("a", None), "apply", &lost);
        assert_eq!((lost.cause, lost.concerns_all), (Cause::Failed, true));
        assert!(lost.words.contains("connection refused"), "{}", lost.words);
    }

    #[test]
    fn the_words_are_one_line_of_bounded_length() {
        let long = format!("a\nb{}", "x".repeat(10_000));
        let words = refusal(422, &long, json!(null)).words;
        assert!(words.starts_with("a bxx"), "{words}");
        assert_eq!(words.chars().count(), LONGEST_WORDS);
    }

    #[test]
    fn a_pause_that_is_asked_for_is_bounded() {
        for (asked, wanted) in [(1, 1), (3_600, 60)] {
            let refusal = refusal(429, "", json!({"retryAfterSeconds": asked}));
            assert_eq!(refusal.retry_after, Duration::from_secs(wanted));
        }
    }

    #[test]
    fn a_summary_has_the_gravest_cause_first_and_no_order() {
        let service = refusal(503, "down", json!(null));
        let set = Refusal::new(
            subject("edge-lab", Some("lab")),
            "apply",
            &error(403, "no", json!(null)),
        );
        let taken = Refusal::name_taken(subject("edge-grants", None));
        let all = [service.clone(), taken.clone(), set.clone()];
        let summary = Summary::new(&all).unwrap();
        assert_eq!(summary.cause, Cause::Rejected);
        assert_eq!(
            summary.message,
            "failed to apply Service edge-lab of region lab: no; Service edge-grants exists and \
             does not belong to this PeerRelay: rename the PeerRelay, or remove it; and 1 more"
        );
        let turned = [set, service, taken];
        assert_eq!(Summary::new(&turned), Some(summary));
        assert_eq!(Summary::new(&[]), None);
    }

    fn refusal(code: u16, message: &str, details: serde_json::Value) -> Refusal {
        let error = error(code, message, details);
        Refusal::new(subject("edge-office", Some("office")), "apply", &error)
    }

    fn error(code: u16, message: &str, details: serde_json::Value) -> kube::Error {
        let status = json!({"code": code, "message": message, "details": details});
        kube::Error::Api(serde_json::from_value(status).unwrap())
    }

    fn subject(name: &str, region: Option<&str>) -> Subject {
        Subject {
            kind: "Service".into(),
            name: name.into(),
            region: region.map(Into::into),
        }
    }
}
