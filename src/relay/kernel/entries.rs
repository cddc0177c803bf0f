//! The maps of sessions: those between IPv4 addresses have entries of their own, which are small.

use std::os::fd::AsFd;

use aya::maps::{HashMap, IterableMap as _, Map, MapData, MapError};

use super::{
    Unavailable,
    entry::{Entry4, Entry6, SessionEntry},
    sys,
};

/// Every session that the program knows, by VNI.
pub(super) struct Entries {
    four: HashMap<MapData, u32, Entry4>,
    six: HashMap<MapData, u32, Entry6>,
}

impl Entries {
    /// In these two maps.
    ///
    /// # Errors
    /// They are no hash maps of such entries.
    pub(super) fn new(four: Map, six: Map) -> Result<Self, Unavailable> {
        Ok(Self {
            four: four.try_into().map_err(Unavailable::failed)?,
            six: six.try_into().map_err(Unavailable::failed)?,
        })
    }

    /// The same for another thread.
    pub(super) fn again(&self) -> Result<Self, Unavailable> {
        fn again(map: &MapData) -> Result<Map, Unavailable> {
            let fd = map.fd().as_fd().try_clone_to_owned();
            let data = MapData::from_fd(fd.map_err(Unavailable::failed)?);
            Map::from_map_data(data.map_err(Unavailable::failed)?).map_err(Unavailable::failed)
        }
        Self::new(again(self.four.map())?, again(self.six.map())?)
    }

    /// Whether there is room for this many, and entries are as this version has them: pinned maps
    /// need not be so.
    pub(super) fn fit(&self, sessions: u32) -> Result<bool, Unavailable> {
        let fits = |map: &MapData, size| {
            let info = map.info().map_err(Unavailable::failed)?;
            Ok(info.value_size() as usize == size && info.max_entries() == sessions)
        };
        Ok(fits(self.four.map(), size_of::<Entry4>())?
            && fits(self.six.map(), size_of::<Entry6>())?)
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

    /// Enters a session that has no entry.
    pub(super) fn insert(&mut self, vni: u32, session: &SessionEntry) -> Result<(), MapError> {
        match session.encode4() {
            Some(entry) => self.four.insert(vni, entry, 0),
            None => self.six.insert(vni, session.encode6(), 0),
        }
    }

    /// The same where there must be room: if there is none, it is another session's, which is
    /// returned.
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
        self.insert(vni, session)?;
        Ok(Some(displaced))
    }

    /// Takes an entry out: datagrams that come before it is back go through the sockets, and are
    /// counted there.
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
        // Linux before 5.14.
        Err(_) => {
            let entry = map.get(&vni, 0).ok()?;
            map.remove(&vni).ok()?;
            Some(entry)
        }
    }
}
