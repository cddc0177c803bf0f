//! Watches that recover by themselves, and begin with a streamed list if the API server supports
//! it.

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

/// Shortest wait before a failed watch is restarted.
const SHORTEST: Duration = Duration::from_millis(500);
/// Longest wait before a failed watch is restarted. Changes in the meantime are delivered late.
const LONGEST: Duration = Duration::from_secs(10);
/// Backoff with a random part, so that replicas and watches do not return all at once.
const BACKOFF: Backoff = Backoff::new(SHORTEST, LONGEST).with_jitter(0.5..=1.0);

/// Returns the events of a watch without its errors. Errors are logged and recorded in `readiness`,
/// and the watch restarts after a pause.
///
/// A controller pauses all of its watches for each error of one. If the API server is unavailable
/// for a moment, ten watches would deliver nothing for minutes.
///
/// Lists are streamed until the API server refuses this, and then come in pages.
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

/// Returns a client whose streamed lists begin with the current state, like lists in pages.
///
/// kube requests any state (`resourceVersion=0`). With an outdated state from a cache of the API
/// server, the operator would undo later changes. Without a version, the API server waits until its
/// cache is as current as etcd.
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

/// Removes `resourceVersion=0` from a request for a streamed list.
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
