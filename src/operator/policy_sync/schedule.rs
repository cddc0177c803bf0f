//! Times of the comparisons with the policy. Pure.
//!
//! There is a comparison if the entries or the settings have changed, if relays begin to report that
//! their clients lack the grant, and again after a failure. A policy that has the entries is not
//! read again without such a reason.

use std::time::Duration;

use tokio::time::Instant;

use super::{Comparison, Finding, Goal, Syncing};
use crate::{
    backoff::Backoff,
    crd::grants::GrantState,
    operator::{credential::CredentialError, retries::Retries, tasks::Due},
};

/// Waits after a policy that cannot be merged, or that others have changed meanwhile.
const AFTER_FAULT: Backoff = Backoff::new(Duration::from_secs(2), Duration::from_secs(600));
/// Waits before entries are written again that another program has changed or removed.
const AFTER_OVERWRITE: Backoff = Backoff::new(Duration::from_secs(30), Duration::from_secs(3_600));
/// Time after which another overwrite is the first one again.
const PEACE: Duration = Duration::from_secs(86_400);
/// Shortest time between comparisons that reports of relays cause.
const SPACING: Duration = Duration::from_secs(30);
/// Time between comparisons while a proposal waits to be merged, the review has findings, or the
/// credential expires soon.
const OPEN: Duration = Duration::from_secs(3_600);
/// Wait until the status and the finalizer are stored that a write needs.
const HOLD: Duration = Duration::from_secs(1);

/// Wish of a PeerRelay in one pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wish {
    /// Checksum of the entries.
    pub checksum: String,
    /// True if the policy is to be written, and false if changes are proposed.
    pub writes: bool,
    /// True if the record and the finalizer are stored, without which nothing may be written.
    pub is_held: bool,
    /// True if an earlier comparison has found or written the entries, or proposed them.
    pub is_known: bool,
    /// True if a proposal waits to be merged.
    pub is_proposed: bool,
    /// True if the review of the policy has findings, or the credential expires soon. Nothing tells
    /// the end of either but another comparison.
    pub is_repeated: bool,
    /// State of the grant of each region, as relays report it.
    pub reports: Vec<GrantState>,
}

/// A comparison that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Goal of the comparison.
    pub goal: Goal,
    /// Checksum of the entries.
    pub checksum: String,
    writes: bool,
    is_held: bool,
}

/// Comparisons for one PeerRelay.
#[derive(Debug, Default)]
pub struct Schedule {
    /// Results for the next pass.
    pub results: Syncing,
    retries: Retries,
    faults: u32,
    /// Comparison that follows without another reason.
    next: Option<(Instant, Goal)>,
    /// Reports that the last comparison has taken into account.
    reports: Vec<GrantState>,
    last: Option<Instant>,
    overwrites: u32,
    last_overwrite: Option<Instant>,
    /// True if the entries are being removed.
    is_removing: bool,
}

impl Schedule {
    /// Returns the comparison that is due, or the time until one may be.
    pub fn due(&mut self, wish: &Wish, now: Instant) -> Due<Order> {
        if let Some(next) = self.retries.next().filter(|next| *next > now) {
            return Due::After(Some(next - now));
        }
        let found = self.results.of(&wish.checksum);
        let is_known = found.is_some() || wish.is_known;
        let own = if wish.writes && wish.is_held {
            Goal::Write
        } else {
            Goal::Compare
        };
        if !is_known {
            return self.begin(wish, own, now);
        }
        let is_unheld = wish.writes && !wish.is_held;
        if is_unheld && matches!(found, Some(Finding::Differs { .. })) {
            return Due::After(Some(HOLD));
        }
        let is_open = match found {
            None => wish.is_proposed || wish.is_repeated,
            Some(Finding::UpToDate) => wish.is_repeated,
            // Another comparison is planned already.
            Some(Finding::Differs { .. } | Finding::Failed(_)) => false,
        };
        if is_open && self.next.is_none() {
            self.next = Some((now + OPEN, Goal::Compare));
        }
        let next = self.next.map(|(at, goal)| match goal {
            Goal::Write => (at, own),
            Goal::Compare => (at, goal),
        });
        // Reports are expected while entries wait to be written.
        let is_good = matches!(found, Some(Finding::UpToDate) | None);
        let reported = match next {
            Some(_) if wish.writes && !is_good => None,
            _ => self.after_report(wish, now),
        };
        let all = next.into_iter().chain(reported);
        match all.min_by_key(|(at, _)| *at) {
            Some((at, goal)) if at <= now => self.begin(wish, goal, now),
            Some((at, _)) => Due::After(Some(at - now)),
            None => Due::After(None),
        }
    }

