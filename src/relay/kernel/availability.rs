//! State of the kernel path: attached, or the reason why the sockets forward.

labels::label_enum! {
    /// Reason why the sockets forward, and not the kernel. [`UnavailableReason::as_str`] is what status
    /// and metrics show.
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
    }
}

/// Reason why there is no kernel path, with a message that names the fix.
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

/// The path that forwards data of open sessions: `Ok` with the number of devices to which the
/// program is attached for the kernel's, otherwise the reason why the sockets do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathState(pub Result<usize, Unavailable>);

impl PathState {
    /// Returns whether the kernel forwards.
    pub const fn is_kernel(&self) -> bool {
        self.0.is_ok()
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
