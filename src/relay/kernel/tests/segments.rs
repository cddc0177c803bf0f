//! Super-datagrams of the socket path to destinations of which one cannot have them.

use std::{iter, time::Duration};

use super::namespaces;
use crate::relay::socket::{
    Interest, Outgoing, Payload, ReceiveBatch, SendBatch, Sent, UdpSocket, wait,
};

const LEN: usize = 1_400;
const SEGMENTS: usize = 8;

#[test]
fn a_narrow_path_costs_only_its_own_destination_the_segmentation() {
    let Some(net) = namespaces(["narrow"]) else {
        return;
    };
    // The kernel cuts nothing into segments that are longer than the way takes.
    net.ip("narrow", "route add local 127.0.0.2 dev lo mtu 1000");
    net.run("narrow", || {
        let open = |text: &str| UdpSocket::bind(text.parse().unwrap(), 1).unwrap().remove(0);
        let (wide, narrow) = (open("127.0.0.1:0"), open("127.0.0.2:0"));
        let sender = open("127.0.0.1:0");
        let bytes: Vec<u8> = iter::repeat_n(1..=SEGMENTS as u8, LEN).flatten().collect();
        let mut batch = SendBatch::default();
        let mut receive = ReceiveBatch::default();
        // The first time it is noticed, the second time known.
        for round in 1..=2 {
            for to in [&narrow, &wide, &narrow] {
                let payload = Payload::Received {
                    range: 0..bytes.len(),
                    segment_len: LEN,
                };
                let (to, from) = (to.local(), None);
                batch.push(Outgoing { to, from, payload });
            }
            assert_eq!(batch.flush(&sender, &bytes), Sent::default());
            for (socket, messages, times) in [(&wide, 1, 1), (&narrow, 2 * SEGMENTS, 2)] {
                let (mut came, mut data) = (0, Vec::new());
                while data.len() < times * bytes.len() {
                    let ready = wait(
                        &[(&socket, Interest::Read)].map(|(s, i)| (std::os::fd::AsFd::as_fd(s), i)),
                        Some(Duration::from_secs(10)),
                    );
                    assert!(ready.unwrap()[0], "everything arrives");
                    let taken = receive.receive(socket).unwrap();
                    came += taken.count;
                    for arrival in receive.arrivals(taken) {
                        data.extend_from_slice(&receive.all()[arrival.range.clone()]);
                    }
                }
                assert_eq!(came, messages, "buffers, round {round}");
                assert_eq!(data, bytes.repeat(times), "unchanged and in order");
            }
        }
    });
}
