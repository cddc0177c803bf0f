//! Generated policies: nothing but the generated entries changes, and no truncation is accepted.

use std::fmt::Write as _;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{super::*, pruned, region, request};
use crate::grants::RegionGrant;

const POLICIES: u64 = 1_000;
/// Start of every marker, written independently of the product.
const MARKER: &str = "Managed by peerrelay grants merge: ";

#[test]
fn a_thousand_policies_keep_every_byte_outside_of_generated_entries() {
    let seed = seed();
    for nth in 0..POLICIES {
        let mut random = StdRng::seed_from_u64(seed + nth);
        let policy = Writer::policy(&mut random);
        let about = format!("seed {}, policy:\n{policy}\n", seed + nth);
        let regions = regions(&mut random);
        let request = request(regions.clone());
        let merged = merge(&policy, &request).unwrap_or_else(|error| panic!("{about}{error}"));
        let merged = merged.text;
        assert!(is_kept(&policy, &merged), "{about}merged:\n{merged}");
        assert_eq!(merge(&merged, &request).unwrap().text, merged, "{about}");
        for region in &regions {
            let marker = format!("{MARKER}{}, {}", region.origin, region.tag);
            assert!(
                merged.matches(&marker).count() >= 2,
                "{about}merged:\n{merged}"
            );
        }

        // Other clients, and then no regions: only generated entries change.
        let other = merge(&merged, &super::request(self::regions(&mut random)));
        let other = other.unwrap().text;
        assert!(is_kept(&policy, &other), "{about}changed:\n{other}");
        let removed = merge(&other, &pruned()).unwrap().text;
        assert!(!removed.contains(MARKER), "{about}removed:\n{removed}");
        assert!(is_kept(&policy, &removed), "{about}removed:\n{removed}");
        let sections = ["\"tagOwners\":", "\"grants\":", "\"tests\":"];
        let has_sections = sections.iter().all(|section| policy.contains(section));
        if has_sections {
            assert_eq!(removed, policy.replace("null", "[]"), "{about}");
        }
    }
}

#[test]
fn every_truncation_of_a_policy_is_refused() {
    let seed = seed();
    for nth in 0..100 {
        let mut random = StdRng::seed_from_u64(seed + nth);
        let policy = Writer::policy(&mut random);
        let request = request(regions(&mut random));
        let root = document::Document::parse(&policy).unwrap().root.range.end;
        for end in 0..root {
            let error = match policy.get(..end) {
                Some(text) => merge(text, &request).err(),
                None => decode(&policy.as_bytes()[..end]).err(),
            };
            let about = || {
                let accepted = String::from_utf8_lossy(&policy.as_bytes()[..end]);
                format!("seed {} is accepted:\n{accepted}", seed + nth)
            };
            let error = error.unwrap_or_else(|| panic!("{}", about()));
            assert!(error.line > 0 && error.column > 0);
        }
    }
}

/// The seed of this run, which PEERRELAY_SEED replaces.
fn seed() -> u64 {
    let given = std::env::var("PEERRELAY_SEED").ok();
    let seed = given.map_or(1, |seed| seed.parse().unwrap());
    println!("PEERRELAY_SEED={seed}");
    seed
}

/// Returns whether a text contains another one in order, with nothing but additions between its
/// characters, and each comment of it unchanged.
fn is_kept(policy: &str, merged: &str) -> bool {
    let mut rest = merged.bytes();
    // The merge replaces only a section that is null.
    let policy = &policy.replace("null", "");
    let in_order = policy.bytes().all(|byte| rest.any(|other| other == byte));
    let comment = regex::Regex::new(r"// note[^\r\n]*|/\* note[^*]*\*/").unwrap();
    let comments = |text: &str| -> Vec<String> {
        let found = comment.find_iter(text);
        found.map(|found| found.as_str().to_owned()).collect()
    };
    in_order && comments(policy) == comments(merged)
}

fn regions(random: &mut StdRng) -> Vec<RegionGrant> {
    let clients = [
        "tag:a",
        "group:b",
        "c@example.com",
        "100.64.0.9",
        "*",
        "d-host",
    ];
    let names = ["eu", "us", "ap", "lab"];
    let number = random.random_range(1..=names.len());
    let grant = |name: &&str| {
        let number = random.random_range(1..=clients.len());
        let chosen: Vec<_> = clients.choose_multiple(random, number).copied().collect();
        let mut grant = region(name, &chosen);
        grant.self_relay = random.random_bool(0.2);
        grant.deny_tests = random.random_bool(0.3);
        grant
    };
    names[..number].iter().map(grant).collect()
}

/// Writer of a policy file in a random layout.
struct Writer<'r> {
    random: &'r mut StdRng,
    text: String,
    newline: &'static str,
    unit: &'static str,
    comments: bool,
    trailing: bool,
}

