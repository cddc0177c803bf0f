//! Check that lets a process send writes only while it is the leader.
//!
//! A process that was stopped for a while, or hangs, believes that it is the leader until it reads
//! the lease again. The fence compares the time of the last renewal, without a request, and stops
//! its writes.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::future::{Either, MapErr, Ready, TryFutureExt, ready};
use http::{Method, Request};
use kube::client::Body;
use tokio::time::Instant;
use tower::{BoxError, Layer, Service};

/// Time until which writes may be sent. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Fence {
    /// Time until which writes are allowed. `None` without leader election: all writes may be sent.
    until: Option<Arc<Mutex<Instant>>>,
}

/// A write that was not sent.
#[derive(Debug, thiserror::Error)]
#[error("not sent: the lease has not been renewed in time, another replica may lead by now")]
pub struct Fenced;

impl Fence {
    /// Creates a fence that allows no write before [`Fence::extend`].
    pub fn closed() -> Self {
        // The election needs a client without it: no write passes before the election has been won.
        Self {
            until: Some(Arc::new(Mutex::new(Instant::now()))),
        }
    }

    /// Allows writes until this time.
    pub fn extend(&self, until: Instant) {
        if let Some(limit) = &self.until {
            *limit.lock().unwrap_or_else(PoisonError::into_inner) = until;
        }
    }

    fn lets_out(&self, method: &Method) -> bool {
        let read = matches!(*method, Method::GET | Method::HEAD);
        read || self.until.as_ref().is_none_or(|limit| {
            Instant::now() < *limit.lock().unwrap_or_else(PoisonError::into_inner)
        })
    }
}

impl<S> Layer<S> for Fence {
    type Service = FencedService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        FencedService {
            inner,
            fence: self.clone(),
        }
    }
}

/// A service behind a [`Fence`].
#[derive(Debug, Clone)]
pub struct FencedService<S> {
    inner: S,
    fence: Fence,
}

impl<S> Service<Request<Body>> for FencedService<S>
where
    S: Service<Request<Body>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future =
        Either<Ready<Result<S::Response, BoxError>>, MapErr<S::Future, fn(S::Error) -> BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if self.fence.lets_out(request.method()) {
            Either::Right(self.inner.call(request).map_err(Into::into))
        } else {
            Either::Left(ready(Err(Fenced.into())))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;

    /// Answers nothing.
    struct Silent;

    impl Service<Request<Body>> for Silent {
        type Response = ();
        type Error = BoxError;
        type Future = std::future::Pending<Result<(), BoxError>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            std::future::pending()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn writes_wait_for_the_lease_and_stop_with_it_while_reads_go_on() {
        let fence = Fence::closed();
        let mut fenced = fence.layer(Silent);
        let mut refused = |method: Method| {
            let request = Request::builder()
                .method(method)
                .body(Body::empty())
                .unwrap();
            let answer = fenced.call(request).now_or_never();
            answer.is_some_and(|answer| answer.unwrap_err().is::<Fenced>())
        };
        assert!(refused(Method::PATCH), "before the lease");
        assert!(!refused(Method::GET));
        fence.extend(Instant::now() + Duration::from_secs(10));
        assert!(!refused(Method::PATCH));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(refused(Method::DELETE), "after the lease");
        assert!(!refused(Method::GET));
    }

    #[test]
    fn without_election_everything_goes_out() {
        assert!(Fence::default().lets_out(&Method::DELETE));
    }
}
