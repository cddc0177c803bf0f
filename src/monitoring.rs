//! Alerts, recording rules and dashboards for the metrics. They are pure data, and the source of
//! `deploy/monitoring`.

mod dashboard;

use serde_json::{Value, json};

pub use self::dashboard::{Shown, dashboard};

/// Address of the runbooks.
const RUNBOOKS: &str = "https://peerrelay.dev/docs/runbooks";

/// Source of the series that an alert evaluates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Series of relays.
    Relays,
    /// Series about scrape targets of relays, which exist if a relay has none of its own.
    Targets,
    /// Series of the operator.
    Operator,
}

/// Alert rule of Prometheus. `SELECTOR` in its expression stands for matchers of the relays'
/// series.
#[derive(Debug, Clone, Copy)]
pub struct Alert {
    /// Name of the alert and of its runbook.
    pub name: &'static str,
    /// Source of the series.
    pub scope: Scope,
    expression: &'static str,
    lasts: &'static str,
    severity: &'static str,
    summary: &'static str,
    description: &'static str,
}

/// All alerts, in the order of the documentation.
pub const ALERTS: &[Alert] = &[
    Alert {
        name: "PeerRelayDown",
        scope: Scope::Relays,
        expression: "up{peer_relay!=\"\",SELECTOR} == 0",
        lasts: "5m",
        severity: "warning",
        summary: "A relay cannot be scraped.",
        description: "The relay of {{ $labels.peer_relay }} on node {{ $labels.node }} does not answer; its clients use other relays, or DERP.",
    },
    Alert {
        name: "PeerRelayNotScraped",
        scope: Scope::Targets,
        expression: "absent(up{peer_relay!=\"\",SELECTOR} == 1)",
        lasts: "5m",
        severity: "critical",
        summary: "Prometheus reaches no relay of a PeerRelay.",
        description: "No relay{{ with $labels.peer_relay }} of {{ . }}{{ end }} answers: either none runs, and clients that cannot reach each other directly use DERP, or nothing is known about them.",
    },
    Alert {
        name: "PeerRelayNodeNotReady",
        scope: Scope::Relays,
        expression: "peerrelay_ready{SELECTOR} == 0",
        lasts: "10m",
        severity: "warning",
        summary: "A relay runs and is not ready.",
        description: "The relay on node {{ $labels.node }} is not in the tailnet, has no DERP connection, no port or no address. Its RelayNode has the reason.",
    },
    Alert {
        name: "PeerRelayGrantNotInForce",
        scope: Scope::Relays,
        expression: "peerrelay_granted_peers{SELECTOR} == 0 and peerrelay_ready{SELECTOR} == 1",
        lasts: "15m",
        severity: "warning",
        summary: "Nobody may use a relay.",
        description: "The tailnet policy lets no device use the relay on node {{ $labels.node }}.",
    },
    Alert {
        name: "PeerRelayKeyExpiring",
        scope: Scope::Relays,
        expression: "(peerrelay_key_expiry_timestamp_seconds{SELECTOR} > 0) - time() < 14 * 86400",
        lasts: "1h",
        severity: "warning",
        summary: "A relay's node key expires within two weeks.",
        description: "The key of the relay on node {{ $labels.node }} expires in {{ $value | humanizeDuration }}; then the relay leaves the tailnet.",
    },
    Alert {
        name: "PeerRelayLosesDatagrams",
        scope: Scope::Relays,
        expression: "sum without (cause) (rate(peerrelay_socket_lost_datagrams_total{SELECTOR}[5m])) > 0.001 * sum without (data_path, transport_in, transport_out, region) (rate(peerrelay_forwarded_packets_total{SELECTOR}[5m]))",
        lasts: "10m",
        severity: "warning",
        summary: "A relay loses more than one datagram in a thousand.",
        description: "The UDP sockets of the relay on node {{ $labels.node }} lose datagrams: it has too little CPU or too small buffers.",
    },
    Alert {
        name: "PeerRelayUnavailable",
        scope: Scope::Operator,
        // A PeerRelay that is turned off has no relay and is ready.
        expression: "(max by (peer_relay_namespace, peer_relay) (peerrelay_operator_condition{type=\"RelaysAvailable\"}) == 0) unless on (peer_relay_namespace, peer_relay) (peerrelay_operator_condition{type=\"Ready\"} == 1)",
        lasts: "5m",
        severity: "critical",
        summary: "A PeerRelay has no relay that serves.",
        description: "No relay of {{ $labels.peer_relay }} in {{ $labels.peer_relay_namespace }} is ready: clients that cannot reach each other directly use DERP.",
    },
    Alert {
        name: "PeerRelayStalled",
        scope: Scope::Operator,
        expression: "max by (peer_relay_namespace, peer_relay) (peerrelay_operator_condition{type=\"Stalled\"}) == 1",
        lasts: "10m",
        severity: "warning",
        summary: "A PeerRelay waits for somebody to mend something.",
        description: "The condition Stalled of {{ $labels.peer_relay }} in {{ $labels.peer_relay_namespace }} says what: it does not mend itself.",
    },
    Alert {
        name: "PeerRelayNotReady",
        scope: Scope::Operator,
        expression: "max by (peer_relay_namespace, peer_relay) (peerrelay_operator_condition{type=\"Ready\"}) == 0",
        lasts: "15m",
        severity: "warning",
        summary: "A PeerRelay is not ready.",
        description: "The condition Ready of {{ $labels.peer_relay }} in {{ $labels.peer_relay_namespace }} has the reason; relays that run go on.",
    },
    Alert {
        name: "PeerRelayEndpointNotVerified",
        scope: Scope::Operator,
        expression: "max by (peer_relay_namespace, peer_relay) (peerrelay_operator_condition{type=\"EndpointsVerified\"}) == 0",
        lasts: "15m",
        severity: "warning",
        summary: "Clients are told an address at which a relay is not reached.",
        description: "Relays of {{ $labels.peer_relay }} in {{ $labels.peer_relay_namespace }} get no answer at addresses of each other that clients are told.",
    },
    Alert {
        name: "PeerRelayOverQuota",
        scope: Scope::Operator,
        expression: "max by (peer_relay_namespace, peer_relay) (peerrelay_operator_condition{type=\"WithinQuota\"}) == 0",
        lasts: "15m",
        severity: "info",
        summary: "A PeerRelay would run more relays than it may.",
        description: "Nodes of {{ $labels.peer_relay }} in {{ $labels.peer_relay_namespace }} fit and get no relay, as the allowance is used up.",
    },
    Alert {
        name: "PeerRelayOperatorFailing",
        scope: Scope::Operator,
        expression: "rate(peerrelay_operator_reconcile_errors_total[10m]) > 0",
        lasts: "15m",
        severity: "warning",
        summary: "The operator cannot do its work.",
        description: "Reconciliations of the operator {{ $labels.pod }} keep failing; running relays go on.",
    },
    Alert {
        name: "PeerRelayOperatorNoLeader",
        scope: Scope::Operator,
        expression: "max(peerrelay_operator_leader) == 0",
        lasts: "5m",
        severity: "warning",
        summary: "No replica of the operator leads.",
        description: "Changes of PeerRelays are not carried out; running relays go on.",
    },
    Alert {
        name: "PeerRelayOperatorAbsent",
        scope: Scope::Operator,
        expression: "absent(peerrelay_operator_leader)",
        lasts: "10m",
        severity: "critical",
        summary: "Prometheus reaches no replica of the operator.",
        description: "Changes of PeerRelays are not carried out, and no other alert about PeerRelays as a whole can fire; running relays go on.",
    },
];

