//! Layouts of pinned maps. They are compared with the object before anything accesses a map: the loader
//! expects what the object says, while the kernel copies as many bytes as keys and values really have.

use std::{collections::HashMap, path::Path};

use aya::maps::{MapError, MapInfo, MapType};
use aya_obj::{Object, generated::bpf_map_type};

use super::{
    OBJECT,
    error::LoadError,
    maps::{MAPS, capacity},
    pins,
};

/// Layout of one map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::relay::kernel) struct Layout {
    pub(in crate::relay::kernel) map_type: MapType,
    /// Bytes of each key and each value.
    pub(in crate::relay::kernel) key_size: u32,
    pub(in crate::relay::kernel) value_size: u32,
    pub(in crate::relay::kernel) max_entries: u32,
    pub(in crate::relay::kernel) flags: u32,
}

impl Layout {
    /// The layout of the map that is pinned at `path`.
    pub(in crate::relay::kernel) fn of_pin(path: &Path) -> Result<Self, MapError> {
        let info = MapInfo::from_pin(path)?;
        Ok(Self {
            map_type: info.map_type()?,
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: info.max_entries(),
            flags: info.map_flags(),
        })
    }

    /// The layout that the object gives a map, in a relay with so many sessions.
    fn of_object(name: &str, map: &aya_obj::Map, sessions: u32) -> Result<Self, LoadError> {
        let map_type = bpf_map_type::try_from(map.map_type()).map_err(MapError::from)?;
        Ok(Self {
            map_type: map_type.try_into()?,
            key_size: map.key_size(),
            value_size: map.value_size(),
            max_entries: capacity(name, sessions).unwrap_or_else(|| map.max_entries()),
            flags: map.map_flags(),
        })
    }
}

/// Layouts of all maps of this version, by name, in a relay with so many sessions.
pub(in crate::relay::kernel) fn of_object(
    sessions: u32,
) -> Result<HashMap<&'static str, Layout>, LoadError> {
    let object = Object::parse(OBJECT).map_err(|error| LoadError::Object(error.to_string()))?;
    let layout = |name| {
        let map = object.maps.get(name).ok_or(LoadError::NoMap(name))?;
        Ok((name, Layout::of_object(name, map, sessions)?))
    };
    MAPS.into_iter().map(layout).collect()
}

/// Checks that a directory has either no pinned maps, or all of them with the layouts of this version.
/// The maps are not accessed.
///
/// # Errors
/// Another version, or a relay with other limits, has pinned maps there.
pub(super) fn check_pins(directory: &Path, sessions: u32) -> Result<(), LoadError> {
    let pinned: Vec<String> = pins::names(directory)
        .filter(|name| !pins::is_link(name))
        .collect();
    if pinned.is_empty() {
        return Ok(());
    }
    if !pinned.iter().all(|name| MAPS.contains(&name.as_str())) {
        return Err(LoadError::OtherPins);
    }
    for (name, expected) in of_object(sessions)? {
        if !pinned.iter().any(|pin| pin == name) {
            return Err(LoadError::OtherPins);
        }
        if Layout::of_pin(&directory.join(name))? != expected {
            return Err(LoadError::OtherLayout(name));
        }
    }
    Ok(())
}
