//! Reasons for which relays do not work, as their `RelayNode` shows them.

labels::label_enum! {
    /// Reason why a relay does not work. [`RelayReason::as_str`] is the reason that conditions carry.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum RelayReason {
        /// There is no auth key to register with.
        AuthKeyMissing,
        /// The operator has not created the auth key that the relay requests yet.
        AuthKeyPending,
        /// The control server refuses the auth key.
        AuthKeyInvalid,
        /// An administrator must approve the device.
        RegistrationNeedsApproval,
        /// The control server cannot be reached.
        ControlUnreachable,
        /// The control server's certificate is not trusted.
        ControlCertificateInvalid,
        /// No DERP server can be reached.
        DerpUnreachable,
        /// Another process has the UDP port, or the TCP port for metrics and probes.
        HostPortConflict,
        /// The UDP port cannot be bound for another reason.
        PortUnavailable,
        /// There is no address to advertise.
        NoEndpoints,
        /// The node attribute `disable-relay-server` is set.
        RelayDisabledByPolicy,
        /// The device's node key has expired.
        KeyExpired,
        /// The device lacks a tag that it asked for.
        TagMissing,
        /// Tailnet Lock is enabled and has not signed the device's node key.
        TailnetLockUnsigned,
        /// The kernel path is asked for and cannot be had.
        KernelPathUnavailable,
    }
}

impl RelayReason {
    /// Returns whether only a user can solve it, so that a retry changes nothing.
    pub const fn needs_user(self) -> bool {
        match self {
            Self::AuthKeyMissing
            | Self::AuthKeyInvalid
            | Self::RegistrationNeedsApproval
            | Self::ControlCertificateInvalid
            | Self::HostPortConflict
            | Self::RelayDisabledByPolicy
            | Self::KeyExpired
            | Self::TagMissing
            | Self::TailnetLockUnsigned
            | Self::KernelPathUnavailable => true,
            Self::AuthKeyPending
            | Self::ControlUnreachable
            | Self::DerpUnreachable
            | Self::PortUnavailable
            | Self::NoEndpoints => false,
        }
    }
}
