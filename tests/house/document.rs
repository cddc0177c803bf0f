//! The table of rooms in docs/architecture.md, and the drawing that is made from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use crate::source::root;

const PATH: &str = "docs/architecture.md";
/// Heading of the column that lists the rooms a room may use.
const COLUMN: &str = "may use";
const DRAWING: (&str, &str) = ("```mermaid\n", "```\n");

/// A row of the table.
pub(crate) struct Room {
    pub(crate) name: String,
    pub(crate) may_use: BTreeSet<String>,
}

/// The rooms of the product, from the highest to the lowest.
pub(crate) fn rooms() -> Vec<Room> {
    let text = fs::read_to_string(root().join(PATH)).unwrap();
    let rows = text
        .lines()
        .skip_while(|line| !line.ends_with(&format!("| {COLUMN} |")));
    let rows = rows.skip(2).take_while(|line| line.starts_with('|'));
    let rooms = rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        Room {
            name: codes(cells[0]).next().unwrap(),
            may_use: codes(cells.last().unwrap()).collect(),
        }
    });
    rooms.collect()
}

/// The words of a cell that are set as code.
fn codes(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// The drawing: each arrow that no longer way through other rooms implies.
fn drawing(rooms: &[Room]) -> String {
    let mut lines = vec!["graph TD".to_owned()];
    let uses: BTreeMap<&str, &BTreeSet<String>> = rooms
        .iter()
        .map(|room| (&*room.name, &room.may_use))
        .collect();
    for room in rooms {
        let is_implied = |to: &&String| {
            let others = room.may_use.iter().filter(|other| other != to);
            others.into_iter().any(|other| reaches(&uses, other, to))
        };
        let direct = room.may_use.iter().filter(|to| !is_implied(to));
        lines.extend(direct.map(|to| format!("  {} --> {to}", room.name)));
    }
    lines.join("\n") + "\n"
}

fn reaches(uses: &BTreeMap<&str, &BTreeSet<String>>, from: &str, to: &str) -> bool {
    let next = uses.get(from).into_iter().flat_map(|next| next.iter());
    next.into_iter()
        .any(|next| next == to || reaches(uses, next, to))
}

#[test]
fn rooms_of_the_document_use_only_lower_ones() {
    let rooms = rooms();
    assert!(
        !rooms.is_empty(),
        "{PATH} has no table with the column {COLUMN}"
    );
    for (at, room) in rooms.iter().enumerate() {
        let lower: BTreeSet<String> = rooms[at + 1..]
            .iter()
            .map(|room| room.name.clone())
            .collect();
        let others: Vec<_> = room.may_use.difference(&lower).collect();
        assert!(
            others.is_empty(),
            "{} may use {others:?}, which are not below it",
            room.name
        );
    }
}

#[test]
fn drawing_of_the_document_is_made_from_its_table() {
    let path = root().join(PATH);
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(DRAWING.0).unwrap();
    let (found, after) = rest.split_once(DRAWING.1).unwrap();
    let wanted = drawing(&rooms());
    if found != wanted && std::env::var_os("UPDATE").is_some() {
        let [start, end] = [DRAWING.0, DRAWING.1];
        fs::write(path, format!("{before}{start}{wanted}{end}{after}")).unwrap();
    } else {
        assert_eq!(
            found, wanted,
            "UPDATE=1 cargo test --test house rewrites the drawing"
        );
    }
}
