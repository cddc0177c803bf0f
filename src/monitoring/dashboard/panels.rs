//! Panels of the dashboard and their queries.

/// Panel of the dashboard. In its queries, `RELAYS` stands for matchers of the selected relays'
/// series, and `CONDITIONS` for matchers of the selected PeerRelays' conditions.
pub(super) struct Panel {
    pub(super) title: &'static str,
    pub(super) description: &'static str,
    /// Type of the panel in Grafana.
    pub(super) kind: &'static str,
    /// Unit of the values in Grafana.
    pub(super) unit: &'static str,
    /// Width of the panel, in columns of 24.
    pub(super) width: usize,
    /// True if the axis begins at zero.
    pub(super) from_zero: bool,
    /// Thresholds from which a color is shown. The first has no value.
    pub(super) steps: &'static [(Option<f64>, &'static str)],
    /// Queries and their legends.
    pub(super) queries: &'static [(&'static str, &'static str)],
}

const GRAPH: Panel = Panel {
    title: "",
    description: "",
    kind: "timeseries",
    unit: "none",
    width: 8,
    from_zero: true,
    steps: &[],
    queries: &[],
};

const NUMBER: Panel = Panel {
    kind: "stat",
    width: 4,
    ..GRAPH
};

/// Thresholds of values that are good at zero and bad above.
const NONE_IS_GOOD: &[(Option<f64>, &str)] = &[(None, "green"), (Some(1.0), "red")];
/// Thresholds of values that are bad at zero and good above.
const SOME_IS_GOOD: &[(Option<f64>, &str)] = &[(None, "red"), (Some(1.0), "green")];

/// Title, height and panels of each row.
pub(super) const ROWS: &[(&str, usize, &[Panel])] = &[
    ("Overview", 4, OVERVIEW),
    ("Traffic", 8, TRAFFIC),
    ("Sessions", 8, SESSIONS),
    ("Relays", 8, RELAYS),
    ("Operator", 8, OPERATOR),
];

const OVERVIEW: &[Panel] = &[
    Panel {
        title: "Relays ready",
        description: "Relays that give out sessions.",
        steps: SOME_IS_GOOD,
        queries: &[("sum(peerrelay_ready{RELAYS})", "ready")],
        ..NUMBER
    },
    Panel {
        title: "Relays not ready",
        description: "Relays that run and give out no sessions; open sessions go on.",
        steps: NONE_IS_GOOD,
        queries: &[(
            "count(peerrelay_ready{RELAYS} == 0) or vector(0)",
            "not ready",
        )],
        ..NUMBER
    },
    Panel {
        title: "Relays that do not answer",
        description: "Targets that Prometheus knows and cannot scrape.",
        steps: NONE_IS_GOOD,
        queries: &[(
            "count(up{peer_relay!=\"\",RELAYS} == 0) or vector(0)",
            "no answer",
        )],
        ..NUMBER
    },
    Panel {
        title: "PeerRelays not ready",
        description: "PeerRelays whose condition Ready is not True, as the operator says.",
        steps: NONE_IS_GOOD,
        queries: &[(
            "count(peerrelay_operator_condition{type=\"Ready\",CONDITIONS} < 1) or vector(0)",
            "not ready",
        )],
        ..NUMBER
    },
    Panel {
        title: "Open sessions",
        description: "Pairs of clients that talk through a relay.",
        queries: &[("sum(peerrelay_sessions{state=\"open\",RELAYS})", "open")],
        ..NUMBER
    },
    Panel {
        title: "Forwarded now",
        description: "UDP payload that relays forward between clients.",
        unit: "Bps",
        queries: &[(
            "sum(rate(peerrelay_forwarded_bytes_total{RELAYS}[$__rate_interval]))",
            "forwarded",
        )],
        ..NUMBER
    },
];

