//! A proxy between operator and API server: records every exchange, and makes one of them go wrong.

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CONTENT_TYPE, HOST, RETRY_AFTER},
    http::request::Parts,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};

use super::{
    api::Upstream,
    record::{ApiRequest, Exchange, WatchEvent, checksum},
};

/// A fault of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request never reaches the API server, and no answer comes: the harness kills the operator.
    KillBefore,
    /// The API server has done it, and no answer comes: the harness kills the operator.
    KillAfter,
    /// The API server gets no request, and this is the answer.
    Answer(u16),
    /// The API server has done it, and the answer is a gateway's timeout.
    TimeoutAfter,
    /// The API server has done it, and the connection breaks.
    BreakAfter,
    /// The API server has done it, and the answer comes after [`Recorder::release`].
    HoldAfter,
}

impl Fault {
    /// All that strike by themselves.
    pub const ALL: [Self; 10] = [
        Self::KillBefore,
        Self::KillAfter,
        Self::Answer(403),
        Self::Answer(422),
        Self::Answer(409),
        Self::Answer(429),
        Self::Answer(500),
        Self::Answer(503),
        Self::TimeoutAfter,
        Self::BreakAfter,
    ];

    /// Says whether the operator has to be killed once the fault struck.
    pub const fn kills(self) -> bool {
        matches!(self, Self::KillBefore | Self::KillAfter)
    }
}

/// The request that a fault strikes: the `nth` write, from zero, that has `about` in path or body.
#[derive(Clone, Debug)]
pub struct PlannedFault {
    /// Name of the PeerRelay, as no other text has it.
    pub about: String,
    /// Writes to let pass before.
    pub nth: usize,
    /// The fault that strikes.
    pub fault: Fault,
    /// The number of writes in a row that the fault strikes.
    pub times: usize,
}

/// Objects to which every write is refused: those of a kind and of a name, or with a name that goes
/// on after it with a dash.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Plural of the kind.
    pub resource: String,
    /// Name, or its beginning.
    pub name: String,
    /// Code of the answer.
    pub code: u16,
}

impl Refused {
    fn meets(&self, request: &ApiRequest) -> bool {
        let rest = request.name.strip_prefix(&*self.name);
        let named = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        request.writes() && request.resource == self.resource && named
    }
}

/// The log of requests that all proxies of a run share.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    exchanges: Mutex<Vec<Exchange>>,
    /// The events that watches have passed on.
    events: Mutex<Vec<WatchEvent>>,
    planned: Mutex<Option<PlannedFault>>,
    refused: Mutex<Option<Refused>>,
    struck: watch::Sender<usize>,
    /// Watches that began before this number changed end.
    cut: watch::Sender<usize>,
    /// While set, watches carry nothing.
    stalled: watch::Sender<bool>,
    /// Once set, held answers are passed on.
    released: watch::Sender<bool>,
}

impl Default for Recorder {
    fn default() -> Self {
        Self(Arc::new(Shared {
            exchanges: Mutex::default(),
            events: Mutex::default(),
            planned: Mutex::default(),
            refused: Mutex::default(),
            struck: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            stalled: watch::Sender::new(false),
            released: watch::Sender::new(false),
        }))
    }
}

impl Recorder {
    /// All exchanges since the start.
    pub fn exchanges(&self) -> Vec<Exchange> {
        lock(&self.0.exchanges).clone()
    }

    /// Number of exchanges so far, as a mark for those after it.
    pub fn len(&self) -> usize {
        lock(&self.0.exchanges).len()
    }

    /// Says whether no request went through.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Exchanges from the given one on.
    pub fn since(&self, mark: usize) -> Vec<Exchange> {
        lock(&self.0.exchanges)[mark..].to_vec()
    }

    /// Number of events that watches have passed on so far, as a mark for those after it.
    pub fn event_count(&self) -> usize {
        lock(&self.0.events).len()
    }

    /// Says whether a watch has passed on an event of an object since `mark`.
    pub fn has_event(&self, mark: usize, resource: &str, name: &str) -> bool {
        let events = lock(&self.0.events);
        let mut since = events[mark..].iter();
        since.any(|event| event.resource == resource && event.name == name)
    }

