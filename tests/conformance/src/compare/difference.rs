//! Differences on purpose (`docs/wire.md` section 9). Any other difference is a fault, and so is
//! an entry of this table that no run sees.

use relay_proto::DropReason;

/// A difference on purpose.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Difference {
    /// A new session has a VNI by chance.
    CountedVni,
    /// A pair must be two clients.
    SameClientTwice,
    /// The relay's node is no client.
    NodeKeyAsClient,
    /// A node has a limited number of sessions; the oldest that is not open gives way.
    SessionLimit,
    /// A session has a limited bandwidth.
    Bandwidth,
    /// Another version of Geneve is nothing to us.
    GeneveVersion,
    /// A handshake from one of the relay's own addresses.
    OwnAddress,
    /// A handshake from loopback.
    LoopbackAddress,
    /// A bind that is not newer than what was completed, or older than what was begun.
    StaleBind,
    /// The answer to the challenge that Go gave for such a bind.
    StaleAnswer,
    /// An answer whose handshake a bind has displaced at Go's, which we did not follow.
    DisplacedHandshake,
}

impl Difference {
    /// All, in the order in which they are printed.
    pub const ALL: [Self; 11] = [
        Self::CountedVni,
        Self::SameClientTwice,
        Self::NodeKeyAsClient,
        Self::SessionLimit,
        Self::Bandwidth,
        Self::GeneveVersion,
        Self::OwnAddress,
        Self::LoopbackAddress,
        Self::StaleBind,
        Self::StaleAnswer,
        Self::DisplacedHandshake,
    ];

    /// The reason for the difference: Go's behaviour, and why ours differs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::CountedVni => "Go counts VNIs up; ours cannot be guessed",
            Self::SameClientTwice => "Go gives a client a session with itself, which has no use",
            Self::NodeKeyAsClient => {
                "Go gives a session with the relay's own node, which binds none"
            }
            Self::SessionLimit => "Go has no limit; ours keeps one node from taking the memory",
            Self::Bandwidth => "Go has no limit; ours is on request",
            Self::GeneveVersion => "Go ignores the version; RFC 8926 requires to drop others",
            Self::OwnAddress => "Go binds its own address and would talk to itself",
            Self::LoopbackAddress => "Go binds loopback and is a door into its host",
            Self::StaleBind => "Go begins any handshake; a recorded bind must begin nothing",
            Self::StaleAnswer => "Go completes it; a recorded handshake must not move a leg back",
            Self::DisplacedHandshake => "Go drops it; a recorded bind must not end a handshake",
        }
    }

    /// The drop reasons of our relay for the difference; none where Go's relay drops. The answer to
    /// a challenge that a datagram of another version got has the right version, but comes unasked.
    pub const fn drop_reasons(self) -> &'static [DropReason] {
        match self {
            Self::CountedVni | Self::DisplacedHandshake => &[],
            Self::SameClientTwice => &[DropReason::NotAParty],
            Self::NodeKeyAsClient => &[DropReason::OwnKey],
            Self::SessionLimit => &[DropReason::NodeLimit],
            Self::Bandwidth => &[DropReason::SessionRate],
            Self::GeneveVersion => &[
                DropReason::Malformed,
                DropReason::StaleGeneration,
                DropReason::BadChallenge,
            ],
            Self::OwnAddress | Self::LoopbackAddress => &[DropReason::SourceNotBindable],
            Self::StaleBind | Self::StaleAnswer => &[DropReason::StaleGeneration],
        }
    }
}
