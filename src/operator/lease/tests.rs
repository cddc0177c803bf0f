#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::sync::{Arc, Mutex};

use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

fn lease(holder: Option<&str>, version: &str) -> Lease {
    Lease {
        metadata: ObjectMeta {
            resource_version: Some(version.into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        }),
    }
}

fn claim() -> Claim {
    Claim {
        name: "lease".into(),
        identity: "a".into(),
        times: Times::default(),
        owner: None,
    }
}

fn leadership(client: Client) -> Leadership {
    Leadership::new(
        client,
        "default",
        claim(),
        Fence::closed(),
        Readiness::default(),
    )
}

#[test]
fn times_that_cannot_elect_one_leader_are_refused() {
    let times = |duration: u64, deadline: u64, retry: u64| {
        let seconds = Duration::from_millis;
        let times = Times {
            duration: seconds(duration),
            deadline: seconds(deadline),
            retry: seconds(retry),
        };
        times.checked().map(drop)
    };
    assert_eq!(times(15_000, 10_000, 2_000), Ok(()));
    assert_eq!(times(137_000, 107_000, 26_000), Ok(()));
    assert_eq!(times(10_000, 10_000, 2_000), Err(InvalidTimes::Deadline));
    assert_eq!(times(15_000, 10_000, 6_000), Err(InvalidTimes::Retry));
    assert_eq!(times(15_000, 10_000, 0), Err(InvalidTimes::Retry));
    assert_eq!(times(15_500, 10_000, 2_000), Err(InvalidTimes::Fraction));
}

#[tokio::test(start_paused = true)]
async fn a_lease_goes_with_what_the_leader_belongs_to() {
    let mut leadership = leadership(Server::new(|_| Some(Duration::ZERO)).client());
    assert_eq!(leadership.lease(None).metadata.owner_references, None);
    let owner = OwnerReference {
        kind: "ReplicaSet".into(),
        ..OwnerReference::default()
    };
    leadership.claim.owner = Some(owner.clone());
    let taken = leadership.lease(Some(&lease(Some("b"), "1")));
    assert_eq!(taken.metadata.owner_references, Some(vec![owner]));
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_taken_only_when_nobody_renews_it() {
    let mut observed = ObservedLease::nothing();
    assert_eq!(step(None, &claim(), &mut observed), Step::Create);
    assert_eq!(
        step(Some(&lease(None, "1")), &claim(), &mut observed),
        Step::Take
    );
    assert_eq!(
        step(Some(&lease(Some("a"), "2")), &claim(), &mut observed),
        Step::Renew
    );
    assert_eq!(
        step(Some(&lease(Some("b"), "3")), &claim(), &mut observed),
        Step::Wait
    );
    tokio::time::advance(Duration::from_secs(14)).await;
    assert_eq!(
        step(Some(&lease(Some("b"), "3")), &claim(), &mut observed),
        Step::Wait
    );
    assert_eq!(
        step(Some(&lease(Some("b"), "4")), &claim(), &mut observed),
        Step::Wait,
        "renewed"
    );
    tokio::time::advance(Duration::from_secs(16)).await;
    assert_eq!(
        step(Some(&lease(Some("b"), "4")), &claim(), &mut observed),
        Step::Take
    );
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_takes_two_seconds_for_each_request_costs_no_lease() {
    for milliseconds in [0, 1_200, 2_000, 2_400] {
        let server = Server::new(move |_| Some(Duration::from_millis(milliseconds)));
        assert!(server.is_held().await, "{milliseconds} ms");
    }
    let server = Server::new(|_| Some(Duration::from_secs(6)));
    assert!(!server.is_held().await);
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_never_answered_cost_no_lease_if_later_ones_are() {
    let hangs =
        |from, to| move |now| (!(from..to).contains(&now)).then_some(Duration::from_millis(10));
    // A leader renews after 5 s, has 5 s left then, and asks three times.
    let server = Server::new(hangs(20, 24));
    assert!(server.is_held().await);
    let server = Server::new(hangs(20, 26));
    assert!(!server.is_held().await);
    // Answers that are lost: the lease was renewed, by whom nobody hears.
    let server = Server::new(hangs(20, 24)).losing_answers();
    assert!(server.is_held().await);
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_another_is_left_alone() {
    let server = Server::new(|_| Some(Duration::from_millis(1_200)));
    server.give_to("b");
    assert!(!server.is_held().await);
    let lease = server.lease.lock().unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "b");
    assert_eq!(lease["metadata"]["resourceVersion"], "2");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_hangs_keeps_nobody_from_a_lease() {
    let server = Server::new(|now| (now > 3).then_some(Duration::ZERO));
    let leader = leadership(server.client());
    let minute = Duration::from_secs(60);
    timeout(minute, leader.acquire()).await.unwrap();
}

/// An API server with one lease.
#[derive(Clone)]
struct Server {
    lease: Arc<Mutex<Value>>,
    /// The duration of a request by the second in which it comes; some are never answered.
    takes: Arc<dyn Fn(u64) -> Option<Duration> + Send + Sync>,
    /// True if those are carried out.
    loses_answers: bool,
    start: Instant,
}

impl Server {
    /// Returns a lease that `a` holds.
    fn new(takes: impl Fn(u64) -> Option<Duration> + Send + Sync + 'static) -> Self {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "lease", "resourceVersion": "1"},
            "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15},
        });
        Self {
            lease: Arc::new(Mutex::new(lease)),
            takes: Arc::new(takes),
            loses_answers: false,
            start: Instant::now(),
        }
    }

    fn losing_answers(self) -> Self {
        let loses_answers = true;
        Self {
            loses_answers,
            ..self
        }
    }

    fn give_to(&self, holder: &str) {
        let mut lease = self.lease.lock().unwrap();
        lease["spec"]["holderIdentity"] = json!(holder);
        lease["metadata"]["resourceVersion"] = json!("2");
    }

    /// Returns whether `a` holds it for ten minutes.
    async fn is_held(&self) -> bool {
        let leader = leadership(self.client());
        let minutes = Duration::from_secs(600);
        timeout(minutes, leader.hold()).await.is_err()
    }

    fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { server.answer(request).await }
        });
        Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> http::Result<Response<Body>> {
        let takes = (self.takes)(self.start.elapsed().as_secs());
        let (method, body) = (request.method().clone(), request.into_body());
        let body = body.collect_bytes().await.unwrap();
        let Some(takes) = takes else {
            if self.loses_answers {
                self.carry_out(&method, &body);
            }
            return std::future::pending().await;
        };
        sleep(takes / 2).await;
        let (code, said) = self.carry_out(&method, &body);
        sleep(takes / 2).await;
        let body = Body::from(said.to_string().into_bytes());
        Response::builder().status(code).body(body)
    }

    fn carry_out(&self, method: &Method, body: &[u8]) -> (u16, Value) {
        let mut lease = self.lease.lock().unwrap();
        if *method == Method::PUT {
            let mut new: Value = serde_json::from_slice(body).unwrap();
            let version = &mut new["metadata"]["resourceVersion"];
            if *version != lease["metadata"]["resourceVersion"] {
                return (
                    409,
                    json!({"status": "Failure", "code": 409, "reason": "Conflict"}),
                );
            }
            let next = version.as_str().unwrap().parse::<u64>().unwrap() + 1;
            *version = json!(next.to_string());
            *lease = new;
        }
        (200, lease.clone())
    }
}
