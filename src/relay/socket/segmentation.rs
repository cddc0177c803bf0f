//! Destinations for which the kernel can cut super-datagrams, and those that get each datagram by
//! itself.

use std::{collections::VecDeque, net::SocketAddr};

/// Largest number of destinations without segmentation that are stored.
const MAX_REFUSED: usize = 64;
/// Number of super-datagrams after which segmentation for a destination is tried again, because its
/// path may have changed.
const RETRY_AFTER: u32 = 1024;
/// Kernels whose segmentation mangles super-datagrams of which all datagrams have one length: from
/// the first up to, and without, the second (tailscale.com commit 8b58bd6c6 and issue 21335).
const BROKEN_KERNELS: [[u32; 3]; 2] = [[7, 0, 0], [7, 1, 5]];

/// Destinations that refused a super-datagram.
#[derive(Debug, Default)]
pub(super) struct Segmentation {
    broken: bool,
    refused: VecDeque<(SocketAddr, u32)>,
}

impl Segmentation {
    /// Makes an empty set, for a kernel of this release (`uname -r`).
    pub(super) fn of(release: &str) -> Self {
        let broken = version(release)
            .is_some_and(|version| version >= BROKEN_KERNELS[0] && version < BROKEN_KERNELS[1]);
        if broken {
            tracing::info!(
                release,
                "this kernel cuts UDP super-datagrams wrongly: sending each datagram by itself"
            );
        }
        Self {
            broken,
            refused: VecDeque::new(),
        }
    }

    /// Returns whether a super-datagram may be sent to this destination.
    pub(super) fn may(&self, to: SocketAddr) -> bool {
        !self.broken
            && self
                .refused
                .iter()
                .all(|(destination, _)| *destination != to)
    }

    /// Records that a path cannot carry super-datagrams, because its device has no checksum offload
    /// (`EIO`) or its MTU is smaller (`EMSGSIZE`).
    pub(super) fn goes_singly(&mut self, to: SocketAddr) {
        if self.broken {
            return;
        }
        let refused = |(destination, _): &(SocketAddr, u32)| *destination == to;
        let Some(index) = self.refused.iter().position(refused) else {
            if self.refused.len() == MAX_REFUSED {
                self.refused.pop_front();
            }
            self.refused.push_back((to, RETRY_AFTER));
            return;
        };
        self.refused[index].1 -= 1;
        if self.refused[index].1 == 0 {
            self.refused.remove(index);
        }
    }
}

/// Parses the numbers of a release such as `6.18.44-generic`; missing ones are 0.
fn version(release: &str) -> Option<[u32; 3]> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let first = numbers.next()?.parse().ok()?;
    let mut next = || numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0);
    Some([first, next(), next()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    #[test]
    fn kernels_that_mangle_segments_are_recognized() {
        let broken = ["7.0.0", "7.0-rc1", "7.0.12-generic", "7.1.4"];
        let whole = ["6.18.44-fc", "7.1.5", "7.2.0-rc1", "8.0.1", "5.15", "odd"];
        assert!(
            broken
                .iter()
                .all(|release| !Segmentation::of(release).may(peer(1)))
        );
        assert!(
            whole
                .iter()
                .all(|release| Segmentation::of(release).may(peer(1)))
        );
    }

    #[test]
    fn a_refusal_concerns_one_destination_only() {
        let mut segmentation = Segmentation::default();
        segmentation.goes_singly(peer(1));
        assert!(!segmentation.may(peer(1)) && segmentation.may(peer(2)));
    }

    #[test]
    fn a_destination_is_tried_again() {
        let mut segmentation = Segmentation::default();
        for _ in 0..=RETRY_AFTER {
            assert!(segmentation.may(peer(1)) || !segmentation.refused.is_empty());
            segmentation.goes_singly(peer(1));
        }
        assert!(segmentation.may(peer(1)));
    }

    #[test]
    fn the_number_of_stored_destinations_is_limited() {
        let mut segmentation = Segmentation::default();
        (0..1000).for_each(|port| segmentation.goes_singly(peer(port)));
        assert_eq!(segmentation.refused.len(), MAX_REFUSED);
        assert!(segmentation.may(peer(0)) && !segmentation.may(peer(999)));
    }
}
