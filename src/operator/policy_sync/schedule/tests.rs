use super::*;
use crate::{grants::policy_file, operator::credential::CredentialProblem, tailnet_api::ApiError};

/// A wish to write entries, with the record and the finalizer stored.
fn held() -> Wish {
    Wish {
        checksum: "a".into(),
        writes: true,
        is_held: true,
        ..Wish::default()
    }
}

fn differs() -> Finding {
    Finding::Differs {
        diff: "+".into(),
        refused: None,
    }
}

fn failed() -> Finding {
    Finding::Failed(CredentialProblem {
        reason: "PolicyInvalid",
        message: String::new(),
        needs_user: true,
    })
}

/// A schedule with its clock.
struct Clock {
    schedule: Schedule,
    now: Instant,
    /// Review of the policy in each comparison.
    review: Vec<policy_file::Finding>,
}

impl Clock {
    fn new() -> Self {
        Self {
            schedule: Schedule::default(),
            now: Instant::now(),
            review: Vec::new(),
        }
    }

    /// Waits as often as the schedule says, and returns the goal and the seconds until then.
    fn due(&mut self, wish: &Wish) -> Option<(Order, u64)> {
        let begun = self.now;
        loop {
            match self.schedule.due(wish, self.now) {
                Due::Now(order) => return Some((order, (self.now - begun).as_secs())),
                Due::After(Some(wait)) => self.now += wait,
                Due::After(None) => return None,
            }
        }
    }

    /// As [`Self::due`], with the result of the comparison.
    fn compare(&mut self, wish: &Wish, result: Finding) -> (Goal, u64) {
        let (order, seconds) = self.due(wish).expect("a comparison is due");
        let goal = order.goal;
        let comparison = Comparison {
            review: self.review.clone(),
            ..result.into()
        };
        self.schedule.finish(order, Ok(comparison), self.now);
        (goal, seconds)
    }
}

#[test]
fn entries_are_written_once_and_then_there_is_no_request() {
    let mut clock = Clock::new();
    assert_eq!(clock.compare(&held(), Finding::UpToDate), (Goal::Write, 0));
    assert_eq!(clock.due(&held()), None);
    let reported = Wish {
        reports: vec![GrantState::Effective],
        ..held()
    };
    assert_eq!(clock.due(&reported), None);
    let changed = Wish {
        checksum: "b".into(),
        ..held()
    };
    assert_eq!(clock.compare(&changed, Finding::UpToDate), (Goal::Write, 0));
}

#[test]
fn nothing_is_written_before_record_and_finalizer_are_stored() {
    let mut clock = Clock::new();
    let unheld = Wish {
        is_held: false,
        ..held()
    };
    assert_eq!(clock.compare(&unheld, differs()), (Goal::Compare, 0));
    let wait = clock.schedule.due(&unheld, clock.now);
    assert_eq!(wait, Due::After(Some(HOLD)));
    assert!(!clock.schedule.results.is_overwritten);
    assert_eq!(clock.compare(&held(), Finding::UpToDate), (Goal::Write, 0));
}

#[test]
fn after_a_restart_the_policy_is_read_only_if_relays_lack_the_grant() {
    let known = Wish {
        is_known: true,
        ..held()
    };
    let reports = |state| Wish {
        reports: vec![state],
        ..known.clone()
    };
    let mut clock = Clock::new();
    assert_eq!(clock.due(&known), None);
    assert_eq!(clock.due(&reports(GrantState::Effective)), None);
    let missing = reports(GrantState::Missing);
    assert_eq!(
        clock.compare(&missing, Finding::UpToDate),
        (Goal::Compare, 0)
    );
    assert_eq!(clock.due(&missing), None, "once for each report");
    // The reports change, and change back.
    assert_eq!(clock.due(&reports(GrantState::Effective)), None);
    assert_eq!(
        clock.compare(&missing, Finding::UpToDate),
        (Goal::Compare, 30)
    );
}

#[test]
fn a_policy_with_findings_is_read_once_an_hour_until_it_has_none() {
    let mut clock = Clock::new();
    let finding = policy_file::Finding {
        line: Some(3),
        kind: policy_file::FindingKind::TagForEveryone,
        message: String::new(),
    };
    clock.review = vec![finding.clone()];
    assert_eq!(clock.compare(&held(), Finding::UpToDate), (Goal::Write, 0));
    assert_eq!(clock.schedule.results.review, [finding]);
    let wish = Wish {
        is_known: true,
        is_repeated: true,
        reports: vec![GrantState::Effective],
        ..held()
    };
    let hourly = (Goal::Compare, 3_600);
    assert_eq!(clock.compare(&wish, Finding::UpToDate), hourly);
    // Reports are heard meanwhile.
    clock.now += SPACING;
    let missing = Wish {
        reports: vec![GrantState::Missing],
        ..wish.clone()
    };
    assert_eq!(clock.compare(&missing, differs()), (Goal::Compare, 0));
    assert!(clock.schedule.results.is_overwritten);
    let written = clock.compare(&missing, Finding::UpToDate);
    assert_eq!(written, (Goal::Write, 30));

    // The same holds after a restart of the operator.
    let mut clock = Clock::new();
    assert_eq!(clock.compare(&wish, Finding::UpToDate), hourly);
    assert_eq!(clock.compare(&wish, Finding::UpToDate), hourly);
    let solved = Wish {
        is_repeated: false,
        ..wish
    };
    assert_eq!(clock.due(&solved), None);
}