impl<'r> Writer<'r> {
    fn policy(random: &'r mut StdRng) -> String {
        let one_line = random.random_bool(0.1);
        let mut writer = Writer {
            text: String::new(),
            newline: match one_line {
                true => "",
                false => ["\n", "\n", "\r\n"].choose(random).unwrap(),
            },
            unit: ["  ", "    ", "\t", ""].choose(random).unwrap(),
            comments: !one_line && random.random_bool(0.7),
            trailing: random.random_bool(0.5),
            random,
        };
        writer.note("");
        writer.root();
        writer.text.push_str(writer.newline);
        writer.note("");
        writer.text
    }

    fn root(&mut self) {
        let mut sections = vec!["acls", "groups", "hosts", "ssh", "nodeAttrs"];
        for section in ["tagOwners", "grants", "tests"] {
            if self.random.random_bool(0.8) {
                let at = self.random.random_range(0..=sections.len());
                sections.insert(at, section);
            }
        }
        let from = self.random.random_range(0..3);
        if !sections[from..].contains(&"grants") && !sections[from..].contains(&"acls") {
            sections.push("acls");
        }
        let sections: Vec<_> = sections[from.min(sections.len() - 1)..].to_vec();
        let has_acls = sections.contains(&"acls");
        self.list('{', '}', 0, sections.len(), |writer, at| {
            let name = sections[at];
            write!(writer.text, "\"{name}\":").unwrap();
            writer.space();
            let is_map = ["groups", "hosts", "tagOwners"].contains(&name);
            if has_acls && name == "grants" && writer.random.random_bool(0.05) {
                return writer.text.push_str("null");
            }
            let number = writer.random.random_range(0..4);
            match is_map {
                true => writer.list('{', '}', 1, number, |writer, at| writer.owner(name, at)),
                false => writer.list('[', ']', 1, number, Self::rule),
            }
        });
    }

    fn owner(&mut self, section: &str, at: usize) {
        let prefix = if section == "groups" {
            "group:"
        } else {
            "tag:"
        };
        write!(self.text, "\"{prefix}n{at}\":").unwrap();
        self.space();
        self.texts();
    }

    fn rule(&mut self, _: usize) {
        let wide = self.random.random_bool(0.5) && !self.newline.is_empty();
        let newline = self.newline;
        if !wide {
            self.newline = "";
        }
        self.list('{', '}', 2, 3, |writer, at| {
            let name = ["src", "dst", "ip"][at];
            write!(writer.text, "\"{name}\":").unwrap();
            writer.space();
            writer.texts();
        });
        self.newline = newline;
    }

    fn texts(&mut self) {
        let texts = [
            "tag:n1",
            "*",
            "ünïcode \\u00e9",
            "a\\\"b // no note",
            "100.64.0.1",
        ];
        let number = self.random.random_range(0..3);
        let chosen: Vec<_> = (0..number)
            .map(|_| *texts.choose(self.random).unwrap())
            .collect();
        let chosen: Vec<_> = chosen.iter().map(|text| format!("\"{text}\"")).collect();
        let separator = if self.random.random_bool(0.5) {
            ", "
        } else {
            ","
        };
        write!(self.text, "[{}]", chosen.join(separator)).unwrap();
    }

    fn list(
        &mut self,
        open: char,
        close: char,
        depth: usize,
        number: usize,
        mut entry: impl FnMut(&mut Self, usize),
    ) {
        self.text.push(open);
        let indent = self.unit.repeat(depth + 1);
        for at in 0..number {
            self.text.push_str(self.newline);
            if !self.newline.is_empty() {
                self.note(&indent);
                self.text.push_str(&indent);
            }
            entry(self, at);
            if at + 1 < number || (self.trailing && self.random.random_bool(0.9)) {
                self.text.push(',');
            }
            if self.comments && !self.newline.is_empty() && self.random.random_bool(0.2) {
                let note = [" // note right", " /* note right */"];
                self.text.push_str(note.choose(self.random).unwrap());
            }
        }
        if number > 0 {
            self.text.push_str(self.newline);
            if !self.newline.is_empty() {
                self.note(&indent);
                self.text.push_str(&self.unit.repeat(depth));
            }
        }
        self.text.push(close);
    }

    /// Writes a comment on lines of its own, or a blank line.
    fn note(&mut self, indent: &str) {
        if !self.comments || !self.random.random_bool(0.3) {
            return;
        }
        let notes = ["// note [ { \"", "/* note } ] , */", "// note tail,", ""];
        let note = notes.choose(self.random).unwrap();
        write!(self.text, "{indent}{note}{}", self.newline).unwrap();
    }

    fn space(&mut self) {
        let spaces = ["", " ", "  ", " /* note */ "];
        let number = if self.comments { 4 } else { 3 };
        self.text
            .push_str(spaces[..number].choose(self.random).unwrap());
    }
}