    /// The time since the last exchange that is neither a watch nor about the lease, and
    /// since a watch passed on an event.
    pub fn quiet(&self) -> Duration {
        let exchanges = lock(&self.0.exchanges);
        let mut counted = exchanges.iter().rev();
        let requested = counted.find(|e| e.request.verb != "watch" && !e.request.is_lease());
        let requested = requested.map(|exchange| exchange.at);
        let event = lock(&self.0.events).last().map(|event| event.at);
        requested
            .max(event)
            .map_or(Duration::MAX, |last| last.elapsed())
    }

    /// Arms a fault; says how often faults have struck so far.
    pub fn arm(&self, planned: PlannedFault) -> watch::Receiver<usize> {
        let mut struck = self.0.struck.subscribe();
        struck.mark_unchanged();
        *lock(&self.0.planned) = Some(planned);
        struck
    }

    /// Lets everything pass again.
    pub fn disarm(&self) {
        *lock(&self.0.planned) = None;
    }

    /// Refuses every write to such objects from now on, or none.
    pub fn refuse(&self, refused: Option<Refused>) {
        *lock(&self.0.refused) = refused;
    }

    /// Ends all watches that run.
    pub fn cut_watches(&self) {
        self.0.cut.send_modify(|number| *number += 1);
    }

    /// Holds the events of watches back, or passes them on again.
    pub fn stall_watches(&self, stall: bool) {
        self.0.stalled.send_replace(stall);
    }

    /// Passes the held answers on.
    pub fn release(&self) {
        self.0.released.send_replace(true);
    }

    /// The fault for a write, if it is the one.
    fn fault(&self, request: &ApiRequest, path: &str, body: &[u8]) -> Option<Fault> {
        let refused = lock(&self.0.refused).clone();
        if let Some(refused) = refused.filter(|refused| refused.meets(request)) {
            return Some(Fault::Answer(refused.code));
        }
        let mut armed = lock(&self.0.planned);
        let planned = armed.as_mut()?;
        let about = planned.about.as_bytes();
        let named = path.contains(&planned.about) || body.windows(about.len()).any(|w| w == about);
        if !request.writes() || request.is_lease() || !named {
            return None;
        }
        if planned.nth > 0 {
            planned.nth -= 1;
            return None;
        }
        let fault = planned.fault;
        planned.times -= 1;
        if planned.times == 0 {
            *armed = None;
        }
        Some(fault)
    }
}

/// A proxy for one operator.
#[derive(Debug)]
pub struct Proxy {
    /// The address of the proxy, which the operator takes for the API server's.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Forwarder {
    recorder: Recorder,
    upstream: Upstream,
    server: String,
    actor: String,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Proxy {
    /// Listens on loopback for the operator called `actor`.
    pub async fn start(
        recorder: &Recorder,
        upstream: &Upstream,
        server: &str,
        actor: &str,
    ) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let forwarder = Forwarder {
            recorder: recorder.clone(),
            upstream: upstream.clone(),
            server: server.to_owned(),
            actor: actor.to_owned(),
        };
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let forwarder = forwarder.clone();
                tokio::spawn(async move {
                    let answer = service_fn(|request| {
                        let forwarder = forwarder.clone();
                        async move { forwarder.answer(request).await }
                    });
                    // The harness kills operators in the middle of a request.
                    let http = hyper::server::conn::http1::Builder::new();
                    http.serve_connection(TokioIo::new(stream), answer)
                        .await
                        .ok();
                });
            }
        });
        Ok(Self { address, task })
    }
}