#[test]
fn overwritten_entries_are_told_and_written_again_more_and_more_slowly() {
    let mut clock = Clock::new();
    clock.compare(&held(), Finding::UpToDate);
    let mut waits = Vec::new();
    for _ in 0..9 {
        clock.due(&Wish {
            reports: vec![GrantState::Effective],
            ..held()
        });
        clock.now += SPACING;
        let missing = Wish {
            reports: vec![GrantState::Missing],
            ..held()
        };
        assert_eq!(clock.compare(&missing, differs()), (Goal::Compare, 0));
        assert!(clock.schedule.results.is_overwritten);
        let (goal, wait) = clock.compare(&missing, Finding::UpToDate);
        assert_eq!(goal, Goal::Write);
        assert!(!clock.schedule.results.is_overwritten);
        waits.push(wait);
    }
    assert_eq!(waits, [30, 60, 120, 240, 480, 960, 1_920, 3_600, 3_600]);
}

#[test]
fn failures_are_repeated_with_backoff_and_with_their_goal() {
    let mut clock = Clock::new();
    let known = Wish {
        is_known: true,
        reports: vec![GrantState::Missing],
        ..held()
    };
    assert_eq!(clock.compare(&known, failed()), (Goal::Compare, 0));
    assert_eq!(clock.compare(&known, failed()), (Goal::Compare, 2));
    assert_eq!(clock.compare(&known, failed()), (Goal::Compare, 4));
    for _ in 0..9 {
        clock.compare(&known, failed());
    }
    assert_eq!(clock.compare(&known, differs()), (Goal::Compare, 600));
    assert!(clock.schedule.results.is_overwritten, "it is told first");

    let limited = ApiError::RateLimited {
        operation: "try",
        retry_after: Some(Duration::from_secs(90)),
    };
    let changed = Wish {
        checksum: "b".into(),
        ..held()
    };
    let (order, _) = clock.due(&changed).expect("entries have changed");
    clock.schedule.finish(order, Err(limited.into()), clock.now);
    let again = Wish {
        checksum: "c".into(),
        ..held()
    };
    assert_eq!(clock.compare(&again, Finding::UpToDate), (Goal::Write, 90));
}

#[test]
fn reports_while_entries_wait_to_be_written_cause_no_comparison() {
    let reports = |state| Wish {
        reports: vec![state],
        ..held()
    };
    let mut clock = Clock::new();
    for _ in 0..6 {
        clock.compare(&held(), failed());
    }
    let missing = reports(GrantState::Missing);
    assert_eq!(
        clock.compare(&missing, Finding::UpToDate),
        (Goal::Write, 64)
    );
    // The same holds for entries that were overwritten.
    clock.due(&reports(GrantState::Effective));
    clock.now += SPACING;
    assert_eq!(clock.compare(&missing, differs()), (Goal::Compare, 0));
    let unseen = reports(GrantState::Unseen);
    assert_eq!(clock.compare(&unseen, Finding::UpToDate), (Goal::Write, 30));
}

#[test]
fn a_refused_policy_is_no_reason_to_hold_the_object() {
    let mut clock = Clock::new();
    let unheld = Wish {
        is_held: false,
        ..held()
    };
    let Finding::Failed(problem) = failed() else {
        return;
    };
    let refused = Finding::Differs {
        diff: "+".into(),
        refused: Some(problem),
    };
    clock.compare(&unheld, refused);
    assert_eq!(clock.schedule.results.finding, Some(failed()));
    assert_eq!(
        clock.compare(&unheld, Finding::UpToDate),
        (Goal::Compare, 2)
    );
}

#[test]
fn a_proposal_is_compared_hourly_until_it_is_merged() {
    let wish = |is_proposed| Wish {
        writes: false,
        is_held: false,
        is_proposed,
        ..held()
    };
    let mut clock = Clock::new();
    assert_eq!(clock.compare(&wish(false), differs()), (Goal::Compare, 0));
    assert_eq!(
        clock.compare(&wish(true), differs()),
        (Goal::Compare, 3_600)
    );
    let merged = Wish {
        reports: vec![GrantState::Effective],
        ..wish(true)
    };
    clock.now += SPACING;
    assert_eq!(
        clock.compare(&merged, Finding::UpToDate),
        (Goal::Compare, 0)
    );
    assert_eq!(clock.due(&wish(false)), None);

    let mut restarted = Clock::new();
    let known = Wish {
        is_known: true,
        ..wish(true)
    };
    assert_eq!(restarted.compare(&known, differs()), (Goal::Compare, 3_600));
}

#[test]
fn a_removal_is_repeated_until_the_entries_are_gone() {
    let mut clock = Clock::new();
    for _ in 0..9 {
        clock.compare(&held(), failed());
    }
    let mut waits = Vec::new();
    for result in [failed(), failed(), Finding::UpToDate] {
        let begun = clock.now;
        let order = loop {
            match clock.schedule.due_removal(clock.now) {
                Due::Now(order) => break order,
                Due::After(wait) => clock.now += wait.expect("it is not removed"),
            }
        };
        waits.push((clock.now - begun).as_secs());
        clock
            .schedule
            .finish_removal(order, Ok(result.into()), clock.now);
    }
    assert_eq!(waits, [0, 2, 4]);
    assert!(clock.schedule.results.is_removed);
    assert_eq!(clock.schedule.due_removal(clock.now), Due::After(None));
}
