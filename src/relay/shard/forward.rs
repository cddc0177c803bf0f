//! Carries out the core's verdicts on a batch of received datagrams.

use std::{net::SocketAddr, ops::Range};

use relay_proto::{Family, Relay, Timestamp, Verdict, geneve};

use super::port::Port;
use crate::relay::socket::{Arrival, Outgoing, Payload, ReceiveBatch, SendBatch, Sent};

/// What goes out, by IP version.
#[derive(Default)]
pub(super) struct Forwarder {
    batches: [SendBatch; 2],
    sent: Sent,
}

impl Forwarder {
    /// Handles the first `count` slots of `received` and sends everything that results.
    pub(super) fn run(
        &mut self,
        relay: &mut Relay,
        received: &ReceiveBatch,
        count: usize,
        now: Timestamp,
        port: &Port,
    ) -> Sent {
        self.sent = Sent::default();
        for arrival in (0..count).filter_map(|slot| received.arrival(slot)) {
            self.handle(relay, received, arrival, now, port);
        }
        Family::ALL
            .into_iter()
            .for_each(|family| self.flush(family, received, port));
        self.sent
    }

    /// A super-datagram that holds data of one session goes on whole; any other is taken apart.
    fn handle(
        &mut self,
        relay: &mut Relay,
        received: &ReceiveBatch,
        arrival: &Arrival,
        now: Timestamp,
        port: &Port,
    ) {
        let Arrival {
            range, segment_len, ..
        } = arrival;
        if range.len() > *segment_len {
            let data = received.data(range.clone());
            if let Some(vni) = geneve::uniform_data(data, *segment_len) {
                let packets = range.len().div_ceil(*segment_len) as u32;
                let bytes = range.len() as u64;
                if let Verdict::Forward { to } =
                    relay.handle_data(vni, arrival.source, packets, bytes, now)
                {
                    let payload = Payload::Received {
                        range: range.clone(),
                        segment_len: *segment_len,
                    };
                    self.push(
                        Outgoing {
                            to,
                            from: local(arrival, to),
                            payload,
                        },
                        received,
                        port,
                    );
                }
                return;
            }
        }
        for start in range.clone().step_by((*segment_len).max(1)) {
            let segment = start..range.end.min(start + segment_len);
            self.handle_one(relay, received, arrival, segment, now, port);
        }
        if range.is_empty() {
            self.handle_one(relay, received, arrival, range.clone(), now, port);
        }
    }

    fn handle_one(
        &mut self,
        relay: &mut Relay,
        received: &ReceiveBatch,
        arrival: &Arrival,
        range: Range<usize>,
        now: Timestamp,
        port: &Port,
    ) {
        let family = Family::of(&arrival.source);
        if self.batches[family as usize].is_full() {
            self.flush(family, received, port);
        }
        let datagram = received.data(range.clone());
        let reply = self.batches[family as usize].reply();
        let outgoing = match relay.handle_datagram(arrival.source, datagram, now, reply) {
            Verdict::Forward { to } => {
                let segment_len = range.len();
                let payload = Payload::Received { range, segment_len };
                Outgoing {
                    to,
                    from: local(arrival, to),
                    payload,
                }
            }
            Verdict::Reply { len } => {
                let payload = Payload::Reply(len);
                Outgoing {
                    to: arrival.source,
                    from: arrival.local,
                    payload,
                }
            }
            Verdict::Consumed | Verdict::Drop(_) => return,
        };
        self.push(outgoing, received, port);
    }

    fn push(&mut self, outgoing: Outgoing, received: &ReceiveBatch, port: &Port) {
        let family = Family::of(&outgoing.to);
        if self.batches[family as usize].is_full() {
            self.flush(family, received, port);
        }
        self.batches[family as usize].push(outgoing);
    }

    fn flush(&mut self, family: Family, received: &ReceiveBatch, port: &Port) {
        let batch = &mut self.batches[family as usize];
        let sent = match port.socket(family) {
            Some(socket) => batch.flush(socket, received.all()),
            None => batch.discard(),
        };
        self.sent.failed += sent.failed;
        self.sent.no_room += sent.no_room;
    }
}

/// The address that was addressed, where it can be the source: in the same IP version. Clients
/// know the relay by it, and so do firewalls on the way.
fn local(arrival: &Arrival, to: SocketAddr) -> Option<std::net::IpAddr> {
    arrival
        .local
        .filter(|local| local.is_ipv4() == to.is_ipv4())
}
