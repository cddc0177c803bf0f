//! Conditions `Ready`, `Stalled` and `Reconciling`, with the reason why relays are not ready.

use super::{
    condition::ConditionUpdate,
    disabled,
    observed::{Observed, Problem},
    regions::Vacancy,
};
use crate::{crd::peer_relay::RegionStatus, operator::plan::Waiting};

/// The conditions of a PeerRelay that is reconciled.
pub(super) fn updates(observed: &Observed) -> Vec<ConditionUpdate> {
    let count = observed.count();
    let problem = observed.problem();
    let leaving = observed.progress.leaving.as_ref().map(disabled::message);
    let progress = &observed.progress;
    let settled = !progress.rolling_out && progress.waiting.is_none() && leaving.is_none();
    let vacancy = observed.vacancies.first().filter(|_| settled);
    let complete = |region: &RegionStatus| region.ready >= region.desired;
    let complete = observed.counts.desired > 0 && observed.regions.iter().all(complete);
    if complete && settled && vacancy.is_none() {
        return vec![ConditionUpdate::new("Ready", "True", "RelaysReady", &count)];
    }
    let state = State {
        observed,
        problem,
        leaving,
        vacancy,
        count,
        complete: complete && settled,
    };
    let ready = state.ready();
    // kstatus, which Flux and other tools use, expects `Reconciling` and `Stalled` only while they are true.
    std::iter::once(ready).chain(state.detail()).collect()
}

/// Reasons why relays are not ready.
struct State<'a> {
    observed: &'a Observed,
    problem: Option<Problem<'a>>,
    /// Sentence about relays that will be removed.
    leaving: Option<String>,
    vacancy: Option<(Vacancy, String)>,
    /// Sentence with the numbers of relays.
    count: String,
    complete: bool,
}

impl State<'_> {
    /// Returns `Ready` with the most severe reason.
    fn ready(&self) -> ConditionUpdate {
        let progress = &self.observed.progress;
        let leaving = self.leaving.as_ref().filter(|_| !progress.rolling_out);
        let (reason, message) = if let Some(problem) = &self.problem {
            (problem.reason, &problem.message)
        } else if let Some(Waiting { reason, message }) = &progress.waiting {
            (*reason, message)
        } else if let Some(message) = leaving {
            (disabled::WITHDRAWING, message)
        } else if let Some((vacancy, message)) = &self.vacancy {
            (vacancy.as_str(), message)
        } else {
            ("RelaysStarting", &self.count)
        };
        ConditionUpdate::new("Ready", "False", reason, message)
    }

    /// `Stalled` or `Reconciling`: whether the user has to act.
    fn detail(&self) -> Option<ConditionUpdate> {
        let rolling_out = self.observed.progress.rolling_out;
        let desired = self.observed.counts.desired;
        if let Some(problem) = self.problem.as_ref().filter(|problem| problem.needs_user) {
            let (reason, message) = (problem.reason, &problem.message);
            return Some(ConditionUpdate::new("Stalled", "True", reason, message));
        }
        if let Some(message) = self.leaving.as_ref().filter(|_| !rolling_out) {
            let reason = disabled::WITHDRAWING;
            return Some(ConditionUpdate::new("Reconciling", "True", reason, message));
        }
        let vacancy = self.vacancy.as_ref();
        if vacancy.is_some_and(|(vacancy, _)| vacancy.passes())
            || rolling_out
            || desired > 0 && !self.complete
        {
            let reason = "RelaysStarting";
            return Some(ConditionUpdate::new(
                "Reconciling",
                "True",
                reason,
                &self.count,
            ));
        }
        let (vacancy, message) = vacancy.filter(|(vacancy, _)| vacancy.needs_user())?;
        Some(ConditionUpdate::new(
            "Stalled",
            "True",
            vacancy.as_str(),
            message,
        ))
    }
}
