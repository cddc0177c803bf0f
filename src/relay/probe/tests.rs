//! Real sockets on loopback: the data path of one relay, probed by another.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use relay_proto::{
    REPLY_LEN,
    client::Channel,
    disco::{BindCommon, Generation, Message},
};

use super::*;
use crate::{
    config::peers::encode_key,
    relay::socket_path::{PROBE_HEADER, fixture},
};

struct Fixture {
    handle: SocketPathHandle,
    address: SocketAddr,
    key: DiscoPublic,
    _dynamic_config: watch::Sender<DynamicConfig>,
    _task: JoinSet<()>,
}

/// A data path with a responder that knows `known`.
async fn relay(known: &DiscoSecret) -> Fixture {
    let handle = fixture::spawn(fixture::options(0, 2));
    let port = fixture::bound(&handle).await;
    let secret = DiscoSecret::from_bytes([4; 32]);
    let key = secret.public();
    let peer = ProbePeer {
        relay: "other".into(),
        key: encode_key(known.public().0),
        endpoints: Vec::new(),
        withheld: Vec::new(),
    };
    let (dynamic_config, changes) = watch::channel(DynamicConfig {
        peers: vec![peer],
        ..DynamicConfig::default()
    });
    let unmatched = handle.demux().probes();
    let socket_path = handle.clone();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let ended = answer(Responder::new(secret), unmatched, changes, socket_path).await;
        ended.map(drop).ok();
    });
    Fixture {
        handle,
        address: ([127, 0, 0, 1], port).into(),
        key,
        _dynamic_config: dynamic_config,
        _task: task,
    }
}

#[tokio::test]
async fn known_relay_reaches_an_address_and_no_session_comes_of_it() {
    let prober = DiscoSecret::from_bytes([5; 32]);
    let relay = relay(&prober).await;
    let outcome = Attempt::new(prober).run(relay.key, relay.address).await;
    assert!(matches!(outcome, AttemptResult::Reached(_)), "{outcome:?}");
    let snapshot = relay.handle.snapshot().await;
    assert_eq!(snapshot.sessions.connecting + snapshot.sessions.open, 0);
    assert_eq!(snapshot.counters.challenges, 0);
}

#[tokio::test]
async fn stranger_gets_silence() {
    let relay = relay(&DiscoSecret::from_bytes([5; 32])).await;
    let stranger = Attempt::new(DiscoSecret::from_bytes([6; 32]));
    let outcome = stranger.run(relay.key, relay.address).await;
    assert_eq!(outcome, AttemptResult::Silent);
}

#[tokio::test]
async fn closed_port_is_silence() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    drop(socket);
    let prober = Attempt::new(DiscoSecret::from_bytes([5; 32]));
    let outcome = prober.run(DiscoPublic([9; 32]), address).await;
    assert_eq!(outcome, AttemptResult::Silent);
}

#[test]
fn a_bind_is_answered_once_and_its_answer_counts_from_its_source() {
    let (own, other) = (
        DiscoSecret::from_bytes([1; 32]),
        DiscoSecret::from_bytes([2; 32]),
    );
    let (key, source) = (other.public(), SocketAddr::from(([192, 0, 2, 1], 7)));
    let mut responder = Responder::new(own.clone());
    responder.set_peers([key].into_iter());
    let channel = Channel::new(&other, own.public());
    let datagram = |message: &Message| channel.datagram(PROBE_HEADER, [8; 24], message);
    let bind = BindCommon::first(0, 1, own.public());
    let random = ([7; 32], [9; 24]);
    let first = datagram(&Message::Bind(bind));
    let reply = responder.handle(source, &first, random).unwrap();
    assert_eq!((reply.len(), first.len()), (REPLY_LEN, REPLY_LEN));
    assert!(
        responder.handle(source, &first, random).is_none(),
        "a replay"
    );
    let next = BindCommon {
        generation: Generation(2),
        ..bind
    };
    for wrong in [
        BindCommon { vni: 1, ..next },
        BindCommon {
            remote: key,
            ..next
        },
    ] {
        let wrong = datagram(&Message::Bind(wrong));
        assert!(responder.handle(source, &wrong, random).is_none());
    }
    let answer = datagram(&Message::Answer(BindCommon {
        challenge: [7; 32],
        ..bind
    }));
    let elsewhere = SocketAddr::from(([192, 0, 2, 2], 7));
    assert!(responder.handle(elsewhere, &answer, random).is_none());
    assert_eq!(responder.completed(key), 0);
    assert!(responder.handle(source, &answer, random).is_none());
    assert_eq!(responder.completed(key), 1);
    responder.set_peers(std::iter::empty());
    assert!(responder.handle(source, &first, random).is_none());
}