const TRAFFIC: &[Panel] = &[
    Panel {
        title: "Forwarded",
        description: "UDP payload between clients, by node.",
        unit: "Bps",
        queries: &[(
            "sum by (node) (rate(peerrelay_forwarded_bytes_total{RELAYS}[$__rate_interval]))",
            "{{node}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Packets",
        description: "Datagrams between clients, by node and data path.",
        unit: "pps",
        queries: &[(
            "sum by (node, data_path) (rate(peerrelay_forwarded_packets_total{RELAYS}[$__rate_interval]))",
            "{{node}} {{data_path}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Latency",
        description: "Time that a datagram spends in the relay, sampled: median and 99th percentile by \
                      data path.",
        unit: "s",
        queries: &[
            (
                "histogram_quantile(0.5, sum by (le, data_path) (rate(peerrelay_relay_latency_seconds_bucket{RELAYS}[$__rate_interval])))",
                "p50 {{data_path}}",
            ),
            (
                "histogram_quantile(0.99, sum by (le, data_path) (rate(peerrelay_relay_latency_seconds_bucket{RELAYS}[$__rate_interval])))",
                "p99 {{data_path}}",
            ),
        ],
        ..GRAPH
    },
    Panel {
        title: "Datagrams lost at sockets",
        description: "By cause: too little CPU, a full buffer, an error of the network.",
        unit: "pps",
        queries: &[(
            "sum by (node, cause) (rate(peerrelay_socket_lost_datagrams_total{RELAYS}[$__rate_interval]))",
            "{{node}} {{cause}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Data path in use",
        description: "Path that forwards on each node, and why it is not the kernel's.",
        queries: &[(
            "max by (node, path, reason) (peerrelay_data_path{RELAYS}) == 1",
            "{{node}} {{path}} {{reason}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Left to the sockets by the kernel",
        description: "Datagrams that the kernel's program did not forward itself, by reason.",
        unit: "pps",
        queries: &[(
            "sum by (reason) (rate(peerrelay_kernel_passed_total{RELAYS}[$__rate_interval])) > 0",
            "{{reason}}",
        )],
        ..GRAPH
    },
];

const SESSIONS: &[Panel] = &[
    Panel {
        title: "Sessions by state",
        description: "Open: both clients are bound. Connecting: allocated and not bound yet.",
        queries: &[(
            "sum by (node, state) (peerrelay_sessions{RELAYS})",
            "{{node}} {{state}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Allocations",
        description: "Requests for sessions that were answered, by whether the session existed.",
        unit: "ops",
        queries: &[(
            "sum by (session) (rate(peerrelay_allocations_total{RELAYS}[$__rate_interval]))",
            "{{session}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Binds by kind",
        description: "Completed handshakes: first ones, and those of clients that moved.",
        unit: "ops",
        queries: &[(
            "sum by (kind) (rate(peerrelay_binds_total{RELAYS}[$__rate_interval]))",
            "{{kind}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Sessions closed by reason",
        description: "Silent and unbound are usual; evicted means that a limit was reached, revoked \
                      that the policy changed.",
        unit: "ops",
        queries: &[(
            "sum by (reason) (rate(peerrelay_sessions_closed_total{RELAYS}[$__rate_interval]))",
            "{{reason}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Drops by reason",
        description: "Packets that were not for an open session, or not allowed.",
        unit: "pps",
        queries: &[(
            "sum by (reason) (rate(peerrelay_drops_total{RELAYS}[$__rate_interval])) > 0",
            "{{reason}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Devices that may use a relay",
        description: "Tailnet devices that the policy lets use the relay; 0 means that a grant is \
                      missing.",
        queries: &[(
            "max by (node) (peerrelay_granted_peers{RELAYS})",
            "{{node}}",
        )],
        ..GRAPH
    },
];

const RELAYS: &[Panel] = &[
    Panel {
        title: "Ready",
        description: "1 for a relay that gives out sessions.",
        queries: &[(
            "max by (peer_relay, relay_region, node) (peerrelay_ready{RELAYS})",
            "{{peer_relay}} {{relay_region}} {{node}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Advertised endpoints",
        description: "Addresses that clients are told.",
        queries: &[(
            "max by (node) (peerrelay_advertised_endpoints{RELAYS})",
            "{{node}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Node keys expire in",
        description: "Empty if no key expires, as for tagged devices.",
        unit: "s",
        from_zero: false,
        queries: &[(
            "min by (node) (peerrelay_key_expiry_timestamp_seconds{RELAYS} > 0) - time()",
            "{{node}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "CPU of relays",
        description: "CPUs that a relay's process uses; the kernel path counts for the node.",
        queries: &[(
            "sum by (node) (rate(process_cpu_seconds_total{peer_relay!=\"\",RELAYS}[$__rate_interval]))",
            "{{node}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Memory of relays",
        description: "Resident memory of each relay's process.",
        unit: "bytes",
        queries: &[(
            "sum by (node) (process_resident_memory_bytes{peer_relay!=\"\",RELAYS})",
            "{{node}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Versions",
        description: "Relays by the version that they run.",
        queries: &[(
            "count by (version) (peerrelay_build_info{peer_relay!=\"\",RELAYS})",
            "{{version}}",
        )],
        ..GRAPH
    },
];

const OPERATOR: &[Panel] = &[
    Panel {
        title: "Conditions",
        description: "1 is True, 0 False, -1 Unknown.",
        from_zero: false,
        queries: &[(
            "max by (peer_relay_namespace, peer_relay, type) (peerrelay_operator_condition{CONDITIONS})",
            "{{peer_relay_namespace}}/{{peer_relay}} {{type}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Reconciliations by result",
        description: "Of all PeerRelays.",
        unit: "ops",
        queries: &[(
            "sum by (result) (rate(peerrelay_operator_reconcile_total[$__rate_interval]))",
            "{{result}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Time of a reconciliation",
        description: "99th percentile, and how long PeerRelays waited for their turn.",
        unit: "s",
        queries: &[
            (
                "histogram_quantile(0.99, sum by (le) (rate(peerrelay_operator_reconcile_time_seconds_bucket[$__rate_interval])))",
                "reconciliation p99",
            ),
            (
                "histogram_quantile(0.99, sum by (le) (rate(peerrelay_operator_workqueue_queue_duration_seconds_bucket[$__rate_interval])))",
                "waiting p99",
            ),
        ],
        ..GRAPH
    },
    Panel {
        title: "Queue",
        description: "PeerRelays that wait for their turn, and how long the first of them has.",
        queries: &[
            ("sum(peerrelay_operator_workqueue_depth)", "waiting"),
            (
                "max(peerrelay_operator_workqueue_oldest_seconds)",
                "oldest, seconds",
            ),
        ],
        ..GRAPH
    },
    Panel {
        title: "Requests to the API server",
        description: "By verb and code of the answer; none in steady state but those of the lease.",
        unit: "reqps",
        queries: &[(
            "sum by (verb, code) (rate(peerrelay_operator_api_requests_total[$__rate_interval]))",
            "{{verb}} {{code}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Memory of the operator",
        description: "Resident memory of each replica.",
        unit: "bytes",
        queries: &[(
            "process_resident_memory_bytes and on (namespace, pod) peerrelay_operator_leader",
            "{{pod}}",
        )],
        ..GRAPH
    },
];

/// Returns the query with its matchers.
pub(super) fn query(text: &str) -> String {
    let relays = "namespace=~\"$namespace\",peer_relay=~\"$peer_relay\",relay_region=~\"$region\",\
                  node=~\"$node\"";
    let conditions = "peer_relay_namespace=~\"$namespace\",peer_relay=~\"$peer_relay\"";
    text.replace("RELAYS", relays)
        .replace("CONDITIONS", conditions)
}
