//! Tests of what is reported about sessions on the node, and of the time that datagrams take.

use std::{collections::HashMap, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::*;
use crate::relay::sessions::{self, Name};

#[tokio::test]
async fn sessions_are_reported_on_the_node_with_names() {
    let dir = tempfile::tempdir().unwrap();
    let relay = Fixture::start().await;
    let (a, b) = (Client::new(1, V4), Client::new(2, V4));
    let vni = relay.open(&a, &b).await;
    let datagram = a.data(vni, &[7; 92]);
    a.send(relay.v4(), &datagram);
    b.receive();

    let name = Name {
        node: "a.example.ts.net".into(),
        tags: vec!["tag:office".into()],
    };
    let names = HashMap::from([(a.key, name)]);
    let directory: sessions::Directory = Arc::new(move |_| names.clone());
    let server = sessions::serve(dir.path(), relay.handle.clone(), directory).unwrap();
    let server = tokio::spawn(server);
    let socket = dir.path().join(sessions::SOCKET);
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let report = get(&socket, sessions::REPORT).await;
    assert_eq!(report["port"], relay.port);
    let session = &report["sessions"][0];
    assert_eq!(session["vni"], vni.number());
    assert_eq!(
        (&session["state"], &session["path"]),
        (&"open".into(), &"socket".into())
    );
    let clients = session["clients"].as_array().unwrap();
    let of = |key: relay_proto::DiscoPublic| {
        clients
            .iter()
            .find(|c| c["disco"] == key.to_string())
            .unwrap()
    };
    assert_eq!(of(a.key)["node"], "a.example.ts.net");
    assert_eq!(of(a.key)["tags"][0], "tag:office");
    assert_eq!(of(a.key)["address"], a.address().to_string());
    assert_eq!(
        (&of(a.key)["packets"], &of(a.key)["bytes"]),
        (&1.into(), &100.into())
    );
    assert_eq!(
        (&of(b.key)["packets"], of(b.key).get("node")),
        (&0.into(), None)
    );

    let status = get(&socket, sessions::LOCAL_API).await;
    assert_eq!(status["UDPPort"], relay.port);
    let session = &status["Sessions"][0];
    assert_eq!(session["VNI"], vni.number());
    let sides = [&session["Client1"], &session["Client2"]];
    let first = sides
        .into_iter()
        .find(|side| side["ShortDisco"] == a.key.to_string());
    assert_eq!(first.unwrap()["Endpoint"], a.address().to_string());
    assert_eq!(first.unwrap()["BytesTx"], 100);
    server.abort();
}

#[tokio::test]
async fn time_in_the_relay_is_sampled_where_something_was_forwarded() {
    let relay = Fixture::start().await;
    let (a, b) = (Client::new(1, V4), Client::new(2, V6));
    let vni = relay.open(&a, &b).await;
    let count = |snapshot: &Snapshot| {
        let counts = snapshot.latency.buckets().into_iter().map(|(_, n)| n);
        counts.sum::<u64>()
    };
    let before = count(&relay.handle.snapshot().await);
    for _ in 0..5 {
        a.send(relay.v4(), &a.data(vni, b"x"));
        b.receive();
    }
    let after = relay.handle.snapshot().await;
    assert!(count(&after) > before);
    assert!(after.latency.sum > Duration::ZERO);
}

async fn get(socket: &Path, path: &str) -> Value {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    serde_json::from_str(response.split("\r\n\r\n").nth(1).unwrap()).unwrap()
}
