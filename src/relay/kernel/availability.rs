//! State of the kernel path: attached, or the reason why the sockets forward.

labels::label_enum! {
    /// Reason why the sockets forward, and not the kernel, or why the kernel does only while the relay
    /// runs. [`UnavailableReason::as_str`] is what status and metrics show.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum UnavailableReason {
        /// `dataPath` is `Socket`.
        Chosen,
        /// The program has not been attached yet.
        Starting,
        /// The binary was built without clang.
        NotBuilt,
        /// CAP_BPF or CAP_NET_ADMIN is missing, or a security module forbids it.
        NotPermitted,
        /// The kernel has no bpf(2).
        KernelTooOld,
        /// The kernel does not accept the program.
        Refused,
        /// The program forwards wrongly on this kernel.
        SelfTestFailed,
        /// Another process detaches the program whenever it is attached.
        Detached,
        /// No Ethernet device has an address.
        NoDevice,
        /// Any other error; the message names it.
        Failed,
        /// The kernel forwards, but the program cannot be pinned and ends with the relay.
        NotPinned,
    }
}

/// Reason why there is no kernel path, or why it ends with the relay, with a message that names the fix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", reason.as_str())]
pub struct Unavailable {
    /// Stable name, for status and metrics.
    pub reason: UnavailableReason,
    /// One sentence for the user, with the fix.
    pub message: String,
}

impl Unavailable {
    /// A reason with its message.
    pub fn new(reason: UnavailableReason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Kernel path that forwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Number of devices to which the program is attached.
    pub devices: usize,
    /// Reason why the program ends with the relay, if it does.
    pub unpinned: Option<Unavailable>,
}

/// The path that forwards data of open sessions: `Ok` for the kernel's, otherwise the reason why the
/// sockets do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathState(pub Result<Attached, Unavailable>);

impl PathState {
    /// Returns whether the kernel forwards.
    pub const fn is_kernel(&self) -> bool {
        self.0.is_ok()
    }

    /// Number of devices to which the program is attached.
    pub fn devices(&self) -> usize {
        self.0.as_ref().map_or(0, |attached| attached.devices)
    }

    /// Returns what the kernel path lacks, if anything.
    pub const fn shortfall(&self) -> Option<&Unavailable> {
        match &self.0 {
            Ok(attached) => attached.unpinned.as_ref(),
            Err(unavailable) => Some(unavailable),
        }
    }
}

impl Default for PathState {
    fn default() -> Self {
        Self(Err(Unavailable::new(
            UnavailableReason::Starting,
            "the UDP port is not bound yet",
        )))
    }
}
