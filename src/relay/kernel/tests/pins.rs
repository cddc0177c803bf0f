//! Pinned maps of another version are replaced, and not accessed.

use std::{fs, path::Path, process::Command};

use aya::maps::{MapData, MapInfo, MapType};

use super::{is_built, persistence::Pins};
use crate::relay::kernel::{
    Attachment, UnavailableReason, abi, is_mount_point,
    program::{Layout, Program, layouts},
};

const SESSIONS: u32 = 100;

fn load(pins: &Pins) {
    drop(Program::load(Some(pins.path()), SESSIONS, Attachment::Link).unwrap());
}

/// Puts a map with this layout in the place of a pinned one.
fn replace(pin: &Path, layout: Layout) {
    let map = aya_obj::Map::new_from_params(
        layout.map_type as u32,
        layout.key_size,
        layout.value_size,
        layout.max_entries,
        layout.flags,
    );
    let map = MapData::create(map, "other", None).unwrap();
    fs::remove_file(pin).unwrap();
    map.pin(pin).unwrap();
}

/// Layouts that differ from this one in one property, as the kernel takes them.
fn others(layout: Layout) -> Vec<Layout> {
    let (map_type, flags) = match layout.map_type {
        MapType::Hash => (MapType::LruHash, layout.flags ^ 1),
        MapType::LruHash => (MapType::Hash, layout.flags ^ 1 << 1),
        MapType::Array => (MapType::PerCpuArray, layout.flags ^ 1 << 10),
        _ => (MapType::Array, layout.flags),
    };
    let mut others = vec![
        Layout {
            value_size: layout.value_size + 8,
            ..layout
        },
        Layout {
            max_entries: layout.max_entries + 1,
            ..layout
        },
        // Of these types, the kernel takes a map with fewer flags only.
        Layout {
            map_type,
            flags: 0,
            ..layout
        },
        Layout { flags, ..layout },
    ];
    if matches!(layout.map_type, MapType::Hash | MapType::LruHash) {
        others.push(Layout {
            key_size: layout.key_size + 4,
            ..layout
        });
    }
    others.retain(|other| *other != layout);
    others
}

#[test]
fn each_pinned_map_with_another_layout_is_replaced() {
    if !(is_built() && skips::is_root()) {
        return;
    }
    let wanted = layouts(SESSIONS).unwrap();
    for (changed, layout) in &wanted {
        for other in others(*layout) {
            let pins = Pins::mount();
            load(&pins);
            replace(&pins.path().join(changed), other);
            load(&pins);
            for (name, layout) in &wanted {
                let pinned = Layout::of_pin(&pins.path().join(name)).unwrap();
                assert_eq!(pinned, *layout, "{name} after {changed} with {other:?}");
            }
        }
    }
}

#[test]
fn a_program_that_cannot_be_pinned_forwards_and_says_why() {
    if !(is_built() && skips::is_root()) {
        return;
    }
    let read_only = Pins::mount();
    let directory = read_only.path().parent().unwrap().to_owned();
    let remounted = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(&directory)
        .status();
    assert!(remounted.unwrap().success());
    let other_file_system = tempfile::tempdir().unwrap();
    for pins in [read_only.path(), other_file_system.path().join("relay")] {
        let loaded = Program::load(Some(pins.clone()), SESSIONS, Attachment::Link);
        let (program, ..) = loaded.unwrap();
        let unpinned = program.unpinned().expect("nothing can be pinned");
        assert_eq!(unpinned.reason, UnavailableReason::NotPinned);
        assert!(unpinned.message.contains("/sys/fs/bpf"), "{unpinned}");
        assert!(!pins.exists(), "nothing is left in {}", pins.display());
    }
    let pins = Pins::mount();
    let (program, ..) = Program::load(Some(pins.path()), SESSIONS, Attachment::Link).unwrap();
    assert_eq!(program.unpinned(), None);
}

#[test]
fn only_what_is_mounted_is_a_mount_point() {
    let mounts = "24 1 0:22 / /sys ro,nosuid shared:7 - sysfs sysfs rw\n\
                  29 24 0:27 / /sys/fs/bpf rw - bpf bpf rw,mode=700\n";
    assert!(is_mount_point(mounts, "/sys/fs/bpf"));
    assert!(!is_mount_point(mounts, "/sys/fs"));
}

#[test]
fn pinned_maps_are_taken_over_together_or_not_at_all() {
    if !(is_built() && skips::is_root()) {
        return;
    }
    let pins = Pins::mount();
    let sessions = || {
        let info = MapInfo::from_pin(pins.path().join("SESSIONS4"));
        info.unwrap().id()
    };
    load(&pins);
    let first = sessions();
    load(&pins);
    assert_eq!(sessions(), first, "all maps are as this version has them");
    fs::remove_file(pins.path().join("EXITS")).unwrap();
    load(&pins);
    assert_ne!(sessions(), first, "its entries name egresses that are gone");
}

#[test]
fn program_has_as_many_counters_as_the_relay_reads() {
    if is_built() {
        let counters = layouts(SESSIONS).unwrap()["COUNTERS"];
        assert_eq!(counters.max_entries, abi::COUNTERS);
    }
}
