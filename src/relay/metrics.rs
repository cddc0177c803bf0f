//! `/metrics` of a relay, in Prometheus text format. `docs/metrics.md` lists them.
//!
//! Label values are bounded: no client address, name or key is ever one.

mod data_path;
mod latency;

use prometheus::{Encoder, GaugeVec, IntGauge, Opts, Registry, TextEncoder};
use relay_proto::{DropReason, Family};

use super::{socket_path::Snapshot, state::RelayState};
use crate::{
    process_metrics::ProcessMetrics,
    registry::{counter, register},
};

/// Renders everything.
pub fn render(region: &str, state: &RelayState, snapshot: &Snapshot) -> String {
    let registry = Registry::new();
    forwarded(&registry, region, snapshot);
    sessions(&registry, snapshot);
    decisions(&registry, snapshot);
    sockets(&registry, snapshot);
    let (socket, kernel) = (&snapshot.latency, &snapshot.kernel);
    latency::render(&registry, region, "socket", &socket.buckets(), socket.sum);
    if let Some(kernel) = kernel.as_ref().map(|kernel| &kernel.latency) {
        latency::render(&registry, region, "kernel", &kernel.buckets, kernel.sum);
    }
    health(&registry, state);
    data_path::render(&registry, &state.data_path.path, snapshot);
    ProcessMetrics::register(&registry);
    let mut text = Vec::new();
    let encoded = TextEncoder::new().encode(&registry.gather(), &mut text);
    encoded.expect("metrics are complete and memory takes all bytes");
    String::from_utf8(text).expect("the text format is UTF-8")
}

const fn transport(family: Family) -> &'static str {
    match family {
        Family::V4 => "udp4",
        Family::V6 => "udp6",
    }
}

fn forwarded(registry: &Registry, region: &str, snapshot: &Snapshot) {
    let upstream = ["transport_in", "transport_out"];
    let own = ["transport_in", "transport_out", "region", "data_path"];
    let packets_help = "Datagrams forwarded between clients.";
    let bytes_help = "Bytes of UDP payload forwarded between clients.";
    let families = [
        (
            // The names and labels of tailscaled (`net/udprelay/metrics.go`), so that dashboards for
            // its relays work. Further labels would break sums in their queries, so the other families
            // have them.
            "tailscaled_peer_relay_forwarded_packets_total",
            packets_help,
            &upstream[..],
            false,
        ),
        (
            "tailscaled_peer_relay_forwarded_bytes_total",
            bytes_help,
            &upstream[..],
            true,
        ),
        (
            "peerrelay_forwarded_packets_total",
            packets_help,
            &own[..],
            false,
        ),
        (
            "peerrelay_forwarded_bytes_total",
            bytes_help,
            &own[..],
            true,
        ),
    ];
    for (name, help, labels, bytes) in families {
        let counter = counter(registry, name, help, labels);
        for from in Family::ALL {
            for to in Family::ALL {
                let paths = data_path::forwarded(snapshot, from, to);
                for (path, traffic) in data_path::PATHS.into_iter().zip(paths) {
                    let value = if bytes {
                        traffic.bytes
                    } else {
                        traffic.packets
                    };
                    let values = [transport(from), transport(to), region, path];
                    counter
                        .with_label_values(&values[..labels.len()])
                        .inc_by(value);
                }
            }
        }
    }
}

fn sessions(registry: &Registry, snapshot: &Snapshot) {
    let states = [
        ("connecting", snapshot.sessions.connecting),
        ("open", snapshot.sessions.open),
    ];
    for name in ["tailscaled_peer_relay_endpoints", "peerrelay_sessions"] {
        let gauge = GaugeVec::new(Opts::new(name, "Sessions by state."), &["state"]);
        let gauge = register(registry, gauge);
        for (state, count) in states {
            gauge.with_label_values(&[state]).set(count as f64);
        }
    }
}

