//! Paths of Rust code, with their branches.

/// The module paths that the code of `module` names, from the root of its crate.
pub(crate) fn paths(module: &[String], code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate", "super", "self", "peerrelay", "relay_proto"] {
        for (at, _) in code.match_indices(&format!("{start}::")) {
            let before = code[..at].chars().next_back();
            if before.is_none_or(|letter| !letter.is_alphanumeric() && !"_:$".contains(letter)) {
                let mut tree = Tree {
                    rest: &code[at..],
                    found: Vec::new(),
                };
                tree.read(&[]);
                found.extend(tree.found);
            }
        }
    }
    found
        .into_iter()
        .filter_map(|path| absolute(module, &path))
        .collect()
}

/// The path from the root of the crate: nothing where it leaves the crate.
fn absolute(module: &[String], path: &[String]) -> Option<Vec<String>> {
    let mut base = module.to_vec();
    for (at, part) in path.iter().enumerate() {
        match part.as_str() {
            "crate" | "peerrelay" => base.clear(),
            "self" => {}
            "super" => {
                base.pop()?;
            }
            "relay_proto" if at == 0 => return Some(path.to_vec()),
            _ => {
                base.extend_from_slice(&path[at..]);
                return Some(base);
            }
        }
    }
    Some(base)
}

/// A reader of a path with its branches: `a::{b, c::d}`.
struct Tree<'a> {
    rest: &'a str,
    found: Vec<Vec<String>>,
}

impl Tree<'_> {
    fn read(&mut self, prefix: &[String]) {
        let mut path = prefix.to_vec();
        loop {
            self.rest = self.rest.trim_start();
            let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
            let end = self.rest.find(|letter| !is_word(letter));
            let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
            if !word.is_empty() {
                path.push(word.to_owned());
            }
            self.rest = rest;
            if let Some(rest) = rest.strip_prefix("::") {
                self.rest = rest;
            } else if let Some(rest) = rest.strip_prefix('{')
                && word.is_empty()
            {
                self.rest = rest;
                return self.branches(&path);
            } else {
                break;
            }
        }
        self.found.push(path);
    }

    fn branches(&mut self, prefix: &[String]) {
        loop {
            self.read(prefix);
            // An alias, a star, or spaces.
            let Some(end) = self.rest.find([',', '}']) else {
                return;
            };
            let is_last = self.rest[end..].starts_with('}');
            self.rest = &self.rest[end + 1..];
            if is_last {
                return;
            }
        }
    }
}

#[test]
fn paths_are_read_with_their_branches() {
    let module = ["operator", "plan"].map(str::to_owned);
    let code = "use crate::{crd::{A, b as c}, names::*}; super::build::x(); macrocrate::y";
    let paths = paths(&module, code).into_iter().map(|path| path.join("::"));
    let wanted = ["crd::A", "crd::b", "names", "operator::build::x"];
    assert_eq!(paths.collect::<Vec<_>>(), wanted);
}
