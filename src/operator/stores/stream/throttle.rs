//! A limit for the rate at which a watch is begun. kube begins one again at once when it ends
//! without an error, as each does when its time is over: an API server, or a proxy before it, that
//! ends them early would be asked without end.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::Request;
use kube::{Client, client::Body};
use tokio::time::{Instant, sleep_until};

use super::{BACKOFF, LONGEST};

/// A watch that has lasted this long begins again at once. API servers end watches after minutes (kube asks
/// for 290 s).
const LONG: Duration = LONGEST;

/// Returns a client for one watch. A watch that ends early is begun again after a pause.
pub(in crate::operator::stores) fn throttled(client: &Client) -> Client {
    let inner = client.clone();
    let throttle = Arc::new(Mutex::new(RestartThrottle::default()));
    let send = move |request: Request<Body>| {
        let (inner, throttle) = (inner.clone(), throttle.clone());
        async move {
            if !begins_watch(&request) {
                return inner.send(request).await;
            }
            let lock = || throttle.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = lock().next(Instant::now());
            sleep_until(begin).await;
            let answer = inner.send(request).await;
            // A refusal is an error, after which there is a pause anyway.
            if answer.as_ref().is_ok_and(|a| a.status().is_success()) {
                lock().last = Some(begin);
            }
            answer
        }
    };
    Client::new(tower::service_fn(send), client.default_namespace())
}

fn begins_watch(request: &Request<Body>) -> bool {
    let mut parts = request.uri().query().unwrap_or_default().split('&');
    parts.any(|part| part == "watch=true")
}

/// The time at which a watch may be begun again.
#[derive(Default)]
struct RestartThrottle {
    last: Option<Instant>,
    /// Restarts in a row that each followed soon after the one before.
    restarts: u32,
}

impl RestartThrottle {
    /// Returns the time of the next watch: at once, unless the last one was begun less than [`LONG`] ago.
    fn next(&mut self, now: Instant) -> Instant {
        match self.last {
            Some(last) if now < last + LONG => {
                self.restarts = self.restarts.saturating_add(1);
                now.max(last + BACKOFF.after(self.restarts))
            }
            _ => {
                self.restarts = 0;
                now
            }
        }
    }
}
