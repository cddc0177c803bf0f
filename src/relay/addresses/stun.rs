//! The addresses under which STUN servers see the relay's own port.

mod message;

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use rand::Rng;
use relay_proto::Family;
use tokio::{
    net::lookup_host,
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::Found;
use crate::{
    config::endpoints::Discover,
    relay::{
        reload::DynamicConfig,
        socket_path::{SocketPathHandle, TransactionId, UnmatchedDatagram},
    },
};

/// Time between two rounds, in seconds, as in Go's relay (`addrDiscoveryLoop`): NATs forget a mapping after
/// 30 s at the earliest.
const INTERVAL: std::ops::Range<f64> = 20.0..26.0;
/// Time between two rounds while nobody has answered.
const SILENT_INTERVAL: Duration = Duration::from_secs(5);
/// Time in which the answers of one round must come.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Servers asked in one round; two tell whether a NAT gives each destination its own port. If one of them
/// does not answer, the next round asks others.
const MAX_SERVERS: usize = 3;

/// A server, as the DERP map names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StunServer {
    /// Host name; it is looked up when no address is given.
    pub host: String,
    /// Addresses of the server, as the DERP map has them.
    pub addresses: Vec<IpAddr>,
    /// UDP port of the server.
    pub port: u16,
}

/// Asks again and again, and keeps the last good answer of each IP version in `found`.
pub(super) async fn follow(
    socket_path: SocketPathHandle,
    mut dynamic_config: watch::Receiver<DynamicConfig>,
    mut stun_servers: watch::Receiver<Vec<StunServer>>,
    found: watch::Sender<Found>,
) {
    let mut answers = socket_path.demux().stun();
    let mut first = 0;
    loop {
        let wanted = dynamic_config
            .borrow_and_update()
            .endpoints
            .sources()
            .contains(&Discover::Stun);
        let servers = stun_servers.borrow_and_update().clone();
        let port = socket_path.port().borrow().bound();
        let wait = match port.filter(|_| wanted && !servers.is_empty()) {
            Some(port) => {
                let chosen = servers_from(&servers, first);
                let Round { seen, complete } = round(&socket_path, &mut answers, &chosen).await;
                if !complete {
                    first = (first + chosen.len()) % servers.len();
                }
                let silent = seen.is_empty();
                found.send_if_modified(|found| record(&mut found.stun, &seen, port));
                match silent {
                    true => SILENT_INTERVAL,
                    false => Duration::from_secs_f64(rand::rng().random_range(INTERVAL)),
                }
            }
            None => SILENT_INTERVAL,
        };
        let changed = async {
            let servers_changed = stun_servers.wait_for(|current| *current != servers);
            tokio::select! {
                changed = dynamic_config.changed() => changed.is_ok(),
                changed = servers_changed => changed.is_ok(),
            }
        };
        tokio::select! {
            () = sleep(wait) => {}
            going_on = changed => if !going_on { return },
        }
    }
}

/// Answers of one round.
#[derive(Debug, PartialEq, Eq)]
struct Round {
    /// Addresses that servers see.
    seen: Vec<SocketAddr>,
    /// Each server has answered, at one of its addresses at least.
    complete: bool,
}

/// Returns the servers of a round, from the position `first` on.
fn servers_from(servers: &[StunServer], first: usize) -> Vec<StunServer> {
    let from = servers.iter().cycle().skip(first % servers.len().max(1));
    from.take(MAX_SERVERS.min(servers.len())).cloned().collect()
}

/// Asks each server at each of its addresses.
async fn round(
    socket_path: &SocketPathHandle,
    answers: &mut mpsc::Receiver<UnmatchedDatagram>,
    servers: &[StunServer],
) -> Round {
    let mut asked: Vec<(TransactionId, SocketAddr, usize)> = Vec::new();
    for (number, server) in servers.iter().enumerate() {
        let addresses = addresses(server).await;
        asked.extend(addresses.into_iter().map(|to| (rand::random(), to, number)));
    }
    let mut silent: BTreeSet<usize> = (0..servers.len()).collect();
    socket_path
        .demux()
        .expect(asked.iter().map(|(id, ..)| *id).collect());
    for (id, to, _) in &asked {
        // From the relay's own port: a NAT has another mapping for each local port.
        socket_path.send(*to, None, message::request(*id));
    }
    let deadline = Instant::now() + TIMEOUT;
    let mut seen = Vec::new();
    while !asked.is_empty() {
        let Ok(Some(datagram)) = timeout_at(deadline, answers.recv()).await else {
            break;
        };
        let Some((id, address)) = message::answer(&datagram.datagram) else {
            continue;
        };
        // An answer from anybody else than the server that was asked is forged.
        let is_answered = |(question, to, _): &(TransactionId, SocketAddr, usize)| {
            *question == id && *to == datagram.source
        };
        if let Some(position) = asked.iter().position(is_answered) {
            let (.., number) = asked.swap_remove(position);
            silent.remove(&number);
            seen.push(address);
        }
    }
    socket_path.demux().expect(Vec::new());
    let complete = silent.is_empty();
    Round { seen, complete }
}

