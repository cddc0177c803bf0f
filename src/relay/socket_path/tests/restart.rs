//! Tests of relays that end, and of relays that go on with their sessions.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;
use crate::relay::persistence::{HandoverListener, SealKey, SessionFile, Successor};

#[tokio::test]
async fn sessions_of_a_killed_relay_go_on_in_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let file = SessionFile::new(&dir.path().join("run"), key()).unwrap();
    assert!(file.read().is_none());
    let relay = Fixture::start().await;
    let (a, b) = (Client::new(1, V4), Client::new(2, V6));
    let vni = relay.open(&a, &b).await;
    file.save(&relay.handle).await;
    let port = relay.port;
    drop(relay);

    let mut options = options(port);
    options.threads = 2;
    options.restored_state = file.read();
    let relay = Fixture::with(options).await;
    let datagram = a.data(vni, b"as if nothing had happened");
    a.send(relay.v4(), &datagram);
    assert_eq!(b.receive(), datagram);
    let request = b.request(a.key);
    let response = relay.handle.handle_derp(|| Some(b.peer()), request).await;
    assert_eq!(b.read_response(node_key(), &response.unwrap()), vni);
    assert_eq!(relay.handle.snapshot().await.sessions.open, 1);
}

#[tokio::test]
async fn file_is_private_and_is_refused_when_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let file = SessionFile::new(dir.path(), key()).unwrap();
    let relay = Fixture::start().await;
    relay.open(&Client::new(1, V4), &Client::new(2, V4)).await;
    file.save(&relay.handle).await;
    let path = dir.path().join("sessions");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(file.read().unwrap().state.len(), 1);
    for other in [
        SealKey::new(&[8; 32], 40_000),
        SealKey::new(&[7; 32], 40_100),
    ] {
        let other = SessionFile::new(dir.path(), other).unwrap();
        assert!(other.read().is_none());
    }
    let bytes = fs::read(&path).unwrap();
    for at in [0, 7, 8, 40, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(&path, damaged).unwrap();
        assert!(file.read().is_none(), "byte {at}");
    }
    fs::write(&path, &bytes[..5]).unwrap();
    assert!(file.read().is_none());
}

/// Nothing is lost, because datagrams wait in the sockets while no relay runs.
#[tokio::test]
async fn heir_goes_on_with_sessions_and_sockets() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        Successor::request(dir.path()).await.is_none(),
        "no relay runs"
    );
    let relay = Fixture::start().await;
    let sessions = [2, 3, 4, 5].map(|n| (Client::new(n, V4), Client::new(n + 10, V6)));
    let mut vnis = Vec::new();
    for (a, b) in &sessions {
        vnis.push(relay.open(a, b).await);
    }
    let handover = HandoverListener::listen(dir.path()).unwrap();
    let incumbent = relay.handle.clone();
    let gives =
        tokio::spawn(async move { handover.accept().await.hand_over(&incumbent, &key()).await });
    let successor = Successor::request(dir.path()).await.unwrap();
    let handed_over = successor.take_over(&key()).await.unwrap();
    gives.await.unwrap().unwrap();
    assert!(
        relay.handle.export().await.is_none(),
        "its threads have ended"
    );

    for ((a, _), vni) in sessions.iter().zip(&vnis) {
        a.send(relay.v4(), &a.data(*vni, b"in between"));
    }
    let mut options = options(relay.port);
    options.threads = 1;
    options.restored_state = Some(handed_over.restored_state.unwrap());
    options.sockets = handed_over.sockets;
    let relay = Fixture::with(options).await;
    for ((a, b), vni) in sessions.iter().zip(&vnis) {
        assert_eq!(b.receive(), a.data(*vni, b"in between"));
        let datagram = b.data(*vni, b"and after");
        b.send(relay.v6(), &datagram);
        assert_eq!(a.receive(), datagram);
    }
    let snapshot = relay.handle.snapshot().await;
    assert_eq!(snapshot.sessions.open, 4);
    assert_eq!(snapshot.counters.forwarded[0][1].packets, 4);
}

fn key() -> SealKey {
    SealKey::new(&[7; 32], 40_000)
}
