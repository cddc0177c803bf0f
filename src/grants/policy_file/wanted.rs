//! Entries that PeerRelays need in a policy file.

use serde_json::Value as Json;

use super::{
    document::{Container, Document, Entry, Value},
    edit::Layout,
    marker::Marker,
};
use crate::grants::{CAPABILITY, DenyTest, RegionGrant};

/// Part of a policy file that has generated entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Section {
    TagOwners,
    Grants,
    Tests,
}

/// Entry that a section needs.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) section: Section,
    pub(super) marker: Marker,
    pub(super) content: Content,
}

/// Content of an entry.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// List of the owners of a tag. An existing list of owners is kept, unless the user named the owners.
    Owners { owners: Vec<String>, exact: bool },
    /// Members of a rule.
    Rule(Vec<(&'static str, Field)>),
}

/// Value of a member of a rule.
#[derive(Debug, Clone)]
pub(super) enum Field {
    /// List whose order does not matter.
    Set(Vec<String>),
    Text(String),
    /// The relay capability.
    Capability,
}

impl Section {
    pub(super) const ALL: [Self; 3] = [Self::TagOwners, Self::Grants, Self::Tests];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::TagOwners => "tagOwners",
            Self::Grants => "grants",
            Self::Tests => "tests",
        }
    }

    /// Returns an empty section.
    pub(super) const fn empty(self) -> &'static str {
        match self {
            Self::TagOwners => "{}",
            Self::Grants | Self::Tests => "[]",
        }
    }

    /// Returns the type of the section, for messages.
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::TagOwners => "an object: tags with their owners",
            Self::Grants => "a list of grants",
            Self::Tests => "a list of tests",
        }
    }

    /// Returns the content of the section in a policy file.
    pub(super) fn of(self, document: &Document) -> Option<&Container> {
        let member = document.root.member(self.name())?;
        match self {
            Self::TagOwners => member.object(),
            Self::Grants | Self::Tests => member.array(),
        }
    }

    /// Returns the tag of the relays in an entry that has the form of a generated one.
    pub(super) fn tag(self, entry: &Entry) -> Option<&str> {
        match self {
            Self::TagOwners => entry.name.as_deref(),
            Self::Grants => {
                let rule = entry.object()?;
                let app = rule.member("app")?.object()?;
                let is_relay = app.names().any(|name| name == CAPABILITY);
                match rule.member("dst")?.array()?.texts()?[..] {
                    [tag] if is_relay => Some(tag),
                    _ => None,
                }
            }
            Self::Tests => entry.object()?.member("src")?.text(),
        }
    }
}

impl Wanted {
    /// Returns the entry for a tag's owners.
    pub(super) fn owners(marker: Marker, owners: Option<&[String]>) -> Self {
        let default = || vec![crate::grants::OWNER.to_owned()];
        let content = Content::Owners {
            exact: owners.is_some(),
            owners: owners.map_or_else(default, <[String]>::to_vec),
        };
        Self {
            section: Section::TagOwners,
            marker,
            content,
        }
    }

    /// Returns the entry for a region's grant.
    pub(super) fn grant(marker: Marker, region: &RegionGrant) -> Self {
        let grant = region.grant();
        let members = vec![
            ("src", Field::Set(grant.src)),
            ("dst", Field::Set(grant.dst)),
            ("app", Field::Capability),
        ];
        Self {
            section: Section::Grants,
            marker,
            content: Content::Rule(members),
        }
    }

    /// Returns the entry for a tag's test.
    pub(super) fn test(marker: Marker, test: DenyTest) -> Self {
        let members = vec![
            ("src", Field::Text(test.src)),
            ("deny", Field::Set(test.deny)),
        ];
        Self {
            section: Section::Tests,
            marker,
            content: Content::Rule(members),
        }
    }

    /// Returns the text of the entry.
    pub(super) fn render(&self, layout: &Layout) -> String {
        match &self.content {
            Content::Owners { owners, .. } => {
                format!("{}: {}", quoted(&self.marker.tag), list(owners))
            }
            Content::Rule(members) => rule(members, layout),
        }
    }

    /// Returns whether an entry without a marker makes this one unnecessary.
    pub(super) fn is_satisfied_by(&self, entry: &Entry) -> bool {
        let (Value::Object(rule), Content::Rule(members)) = (&entry.value, &self.content) else {
            return false;
        };
        // `srcPosture` excludes some devices of the clients. With `via`, Headscale ignores the capability.
        let limits = ["via", "srcPosture"];
        !limits.iter().any(|name| rule.member(name).is_some())
            && members.iter().all(|(name, field)| {
                let member = rule.member(name);
                member.is_some_and(|member| field.is_contained_in(&member.value))
            })
    }

    /// Returns whether an entry has exactly the members of this one, with any clients.
    pub(super) fn has_form_of(&self, entry: &Entry) -> bool {
        let (Value::Object(rule), Content::Rule(members)) = (&entry.value, &self.content) else {
            return false;
        };
        self.section.tag(entry) == Some(&*self.marker.tag)
            && rule.entries().count() == members.len()
            && members.iter().all(|(name, _)| rule.member(name).is_some())
            && match rule.member("app").map(|app| &app.value) {
                Some(Value::Object(app)) => app.entries().count() == 1,
                _ => self.section != Section::Grants,
            }
    }
}

impl Field {
    /// Returns the value as text of a policy file.
    pub(super) fn render(&self) -> String {
        match self {
            Self::Set(texts) => list(texts),
            Self::Text(text) => quoted(text),
            Self::Capability => format!("{{{}: []}}", quoted(CAPABILITY)),
        }
    }

    /// Returns whether a value is this one. Lists are compared without regard to order.
    pub(super) fn is(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Set(wanted), Value::Array(list)) => list.texts().is_some_and(|texts| {
                let known = |text: &&str| wanted.iter().any(|wanted| wanted == text);
                texts.iter().all(known) && self.is_contained_in(value)
            }),
            (Self::Set(_), _) => false,
            _ => self.is_contained_in(value),
        }
    }

    /// Returns whether a value contains this one.
    fn is_contained_in(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Set(wanted), Value::Array(list)) => list
                .texts()
                .is_some_and(|texts| wanted.iter().all(|wanted| texts.contains(&&**wanted))),
            (Self::Text(wanted), Value::Text(text)) => wanted == text,
            (Self::Capability, Value::Object(app)) => app.entries().any(|entry| {
                let is_list = matches!(entry.value, Value::Array(_));
                is_list && entry.name.as_deref() == Some(CAPABILITY)
            }),
            _ => false,
        }
    }
}

/// Renders a rule with a line for each member, or on one line if the file has only one.
fn rule(members: &[(&str, Field)], layout: &Layout) -> String {
    let members: Vec<_> = members
        .iter()
        .map(|(name, field)| format!("{}: {}", quoted(name), field.render()))
        .collect();
    if layout.newline.is_empty() {
        return format!("{{{}}}", members.join(", "));
    }
    let start = format!("{}{}{}", layout.newline, layout.indent, layout.unit);
    let lines = members.join(&format!(",{start}"));
    let (trailing, end) = (layout.trailing, layout.newline);
    format!("{{{start}{lines}{trailing}{end}{}}}", layout.indent)
}

fn list(texts: &[String]) -> String {
    let texts: Vec<_> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", texts.join(", "))
}

/// Returns a text in quotation marks.
pub(super) fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}