/// Replaces the addresses of each IP version that `seen` has. Returns whether anything has changed.
fn record(current: &mut [Vec<SocketAddr>; 2], seen: &[SocketAddr], port: u16) -> bool {
    let before = current.clone();
    for family in Family::ALL {
        let mut of_family: Vec<_> = seen
            .iter()
            .copied()
            .filter(|address| Family::of(address) == family)
            .collect();
        of_family.sort_unstable();
        of_family.dedup();
        // Each destination sees another port: none of them is for clients. Where the port is
        // forwarded, the relay's own is.
        if of_family.len() > 1 {
            of_family
                .iter_mut()
                .for_each(|address| address.set_port(port));
            of_family.dedup();
        }
        if !of_family.is_empty() {
            current[family as usize] = of_family;
        }
    }
    *current != before
}

/// One address of each IP version.
async fn addresses(server: &StunServer) -> Vec<SocketAddr> {
    let mut ips = server.addresses.clone();
    if ips.is_empty() {
        let lookup = timeout(TIMEOUT, lookup_host((&*server.host, server.port))).await;
        let found = lookup.ok().and_then(Result::ok);
        ips.extend(found.into_iter().flatten().map(|address| address.ip()));
    }
    let of = |v4: bool| ips.iter().copied().find(|ip| ip.is_ipv4() == v4);
    let both = [of(true), of(false)].into_iter().flatten();
    both.map(|ip| SocketAddr::new(ip, server.port)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use std::net::UdpSocket;

    use super::*;
    use crate::relay::socket_path::fixture;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn rounds_pass_over_all_servers() {
        let server = |number: u16| StunServer {
            host: String::new(),
            addresses: vec![],
            port: number,
        };
        let ports = |servers: &[StunServer], first| -> Vec<u16> {
            let chosen = servers_from(servers, first);
            chosen.iter().map(|server| server.port).collect()
        };
        let servers: Vec<_> = (0..5).map(server).collect();
        assert_eq!(ports(&servers, 0), [0, 1, 2]);
        assert_eq!(ports(&servers, 3), [3, 4, 0]);
        assert_eq!(ports(&servers, 6), [1, 2, 3], "the map has shrunk");
        assert_eq!(ports(&servers[..2], 1), [1, 0]);
        assert!(ports(&[], 4).is_empty());
    }

    #[test]
    fn answers_that_agree_are_taken_and_kept_while_nobody_answers() {
        let mut current = [vec![], vec![]];
        assert!(record(
            &mut current,
            &[at("203.0.113.1:7"), at("203.0.113.1:7")],
            40_000
        ));
        assert_eq!(current[0], [at("203.0.113.1:7")]);
        assert!(!record(&mut current, &[], 40_000));
        assert!(record(&mut current, &[at("[2001:db8::1]:8")], 40_000));
        assert_eq!(
            current,
            [vec![at("203.0.113.1:7")], vec![at("[2001:db8::1]:8")]]
        );
    }

    #[test]
    fn nat_with_a_port_for_each_destination_leaves_its_address_with_our_port() {
        let mut current = [vec![], vec![]];
        let seen = [at("203.0.113.1:7"), at("203.0.113.1:8")];
        assert!(record(&mut current, &seen, 40_000));
        assert_eq!(current[0], [at("203.0.113.1:40000")]);
    }

    /// Over the relay's own socket: a server that answers, and a stranger that guesses.
    #[tokio::test]
    async fn server_tells_the_port_and_nobody_else_does() {
        let handle = fixture::spawn(fixture::options(0, 1));
        fixture::bound(&handle).await;
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let liar = UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = StunServer {
            host: String::new(),
            addresses: vec!["127.0.0.1".parse().unwrap()],
            port: socket.local_addr().unwrap().port(),
        };
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(len, 40);
            let id: TransactionId = buffer[8..20].try_into().unwrap();
            let lie = message::response(id, at("198.51.100.9:9"));
            liar.send_to(&lie, from).unwrap();
            let stale = message::response([0; 12], at("198.51.100.8:8"));
            socket.send_to(&stale, from).unwrap();
            socket.send_to(&message::response(id, from), from).unwrap();
            from
        });
        let mut answers = handle.demux().stun();
        let servers = [server];
        let first = round(&handle, &mut answers, &servers).await;
        let seen = vec![thread.join().unwrap()];
        let complete = true;
        assert_eq!(first, Round { seen, complete });
        let second = round(&handle, &mut answers, &servers).await;
        assert!(!second.complete, "the server answers once");
        let drops = handle.snapshot().await.counters;
        let unsolicited = drops.dropped(relay_proto::DropReason::UnsolicitedStun);
        assert_eq!(unsolicited, 1, "an answer to no question");
    }
}
