#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::sync::{Arc, Mutex};

use http::{Response, header::ACCEPT};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{ResourceExt, core::PartialObjectMeta};
use serde_json::{Value, json};

use super::*;

#[test]
fn pauses_grow_to_their_limit_and_begin_anew() {
    let mut pauses = BACKOFF.waits();
    assert!(pauses.next().is_some_and(|first| first <= SHORTEST));
    for pause in pauses.by_ref().take(20) {
        assert!(pause >= SHORTEST / 2 && pause <= LONGEST);
    }
    assert!(pauses.next().is_some_and(|late| late >= LONGEST / 2));
    pauses.reset();
    assert!(pauses.next().is_some_and(|first| first <= SHORTEST));
}

#[tokio::test(start_paused = true)]
async fn a_list_is_streamed_from_the_newest_state_and_goes_on_as_a_watch() {
    let server = Server::new(|_| Answer::lines([added("a"), end_of_list(), added("b")]));
    let received = received(&server, 4).await;
    assert_eq!(received, ["init", "listed a", "whole", "applied b"]);
    assert_eq!(server.asked(), ["streamed list"]);
    let queries = server.queries();
    assert!(!queries[0].contains("resourceVersion="), "{queries:?}");
    assert!(queries[0].contains("resourceVersionMatch=NotOlderThan"));
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_stream_lists_is_asked_for_pages_from_then_on() {
    // A refusal within the stream comes after its begin.
    let refusals: [(fn() -> Answer, usize); 4] = [
        (|| Answer::status(422), 0),
        (|| Answer::status(400), 0),
        (|| Answer::lines([error(0)]), 1),
        (|| Answer::lines([error(504)]), 1),
    ];
    for (refuse, begun) in refusals {
        let server = Server::new(move |asked| match asked {
            "streamed list" => refuse(),
            "list" => Answer::object(json!({
                "metadata": {"resourceVersion": "7"}, "items": [config_map("a")],
            })),
            // Too old by now: the list begins anew.
            _ => Answer::lines([added("b"), error(410)]),
        });
        let received = received(&server, begun + 7).await;
        let whole = ["init", "listed a", "whole"];
        assert_eq!(received[received.len() - 3..], whole, "{received:?}");
        let once = ["streamed list", "list", "watch", "list"];
        assert_eq!(server.asked(), once);
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_in_trouble_is_asked_for_a_stream_again() {
    for code in [403, 429, 500, 503] {
        let asked = Arc::new(Mutex::new(0));
        let server = Server::new(move |_| {
            let mut asked = asked.lock().unwrap();
            *asked += 1;
            match *asked {
                1 => Answer::status(code),
                2 => Answer::lines([error(code)]),
                _ => Answer::lines([added("a"), end_of_list()]),
            }
        });
        let received = received(&server, 4).await;
        assert_eq!(received, ["init", "init", "listed a", "whole"], "{code}");
        assert_eq!(server.asked(), ["streamed list"; 3], "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn metadata_is_asked_for_without_bodies() {
    let server = Server::new(|asked| match asked {
        "streamed list" => Answer::status(422),
        _ => Answer::object(json!({
            "metadata": {"resourceVersion": "7"}, "items": [config_map("a")],
        })),
    });
    let client = newest(&server.client());
    let events = whole::<PartialObjectMeta<ConfigMap>>(&client);
    assert_eq!(soon(events.take(3).count()).await, 3);
    let accepted = server.accepted.lock().unwrap();
    assert_eq!(accepted.len(), 2);
    for accepted in &*accepted {
        assert!(accepted.contains("as=PartialObjectMetadata"), "{accepted}");
    }
}

#[tokio::test(start_paused = true)]
async fn watches_that_end_at_once_are_begun_seldom_and_those_that_last_at_once() {
    let minutes = async |lasts, number: u64| {
        let server = Server::new(|asked| match asked {
            "streamed list" => Answer::lines([added("a"), end_of_list()]),
            _ => Answer::lines([]),
        });
        let server = server.lasting(lasts);
        let client = newest(&server.client());
        let events = whole::<ConfigMap>(&client);
        let all = tokio::time::timeout(Duration::from_secs(60 * number), events.count());
        all.await.unwrap_err();
        server.asked().len()
    };
    let asked = minutes(Duration::from_millis(1), 10).await;
    assert!((60..150).contains(&asked), "{asked} times in 10 minutes");
    // As API servers end them.
    let lasts = Duration::from_secs(290);
    assert_eq!(minutes(lasts, 28).await, 6);
}

#[tokio::test(start_paused = true)]
async fn streamed_lists_that_break_off_are_begun_seldom() {
    let server = Server::new(|_| Answer::lines([added("a")])).lasting(Duration::from_millis(1));
    let client = newest(&server.client());
    let events = whole::<ConfigMap>(&client);
    let minute = tokio::time::timeout(Duration::from_secs(60), events.count());
    minute.await.unwrap_err();
    let asked = server.asked().len();
    assert!(asked < 25, "{asked} times in a minute");
}

#[test]
fn only_streamed_lists_lose_their_version() {
    let streamed = "/api/v1/nodes?watch=true&sendInitialEvents=true&resourceVersion=0";
    let newest = without_version(&streamed.parse().unwrap()).unwrap();
    assert_eq!(newest, "/api/v1/nodes?watch=true&sendInitialEvents=true");
    for other in [
        "/api/v1/nodes",
        "/api/v1/nodes?watch=true&resourceVersion=0",
    ] {
        assert_eq!(without_version(&other.parse().unwrap()), None, "{other}");
    }
}

/// The first events, in words.
async fn received(server: &Server, number: usize) -> Vec<String> {
    let client = newest(&server.client());
    let events = whole::<ConfigMap>(&client).take(number);
    let words = events.map(|event| match event {
        Event::Init => "init".into(),
        Event::InitApply(object) => format!("listed {}", object.name_any()),
        Event::InitDone => "whole".into(),
        Event::Apply(object) => format!("applied {}", object.name_any()),
        Event::Delete(object) => format!("deleted {}", object.name_any()),
    });
    soon(words.collect()).await
}

/// Fails where it would wait for ever; the clock stands still but for pauses.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, what).await.unwrap()
}

/// An API server, as far as a watch sees one.
struct Server {
    answer: Arc<dyn Fn(&str) -> Answer + Send + Sync>,
    /// The duration of a request, with all that comes.
    lasts: Duration,
    queries: Arc<Mutex<Vec<String>>>,
    accepted: Arc<Mutex<Vec<String>>>,
}

struct Answer {
    code: u16,
    body: String,
}

impl Answer {
    fn status(code: u16) -> Self {
        let body = status(code).to_string();
        Self { code, body }
    }

    fn object(object: Value) -> Self {
        let (code, body) = (200, object.to_string());
        Self { code, body }
    }

    fn lines<const N: usize>(events: [Value; N]) -> Self {
        let body = events.map(|event| format!("{event}\n")).concat();
        Self { code: 200, body }
    }
}

impl Server {
    /// `answer` is told what is asked: a streamed list, a list or a watch.
    fn new(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        Self {
            answer: Arc::new(answer),
            lasts: Duration::ZERO,
            queries: Arc::default(),
            accepted: Arc::default(),
        }
    }

    fn lasting(self, lasts: Duration) -> Self {
        Self { lasts, ..self }
    }

    fn client(&self) -> Client {
        let lasts = self.lasts;
        let (answer, queries) = (self.answer.clone(), self.queries.clone());
        let accepted = self.accepted.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let Answer { code, body } = answer(asked(&query));
            queries.lock().unwrap().push(query);
            let header = request.headers().get(ACCEPT);
            let header = header.map_or_else(String::new, |h| h.to_str().unwrap().into());
            accepted.lock().unwrap().push(header);
            let body = Body::from(body.into_bytes());
            async move {
                tokio::time::sleep(lasts).await;
                Response::builder().status(code).body(body)
            }
        });
        Client::new(service, "default")
    }

    fn queries(&self) -> Vec<String> {
        self.queries.lock().unwrap().clone()
    }

    fn asked(&self) -> Vec<&'static str> {
        self.queries().iter().map(|query| asked(query)).collect()
    }
}

fn asked(query: &str) -> &'static str {
    match query {
        query if query.contains("sendInitialEvents=true") => "streamed list",
        query if query.contains("watch=true") => "watch",
        _ => "list",
    }
}

fn config_map(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "resourceVersion": "8"},
    })
}

fn added(name: &str) -> Value {
    json!({"type": "ADDED", "object": config_map(name)})
}

fn end_of_list() -> Value {
    json!({"type": "BOOKMARK", "object": {
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {
            "resourceVersion": "7", "annotations": {"k8s.io/initial-events-end": "true"},
        },
    }})
}

fn error(code: u16) -> Value {
    json!({"type": "ERROR", "object": status(code)})
}

fn status(code: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "message": "no", "code": code,
    })
}

/// A watch of the whole cluster.
fn whole<K>(client: &Client) -> impl Stream<Item = Event<K>> + Send + use<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let api = Api::all(throttle::throttled(client));
    events(api, watcher::Config::default(), Readiness::default())
}
