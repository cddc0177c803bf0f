//! The maps of sessions. Sessions between IPv4 addresses have a map of their own, with smaller entries.

use std::{io, os::fd::AsFd};

use aya::maps::{HashMap, IterableMap as _, Map, MapData, MapError};

use super::{
    entry::{Entry4, Entry6, SessionEntry},
    sys,
};

/// Error from opening the maps of sessions a second time.
#[derive(Debug, thiserror::Error)]
#[error("failed to open the maps of sessions for another thread: {0}")]
pub(super) enum ReopenError {
    Map(#[from] MapError),
    Descriptor(#[from] io::Error),
}

/// Entries of the sessions that the program knows, by VNI.
pub(super) struct Entries {
    four: HashMap<MapData, u32, Entry4>,
    six: HashMap<MapData, u32, Entry6>,
}

impl Entries {
    /// Entries in these two maps: of sessions between IPv4 addresses, and of all others.
    ///
    /// # Errors
    /// They are no hash maps of such entries.
    pub(super) fn new(four: Map, six: Map) -> Result<Self, MapError> {
        Ok(Self {
            four: four.try_into()?,
            six: six.try_into()?,
        })
    }

    /// Opens the same maps again, for another thread.
    pub(super) fn reopen(&self) -> Result<Self, ReopenError> {
        fn reopen(map: &MapData) -> Result<Map, ReopenError> {
            let fd = map.fd().as_fd().try_clone_to_owned()?;
            Ok(Map::from_map_data(MapData::from_fd(fd)?)?)
        }
        Ok(Self::new(
            reopen(self.four.map())?,
            reopen(self.six.map())?,
        )?)
    }

    pub(super) fn get(&self, vni: u32) -> Option<SessionEntry> {
        let four = self
            .four
            .get(&vni, 0)
            .map(|entry| SessionEntry::decode4(&entry));
        let six = || {
            self.six
                .get(&vni, 0)
                .map(|entry| SessionEntry::decode6(&entry))
        };
        four.or_else(|_| six()).ok()
    }

    /// Adds an entry for a session that has none.
    pub(super) fn insert(&mut self, vni: u32, session: &SessionEntry) -> Result<(), MapError> {
        match session.encode4() {
            Some(entry) => self.four.insert(vni, entry, 0),
            None => self.six.insert(vni, session.encode6(), 0),
        }
    }

    /// Adds an entry also where there is no room: then it takes the place of another session's, which is
    /// returned. If it cannot be added even there, the other one is put back.
    pub(super) fn insert_anyway(
        &mut self,
        vni: u32,
        session: &SessionEntry,
    ) -> Result<Option<(u32, SessionEntry)>, MapError> {
        let Err(full) = self.insert(vni, session) else {
            return Ok(None);
        };
        let other = match session.encode4() {
            Some(_) => self.four.keys().next(),
            None => self.six.keys().next(),
        };
        let other = other.and_then(Result::ok);
        let Some(displaced) = other.and_then(|other| Some((other, self.take(other)?))) else {
            return Err(full);
        };
        if let Err(error) = self.insert(vni, session) {
            self.put_back(&displaced);
            return Err(error);
        }
        Ok(Some(displaced))
    }

    /// Adds an entry that [`Self::insert_anyway`] has displaced.
    pub(super) fn put_back(&mut self, (vni, session): &(u32, SessionEntry)) {
        if let Err(error) = self.insert(*vni, session) {
            tracing::warn!(%error, vni, "no room in the kernel for a session; the sockets forward it");
        }
    }

    /// Removes and returns an entry. Datagrams that come before it is back go through the sockets, and
    /// are counted there.
    pub(super) fn take(&mut self, vni: u32) -> Option<SessionEntry> {
        let four = take(&mut self.four, vni).map(|entry| SessionEntry::decode4(&entry));
        four.or_else(|| take(&mut self.six, vni).map(|entry| SessionEntry::decode6(&entry)))
    }

    pub(super) fn remove(&mut self, vni: u32) {
        if self.four.remove(&vni).is_err() {
            self.six.remove(&vni).ok();
        }
    }

    /// Every VNI that has an entry.
    pub(super) fn vnis(&self) -> Vec<u32> {
        let all = self.four.keys().chain(self.six.keys());
        all.filter_map(Result::ok).collect()
    }
}

fn take<const N: usize>(map: &mut HashMap<MapData, u32, [u8; N]>, vni: u32) -> Option<[u8; N]> {
    match sys::take(map.map().fd().as_fd(), vni) {
        Ok(entry) => entry,
        // Linux before 5.14 has no BPF_MAP_LOOKUP_AND_DELETE_ELEM for hash maps.
        Err(_) => {
            let entry = map.get(&vni, 0).ok()?;
            map.remove(&vni).ok()?;
            Some(entry)
        }
    }
}
