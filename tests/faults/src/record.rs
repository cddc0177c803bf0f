//! The requests that went through the proxy, and the events of watches.

use std::{fmt, time::Instant};

use hyper::Method;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// A request, with the answer once there is one.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The time at which the request came.
    pub at: Instant,
    /// The time at which the operator was given an answer.
    pub answered: Option<Instant>,
    /// The name of the operator's process that sent the request.
    pub actor: String,
    /// The request without its body.
    pub request: ApiRequest,
    /// Checksum of the body.
    pub body: String,
    /// Status of the answer that the operator was given.
    pub status: Option<u16>,
}

/// An event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// The time at which the event was passed on.
    pub at: Instant,
    /// The plural of the object's kind.
    pub resource: String,
    /// Name of the object.
    pub name: String,
}

impl WatchEvent {
    /// Takes whole events, a line each, from the bytes of a watch; bookmarks are left out.
    pub fn read(resource: &str, read: &mut Vec<u8>) -> Vec<Self> {
        #[derive(Deserialize)]
        struct Event {
            #[serde(rename = "type")]
            kind: String,
            object: Object,
        }
        #[derive(Deserialize)]
        struct Object {
            metadata: Metadata,
        }
        #[derive(Deserialize)]
        struct Metadata {
            name: Option<String>,
        }
        let Some(end) = read.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let lines: Vec<u8> = read.drain(..=end).collect();
        lines
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice::<Event>(line).ok())
            .filter(|event| event.kind != "BOOKMARK")
            .filter_map(|event| {
                Some(Self {
                    at: Instant::now(),
                    resource: resource.to_owned(),
                    name: event.object.metadata.name?,
                })
            })
            .collect()
    }
}

/// A request in the words of Kubernetes' authorization.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiRequest {
    /// get, list, watch, create, update, patch, delete.
    pub verb: &'static str,
    /// Group, empty for the core one.
    pub group: String,
    /// Plural, with the subresource after a slash.
    pub resource: String,
    /// Namespace, or nothing.
    pub namespace: String,
    /// Name, or nothing.
    pub name: String,
}

impl fmt::Display for ApiRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            verb,
            resource,
            name,
            ..
        } = self;
        write!(f, "{verb} {resource} {name}")
    }
}

impl ApiRequest {
    /// Reads method, path and query.
    pub fn of(method: &Method, path: &str, query: &str) -> Self {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        let group = match parts.next() {
            Some("apis") => parts.next().unwrap_or_default(),
            _ => "",
        };
        parts.next();
        let mut rest: Vec<&str> = parts.collect();
        let mut namespace = "";
        if rest.len() > 2 && rest[0] == "namespaces" {
            namespace = rest[1];
            rest.drain(..2);
        }
        let name = rest.get(1).copied().unwrap_or_default();
        let mut resource = rest.first().copied().unwrap_or_default().to_owned();
        if let Some(sub) = rest.get(2) {
            resource += &format!("/{sub}");
        }
        let watches = query.split('&').any(|pair| pair == "watch=true");
        let verb = match *method {
            Method::GET if watches => "watch",
            Method::GET if name.is_empty() => "list",
            Method::GET => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "other",
        };
        Self {
            verb,
            group: group.to_owned(),
            resource,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Says whether the request changes something.
    pub fn writes(&self) -> bool {
        !matches!(self.verb, "get" | "list" | "watch")
    }

    /// Says whether the request is about the lease, which decides which replica acts.
    pub fn is_lease(&self) -> bool {
        self.resource == "leases"
    }
}

/// A short checksum.
pub fn checksum(body: &[u8]) -> String {
    format!("{:x}", Sha256::digest(body))[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_a_watch_are_read_as_they_become_whole() {
        let event = |kind: &str, name: &str| {
            format!("{{\"type\":\"{kind}\",\"object\":{{\"metadata\":{{\"name\":\"{name}\"}}}}}}\n")
        };
        let all = event("ADDED", "a") + &event("BOOKMARK", "") + &event("DELETED", "b");
        let (first, second) = all.split_at(all.len() - 9);
        let mut read = first.as_bytes().to_vec();
        let names = |read: &mut Vec<u8>| -> Vec<String> {
            let events = WatchEvent::read("nodes", read);
            events.into_iter().map(|event| event.name).collect()
        };
        assert_eq!(names(&mut read), ["a"]);
        read.extend_from_slice(second.as_bytes());
        assert_eq!(names(&mut read), ["b"]);
        assert!(read.is_empty());
    }

    #[test]
    fn requests_are_described_in_the_words_of_authorization() {
        let request = |method, path, query| {
            let request = ApiRequest::of(&method, path, query);
            format!(
                "{} {}/{} {}",
                request, request.group, request.resource, request.namespace
            )
        };
        assert_eq!(
            request(
                Method::PATCH,
                "/apis/peerrelay.dev/v1alpha1/namespaces/n/peerrelays/a/status",
                ""
            ),
            "patch peerrelays/status a peerrelay.dev/peerrelays/status n"
        );
        assert_eq!(
            request(Method::GET, "/api/v1/configmaps", "limit=1&watch=true"),
            "watch configmaps  /configmaps "
        );
        assert_eq!(
            request(Method::GET, "/api/v1/namespaces/n/configmaps/a", ""),
            "get configmaps a /configmaps n"
        );
        assert_eq!(
            request(
                Method::POST,
                "/apis/events.k8s.io/v1/namespaces/n/events",
                ""
            ),
            "create events  events.k8s.io/events n"
        );
    }
}
