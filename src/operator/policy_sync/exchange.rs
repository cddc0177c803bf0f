//! The requests of one comparison with the policy: read, merge, validate and write. Pure.

use super::{CONTESTED, Comparison, Finding, UNPROTECTED, problem, refused, unusable};
use crate::{
    grants::policy_file::{self, MergeRequest, decode, merge, review_entries, unified},
    tailnet_api::PolicyGuard,
};

/// Number of attempts to write while others write the policy too.
const TRIES: u32 = 3;
/// Longest difference that is kept, in bytes. A ConfigMap has at most 1 MiB.
const LONGEST_DIFF: usize = 128 << 10;
/// Name of the policy file in differences.
const FILE: &str = "policy.hujson";

/// Goal of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The difference is found, and nothing is written.
    Compare,
    /// The difference is written.
    Write,
}

/// Next request of an exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Read the policy file.
    Read,
    /// Check the merged policy.
    Validate {
        /// Policy with the entries.
        text: String,
    },
    /// Replace the policy, if the condition still holds.
    Write {
        /// Policy with the entries.
        text: String,
        /// Condition that the policy is still the one that was read.
        guard: PolicyGuard,
    },
    /// No request follows.
    End(Finding),
}

/// One comparison with the policy. Each method takes an answer, and returns the next request. The
/// first request is [`Request::Read`].
#[derive(Debug)]
pub struct Exchange {
    request: MergeRequest,
    goal: Goal,
    /// Number of writes that had no effect.
    failures: u32,
    merged: Option<Merged>,
    /// Review of the policy that was read or written last.
    review: Vec<policy_file::Finding>,
}

/// A policy with the entries, for the policy that was read last.
#[derive(Debug)]
struct Merged {
    text: String,
    diff: String,
    guard: Option<PolicyGuard>,
}

impl Exchange {
    /// Begins a comparison.
    pub const fn new(request: MergeRequest, goal: Goal) -> Self {
        Self {
            request,
            goal,
            failures: 0,
            merged: None,
            review: Vec::new(),
        }
    }

    /// Ends the comparison with this result.
    pub fn end(self, finding: Finding) -> Comparison {
        Comparison {
            review: self.review,
            ..finding.into()
        }
    }

    /// Takes the policy that was read, and the condition of a write.
    pub fn read(&mut self, bytes: &[u8], guard: Option<PolicyGuard>) -> Request {
        let text = decode(bytes);
        let merged = text.and_then(|text| Ok((text, merge(text, &self.request)?.text)));
        let (before, after) = match merged {
            Ok(merged) => merged,
            Err(error) => return Request::End(Finding::Failed(unusable(&error))),
        };
        self.review_policy(before);
        if before == after {
            return Request::End(Finding::UpToDate);
        }
        if self.goal == Goal::Write && guard.is_none() {
            let message = "the API gives no entity tag (ETag) with the policy, so that a change of \
                           others could be lost: the policy was not changed; merge grants.hujson by hand, \
                           or set grants.sync to Propose";
            return Request::End(Finding::Failed(problem(UNPROTECTED, message.to_owned())));
        }
        self.merged = Some(Merged {
            diff: bounded(unified(FILE, before, &after)),
            text: after.clone(),
            guard,
        });
        Request::Validate { text: after }
    }

    /// Takes the faults of the merged policy.
    pub fn validated(&mut self, faults: &[String]) -> Request {
        let refused = (!faults.is_empty()).then(|| refused(faults));
        let Some(merged) = self.merged.take() else {
            return Request::Read;
        };
        match (self.goal, refused, merged.guard) {
            (Goal::Write, None, Some(guard)) => {
                self.review_policy(&merged.text);
                Request::Write {
                    text: merged.text,
                    guard,
                }
            }
            (Goal::Write, Some(refused), _) => Request::End(Finding::Failed(refused)),
            (_, refused, _) => Request::End(Finding::Differs {
                diff: merged.diff,
                refused,
            }),
        }
    }

    fn review_policy(&mut self, text: &str) {
        // The merge has parsed the text.
        self.review = review_entries(text, &self.request).unwrap_or_default();
    }

    /// Takes the result of the write: true if the policy was replaced, and false if others have
    /// changed it, or if there was no answer. Then it is read again.
    pub fn written(&mut self, is_written: bool) -> Request {
        if is_written {
            return Request::End(Finding::UpToDate);
        }
        self.failures += 1;
        if self.failures < TRIES {
            return Request::Read;
        }
        let message = format!(
            "others have changed the tailnet policy during each of {TRIES} attempts to write it: the \
             operator tries again within ten minutes"
        );
        Request::End(Finding::Failed(problem(CONTESTED, message)))
    }
}

/// Cuts a difference at the end of a line.
fn bounded(mut diff: String) -> String {
    if diff.len() > LONGEST_DIFF {
        let end = diff.floor_char_boundary(LONGEST_DIFF);
        let end = diff[..end].rfind('\n').map_or(0, |at| at + 1);
        diff.truncate(end);
        diff.push_str("... (cut: peerrelay grants merge --check prints all of it)\n");
    }
    diff
}

#[cfg(test)]
mod tests;
