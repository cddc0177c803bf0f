//! Carries out the core's verdicts on a batch of received datagrams.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use relay_proto::{Family, Timestamp, Verdict, geneve};

use super::{Core, backlog::Backlog, handoff::HandoffBatch, port::Sockets, workers::Workers};
use crate::relay::socket::{Arrival, Outgoing, Payload, SendBatch, Sent};

/// Batches of datagrams on their way out, by IP version, and to other threads.
pub(super) struct Forwarder {
    batches: [SendBatch; 2],
    workers: Workers,
    handoffs: Vec<HandoffBatch>,
    result: BatchResult,
}

/// Result of a batch.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BatchResult {
    pub(super) sent: Sent,
    /// Number of datagrams for which another thread had no room.
    pub(super) not_handed: u64,
    /// `true` if a datagram was sent or queued to be sent.
    pub(super) handled: bool,
    /// Number of handshake messages among the datagrams.
    pub(super) handshakes: usize,
}

/// Parts of a worker thread that a received batch needs.
pub(super) struct BatchContext<'a> {
    pub(super) core: &'a mut Core,
    pub(super) sockets: &'a Sockets,
    /// Bytes in which arrivals have their ranges.
    pub(super) data: &'a [u8],
    /// Backlog of the socket that the batch came from.
    pub(super) backlog: &'a mut Backlog,
    pub(super) now: Timestamp,
}

impl Forwarder {
    pub(super) fn new(workers: Workers) -> Self {
        let handoffs = workers
            .handles
            .iter()
            .map(|_| HandoffBatch::default())
            .collect();
        Self {
            batches: Default::default(),
            workers,
            handoffs,
            result: BatchResult::default(),
        }
    }

    /// Handles `arrivals`, and sends all datagrams that result.
    pub(super) fn run<'a>(
        &mut self,
        mut context: BatchContext<'_>,
        arrivals: impl Iterator<Item = &'a Arrival>,
    ) -> BatchResult {
        self.result = BatchResult::default();
        for arrival in arrivals {
            self.handle(&mut context, arrival);
        }
        for family in Family::ALL {
            self.flush(&context, family);
        }
        for (thread, batch) in self.handoffs.iter_mut().enumerate() {
            if !batch.arrivals.is_empty()
                && let Err(lost) = self.workers.handles[thread].hand_off(std::mem::take(batch))
            {
                self.result.not_handed += lost.datagrams();
            }
        }
        self.result
    }

    /// Sends one datagram that answers no other. One that is too long counts as failed.
    pub(super) fn send(
        &mut self,
        sockets: &Sockets,
        to: SocketAddr,
        from: Option<IpAddr>,
        datagram: &[u8],
    ) -> BatchResult {
        let family = Family::of(&to) as usize;
        let batch = &mut self.batches[family];
        let room = batch.reply().get_mut(..datagram.len());
        let sent = match (&sockets[family], room) {
            (Some(socket), Some(room)) => {
                room.copy_from_slice(datagram);
                let payload = Payload::Reply(datagram.len());
                batch.push(Outgoing { to, from, payload });
                batch.flush(socket, &[])
            }
            _ => Sent {
                failed: 1,
                no_room: 0,
            },
        };
        BatchResult {
            sent,
            not_handed: 0,
            ..BatchResult::default()
        }
    }

    /// Forwards a super-datagram with data of one session as a whole, and takes any other apart.
    fn handle(&mut self, context: &mut BatchContext<'_>, arrival: &Arrival) {
        let Arrival {
            range, segment_len, ..
        } = arrival;
        if range.len() > *segment_len
            && let Some(vni) = geneve::uniform_data(&context.data[range.clone()], *segment_len)
        {
            let data = &context.data[range.clone()];
            if let Some(other) = self.workers.other(data) {
                self.handoffs[other].push(arrival, data, *segment_len);
                return;
            }
            let packets = range.len().div_ceil(*segment_len) as u32;
            let bytes = range.len() as u64;
            let (source, now) = (arrival.source, context.now);
            if let Verdict::Forward { to, from } =
                context.core.handle_data(vni, source, packets, bytes, now)
            {
                let payload = Payload::Received {
                    range: range.clone(),
                    segment_len: *segment_len,
                };
                self.push(context, Outgoing { to, from, payload });
            }
            return;
        }
        for start in range.clone().step_by((*segment_len).max(1)) {
            let segment = start..range.end.min(start + segment_len);
            self.handle_one(context, arrival, segment);
        }
        // A datagram without payload has no segment; the core counts it as malformed.
        if range.is_empty() {
            self.handle_one(context, arrival, range.clone());
        }
    }

    fn handle_one(
        &mut self,
        context: &mut BatchContext<'_>,
        arrival: &Arrival,
        range: Range<usize>,
    ) {
        let datagram = &context.data[range.clone()];
        let Arrival { source, local, .. } = *arrival;
        // Answers of STUN servers come to the same port, and must not be read as Geneve.
        if self.workers.demux.takes(source, local, datagram) {
            return;
        }
        if geneve::is_control(datagram) {
            self.result.handshakes += 1;
            if !context.backlog.admits(context.now) {
                context.core.record_busy();
                return;
            }
        }
        if let Some(other) = self.workers.other(datagram) {
            self.handoffs[other].push(arrival, datagram, range.len());
            return;
        }
        let family = Family::of(&arrival.source);
        // The core writes its reply into a buffer of the batch, which must be free before it is asked.
        if self.batches[family as usize].is_full() {
            self.flush(context, family);
        }
        let reply = self.batches[family as usize].reply();
        let (source, now) = (arrival.source, context.now);
        let outgoing =
            match context
                .core
                .handle_datagram(source, arrival.local, datagram, now, reply)
            {
                Verdict::Forward { to, from } => {
                    let segment_len = range.len();
                    let payload = Payload::Received { range, segment_len };
                    Outgoing { to, from, payload }
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
        self.push(context, outgoing);
    }

    fn push(&mut self, context: &BatchContext<'_>, outgoing: Outgoing) {
        let family = Family::of(&outgoing.to);
        if self.batches[family as usize].is_full() {
            self.flush(context, family);
        }
        self.result.handled = true;
        self.batches[family as usize].push(outgoing);
    }

    fn flush(&mut self, context: &BatchContext<'_>, family: Family) {
        let batch = &mut self.batches[family as usize];
        let sent = match &context.sockets[family as usize] {
            Some(socket) => batch.flush(socket, context.data),
            None => batch.discard(),
        };
        self.result.sent.failed += sent.failed;
        self.result.sent.no_room += sent.no_room;
    }
}
