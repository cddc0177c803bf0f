//! Results: one row for each implementation and case.

use serde::{Deserialize, Serialize};

use super::implementation::Implementation;

/// The results of a run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct RelayResults {
    /// Only what was measured.
    pub rows: Vec<RelayRow>,
    /// The conditions of the run.
    pub conditions: Conditions,
}

/// The conditions of a run.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Conditions {
    /// The date of the run.
    pub date: String,
    /// The commit of the sources.
    pub commit: String,
    /// Kernel release.
    pub kernel: String,
    /// Processor and how many of them.
    pub machine: String,
    /// Offload settings of every link.
    pub offloads: String,
    /// Rounds that counted, and seconds of each.
    pub rounds: (usize, f64),
    /// The source of the relay's CPU time: `machine` or `processes`.
    pub cpu: String,
    /// CPU time of others, as a part of the machine's, in the median round.
    pub foreign_cpu: f64,
}

/// A row of the results of the throughput bench. A field that was not measured is absent.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RelayRow {
    /// The implementation that was measured.
    #[serde(rename = "impl")]
    pub implementation: Implementation,
    /// IP versions of the sending and the receiving client: `v4`, `v6`, `v4-v6`.
    pub path: String,
    /// Sessions that took turns.
    pub sessions: usize,
    /// Bytes of each datagram's payload, Geneve header included.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<usize>,
    /// Datagrams that the sender handed to the kernel as one buffer.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub segments: Option<usize>,
    /// Datagrams that arrived in a second.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub delivered_pps: Option<f64>,
    /// Their payload, in gigabits.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub delivered_gbps: Option<f64>,
    /// CPU time of the whole machine that was not idle, for each datagram that arrived.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub machine_cpu_us_per_packet: Option<f64>,
    /// CPU time of load generator, relay and softirq threads, for each.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub process_cpu_us_per_packet: Option<f64>,
    /// CPU time less that of the direct path.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub relay_cost_us_per_packet: Option<f64>,
    /// The deviation of the rounds from the median of the CPU time, as a fraction.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub noise: Option<f64>,
    /// Datagrams that did not arrive, as a part of those sent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub lost: Option<f64>,
    /// Datagrams in each buffer that arrived.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub datagrams_per_buffer: Option<f64>,
    /// System calls of the relay for each datagram.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub syscalls_per_packet: Option<f64>,
    /// Time on the path at 10,000 datagrams a second: half are faster.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p50_us: Option<f64>,
    /// The 99th percentile, in microseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub p99_us: Option<f64>,
    /// Memory that one more bound session takes, resident and in BPF maps.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes_per_session: Option<f64>,
    /// Resident memory without a session, in bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub idle_rss: Option<u64>,
    /// The part of it that is backed by no file, in bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub idle_anonymous: Option<u64>,
    /// BPF maps, made for all sessions that there may be, in bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bpf_memory: Option<u64>,
    /// Sessions between clients of their own, allocated and bound in a second of the relay's CPU.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bound_per_cpu_second: Option<f64>,
    /// Sessions bound in a second of CPU time, for all pairs of a few clients.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mesh_bound_per_cpu_second: Option<f64>,
}

impl RelayRow {
    /// A row with nothing measured yet.
    pub fn new(implementation: Implementation, path: &str, sessions: usize) -> Self {
        Self {
            implementation,
            path: path.into(),
            sessions,
            size: None,
            segments: None,
            delivered_pps: None,
            delivered_gbps: None,
            machine_cpu_us_per_packet: None,
            process_cpu_us_per_packet: None,
            relay_cost_us_per_packet: None,
            noise: None,
            lost: None,
            datagrams_per_buffer: None,
            syscalls_per_packet: None,
            p50_us: None,
            p99_us: None,
            bytes_per_session: None,
            idle_rss: None,
            idle_anonymous: None,
            bpf_memory: None,
            bound_per_cpu_second: None,
            mesh_bound_per_cpu_second: None,
        }
    }

    /// CPU time of the kind that counts in this run.
    pub fn cpu(&self, conditions: &Conditions) -> Option<f64> {
        match conditions.cpu.as_str() {
            "processes" => self.process_cpu_us_per_packet,
            _ => self.machine_cpu_us_per_packet,
        }
    }
}

impl RelayResults {
    /// The row of an implementation and case.
    pub fn find(
        &self,
        implementation: Implementation,
        path: &str,
        (sessions, size, segments): (usize, usize, usize),
    ) -> Option<&RelayRow> {
        self.rows.iter().find(|row| {
            row.implementation == implementation
                && row.path == path
                && row.sessions == sessions
                && row.size == Some(size)
                && row.segments == Some(segments)
        })
    }
}
