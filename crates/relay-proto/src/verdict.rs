//! Decisions about packets, and the reasons for drops.

use std::net::{IpAddr, SocketAddr};

/// The decision about a datagram from the UDP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Send the datagram, unchanged, to the other leg.
    Forward {
        /// The address of the other leg.
        to: SocketAddr,
        /// The local address to send from: the one through which the other leg was bound, because
        /// firewalls before its client let nothing else in.
        from: Option<IpAddr>,
    },
    /// Send the first `len` bytes of the reply buffer back to the source.
    Reply {
        /// The length of the reply, never more than that of the datagram.
        len: usize,
    },
    /// Send nothing: the datagram was an answer that bound a leg.
    Consumed,
    /// Send nothing, and count the reason.
    Drop(DropReason),
}

labels::label_enum! {
    /// Reason why a packet was dropped. [`DropReason::as_str`] is the metric label `reason`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub enum DropReason {
        /// UDP: no Geneve header of version 0 with a VNI.
        Malformed = "malformed",
        /// UDP: no session has this VNI.
        UnknownVni = "unknown_vni",
        /// UDP: data for a session that is not bound on both legs.
        NotBound = "not_bound",
        /// UDP: data from an address that is no leg of the session.
        WrongSource = "wrong_source",
        /// UDP: a STUN message that nobody asked for.
        UnsolicitedStun = "unsolicited_stun",
        /// UDP: a control packet that is no disco frame.
        NotDisco = "not_disco",
        /// UDP and DERP: sealed by a key that is none of the pair's.
        UnknownSender = "unknown_sender",
        /// UDP and DERP: the box does not open, or holds no message of this protocol.
        BadSeal = "bad_seal",
        /// UDP and DERP: a message that is not for a relay, or not at this point.
        UnexpectedMessage = "unexpected_message",
        /// UDP: the sealed VNI or the other client's key does not belong to this session.
        WrongSession = "wrong_session",
        /// UDP: generation zero, or not greater than one that was completed or begun.
        StaleGeneration = "stale_generation",
        /// UDP: the challenge was not issued for this address, or is too old.
        BadChallenge = "bad_challenge",
        /// UDP: from an address that may never bind, such as loopback or multicast.
        SourceNotBindable = "source_not_bindable",
        /// DERP: the sender's node key is not in the network map.
        UnknownPeer = "unknown_peer",
        /// DERP: sealed by another disco key than the network map has for the sender.
        DiscoMismatch = "disco_mismatch",
        /// DERP: more than a node may ask in its time.
        RequestRate = "request_rate",
        /// DERP: the sender is none of the two clients, or both are the same.
        NotAParty = "not_a_party",
        /// DERP: no grant of `tailscale.com/cap/relay` towards this relay.
        NoGrant = "no_grant",
        /// DERP: a client claims the relay's own key.
        OwnKey = "own_key",
        /// DERP: no address to advertise yet.
        NoAddress = "no_address",
        /// DERP: draining, or the node attribute `disable-relay-server` is set.
        NotAccepting = "not_accepting",
        /// DERP: all sessions are bound and the total limit is reached.
        SessionLimit = "session_limit",
        /// DERP: all sessions of this node are bound and its limit is reached.
        NodeLimit = "node_limit",
        /// DERP: all sessions of the nodes with one of this node's tags are bound, and the limit of a
        /// tag is reached.
        TagLimit = "tag_limit",
        /// UDP: data above the bandwidth of its session.
        SessionRate = "session_rate",
        /// UDP: data above the bandwidth of the relay.
        RelayRate = "relay_rate",
        /// UDP: a control packet for which the driver had no time.
        Busy = "busy",
    }
}

impl DropReason {
    /// Position in [`DropReason::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}
