//! Watches that each mend themselves, and begin with a streamed list where the API server has them.

pub(in crate::operator::stores) mod throttle;

use std::{fmt::Debug, future::ready, time::Duration};

use futures::{Stream, StreamExt};
use http::{Request, Uri};
use kube::{Api, Client, Resource, client::Body, core::Status};
use kube_runtime::{
    WatchStreamExt,
    watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;

use crate::{backoff::Backoff, operator::readiness::Readiness};

/// Shortest wait before a watch that failed is tried again.
const SHORTEST: Duration = Duration::from_millis(500);
/// Longest one: what happens in the meantime is seen late.
const LONGEST: Duration = Duration::from_secs(10);
/// Waits with a random part: replicas and watches do not come back all at once.
const BACKOFF: Backoff = Backoff::new(SHORTEST, LONGEST).with_jitter(0.5..=1.0);

/// The events of a watch, without its errors: they are logged and passed to `readiness`, and the watch
/// begins anew after a pause.
///
/// A controller would pause all of its watches for each error of one, so that ten watches whose API
/// server was away for a moment would see nothing for minutes.
///
/// Lists are streamed until the API server refuses to, and come in pages from then on.
pub(super) fn events<K>(
    api: Api<K>,
    config: watcher::Config,
    readiness: Readiness,
) -> impl Stream<Item = Event<K>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let streamed = watcher(api.clone(), config.clone().streaming_lists()).take_while(|event| {
        let refusal = event.as_ref().err().and_then(refusal);
        if let Some(Status { message, .. }) = refusal {
            tracing::info!(kind = %K::kind(&()), reason = message, "lists come in pages");
        }
        ready(refusal.is_none())
    });
    streamed
        .chain(watcher(api, config))
        .backoff(BACKOFF.waits())
        .filter_map(move |event| {
            ready(match event {
                Ok(event) => Some(event),
                Err(error) => {
                    tracing::warn!(kind = %K::kind(&()), %error, "watch failed; trying again");
                    readiness.failed(&K::kind(&()), &error.to_string());
                    None
                }
            })
        })
}

/// The answer of an API server that does not stream lists. One that is only in trouble would not answer
/// a list either.
///
/// Without the feature it answers 422 (400 through some gateways); with an etcd that is too old it
/// sends an error without a code, and with a cache that does not catch up in 3 s one with 504
/// (apiserver v0.36.3, `validation.go` and `cacher.go`). A list in pages needs none of that.
fn refusal(error: &watcher::Error) -> Option<&Status> {
    let (watcher::Error::WatchStartFailed(kube::Error::Api(status))
    | watcher::Error::WatchError(status)) = error
    else {
        return None;
    };
    matches!(status.code, 0 | 400 | 422 | 504).then_some(status)
}

/// A client whose streamed lists begin with what is true now, as lists in pages do.
///
/// kube asks for any state (`resourceVersion=0`). One that a cache of an API server is behind with
/// would have the operator undo what has happened since. When no version is named, the API server
/// waits until its cache has what etcd has.
pub(super) fn newest(client: &Client) -> Client {
    let inner = client.clone();
    let send = move |mut request: Request<Body>| {
        let inner = inner.clone();
        if let Some(uri) = without_version(request.uri()) {
            *request.uri_mut() = uri;
        }
        async move { inner.send(request).await }
    };
    Client::new(tower::service_fn(send), client.default_namespace())
}

/// The same without `resourceVersion=0`, where it asks for a streamed list.
fn without_version(uri: &Uri) -> Option<Uri> {
    let parts: Vec<_> = uri.query()?.split('&').collect();
    if !parts.contains(&"sendInitialEvents=true") {
        return None;
    }
    let kept = parts
        .into_iter()
        .filter(|part| *part != "resourceVersion=0");
    let query = kept.collect::<Vec<_>>().join("&");
    let mut whole = uri.clone().into_parts();
    whole.path_and_query = Some(format!("{}?{query}", uri.path()).parse().ok()?);
    Uri::from_parts(whole).ok()
}

#[cfg(test)]
mod tests;