impl Alert {
    /// Returns the alert as a rule. `selector` is empty, or a list of matchers without a leading
    /// comma.
    pub fn rule(&self, selector: &str) -> Value {
        let expression = match selector {
            "" => self
                .expression
                .replace(",SELECTOR", "")
                .replace("{SELECTOR}", ""),
            some => self.expression.replace("SELECTOR", some),
        };
        json!({
            "alert": self.name,
            "expr": expression,
            "for": self.lasts,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": format!("{RUNBOOKS}/{}.md", self.name),
            },
        })
    }
}

/// Returns the alerts of a scope as a group of a rule file or a PrometheusRule.
pub fn alerts(scope: Scope, selector: &str) -> Value {
    let rules = ALERTS.iter().filter(|alert| alert.scope == scope);
    let name = match scope {
        Scope::Relays => "peer-relay",
        Scope::Targets => "peer-relay-targets",
        Scope::Operator => "peer-relay-operator",
    };
    json!({"name": name, "rules": rules.map(|alert| alert.rule(selector)).collect::<Vec<_>>()})
}

/// Returns recording rules: sums for dashboards and capacity planning.
pub fn records() -> Value {
    let record = |name: &str, expression: &str| json!({"record": name, "expr": expression});
    json!([{"name": "peer-relay-records", "rules": [
        record(
            "peer_relay:peerrelay_forwarded_bytes:rate5m",
            "sum by (namespace, peer_relay, node) (rate(peerrelay_forwarded_bytes_total[5m]))",
        ),
        record(
            "peer_relay:peerrelay_forwarded_packets:rate5m",
            "sum by (namespace, peer_relay, node) (rate(peerrelay_forwarded_packets_total[5m]))",
        ),
    ]}])
}