impl Forwarder {
    /// Answers a request, or breaks the connection with an error.
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let path = head.uri.path().to_owned();
        let request = ApiRequest::of(&head.method, &path, head.uri.query().unwrap_or_default());
        let index = self.record(request.clone(), &body);
        let fault = self.recorder.fault(&request, &path, &body);
        match fault {
            Some(Fault::KillBefore) => return self.silence().await,
            Some(Fault::Answer(code)) => {
                self.strike();
                self.status(index, code);
                return refusal(code);
            }
            _ => {}
        }
        let response = self.forward(head, body).await?;
        match fault {
            Some(Fault::KillAfter) => {
                response.into_body().collect().await?;
                return self.silence().await;
            }
            Some(Fault::TimeoutAfter) => {
                response.into_body().collect().await?;
                self.strike();
                self.status(index, 504);
                return refusal(504);
            }
            Some(Fault::HoldAfter) => {
                let mut released = self.recorder.0.released.subscribe();
                self.strike();
                released.wait_for(|released| *released).await?;
            }
            Some(Fault::BreakAfter) => {
                response.into_body().collect().await?;
                self.strike();
                return Err(anyhow!("broken on purpose"));
            }
            _ => {}
        }
        self.status(index, response.status().as_u16());
        let (head, body) = response.into_parts();
        if request.verb == "watch" {
            return Ok(Response::from_parts(
                head,
                self.watch(body, request.resource),
            ));
        }
        let body = body.collect().await?.to_bytes();
        Ok(Response::from_parts(head, Full::new(body).boxed_unsync()))
    }

    /// Forwards a request to the API server.
    async fn forward(&self, head: Parts, body: Bytes) -> Result<Response<Incoming>> {
        let target = head.uri.path_and_query().context("no path")?;
        let mut forwarded = Request::builder()
            .method(head.method)
            .uri(format!("{}{target}", self.server));
        for (name, value) in head.headers.iter().filter(|(name, _)| *name != HOST) {
            forwarded = forwarded.header(name, value);
        }
        let forwarded = forwarded.body(Full::new(body))?;
        let answered = self.upstream.request(forwarded).await;
        answered.map_err(|error| anyhow!(error).context("the API server is gone"))
    }

    fn record(&self, request: ApiRequest, body: &[u8]) -> usize {
        let mut exchanges = lock(&self.recorder.0.exchanges);
        exchanges.push(Exchange {
            at: Instant::now(),
            answered: None,
            actor: self.actor.clone(),
            request,
            body: checksum(body),
            status: None,
        });
        exchanges.len() - 1
    }

    fn status(&self, index: usize, status: u16) {
        let mut exchanges = lock(&self.recorder.0.exchanges);
        exchanges[index].answered = Some(Instant::now());
        exchanges[index].status = Some(status);
    }

    fn strike(&self) {
        self.recorder.0.struck.send_modify(|number| *number += 1);
    }

    /// Gives no answer until the operator is killed.
    async fn silence(&self) -> Result<Response<Body>> {
        self.strike();
        std::future::pending().await
    }

    /// Passes a watch on, as long as it is not cut, and while it is not stalled.
    fn watch(&self, mut body: Incoming, resource: String) -> Body {
        let (sender, receiver) = mpsc::channel::<Frame<Bytes>>(16);
        let recorder = self.recorder.clone();
        let mut unread = Vec::new();
        let mut cut = self.recorder.0.cut.subscribe();
        let mut stalled = self.recorder.0.stalled.subscribe();
        tokio::spawn(async move {
            loop {
                let frame = tokio::select! {
                    _ = cut.changed() => return,
                    () = sender.closed() => return,
                    frame = body.frame() => frame,
                };
                let Some(Ok(frame)) = frame else { return };
                let passes = async {
                    if stalled.wait_for(|stalled| !*stalled).await.is_err() {
                        return false;
                    }
                    unread.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                    let events = WatchEvent::read(&resource, &mut unread);
                    lock(&recorder.0.events).extend(events);
                    sender.send(frame).await.is_ok()
                };
                tokio::select! {
                    _ = cut.changed() => return,
                    passed = passes => if !passed { return },
                }
            }
        });
        let frames = futures_of(receiver);
        StreamBody::new(frames).boxed_unsync()
    }
}

fn futures_of(
    receiver: mpsc::Receiver<Frame<Bytes>>,
) -> impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    futures::stream::unfold(receiver, |mut receiver| async {
        let frame = receiver.recv().await?;
        Some((Ok(frame), receiver))
    })
}

/// An answer in the API server's form.
fn refusal(code: u16) -> Result<Response<Body>> {
    let status = StatusCode::from_u16(code)?;
    let body = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code,
        "reason": status.canonical_reason(), "message": "refused on purpose",
    });
    let mut response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/json");
    if code == 429 {
        response = response.header(RETRY_AFTER, "1");
    }
    Ok(response.body(Full::new(Bytes::from(body.to_string())).boxed_unsync())?)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
