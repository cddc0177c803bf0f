//! The arrows between rooms: which module imports which.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::source::Crate;

/// One room uses another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Arrow {
    pub(crate) from: String,
    pub(crate) to: String,
}

impl fmt::Display for Arrow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.from, self.to)
    }
}

/// Arrows, each with the files that draw it.
pub(crate) type Arrows = BTreeMap<Arrow, BTreeSet<String>>;

/// The arrows between the modules directly below `room`, a module path. Code of tests draws none.
/// Another crate of the workspace counts as a module below the crate's root.
pub(crate) fn arrows(krate: &Crate, room: &[String]) -> Arrows {
    let depth = room.len();
    let children: BTreeSet<&str> = children(krate, room).collect();
    let mut arrows = Arrows::new();
    for file in krate.files.iter().filter(|file| !file.is_test) {
        let Some(from) = file.module.get(depth) else {
            continue;
        };
        if !file.module.starts_with(room) {
            continue;
        }
        for path in &file.paths {
            let is_inside = path.starts_with(room);
            let Some(to) = path.get(depth).filter(|_| is_inside) else {
                continue;
            };
            if to != from && children.contains(&**to) {
                let (from, to) = (from.clone(), to.clone());
                let files = arrows.entry(Arrow { from, to }).or_default();
                files.insert(file.path.clone());
            }
        }
    }
    arrows
}

/// The names of the modules directly below a room, and of crates below the root.
pub(crate) fn children<'a>(krate: &'a Crate, room: &'a [String]) -> impl Iterator<Item = &'a str> {
    let files = krate.files.iter().filter(|file| !file.is_test);
    let inside = files.filter(|file| file.module.starts_with(room));
    let names = inside.filter_map(|file| Some(file.module.get(room.len())?.as_str()));
    let crates = if room.is_empty() { &CRATES[..] } else { &[] };
    names.chain(crates.iter().copied())
}

/// Crates of the workspace that are rooms of their own.
const CRATES: [&str; 1] = ["relay_proto"];

/// Every module that has modules below it, the crate's root first.
pub(crate) fn rooms(krate: &Crate) -> BTreeSet<Vec<String>> {
    let modules = krate.files.iter().map(|file| &file.module);
    let parents = modules.filter_map(|module| Some(module.split_last()?.1));
    parents
        .flat_map(|parent| (0..=parent.len()).map(|end| parent[..end].to_vec()))
        .collect()
}

/// Circles of arrows: groups of modules each of which reaches all the others.
pub(crate) fn circles(arrows: &Arrows) -> Vec<Vec<&str>> {
    let mut reached: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for arrow in arrows.keys() {
        reached.entry(&arrow.from).or_default().insert(&arrow.to);
    }
    loop {
        let known: usize = reached.values().map(BTreeSet::len).sum();
        let before = reached.clone();
        for targets in reached.values_mut() {
            let next = targets.iter().filter_map(|target| before.get(target));
            let next: Vec<&str> = next.flatten().copied().collect();
            targets.extend(next);
        }
        if reached.values().map(BTreeSet::len).sum::<usize>() == known {
            break;
        }
    }
    let group = |room: &str| -> Vec<&str> {
        let targets = reached[room].iter().copied();
        let comes_back = |to: &&str| reached.get(to).is_some_and(|back| back.contains(room));
        targets.filter(comes_back).collect()
    };
    let groups: BTreeSet<Vec<&str>> = reached.keys().map(|room| group(room)).collect();
    groups.into_iter().filter(|group| group.len() > 1).collect()
}

#[test]
fn circles_are_found() {
    let arrow = |(from, to): (&str, &str)| Arrow {
        from: from.to_owned(),
        to: to.to_owned(),
    };
    let drawn = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "a")];
    let arrows = drawn.map(|pair| (arrow(pair), BTreeSet::new())).into();
    assert_eq!(circles(&arrows), [["a", "b", "c"]]);
}
