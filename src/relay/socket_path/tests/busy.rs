//! Test of a thread that receives more than it can handle.

use super::*;

/// Number of handshake messages: as many as one socket has room for, with some data among them.
const BINDS: u64 = 8_000;
const DATA: u64 = 80;

#[tokio::test]
async fn handshakes_give_way_when_a_thread_is_behind_and_data_is_not_lost() {
    // Only root may give a socket that much room (SO_RCVBUFFORCE).
    if !skips::is_root() {
        return;
    }
    let relay = Fixture::start().await;
    let (a, b) = (Client::new(1, V4), Client::new(2, V4));
    let vni = relay.open(&a, &b).await;
    let (state, sockets) = relay.handle.hand_over().await.unwrap();
    let bind = a.first_of_handshake(server_key(), vni, b.key, 2);
    let data = a.data(vni, b"among many");
    for number in 0..BINDS {
        a.send(relay.v4(), &bind);
        if number % (BINDS / DATA) == 0 {
            a.send(relay.v4(), &data);
        }
    }

    let away = Duration::ZERO;
    let next = Fixture::with(SocketPathOptions {
        restored_state: Some(RestoredState { state, away }),
        sockets,
        ..options(relay.port)
    })
    .await;
    for _ in 0..DATA {
        assert_eq!(b.receive(), data);
    }
    // Some of them come after the last data.
    let mut counters = next.handle.snapshot().await.counters;
    for _ in 0..1_000 {
        if counters.challenges + counters.dropped(DropReason::Busy) < BINDS {
            counters = next.handle.snapshot().await.counters;
        }
    }
    let left_out = counters.dropped(DropReason::Busy);
    assert_eq!(counters.challenges + left_out, BINDS);
    assert!(left_out > BINDS / 2, "{left_out}");
    assert!(
        counters.challenges > 2_000,
        "what comes at once is answered"
    );
    // The thread has caught up, so it answers again.
    b.bind_again(next.v4(), server_key(), vni, a.key, 2);
}
