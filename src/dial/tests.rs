#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use tokio::net::{TcpListener, TcpSocket};

use super::*;

/// Returns a listener on `::1` that answers no further connection, as a host behind a broken uplink: the
/// kernel drops what does not fit into its queue. The connections keep the queue full.
async fn unanswered() -> (TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v6().unwrap();
    socket.bind("[::1]:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    let short = Duration::from_millis(300);
    while let Ok(stream) = timeout(short, TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
    }
    (listener, queued)
}

#[tokio::test]
async fn ipv4_is_used_where_ipv6_does_not_answer() {
    let (dead, _queued) = unanswered().await;
    let port = dead.local_addr().unwrap().port();
    let works = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let addresses = [dead.local_addr().unwrap(), works.local_addr().unwrap()];
    let dialer = Dialer::new(None).unwrap();
    let stream = dialer.direct_or_proxied("derp.invalid", &addresses, port);
    assert_eq!(
        stream.await.unwrap().peer_addr().unwrap(),
        works.local_addr().unwrap()
    );
}

#[tokio::test]
async fn the_next_address_is_used_where_one_refuses() {
    let works = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = works.local_addr().unwrap().port();
    let refuses = SocketAddr::from(([127, 0, 0, 2], port));
    let addresses = [refuses, works.local_addr().unwrap()];
    let dialer = Dialer::new(None).unwrap();
    let stream = dialer.direct_or_proxied("derp.invalid", &addresses, port);
    assert!(stream.await.is_ok());
    let failed = dialer
        .direct_or_proxied("derp.invalid", &[refuses], port)
        .await;
    let error = failed.err().unwrap();
    assert_eq!(
        error.to_string(),
        format!("failed to connect to derp.invalid:{port}")
    );
    let cause = error.source().unwrap().to_string();
    assert!(cause.contains("Connection refused"), "{cause}");
}

#[tokio::test]
async fn a_name_and_an_address_of_either_version_are_dialed() {
    let dialer = Dialer::new(None).unwrap();
    for (bound, host) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("127.0.0.1:0", "localhost"),
        ("[::1]:0", "[::1]"),
        ("[::1]:0", "::1"),
    ] {
        let listener = TcpListener::bind(bound).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(dialer.tcp(host, port).await.is_ok(), "{host}");
    }
}
