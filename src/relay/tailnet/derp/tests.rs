//! The relay with DERP servers that work half, not at all, and again.
#![allow(clippy::unwrap_used, reason = "a failing test may panic")]

use relay_proto::{DiscoSecret, client::Client};
use serde_json::json;
use tokio::time::timeout;

use super::{
    fixture::{Behaviour, DerpServer, map},
    *,
};
use crate::{backoff::Backoff, relay::socket_path::fixture as data_path};

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time between two attempts of what a client repeats.
const PAUSE: Duration = Duration::from_millis(50);
/// Time for which a region that failed is left out.
const AVOIDED: Duration = Duration::from_millis(500);
/// Number of the client that requests allocations.
const CLIENT: u64 = 1;

/// A relay's DERP task.
struct Fixture {
    home: watch::Receiver<u32>,
    state: watch::Receiver<DerpState>,
    map: watch::Sender<Arc<DerpMap>>,
    _task: tokio::task::JoinSet<()>,
}

impl Fixture {
    /// Starts the task with the servers as regions 1, 2, ... `clients_region` is the home region of the
    /// only client.
    async fn start(servers: &[&DerpServer], clients_region: u32) -> Self {
        Self::staying(servers, clients_region, Duration::from_secs(3)).await
    }

    /// Starts the task as [`Self::start`] does. A home region that is lost is tried again for `stay`.
    async fn staying(servers: &[&DerpServer], clients_region: u32, stay: Duration) -> Self {
        let authorities: String = servers.iter().map(|server| &*server.authority).collect();
        let socket_path = data_path::spawn(data_path::options(0, 1));
        data_path::bound(&socket_path).await;
        socket_path.set_addresses(vec!["192.0.2.1:40000".parse().unwrap()]);
        let (map, map_changes) = watch::channel(Arc::default());
        let (state, states) = watch::channel(DerpState::default());
        let (home, homes) = watch::channel(0);
        let derp = Derp {
            dialer: Dialer::with_authorities(Some(&authorities)).unwrap(),
            node: ts_keys::NodeState::generate().node_keys,
            netmap: netmap(clients_region),
            map: map_changes,
            socket_path,
            clients: Clients::default(),
            state,
            home,
            timing: Timing {
                open: Duration::from_secs(1),
                ping: Duration::from_millis(200),
                silence: Duration::from_secs(3),
                stay,
                retry: Backoff::new(PAUSE, AVOIDED),
                idle: Duration::from_secs(60),
            },
            health: Arc::new(Mutex::new(RegionHealth::new(Backoff::new(
                AVOIDED, AVOIDED,
            )))),
        };
        let mut task = tokio::task::JoinSet::new();
        task.spawn(derp.run());
        Self {
            home: homes,
            state: states,
            map,
            _task: task,
        }
    }

    fn set_map(&self, regions: &[(u32, &DerpServer)]) {
        let regions = regions.iter().map(|(id, server)| (*id, server.region()));
        self.map.send_replace(map(regions.collect()));
    }

    async fn wait_for(&mut self, what: &str, is: impl FnMut(&DerpState) -> bool) {
        let waited = timeout(PATIENCE, self.state.wait_for(is)).await;
        waited.unwrap_or_else(|_| panic!("not {what}")).unwrap();
    }

    /// Waits until the relay is connected to this region, and control is told so.
    async fn wait_for_home(&mut self, region: u32) {
        let name = region.to_string();
        let connected = |state: &DerpState| state.home.as_ref() == Some(&name);
        self.wait_for(&format!("connected to {region}"), connected)
            .await;
        assert_eq!(*self.home.borrow(), region);
        assert_eq!(self.state.borrow().problem, None);
    }
}

/// A tailnet whose policy lets one client use the relay.
fn netmap(clients_region: u32) -> SharedNetmap {
    let client = Client::numbered(CLIENT);
    let node = |id: u8, node_key: NodeKey, disco: &str| {
        json!({
            "ID": id, "Key": format!("nodekey:{}", hex::encode(node_key.0)), "DiscoKey": disco,
            "Addresses": [format!("100.64.0.{id}/32")], "HomeDERP": clients_region,
        })
    };
    let disco = format!("discokey:{}", hex::encode(client.key.0));
    let grant = json!({"Dsts": ["100.64.0.1/32"], "CapMap": {"tailscale.com/cap/relay": null}});
    let message = json!({
        "Node": node(1, NodeKey([1; 32]), ""),
        "Peers": [node(2, client.node_key, &disco)],
        "PacketFilter": [{"SrcIPs": ["100.64.0.2"], "CapGrant": [grant]}],
    });
    let netmap = SharedNetmap::default();
    let message = serde_json::from_value(message).unwrap();
    netmap.apply(message, Timestamp::now()).unwrap();
    netmap
}

/// Returns an allocation request of the client.
fn request() -> Vec<u8> {
    let (a, b) = (Client::numbered(CLIENT), Client::numbered(2));
    let relay = DiscoSecret::from_bytes([1; 32]).public();
    a.channel(relay).request([9; 24], [a.key, b.key], 1)
}

