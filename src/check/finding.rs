//! Findings of checks.

use std::borrow::Cow;

use serde::Serialize;

/// Check with its findings. It has passed if there are none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Sentence that is true if the check has passed.
    pub name: String,
    /// Findings, the worst first.
    pub findings: Vec<Finding>,
}

impl Check {
    /// Creates a check with its findings in their order.
    pub(super) fn new(name: impl Into<String>, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.severity);
        Self {
            name: name.into(),
            findings,
        }
    }
}

/// Fault, and the way to mend it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Stable name in CamelCase: that of a [`Fault`], or the reason of a condition.
    pub fault: Cow<'static, str>,
    /// Urgency of the finding.
    pub severity: Severity,
    /// Object that has the fault, as `KIND NAMESPACE/NAME`.
    pub subject: String,
    /// Description of the fault in a sentence.
    pub problem: String,
    /// Command, line of YAML or step that mends it.
    pub remedy: String,
}

impl Finding {
    /// Creates a finding about a fault that no condition reports.
    pub(super) fn new(
        fault: Fault,
        subject: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            fault: Cow::Borrowed(fault.as_str()),
            severity: fault.severity(),
            subject: subject.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// Urgency of a finding, the highest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Severity {
    /// Something does not work until a person mends it.
    Problem,
    /// Something may not work, or was not checked.
    Warning,
}

labels::label_enum! {
    /// Fault that no condition reports. `docs/cli.md` lists all of them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Fault {
        /// The caller may not read something, so it was not checked.
        NotChecked,
        /// The API server is older than the versions that are supported.
        KubernetesTooOld,
        /// A custom resource definition is not installed.
        DefinitionMissing,
        /// The API server does not serve a custom resource definition.
        DefinitionNotServed,
        /// A custom resource definition is of another version than this program.
        DefinitionDiffers,
        /// The caller may not create the objects of the installation.
        InstallationForbidden,
        /// There is no operator.
        OperatorMissing,
        /// The operator has zero replicas.
        OperatorScaledDown,
        /// No replica of the operator is ready.
        OperatorNotReady,
        /// Two operators act on the same PeerRelays.
        OperatorsOverlap,
        /// The operator has another version than this program.
        OperatorVersionDiffers,
        /// There is no PeerRelay.
        NoPeerRelay,
        /// The operator does not watch the namespace of a PeerRelay.
        NamespaceNotWatched,
        /// The operator has not handled a change of a PeerRelay.
        NotReconciled,
        /// The namespace does not allow relays on the host network.
        NamespaceNotPrivileged,
        /// A relay runs, but has no RelayNode.
        RelaySilent,
        /// A relay has stopped to update its RelayNode.
        RelayReportOld,
        /// A relay has another version than the operator.
        RelayVersionDiffers,
        /// Sockets forward, although the kernel could.
        KernelPathUnused,
        /// The kernel forwards, but only while the relay runs.
        KernelPathNotPinned,
        /// No Prometheus selects the ServiceMonitor of a PeerRelay.
        NotScraped,
        /// A ServiceMonitor is requested, but the cluster does not have that kind.
        MonitoringKindMissing,
    }
}

impl Fault {
    const fn severity(self) -> Severity {
        match self {
            Self::NotChecked
            | Self::DefinitionDiffers
            | Self::OperatorVersionDiffers
            | Self::NoPeerRelay
            | Self::RelayVersionDiffers
            | Self::KernelPathUnused
            | Self::KernelPathNotPinned
            | Self::NotScraped => Severity::Warning,
            Self::KubernetesTooOld
            | Self::DefinitionMissing
            | Self::DefinitionNotServed
            | Self::InstallationForbidden
            | Self::OperatorMissing
            | Self::OperatorScaledDown
            | Self::OperatorNotReady
            | Self::OperatorsOverlap
            | Self::NamespaceNotWatched
            | Self::NotReconciled
            | Self::NamespaceNotPrivileged
            | Self::RelaySilent
            | Self::RelayReportOld
            | Self::MonitoringKindMissing => Severity::Problem,
        }
    }
}