fn decisions(registry: &Registry, snapshot: &Snapshot) {
    let counters = &snapshot.counters;
    let drops = counter(
        registry,
        "peerrelay_drops_total",
        "Dropped packets, by reason.",
        &["reason"],
    );
    for reason in DropReason::ALL {
        drops
            .with_label_values(&[reason.as_str()])
            .inc_by(counters.dropped(*reason));
    }
    let labelled = [
        (
            "peerrelay_allocations_total",
            "Answered allocation requests.",
            "session",
            &[
                ("new", counters.allocations),
                ("existing", counters.reallocations),
            ][..],
        ),
        (
            "peerrelay_binds_total",
            "Completed bind handshakes.",
            "kind",
            &[("first", counters.binds), ("moved", counters.rebinds)],
        ),
        (
            "peerrelay_sessions_closed_total",
            "Ended sessions, by reason.",
            "reason",
            &[
                ("unbound", counters.expired_unbound),
                ("silent", counters.expired_silent),
                ("evicted", counters.evicted),
                ("revoked", counters.revoked),
            ],
        ),
    ];
    for (name, help, label, values) in labelled {
        let counter = counter(registry, name, help, &[label]);
        for (value, count) in values {
            counter.with_label_values(&[*value]).inc_by(*count);
        }
    }
    let help = "Bind challenges sent.";
    let challenges = counter(registry, "peerrelay_challenges_total", help, &[]);
    challenges
        .with_label_values::<&str>(&[])
        .inc_by(counters.challenges);
}

fn sockets(registry: &Registry, snapshot: &Snapshot) {
    let sockets = snapshot.sockets;
    let help = "Datagrams lost at the UDP sockets, by cause.";
    let lost = counter(
        registry,
        "peerrelay_socket_lost_datagrams_total",
        help,
        &["cause"],
    );
    let causes = [
        ("receive_buffer_full", sockets.receive_overflow),
        ("send_buffer_full", sockets.send_no_room),
        ("send_failed", sockets.send_failed),
        ("thread_busy", sockets.not_handed),
    ];
    for (cause, count) in causes {
        lost.with_label_values(&[cause]).inc_by(count);
    }
    let help = "Number of times that a UDP socket was bound again after an error.";
    let rebinds = counter(registry, "peerrelay_socket_rebinds_total", help, &[]);
    rebinds
        .with_label_values::<&str>(&[])
        .inc_by(sockets.rebinds);
}

fn health(registry: &Registry, state: &RelayState) {
    let expiry = state
        .control
        .device
        .as_ref()
        .and_then(|device| device.key_expiry);
    let grant = state.control.grant.as_ref();
    let gauges = [
        (
            "peerrelay_ready",
            "1 if the relay is ready, otherwise 0.",
            i64::from(state.ready()),
        ),
        (
            "peerrelay_granted_peers",
            "Tailnet devices that the policy allows to use this relay.",
            grant.map_or(0, |grant| grant.granted_peers) as i64,
        ),
        (
            "peerrelay_advertised_endpoints",
            "Number of addresses that the relay advertises to clients.",
            state.endpoints.told().count() as i64,
        ),
        (
            "peerrelay_key_expiry_timestamp_seconds",
            "Expiry time of the device's node key, in seconds since 1970; 0 if it does not expire.",
            expiry.map_or(0, |expiry| expiry.as_second()),
        ),
    ];
    for (name, help, value) in gauges {
        register(registry, IntGauge::new(name, help)).set(value);
    }
    let opts = Opts::new(
        "peerrelay_build_info",
        "Running version; the value is always 1.",
    );
    let info = register(registry, GaugeVec::new(opts, &["version"]));
    info.with_label_values(&[env!("CARGO_PKG_VERSION")])
        .set(1.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_names_own_names_and_every_drop_reason_are_there() {
        let mut snapshot = Snapshot::default();
        snapshot.counters.forwarded[0][1].packets = 7;
        snapshot.sessions.open = 3;
        snapshot
            .latency
            .record(std::time::Duration::from_micros(70));
        let text = render("office", &RelayState::default(), &snapshot);
        for line in [
            r#"tailscaled_peer_relay_forwarded_packets_total{transport_in="udp4",transport_out="udp6"} 7"#,
            r#"tailscaled_peer_relay_endpoints{state="open"} 3"#,
            r#"peerrelay_sessions{state="open"} 3"#,
            r#"data_path="socket",region="office",transport_in="udp4",transport_out="udp6"} 7"#,
            r#"relay_latency_seconds_bucket{data_path="socket",region="office",le="0.00005"} 0"#,
            r#"relay_latency_seconds_bucket{data_path="socket",region="office",le="0.0001"} 1"#,
            r#"relay_latency_seconds_bucket{data_path="socket",region="office",le="+Inf"} 1"#,
            r#"relay_latency_seconds_sum{data_path="socket",region="office"} 0.00007"#,
            "peerrelay_ready 0",
            "peerrelay_challenges_total 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        for reason in DropReason::ALL {
            assert!(text.contains(&format!(
                "peerrelay_drops_total{{reason=\"{}\"}}",
                reason.as_str()
            )));
        }
    }
}
