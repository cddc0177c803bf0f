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
        description: "Number of relays that accept new sessions.",
        steps: SOME_IS_GOOD,
        queries: &[("sum(peerrelay_ready{RELAYS})", "ready")],
        ..NUMBER
    },
    Panel {
        title: "Relays not ready",
        description: "Number of relays that run but accept no new sessions. Open sessions continue.",
        steps: NONE_IS_GOOD,
        queries: &[(
            // `count` of no series has no value, which a panel shows as "No data".
            "count(peerrelay_ready{RELAYS} == 0) or vector(0)",
            "not ready",
        )],
        ..NUMBER
    },
    Panel {
        title: "Relays that do not respond",
        description: "Number of targets that Prometheus cannot scrape.",
        steps: NONE_IS_GOOD,
        queries: &[(
            "count(up{peer_relay!=\"\",RELAYS} == 0) or vector(0)",
            "no response",
        )],
        ..NUMBER
    },
    Panel {
        title: "PeerRelays not ready",
        description: "Number of PeerRelays whose condition Ready is not True.",
        steps: NONE_IS_GOOD,
        queries: &[(
            "count(peerrelay_operator_condition{type=\"Ready\",CONDITIONS} < 1) or vector(0)",
            "not ready",
        )],
        ..NUMBER
    },
    Panel {
        title: "Open sessions",
        description: "Number of client pairs that are connected through a relay.",
        queries: &[("sum(peerrelay_sessions{state=\"open\",RELAYS})", "open")],
        ..NUMBER
    },
    Panel {
        title: "Forwarded now",
        description: "Rate of UDP payload that relays forward between clients.",
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
        description: "Rate of UDP payload that relays forward between clients, by node.",
        unit: "Bps",
        queries: &[(
            "sum by (node) (rate(peerrelay_forwarded_bytes_total{RELAYS}[$__rate_interval]))",
            "{{node}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Packets",
        description: "Datagrams per second between clients, by node and data path.",
        unit: "pps",
        queries: &[(
            "sum by (node, data_path) (rate(peerrelay_forwarded_packets_total{RELAYS}[$__rate_interval]))",
            "{{node}} {{data_path}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Latency",
        description: "Time that a datagram spends in the relay: median and 99th percentile of samples, \
                      by data path.",
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
        description: "Datagrams that the UDP sockets of relays lost, by cause: too little CPU time, a full \
                      buffer, or a network error.",
        unit: "pps",
        queries: &[(
            "sum by (node, cause) (rate(peerrelay_socket_lost_datagrams_total{RELAYS}[$__rate_interval]))",
            "{{node}} {{cause}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Data path in use",
        description: "Data path of each node, and the reason if it is not the kernel path.",
        queries: &[(
            "max by (node, path, reason) (peerrelay_data_path{RELAYS}) == 1",
            "{{node}} {{path}} {{reason}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Passed to the sockets by the kernel path",
        description: "Datagrams that the kernel path did not forward, by reason.",
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
        description: "Open: both clients are bound. Connecting: allocated, but not bound by both clients yet.",
        queries: &[(
            "sum by (node, state) (peerrelay_sessions{RELAYS})",
            "{{node}} {{state}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Allocations",
        description: "Answered allocation requests, for new and for existing sessions.",
        unit: "ops",
        queries: &[(
            "sum by (session) (rate(peerrelay_allocations_total{RELAYS}[$__rate_interval]))",
            "{{session}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Binds by kind",
        description: "Completed bind handshakes: the first one of a client, and those after a change of its \
                      address.",
        unit: "ops",
        queries: &[(
            "sum by (kind) (rate(peerrelay_binds_total{RELAYS}[$__rate_interval]))",
            "{{kind}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Sessions closed by reason",
        description: "Silent and unbound are normal. Evicted: a limit was reached. Revoked: the tailnet \
                      policy changed.",
        unit: "ops",
        queries: &[(
            "sum by (reason) (rate(peerrelay_sessions_closed_total{RELAYS}[$__rate_interval]))",
            "{{reason}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Drops by reason",
        description: "Packets that the relay dropped, for example because no session has their VNI.",
        unit: "pps",
        queries: &[(
            "sum by (reason) (rate(peerrelay_drops_total{RELAYS}[$__rate_interval])) > 0",
            "{{reason}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Devices that may use a relay",
        description: "Number of tailnet devices that the policy allows to use the relay. 0 means that a \
                      grant is missing.",
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
        description: "1 if the relay accepts new sessions.",
        queries: &[(
            "max by (peer_relay, relay_region, node) (peerrelay_ready{RELAYS})",
            "{{peer_relay}} {{relay_region}} {{node}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Advertised endpoints",
        description: "Number of addresses that the relay advertises to clients.",
        queries: &[(
            "max by (node) (peerrelay_advertised_endpoints{RELAYS})",
            "{{node}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Node keys expire in",
        description: "Time until the node key expires. Empty if no key expires, as with tagged devices.",
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
        description: "CPUs that the relay process uses. The kernel path is not included.",
        queries: &[(
            "sum by (node) (rate(process_cpu_seconds_total{peer_relay!=\"\",RELAYS}[$__rate_interval]))",
            "{{node}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Memory of relays",
        description: "Resident memory of each relay process.",
        unit: "bytes",
        queries: &[(
            "sum by (node) (process_resident_memory_bytes{peer_relay!=\"\",RELAYS})",
            "{{node}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Versions",
        description: "Number of relays by version.",
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
        description: "Conditions of PeerRelays: 1 is True, 0 is False, -1 is Unknown.",
        from_zero: false,
        queries: &[(
            "max by (peer_relay_namespace, peer_relay, type) (peerrelay_operator_condition{CONDITIONS})",
            "{{peer_relay_namespace}}/{{peer_relay}} {{type}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Reconciliations by result",
        description: "Reconciliations of all PeerRelays per second, by result.",
        unit: "ops",
        queries: &[(
            "sum by (result) (rate(peerrelay_operator_reconcile_total[$__rate_interval]))",
            "{{result}}",
        )],
        ..GRAPH
    },
    Panel {
        title: "Time of a reconciliation",
        description: "99th percentiles of the time of a reconciliation and of the time in the queue.",
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
        description: "Number of PeerRelays in the queue, and the longest time in it.",
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
        description: "Requests by verb and status code. In steady state, only the lease is renewed.",
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
