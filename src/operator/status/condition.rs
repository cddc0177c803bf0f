//! Conditions of a status, and the texts in them.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

/// Longest message of a condition that is made of other messages, in characters.
pub(super) const LONGEST_MESSAGE: usize = 1_024;

/// Type, status, reason and message of a condition.
#[derive(Debug, Clone)]
pub(in crate::operator) struct ConditionUpdate {
    pub(super) kind: &'static str,
    pub(super) status: &'static str,
    pub(super) reason: String,
    pub(super) message: String,
}

impl ConditionUpdate {
    pub(in crate::operator) fn new(
        kind: &'static str,
        status: &'static str,
        reason: &str,
        message: &str,
    ) -> Self {
        Self {
            kind,
            status,
            reason: reason.to_owned(),
            message: message.to_owned(),
        }
    }
}

/// The condition that `update` makes of those before. The time of the transition stays while the status
/// does.
pub(in crate::operator) fn condition(
    update: ConditionUpdate,
    old: &[Condition],
    generation: i64,
    now: Timestamp,
) -> Condition {
    let ConditionUpdate {
        kind,
        status,
        reason,
        message,
    } = update;
    let same = old.iter().find(|c| c.type_ == kind && c.status == status);
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason,
        message,
        observed_generation: Some(generation),
        last_transition_time: same.map_or(Time(now), |c| c.last_transition_time.clone()),
    }
}

/// Keeps conditions of an earlier specification for which there is no update. The reason why relays
/// were not ready then is not kept.
pub(super) fn keep_others(conditions: &mut Vec<Condition>, old: &[Condition]) {
    let is_judged = |all: &[Condition], type_: &str| {
        let mut all = all.iter();
        matches!(type_, "Ready" | "Stalled" | "Reconciling") || all.any(|c| c.type_ == type_)
    };
    let others = old.iter().filter(|c| !is_judged(conditions, &c.type_));
    let others: Vec<_> = others.cloned().collect();
    conditions.extend(others);
}

/// Lists the first `most` of `names`, and counts the others as `what`.
pub(super) fn some<T: AsRef<str>>(names: &[T], most: usize, what: &str) -> String {
    let (shown, more) = names.split_at(names.len().min(most));
    let shown: Vec<_> = shown.iter().map(AsRef::as_ref).collect();
    let mut text = shown.join(", ");
    if !more.is_empty() {
        text += format!(" and {} more {what}", more.len()).trim_end();
    }
    text
}

/// Cuts `text` to a number of characters.
pub(super) fn cut(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}
