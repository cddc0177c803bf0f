#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use super::*;
use crate::{
    config::issued_keys::IssuedKey,
    operator::{
        credential::CredentialError,
        plan::{RegionKeys, RegionPlan, WantedKey},
    },
    sealed::Recipient,
};

fn wanted(relay: &str, request: &str) -> WantedKey {
    WantedKey {
        relay: relay.into(),
        node: "n1".into(),
        request: request.into(),
        tag: "tag:relay-office".into(),
        ephemeral: false,
    }
}

fn issued(relay: &str, request: &str) -> IssuedKeys {
    let key = IssuedKey {
        request: request.into(),
        sealed: "00".into(),
    };
    IssuedKeys([(relay.to_owned(), key)].into())
}

fn plan(issued: IssuedKeys, wanted: Vec<WantedKey>) -> Plan {
    let region = RegionPlan {
        keys: RegionKeys { issued, wanted },
        ..RegionPlan::default()
    };
    Plan {
        regions: vec![region],
        ..Plan::default()
    }
}

fn created(keys: IssuedKeys) -> Outcome {
    Outcome {
        issued: keys,
        ..Outcome::default()
    }
}

#[test]
fn a_key_that_is_created_during_a_pass_is_neither_lost_nor_created_again() {
    let request = Recipient::generate().unwrap().public_key();
    let (mut state, now) = (State::default(), Instant::now());
    let before = plan(IssuedKeys::default(), vec![wanted("edge-1", &request)]);
    assert_eq!(state.due(&before, now).now.len(), 1);
    let key = issued("edge-1", &request);
    // The view of the pass has no key yet.
    state.finish(created(key.clone()), now);
    state.settle(&IssuedKeys::default(), &before);
    assert_eq!(state.issued, key);
    assert_eq!(state.due(&before, now), DueKeys::default());
    // The next pass stores it.
    state.settle(&key, &plan(key.clone(), vec![]));
    assert_eq!(state.issued, key);
    // The relay has used it.
    state.settle(&key, &plan(IssuedKeys::default(), vec![]));
    assert_eq!(state.issued, IssuedKeys::default());
}

#[test]
fn a_request_to_which_nothing_can_be_sealed_gets_no_key_and_holds_up_no_other() {
    let (mut state, now) = (State::default(), Instant::now());
    let request = Recipient::generate().unwrap().public_key();
    let invalid = wanted("edge-1", &"0".repeat(64));
    let valid = wanted("edge-2", &request);
    let plan = plan(IssuedKeys::default(), vec![invalid, valid.clone()]);
    assert_eq!(state.due(&plan, now).now, [valid]);
}

#[test]
fn a_failure_holds_up_the_next_task_and_a_key_ends_it() {
    let (mut state, now) = (State::default(), Instant::now());
    let request = Recipient::generate().unwrap().public_key();
    let plan = plan(IssuedKeys::default(), vec![wanted("edge-1", &request)]);
    state.finish(
        Outcome {
            error: Some(CredentialError::SecretMissing {
                secret: "tailnet-oauth".into(),
                namespace: "relays".into(),
            }),
            ..Outcome::default()
        },
        now,
    );
    assert_eq!(
        state.last.as_ref().unwrap().as_ref().unwrap_err().reason,
        "CredentialMissing"
    );
    let due = state.due(&plan, now);
    assert!(due.now.is_empty() && due.wait.is_some());
    state.finish(created(issued("edge-2", "aa")), now);
    assert_eq!(state.last, Some(Ok(())));
    assert_eq!(state.due(&plan, now).now.len(), 1);
}
