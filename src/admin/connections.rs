//! A server of HTTP for a bounded number of connections, none of which may stay idle.

use std::{collections::VecDeque, io, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// Wait after a connection could not be accepted, as the process has no file descriptor left.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest header, which is also what a connection buffers at most.
const LONGEST_HEADER: usize = 16 * 1024;

/// Limits of a server for each of its clients.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at the same time; one more ends the oldest.
    pub(super) connections: usize,
    /// Time in which a request must have come.
    pub(super) header: Duration,
    /// Time in which the answer must have been taken, too.
    pub(super) whole: Duration,
}

/// Limits of every server of this process. Requests of a kubelet and a Prometheus take milliseconds.
pub(super) const LIMITS: Limits = Limits {
    connections: 64,
    header: Duration::from_secs(5),
    whole: Duration::from_secs(15),
};

/// Serves one request for each connection, until it is dropped.
///
/// The oldest connection makes place for a new one: whoever holds connections open is cut off, and a
/// request that comes now is answered. No connection is kept for a second request, which an idle one
/// would wait for.
pub(super) async fn serve(listener: TcpListener, routes: Router, limits: Limits) -> io::Result<()> {
    let mut running = JoinSet::new();
    let mut oldest_first = VecDeque::<AbortHandle>::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // A connection that broke off before it was accepted, or a lack that may pass.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // A `JoinSet` keeps the results of ended tasks until somebody takes them.
        while running.try_join_next().is_some() {}
        oldest_first.retain(|connection| !connection.is_finished());
        if running.len() >= limits.connections
            && let Some(oldest) = oldest_first.pop_front()
        {
            oldest.abort();
            // An aborted task ends later. Without this wait, fast clients could exceed the limit.
            running.join_next().await;
        }
        oldest_first.push_back(running.spawn(one(stream, routes.clone(), limits)));
    }
}

async fn one(stream: TcpStream, routes: Router, limits: Limits) {
    let answered = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_buf_size(LONGEST_HEADER)
        // Otherwise an idle client of HTTP/1.1 would hold its place until the limit of time.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    // How a connection ends is its client's affair.
    tokio::time::timeout(limits.whole, answered).await.ok();
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Starts a server with these limits.
    async fn start(limits: Limits) -> (SocketAddr, tokio::task::JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let big = "x".repeat(32 << 20);
        let routes = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/big", get(move || async move { big }));
        let server = tokio::spawn(serve(listener, routes, limits));
        (address, server)
    }

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Reads until the server has closed the connection.
    async fn is_closed(stream: &mut TcpStream) -> bool {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.map_or(true, |_| true)
    }

    const PATIENT: Limits = Limits {
        connections: 16,
        header: Duration::from_secs(3600),
        whole: Duration::from_secs(3600),
    };

    #[tokio::test]
    async fn fifteen_hundred_idle_connections_cost_nobody_an_answer() {
        let (address, server) = start(PATIENT).await;
        let mut idle = Vec::new();
        for _ in 0..1_500 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let answer = ask(address, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"));
        // All but the last ones were ended to make place.
        for stream in idle.iter_mut().take(1_500 - PATIENT.connections) {
            assert!(is_closed(stream).await);
        }
        let still_open = idle.iter_mut().rev().take(8);
        for stream in still_open {
            let mut byte = [0];
            let read = stream.try_read(&mut byte);
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
        server.abort();
    }

    #[tokio::test]
    async fn a_request_that_never_comes_whole_is_given_up() {
        let hasty = Limits {
            header: Duration::from_millis(50),
            ..PATIENT
        };
        let (address, server) = start(hasty).await;
        for part in ["", "GET /healthz HTTP/1.1\r\nhost:"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(part.as_bytes()).await.unwrap();
            assert!(is_closed(&mut stream).await, "{part:?}");
        }
        server.abort();
    }

    #[tokio::test]
    async fn an_answer_that_is_not_taken_is_given_up() {
        let hasty = Limits {
            whole: Duration::from_millis(200),
            ..PATIENT
        };
        let (address, server) = start(hasty).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET /big HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(request).await.unwrap();
        // The server ends while most of the answer is unread, and what was on its way comes still.
        tokio::time::sleep(Duration::from_millis(600)).await;
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes).await;
        assert!(read.is_err() || bytes.len() < 32 << 20, "{}", bytes.len());
        server.abort();
    }

    #[tokio::test]
    async fn a_header_without_end_is_refused_and_a_connection_serves_once() {
        let (address, server) = start(PATIENT).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let long = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(64 * 1024));
        stream.write_all(long.as_bytes()).await.ok();
        assert!(is_closed(&mut stream).await);
        let answer = ask(address, "/healthz").await;
        assert!(answer.contains("connection: close"), "{answer}");
        server.abort();
    }
}
