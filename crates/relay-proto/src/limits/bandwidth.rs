//! Bandwidth limits on forwarded data: one for each session, and one for all sessions of a relay.

use std::{
    collections::HashMap,
    num::NonZero,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    config::Config, limits::rate::RateLimit, shared_path::SharedTat, time::Timestamp,
    verdict::DropReason, wire::geneve::Vni,
};

/// The limit of a whole relay, which its cores share.
#[derive(Debug)]
pub(crate) struct RelayBandwidth {
    limit: Option<RateLimit>,
    /// The TAT in nanoseconds, unless another data path has it.
    tat: AtomicU64,
}

impl RelayBandwidth {
    pub(crate) fn new(bytes_per_second: Option<NonZero<u64>>) -> Self {
        Self {
            limit: bytes_per_second.map(RateLimit::bandwidth),
            tat: AtomicU64::new(0),
        }
    }

    /// Admits `bytes`, and counts them on the TAT of `path` if that has one.
    pub(crate) fn admit(
        &self,
        path: &impl SharedTat,
        bytes: u64,
        now: Timestamp,
    ) -> Result<(), DropReason> {
        let Some(limit) = self.limit else {
            return Ok(());
        };
        let shared = path.shared_tat();
        let (cell, offset) = shared.map_or((&self.tat, 0), |shared| (shared.tat, shared.offset));
        let now = Timestamp::from_nanos(now.as_nanos().wrapping_add(offset));
        let next = |tat| {
            let after = limit.admit(Timestamp::from_nanos(tat), bytes, now)?;
            Some(after.as_nanos())
        };
        // Relaxed: the TAT is one number, and no other memory depends on it.
        match cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Ok(()),
            Err(_) => Err(DropReason::RelayRate),
        }
    }
}

/// The limit on each session, as one core keeps it.
#[derive(Debug)]
pub(crate) struct SessionBandwidth {
    limit: Option<RateLimit>,
    /// TATs of sessions that have had data.
    tats: HashMap<Vni, Timestamp>,
}

impl SessionBandwidth {
    /// `None` if neither sessions nor the relay have a limit: then data skips all checks.
    pub(crate) fn new(config: &Config) -> Option<Self> {
        let limit = config.max_bytes_per_second_per_session;
        (limit.is_some() || config.max_bytes_per_second.is_some()).then(|| Self {
            limit: limit.map(RateLimit::bandwidth),
            tats: HashMap::new(),
        })
    }

    /// Admits `bytes` of a session, if the relay's limit admits them too: data that the relay
    /// refuses does not count against its session.
    pub(crate) fn admit(
        &mut self,
        vni: Vni,
        bytes: u64,
        now: Timestamp,
        relay: impl FnOnce() -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        let Some(limit) = self.limit else {
            return relay();
        };
        let tat = self.tats.entry(vni).or_default();
        let after = limit.admit(*tat, bytes, now);
        let after = after.ok_or(DropReason::SessionRate)?;
        relay()?;
        *tat = after;
        Ok(())
    }

    /// Forgets a session that has ended.
    pub(crate) fn forget(&mut self, vni: Vni) {
        self.tats.remove(&vni);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::shared_path::ClockedTat;

    struct OtherPath {
        tat: AtomicU64,
        offset: u64,
    }

    impl SharedTat for OtherPath {
        fn shared_tat(&self) -> Option<ClockedTat<'_>> {
            let Self { tat, offset } = self;
            let offset = *offset;
            Some(ClockedTat { tat, offset })
        }
    }

    #[test]
    fn data_of_another_path_counts_on_that_paths_clock() {
        const MEBIBYTE: u64 = 1 << 20;
        let bandwidth = RelayBandwidth::new(NonZero::new(MEBIBYTE));
        // The other clock was started 100 s after the relay's.
        let path = OtherPath {
            tat: AtomicU64::new(0),
            offset: 0_u64.wrapping_sub(100_000_000_000),
        };
        let now = Timestamp::from_start(Duration::from_secs(200));
        assert!(bandwidth.admit(&path, 128 << 10, now).is_ok());
        assert_eq!(
            path.tat.load(Ordering::Relaxed),
            100_000_000_000 + 125_000_000,
            "128 KiB take an eighth of a second"
        );
        assert_eq!(bandwidth.admit(&path, 1, now), Err(DropReason::RelayRate));
        // The other path has used up the next second.
        path.tat.fetch_add(1_000_000_000, Ordering::Relaxed);
        let later = now + Duration::from_secs(1);
        assert!(bandwidth.admit(&path, 1, later).is_err());
        let later = later + Duration::from_micros(1);
        assert!(bandwidth.admit(&path, 1, later).is_ok());
    }
}
