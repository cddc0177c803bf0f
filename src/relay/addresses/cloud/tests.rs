//! The whole source against a service of AWS's kind, at its address, in a network namespace.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use tokio::{net::TcpListener, time::timeout};

use super::*;
use crate::{
    config::endpoints::{Advertise, EndpointsConfig},
    relay::namespace::Net,
};

/// Address of the service.
const V4: &str = "169.254.169.254:80";
const V6: &str = "[fd00:ec2::254]:80";
const TOKEN: &str = "AQAAAHN1Y2ggYSBzZWNyZXQ=";
const PATIENCE: Duration = Duration::from_secs(60);

/// Behaviour of the service towards clients with the token.
#[derive(Clone, Copy)]
enum Mode {
    /// One interface with this address.
    Answers(Ipv4Addr),
    /// It gives no tokens.
    Disabled,
    /// It sends elsewhere, where an address is.
    Redirects,
    /// It says the same address all over.
    Babbles,
    /// It says nothing.
    Hangs,
    /// It begins to say something.
    Stalls,
}

#[derive(Clone)]
struct Service {
    mode: Arc<Mutex<Mode>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Service {
    async fn start(address: &str, mode: Mode) -> Self {
        let service = Self {
            mode: Arc::new(Mutex::new(mode)),
            requests: Arc::default(),
        };
        let listener = TcpListener::bind(address).await.unwrap();
        let router = Router::new().fallback(answer).with_state(service.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        service
    }

    fn turn(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
        self.requests.lock().unwrap().clear();
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn answer(State(service): State<Service>, request: Request) -> Response {
    let (request, _) = request.into_parts();
    let (method, path) = (request.method.as_str(), request.uri.path());
    service
        .requests
        .lock()
        .unwrap()
        .push(format!("{method} {path}"));
    let mode = *service.mode.lock().unwrap();
    let header = |name: &str| request.headers.get(name).and_then(|v| v.to_str().ok());
    if path == "/elsewhere" {
        return "203.0.113.66".into_response();
    }
    if path == "/latest/api/token" {
        let seconds = header("x-aws-ec2-metadata-token-ttl-seconds");
        let seconds = seconds.and_then(|text| text.parse::<u32>().ok());
        return match (mode, method, seconds) {
            (Mode::Hangs, ..) => std::future::pending().await,
            (Mode::Disabled, ..) => StatusCode::FORBIDDEN.into_response(),
            (_, "PUT", Some(1..=21_600)) => TOKEN.into_response(),
            _ => StatusCode::BAD_REQUEST.into_response(),
        };
    }
    if header("x-aws-ec2-metadata-token") != Some(TOKEN) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    match (mode, path) {
        (Mode::Answers(_), "/latest/meta-data/network/interfaces/macs/") => {
            "02:29:96:8f:6a:2d/".into_response()
        }
        (Mode::Answers(ip), "/latest/meta-data/public-ipv4") => ip.to_string().into_response(),
        (Mode::Redirects, _) => {
            let location = [("location", "http://169.254.169.254/elsewhere")];
            (StatusCode::TEMPORARY_REDIRECT, location).into_response()
        }
        (Mode::Babbles, "/latest/meta-data/public-ipv4") => {
            "203.0.113.66\n".repeat(6_000).into_response()
        }
        (Mode::Stalls, _) => {
            let begin = stream::iter([Ok::<_, io::Error>(Bytes::from("203.0.113.66\n"))]);
            Body::from_stream(begin.chain(stream::pending())).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// Runs `work` in a namespace with no address but this one, of the service.
fn at(address: &str, work: impl AsyncFnOnce() + Send) {
    let Some(net) = Net::open(["node"]) else {
        return;
    };
    let address: SocketAddr = address.parse().unwrap();
    net.ip(
        "node",
        &format!("address add {} dev lo nodad", address.ip()),
    );
    net.run("node", || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        { runtime }.enable_all().build().unwrap().block_on(work());
    });
}

fn firmware(vendor: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("sys_vendor"), vendor).unwrap();
    directory
}

fn advertise(advertise: Advertise) -> DynamicConfig {
    let endpoints = EndpointsConfig {
        advertise: Some(advertise),
        ..EndpointsConfig::default()
    };
    DynamicConfig {
        endpoints,
        ..DynamicConfig::default()
    }
}

/// Makes the source ask at once.
async fn want_again(dynamic_config: &watch::Sender<DynamicConfig>) {
    dynamic_config.send_replace(advertise(Advertise::StaticOnly));
    sleep(Duration::from_millis(100)).await;
    dynamic_config.send_replace(advertise(Advertise::All));
}

/// Everything that is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

#[test]
fn the_last_address_outlives_a_metadata_service_that_hangs() {
    at(V4, async || {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let _logged = tracing::subscriber::set_default(subscriber);
        let [first, second, third] = [1, 2, 3].map(|host| Ipv4Addr::new(203, 0, 113, host));
        let service = Service::start(V4, Mode::Answers(first)).await;
        let aws = firmware("Amazon EC2");
        let (dynamic_config, seen_config) = watch::channel(advertise(Advertise::All));
        let (found, mut seen) = watch::channel(Found::default());
        let follow = tokio::spawn(follow(aws.path().to_owned(), seen_config, found));
        let is = |ip: Ipv4Addr| move |found: &Found| found.cloud == [IpAddr::from(ip)];
        timeout(PATIENCE, seen.wait_for(is(first)))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(service.requests()[0], "PUT /latest/api/token");

        service.turn(Mode::Answers(second));
        want_again(&dynamic_config).await;
        timeout(PATIENCE, seen.wait_for(is(second)))
            .await
            .unwrap()
            .unwrap();

        service.turn(Mode::Hangs);
        want_again(&dynamic_config).await;
        let asked = async {
            while service.requests().is_empty() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, asked).await.unwrap();
        service.turn(Mode::Answers(third));
        let kept = |found: &Found| {
            assert!(is(second)(found) || is(third)(found), "{found:?}");
            is(third)(found)
        };
        timeout(PATIENCE, seen.wait_for(kept))
            .await
            .unwrap()
            .unwrap();
        follow.abort();

        let lines = log.lines();
        let with = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
        assert_eq!(with(TOKEN), 0, "the token is logged");
        assert_eq!(with("did not answer within"), 1);
        let shown = lines.iter().filter(|line| line.contains("203.0.113."));
        for line in shown {
            assert!(line.contains("DEBUG") || line.contains("TRACE"), "{line}");
        }
        assert_eq!(with("INFO"), 3);
    });
}

#[test]
fn service_that_misbehaves_gives_no_address() {
    at(V4, async || {
        let service = Service::start(V4, Mode::Redirects).await;
        let ask = async |mode| {
            service.turn(mode);
            let inquiry = timeout(PATIENCE, inquire(Cloud::Aws));
            inquiry.await.unwrap().unwrap_err()
        };
        let error = ask(Mode::Redirects).await;
        assert!(matches!(error, Error::Unusable(Unusable::Status(307))));
        let last = service.requests().pop().unwrap();
        assert_eq!(last, "GET /latest/meta-data/public-ipv4", "it was followed");

        let error = ask(Mode::Babbles).await;
        assert!(matches!(error, Error::Failure(Failure::TooLarge)));
        for mode in [Mode::Hangs, Mode::Stalls] {
            let error = ask(mode).await;
            assert!(matches!(error, Error::Failure(Failure::Silent)));
        }

        let error = ask(Mode::Disabled).await;
        assert!(matches!(error, Error::Unusable(Unusable::Status(403))));
        assert_eq!(service.requests(), ["PUT /latest/api/token"]);
        // Who does not ask for a token gets nothing from it.
        service.turn(Mode::Answers(Ipv4Addr::new(203, 0, 113, 66)));
        let error = inquire(Cloud::OpenStack).await.unwrap_err();
        assert!(matches!(error, Error::Unusable(Unusable::Status(401))));
    });
    at(V4, async || {
        let error = inquire(Cloud::Aws).await.unwrap_err();
        assert!(matches!(error, Error::Failure(Failure::Connect(_))));
    });
}

#[test]
fn service_that_is_on_ipv6_alone_is_found_there() {
    at(V6, async || {
        let ip = Ipv4Addr::new(203, 0, 113, 1);
        let service = Service::start(V6, Mode::Answers(ip)).await;
        assert_eq!(inquire(Cloud::Aws).await.unwrap(), [ip]);
        // It is AWS's alone.
        inquire(Cloud::OpenStack).await.unwrap_err();
        assert!(service.requests()[0].starts_with("PUT "));
    });
}

#[test]
fn nobody_is_asked_outside_of_clouds_nor_without_being_wanted() {
    at(V4, async || {
        let service = Service::start(V4, Mode::Answers(Ipv4Addr::new(203, 0, 113, 66))).await;
        for (vendor, wanted) in [
            ("QEMU", Advertise::All),
            ("Amazon EC2", Advertise::StaticOnly),
        ] {
            let machine = firmware(vendor);
            let (_dynamic_config, seen_config) = watch::channel(advertise(wanted));
            let (found, seen) = watch::channel(Found::default());
            let follow = follow(machine.path().to_owned(), seen_config, found);
            timeout(Duration::from_millis(500), follow)
                .await
                .unwrap_err();
            assert_eq!(*seen.borrow(), Found::default());
        }
        assert_eq!(service.requests(), [""; 0]);
    });
}

#[test]
fn pauses_grow_with_failures_up_to_the_usual_one() {
    for _ in 0..100 {
        let seconds = |failures| pause(failures).as_secs_f64();
        assert!(INTERVAL.contains(&seconds(0)));
        assert!((1.5..=2.5).contains(&seconds(1)));
        assert!((6.0..10.0).contains(&seconds(3)));
        assert!(INTERVAL.contains(&seconds(9)));
        assert!(INTERVAL.contains(&seconds(u32::MAX)));
    }
}
