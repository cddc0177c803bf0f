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
    record::{Asked, Exchange, Heard, checksum},
};

/// A fault of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request never reaches the API server, and no answer comes: the harness kills the operator.
    KillBefore,
    /// The API server has done it, and no answer comes: the harness kills the operator.
    KillAfter,
    /// The API server is not asked, and this is the answer.
    Answer(u16),
    /// The API server has done it, and the answer is a gateway's timeout.
    TimeoutAfter,
    /// The API server has done it, and the connection breaks.
    BreakAfter,
    /// The API server has done it, and the answer comes after [`Record::release`].
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
pub struct Plan {
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
    fn meets(&self, asked: &Asked) -> bool {
        let rest = asked.name.strip_prefix(&*self.name);
        let named = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
        asked.writes() && asked.resource == self.resource && named
    }
}

/// The log of requests that all proxies of a run share.
#[derive(Clone, Debug)]
pub struct Record(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    exchanges: Mutex<Vec<Exchange>>,
    /// The events that watches have passed on.
    heard: Mutex<Vec<Heard>>,
    plan: Mutex<Option<Plan>>,
    refused: Mutex<Option<Refused>>,
    struck: watch::Sender<usize>,
    /// Watches that began before this number changed end.
    cut: watch::Sender<usize>,
    /// While set, watches carry nothing.
    stalled: watch::Sender<bool>,
    /// Once set, held answers are given.
    released: watch::Sender<bool>,
}

impl Default for Record {
    fn default() -> Self {
        Self(Arc::new(Shared {
            exchanges: Mutex::default(),
            heard: Mutex::default(),
            plan: Mutex::default(),
            refused: Mutex::default(),
            struck: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            stalled: watch::Sender::new(false),
            released: watch::Sender::new(false),
        }))
    }
}

impl Record {
    /// All exchanges since the start.
    pub fn exchanges(&self) -> Vec<Exchange> {
        lock(&self.0.exchanges).clone()
    }

    /// Number of exchanges so far, to look at those after.
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

    /// Number of events that watches have told so far, to look at those after.
    pub fn told(&self) -> usize {
        lock(&self.0.heard).len()
    }

    /// Says whether a watch has passed on an event of an object since `mark`.
    pub fn told_of(&self, mark: usize, resource: &str, name: &str) -> bool {
        let heard = lock(&self.0.heard);
        let mut since = heard[mark..].iter();
        since.any(|event| event.resource == resource && event.name == name)
    }

    /// The time since the last exchange that is neither a watch nor about the lease, and
    /// since a watch told anything.
    pub fn quiet(&self) -> Duration {
        let exchanges = lock(&self.0.exchanges);
        let mut counted = exchanges.iter().rev();
        let asked = counted.find(|e| e.request.verb != "watch" && !e.request.is_lease());
        let asked = asked.map(|exchange| exchange.at);
        let told = lock(&self.0.heard).last().map(|event| event.at);
        asked.max(told).map_or(Duration::MAX, |last| last.elapsed())
    }

    /// Arms a fault; says how often faults have struck so far.
    pub fn arm(&self, plan: Plan) -> watch::Receiver<usize> {
        let mut struck = self.0.struck.subscribe();
        struck.mark_unchanged();
        *lock(&self.0.plan) = Some(plan);
        struck
    }

    /// Lets everything pass again.
    pub fn disarm(&self) {
        *lock(&self.0.plan) = None;
    }

    /// Refuses every write to such objects from now on, or none.
    pub fn refuse(&self, refused: Option<Refused>) {
        *lock(&self.0.refused) = refused;
    }

    /// Ends all watches that run.
    pub fn cut_watches(&self) {
        self.0.cut.send_modify(|number| *number += 1);
    }

    /// Holds back, or lets go, what watches say.
    pub fn stall_watches(&self, stall: bool) {
        self.0.stalled.send_replace(stall);
    }

    /// Gives the answers that are held.
    pub fn release(&self) {
        self.0.released.send_replace(true);
    }

    /// The fault for a write, if it is the one.
    fn fault(&self, asked: &Asked, path: &str, body: &[u8]) -> Option<Fault> {
        let refused = lock(&self.0.refused).clone();
        if let Some(refused) = refused.filter(|refused| refused.meets(asked)) {
            return Some(Fault::Answer(refused.code));
        }
        let mut armed = lock(&self.0.plan);
        let plan = armed.as_mut()?;
        let about = plan.about.as_bytes();
        let named = path.contains(&plan.about) || body.windows(about.len()).any(|w| w == about);
        if !asked.writes() || asked.is_lease() || !named {
            return None;
        }
        if plan.nth > 0 {
            plan.nth -= 1;
            return None;
        }
        let fault = plan.fault;
        plan.times -= 1;
        if plan.times == 0 {
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
struct Route {
    record: Record,
    upstream: Upstream,
    server: String,
    actor: String,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

impl Proxy {
    /// Listens on loopback for the operator called `actor`.
    pub async fn start(
        record: &Record,
        upstream: &Upstream,
        server: &str,
        actor: &str,
    ) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let route = Route {
            record: record.clone(),
            upstream: upstream.clone(),
            server: server.to_owned(),
            actor: actor.to_owned(),
        };
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let route = route.clone();
                tokio::spawn(async move {
                    let answer = service_fn(|request| {
                        let route = route.clone();
                        async move { route.answer(request).await }
                    });
                    // The operator may end in the middle; that is what it is here for.
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

impl Route {
    /// Answers a request, or breaks the connection with an error.
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let path = head.uri.path().to_owned();
        let asked = Asked::of(&head.method, &path, head.uri.query().unwrap_or_default());
        let index = self.note(asked.clone(), &body);
        let fault = self.record.fault(&asked, &path, &body);
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
                let mut released = self.record.0.released.subscribe();
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
        if asked.verb == "watch" {
            return Ok(Response::from_parts(head, self.watch(body, asked.resource)));
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

    fn note(&self, request: Asked, body: &[u8]) -> usize {
        let mut exchanges = lock(&self.record.0.exchanges);
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
        let mut exchanges = lock(&self.record.0.exchanges);
        exchanges[index].answered = Some(Instant::now());
        exchanges[index].status = Some(status);
    }

    fn strike(&self) {
        self.record.0.struck.send_modify(|number| *number += 1);
    }

    /// Gives no answer until the operator is killed.
    async fn silence(&self) -> Result<Response<Body>> {
        self.strike();
        std::future::pending().await
    }

    /// Passes a watch on, as long as it is not cut, and while it is not stalled.
    fn watch(&self, mut body: Incoming, resource: String) -> Body {
        let (sender, receiver) = mpsc::channel::<Frame<Bytes>>(16);
        let record = self.record.clone();
        let mut unread = Vec::new();
        let mut cut = self.record.0.cut.subscribe();
        let mut stalled = self.record.0.stalled.subscribe();
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
                    let events = Heard::read(&resource, &mut unread);
                    lock(&record.0.heard).extend(events);
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
