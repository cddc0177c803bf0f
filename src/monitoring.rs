//! Alerts, recording rules and dashboards for the metrics. They are pure data, and the source of
//! `deploy/monitoring`.

mod dashboard;

use serde_json::{Value, json};

pub use self::dashboard::{Shown, dashboard};

/// Address of the runbooks.
const RUNBOOKS: &str = "https://peerrelay.dev/docs/runbooks";

/// Origin of the series that an alert evaluates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Series of relays.
    Relays,
    /// Series about the scrape targets of relays. They exist even if a relay exports no series.
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
        description: "The relay of {{ $labels.peer_relay }} on node {{ $labels.node }} does not respond to Prometheus. If it does not run, its clients use other relays or DERP.",
    },
    Alert {
        name: "PeerRelayNotScraped",
        scope: Scope::Targets,
        // The comparison lets `absent` also fire if there are targets and none of them responds.
        expression: "absent(up{peer_relay!=\"\",SELECTOR} == 1)",
        lasts: "5m",
        severity: "critical",
        summary: "Prometheus can scrape no relay of a PeerRelay.",
        description: "No relay{{ with $labels.peer_relay }} of {{ . }}{{ end }} responds to Prometheus. Either no relay runs, and clients that cannot reach each other directly use DERP, or relays run without monitoring.",
    },
    Alert {
        name: "PeerRelayNodeNotReady",
        scope: Scope::Relays,
        expression: "peerrelay_ready{SELECTOR} == 0",
        lasts: "10m",
        severity: "warning",
        summary: "A relay runs but is not ready.",
        description: "The relay on node {{ $labels.node }} has no connection to the tailnet or to DERP, no port, or no address. Its RelayNode shows the reason.",
    },
    Alert {
        name: "PeerRelayGrantNotInForce",
        scope: Scope::Relays,
        expression: "peerrelay_granted_peers{SELECTOR} == 0 and peerrelay_ready{SELECTOR} == 1",
        lasts: "15m",
        severity: "warning",
        summary: "The tailnet policy allows no device to use a relay.",
        description: "No grant of the tailnet policy applies to the relay on node {{ $labels.node }}. The condition GrantsInForce of its PeerRelay contains the missing grant.",
    },
    Alert {
        name: "PeerRelayKeyExpiring",
        scope: Scope::Relays,
        // 0 means that the key does not expire, as with all tagged devices.
        expression: "(peerrelay_key_expiry_timestamp_seconds{SELECTOR} > 0) - time() < 14 * 86400",
        lasts: "1h",
        severity: "warning",
        summary: "A relay's node key expires within two weeks.",
        description: "The node key of the relay on node {{ $labels.node }} expires in {{ $value | humanizeDuration }}. The control server then removes the relay from the tailnet.",
    },
    Alert {
        name: "PeerRelayLosesDatagrams",
        scope: Scope::Relays,
        // Prometheus compares series with equal labels only, so both sides are reduced to the labels of
        // the target.
        expression: "sum without (cause) (rate(peerrelay_socket_lost_datagrams_total{SELECTOR}[5m])) > 0.001 * sum without (data_path, transport_in, transport_out, region) (rate(peerrelay_forwarded_packets_total{SELECTOR}[5m]))",
        lasts: "10m",
        severity: "warning",
        summary: "A relay loses more than one datagram in a thousand.",
        description: "The UDP sockets of the relay on node {{ $labels.node }} lose datagrams. The usual causes are too little CPU time and too small buffers.",
    },
    Alert {
        name: "PeerRelayUnavailable",
        scope: Scope::Operator,
        // A PeerRelay that is turned off has no relay and is ready.
        expression: "(max by (peer_relay_namespace, peer_relay) (peerrelay_operator_condition{type=\"RelaysAvailable\"}) == 0) unless on (peer_relay_namespace, peer_relay) (peerrelay_operator_condition{type=\"Ready\"} == 1)",
        lasts: "5m",
        severity: "critical",
        summary: "A PeerRelay has no ready relay.",
        description: "No relay of {{ $labels.peer_relay }} in {{ $labels.peer_relay_namespace }} is ready. Clients that cannot reach each other directly use DERP.",
    },
    Alert {
        name: "PeerRelayStalled",
        scope: Scope::Operator,
        expression: "max by (peer_relay_namespace, peer_relay) (peerrelay_operator_condition{type=\"Stalled\"}) == 1",
        lasts: "10m",
        severity: "warning",
        summary: "A PeerRelay needs a change by a user.",
        description: "The operator cannot continue with {{ $labels.peer_relay }} in {{ $labels.peer_relay_namespace }}. The condition Stalled describes the problem and the fix.",
    },
    Alert {
        name: "PeerRelayNotReady",
        scope: Scope::Operator,
        expression: "max by (peer_relay_namespace, peer_relay) (peerrelay_operator_condition{type=\"Ready\"}) == 0",
        lasts: "15m",
        severity: "warning",
        summary: "A PeerRelay is not ready.",
        description: "The condition Ready of {{ $labels.peer_relay }} in {{ $labels.peer_relay_namespace }} shows the reason. Running relays continue.",
    },
    Alert {
        name: "PeerRelayEndpointNotVerified",
        scope: Scope::Operator,
        expression: "max by (peer_relay_namespace, peer_relay) (peerrelay_operator_condition{type=\"EndpointsVerified\"}) == 0",
        lasts: "15m",
        severity: "warning",
        summary: "A relay advertises an address at which it cannot be reached.",
        description: "Relays of {{ $labels.peer_relay }} in {{ $labels.peer_relay_namespace }} cannot reach each other at advertised addresses. The condition EndpointsVerified names them.",
    },
    Alert {
        name: "PeerRelayOverQuota",
        scope: Scope::Operator,
        expression: "max by (peer_relay_namespace, peer_relay) (peerrelay_operator_condition{type=\"WithinQuota\"}) == 0",
        lasts: "15m",
        severity: "info",
        summary: "A PeerRelay needs more relays than its allowance.",
        description: "Some nodes that fit {{ $labels.peer_relay }} in {{ $labels.peer_relay_namespace }} have no relay, because the allowance is used up.",
    },
    Alert {
        name: "PeerRelayCredentialExpiring",
        scope: Scope::Operator,
        expression: "max by (peer_relay_namespace, peer_relay) (peerrelay_operator_condition{type=\"CredentialExpiring\"}) == 1",
        lasts: "1h",
        severity: "warning",
        summary: "A credential of a PeerRelay expires within two weeks.",
        description: "A credential of {{ $labels.peer_relay }} in {{ $labels.peer_relay_namespace }} expires. The condition CredentialExpiring names it and the fix. Open sessions continue until then.",
    },
    Alert {
        name: "PeerRelayOperatorFailing",
        scope: Scope::Operator,
        expression: "rate(peerrelay_operator_reconcile_errors_total[10m]) > 0",
        lasts: "15m",
        severity: "warning",
        summary: "Reconciliations of the operator fail.",
        description: "Reconciliations of the operator {{ $labels.pod }} fail repeatedly. Its log shows the error. Running relays continue.",
    },
    Alert {
        name: "PeerRelayOperatorNoLeader",
        scope: Scope::Operator,
        expression: "max(peerrelay_operator_leader) == 0",
        lasts: "5m",
        severity: "warning",
        summary: "No replica of the operator is the leader.",
        description: "Changes of PeerRelays have no effect. Running relays continue.",
    },
    Alert {
        name: "PeerRelayOperatorAbsent",
        scope: Scope::Operator,
        expression: "absent(peerrelay_operator_leader)",
        lasts: "10m",
        severity: "critical",
        summary: "Prometheus can scrape no replica of the operator.",
        description: "If no replica runs, changes of PeerRelays have no effect. Other alerts about PeerRelays as a whole cannot fire. Running relays continue.",
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