    /// Returns the comparison because of reports that relays lack the grant, or that a proposal was
    /// merged.
    fn after_report(&mut self, wish: &Wish, now: Instant) -> Option<(Instant, Goal)> {
        // A report counts when it changes, not while it lasts: a client without devices would cause
        // requests for ever.
        if wish.reports == self.reports {
            return None;
        }
        let lacks = |state: &GrantState| match state {
            GrantState::Missing
            | GrantState::TooBroad
            | GrantState::Incomplete
            | GrantState::Unseen => true,
            // The entries do not decide which devices have the tag.
            GrantState::Unknown | GrantState::Effective | GrantState::TagShared => false,
        };
        if !wish.is_proposed && !wish.reports.iter().any(lacks) {
            self.reports.clone_from(&wish.reports);
            return None;
        }
        let at = self.last.map_or(now, |last| last + SPACING);
        Some((at, Goal::Compare))
    }

    fn begin(&mut self, wish: &Wish, goal: Goal, now: Instant) -> Due<Order> {
        if self.results.checksum != wish.checksum {
            self.faults = 0;
        }
        self.next = None;
        self.reports.clone_from(&wish.reports);
        self.last = Some(now);
        Due::Now(Order {
            goal,
            checksum: wish.checksum.clone(),
            writes: wish.writes,
            is_held: wish.is_held,
        })
    }

    /// Returns the time until the removal of the entries is due, for a PeerRelay that is deleted.
    pub fn due_removal(&mut self, now: Instant) -> Due<Order> {
        if self.results.is_removed {
            return Due::After(None);
        }
        if !self.is_removing {
            // Failures to merge the entries say nothing about their removal.
            (self.is_removing, self.faults, self.next) = (true, 0, None);
        }
        let retry = self.retries.next();
        let next = self.next.map(|(at, _)| at);
        match retry.into_iter().chain(next).max() {
            Some(next) if next > now => Due::After(Some(next - now)),
            _ => Due::Now(Order {
                goal: Goal::Write,
                checksum: String::new(),
                writes: true,
                is_held: true,
            }),
        }
    }

    /// Records the result of a comparison.
    pub fn finish(
        &mut self,
        order: Order,
        result: Result<Comparison, CredentialError>,
        now: Instant,
    ) {
        let mut comparison = match result {
            Ok(comparison) => {
                self.retries.reset();
                comparison
            }
            Err(error) => {
                self.retries.failed(&error, now);
                self.next = self.retries.next().map(|next| (next, order.goal));
                let failed = Finding::Failed(error.problem());
                self.record(order.checksum, failed.into(), false);
                return;
            }
        };
        // With `Apply`, only reports cause a comparison that does not write. The entries were in the
        // policy before.
        let was_known = order.writes && order.is_held && order.goal == Goal::Compare;
        comparison.finding = match comparison.finding {
            // Nothing is proposed, so that the refusal is all there is to tell.
            Finding::Differs {
                refused: Some(refused),
                ..
            } if order.writes && !was_known => Finding::Failed(refused),
            finding => finding,
        };
        let mut is_overwritten = false;
        self.next = match &comparison.finding {
            Finding::UpToDate => {
                self.faults = 0;
                None
            }
            Finding::Differs { .. } if !order.writes => Some((now + OPEN, Goal::Compare)),
            Finding::Differs { .. } if was_known => {
                is_overwritten = true;
                Some((now + self.overwritten(now), Goal::Write))
            }
            Finding::Differs { .. } => Some((now, Goal::Write)),
            Finding::Failed(_) => {
                self.faults = self.faults.saturating_add(1);
                Some((now + AFTER_FAULT.after(self.faults), order.goal))
            }
        };
        self.record(order.checksum, comparison, is_overwritten);
    }

    /// Records that the removal of the entries has ended, as [`Self::finish`] does for others.
    pub fn finish_removal(
        &mut self,
        order: Order,
        result: Result<Comparison, CredentialError>,
        now: Instant,
    ) {
        self.finish(order, result, now);
        self.results.is_removed = self.results.finding == Some(Finding::UpToDate);
    }

    fn record(&mut self, checksum: String, comparison: Comparison, is_overwritten: bool) {
        let Comparison {
            finding,
            review,
            credential_expires,
        } = comparison;
        self.results = Syncing {
            checksum,
            finding: Some(finding),
            review,
            credential_expires,
            is_overwritten,
            is_removed: false,
        };
    }

    /// Counts an overwrite, and returns the wait before the entries are written again.
    fn overwritten(&mut self, now: Instant) -> Duration {
        let is_old = |last: Instant| now.duration_since(last) > PEACE;
        if self.last_overwrite.is_some_and(is_old) {
            self.overwrites = 0;
        }
        self.overwrites = self.overwrites.saturating_add(1);
        self.last_overwrite = Some(now);
        AFTER_OVERWRITE.after(self.overwrites)
    }
}

#[cfg(test)]
mod tests;
