//! Counter of requests to the API server, by verb and code.

use std::task::{Context, Poll};

use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use prometheus::IntCounterVec;
use tower::{Layer, Service};

/// Code of a request without a response.
const NO_ANSWER: &str = "none";

/// Wraps a client's service.
#[derive(Clone)]
pub struct Count(pub IntCounterVec);

/// A service whose requests are counted.
#[derive(Clone)]
pub struct Counted<S> {
    inner: S,
    requests: IntCounterVec,
}

impl<S> Layer<S> for Count {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        let requests = self.0.clone();
        Counted { inner, requests }
    }
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let requests = self.requests.clone();
        let verb = verb(&request);
        let answer = self.inner.call(request);
        answer
            .inspect(move |answer| {
                let code = answer.as_ref().map(|answer| answer.status());
                let code = code.as_ref().map_or(NO_ANSWER, |code| code.as_str());
                requests.with_label_values(&[verb, code]).inc();
            })
            .boxed()
    }
}

/// Returns the verb as a word of a fixed set. A watch is a GET.
fn verb<B>(request: &Request<B>) -> &'static str {
    let watches = |query: &str| query.split('&').any(|part| part.starts_with("watch="));
    match request.method().as_str() {
        "GET" if request.uri().query().is_some_and(watches) => "WATCH",
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use prometheus::Opts;

    use super::*;

    #[tokio::test]
    async fn requests_are_counted_by_verb_and_code() {
        let requests = IntCounterVec::new(Opts::new("r", "r"), &["verb", "code"]).unwrap();
        let inner = tower::service_fn(|request: Request<()>| async move {
            match request.uri().path() {
                "/lost" => Err("no answer"),
                _ => Ok(Response::builder().status(404).body(()).unwrap()),
            }
        });
        let mut counted = Count(requests.clone()).layer(inner);
        for (method, uri) in [
            ("GET", "/a?watch=true&x=1"),
            ("PATCH", "/a"),
            ("PURGE", "/lost"),
        ] {
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            counted.call(request).await.ok();
        }
        for labels in [["WATCH", "404"], ["PATCH", "404"], ["OTHER", "none"]] {
            assert_eq!(requests.with_label_values(&labels).get(), 1, "{labels:?}");
        }
    }
}