/// Requests allocations through `asked` until an answer comes through `answering`.
async fn is_answered(asked: &mut DerpServer, answering: Option<&mut DerpServer>) {
    let client = Client::numbered(CLIENT).node_key;
    let exchange = async {
        match answering {
            Some(answering) => loop {
                asked.deliver(client, &request());
                if let Ok(answer) = timeout(PAUSE, answering.sent.recv()).await {
                    return answer;
                }
            },
            None => loop {
                asked.deliver(client, &request());
                if let Ok(answer) = timeout(PAUSE, asked.sent.recv()).await {
                    return answer;
                }
            },
        }
    };
    let (to, packet) = timeout(PATIENCE, exchange).await.unwrap().unwrap();
    assert_eq!(to, client);
    assert!(!packet.is_empty());
}

#[tokio::test]
async fn a_server_that_works_half_is_home_only_until_another_is_there() {
    for behaviour in [
        Behaviour::AcceptsOnly,
        Behaviour::SpeaksNoTls,
        Behaviour::SilentAfterTls,
        Behaviour::KeepAlivesOnly,
        Behaviour::Closed,
    ] {
        let half = DerpServer::start(behaviour).await;
        let whole = DerpServer::start(Behaviour::Works).await;
        let mut fixture = Fixture::start(&[&half, &whole], 2).await;
        fixture.set_map(&[(1, &half)]);
        let what = format!("a problem with {behaviour:?}");
        fixture
            .wait_for(&what, |state| state.problem.is_some())
            .await;
        assert_eq!(fixture.state.borrow().home, None, "{behaviour:?}");
        fixture.set_map(&[(1, &half), (2, &whole)]);
        fixture.wait_for_home(2).await;
    }
}

#[tokio::test]
async fn a_home_server_that_stalls_is_left_and_is_home_again_when_it_works() {
    let first = DerpServer::start(Behaviour::Works).await;
    let second = DerpServer::start(Behaviour::Works).await;
    let mut fixture = Fixture::start(&[&first, &second], 1).await;
    fixture.set_map(&[(1, &first)]);
    fixture.wait_for_home(1).await;
    fixture.set_map(&[(1, &first), (2, &second)]);
    first.set(Behaviour::KeepAlivesOnly);
    fixture.wait_for_home(2).await;
    first.set(Behaviour::Works);
    second.set(Behaviour::Closed);
    fixture.wait_for_home(1).await;
}

#[tokio::test]
async fn a_home_server_that_restarts_stays_home() {
    let first = DerpServer::start(Behaviour::Works).await;
    let second = DerpServer::start(Behaviour::Works).await;
    let stay = Duration::from_secs(600);
    let mut fixture = Fixture::staying(&[&first, &second], 1, stay).await;
    fixture.set_map(&[(1, &first)]);
    fixture.wait_for_home(1).await;
    fixture.set_map(&[(1, &first), (2, &second)]);
    first.set(Behaviour::Closed);
    fixture
        .wait_for("disconnected", |state| state.home.is_none())
        .await;
    first.set(Behaviour::Works);
    fixture.wait_for_home(1).await;
}

#[tokio::test]
async fn a_map_that_moves_or_removes_the_home_region_is_followed() {
    let before = DerpServer::start(Behaviour::Works).await;
    let mut after = DerpServer::start(Behaviour::Works).await;
    let mut fixture = Fixture::start(&[&before, &after], 1).await;
    fixture.set_map(&[(1, &before)]);
    fixture.wait_for_home(1).await;
    fixture.set_map(&[(1, &after)]);
    is_answered(&mut after, None).await;
    fixture.wait_for_home(1).await;
    fixture.set_map(&[(7, &after)]);
    fixture.wait_for_home(7).await;
}

#[tokio::test]
async fn an_answer_goes_through_the_clients_region_or_through_home_if_that_fails() {
    let mut home = DerpServer::start(Behaviour::Works).await;
    let mut clients = DerpServer::start(Behaviour::Works).await;
    let mut fixture = Fixture::start(&[&home, &clients], 2).await;
    fixture.set_map(&[(1, &home)]);
    fixture.wait_for_home(1).await;
    // A region that the map does not have.
    is_answered(&mut home, None).await;
    fixture.set_map(&[(1, &home), (2, &clients)]);
    is_answered(&mut home, Some(&mut clients)).await;
    for behaviour in [Behaviour::KeepAlivesOnly, Behaviour::AcceptsOnly] {
        clients.set(behaviour);
        while home.sent.try_recv().is_ok() {}
        is_answered(&mut home, None).await;
        clients.set(Behaviour::Works);
        while clients.sent.try_recv().is_ok() {}
        is_answered(&mut home, Some(&mut clients)).await;
    }
}

#[tokio::test]
async fn requests_of_a_client_in_a_failed_region_open_few_connections() {
    let home = DerpServer::start(Behaviour::Works).await;
    let broken = DerpServer::start(Behaviour::Closed).await;
    let mut fixture = Fixture::start(&[&home, &broken], 2).await;
    fixture.set_map(&[(1, &home)]);
    fixture.wait_for_home(1).await;
    fixture.set_map(&[(1, &home), (2, &broken)]);
    let (begin, before) = (Instant::now(), broken.connections());
    for _ in 0..100 {
        home.deliver(Client::numbered(CLIENT).node_key, &request());
        sleep(Duration::from_millis(5)).await;
    }
    // One at once, and one for each time for which a region that failed is left out.
    let most = 2 + begin.elapsed().as_millis() / AVOIDED.as_millis();
    let connected = broken.connections() - before;
    assert!(
        connected > 0 && u128::try_from(connected).unwrap() <= most,
        "{connected} connections for 100 requests, not {most} at most"
    );
}
