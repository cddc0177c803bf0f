//! Merge of the entries that PeerRelays need into a policy file.
//!
//! The merge makes one change after another until nothing is left to change. A second merge with
//! the same input therefore changes nothing.

mod notes;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    document::{Child, Container, Document, Entry, Value},
    edit::{self, Edit, Placement},
    error::{PolicyFault, PolicyFileError},
    marker::{self, Marker},
    wanted::{Content, Field, Section, Wanted, quoted},
};
use crate::grants::{ALLOW_ALL, Policy, RegionGrant};

/// Bound of the number of changes, far above what 64 regions with 256 clients need.
const MOST_EDITS: usize = 100_000;

/// Input of a merge, except for the policy file.
#[derive(Debug, Clone, Default)]
pub struct MergeRequest {
    /// Regions of PeerRelays. Every PeerRelay is given with all its regions.
    pub regions: Vec<RegionGrant>,
    /// Owners of the relays' tags. If absent, existing owners are kept, and new tags belong to
    /// `autogroup:admin`.
    pub owners: Option<Vec<String>>,
    /// Name of the cluster, if PeerRelays of several clusters have the same namespace and name.
    pub cluster: Option<String>,
    /// Permission to write the first `grants` of a policy that has no `acls` either.
    pub first_grants: Option<FirstGrants>,
    /// Accept objects that repeat a name, and use the last one.
    pub duplicate_names: bool,
    /// Take over rules that have no marker and the form of generated ones.
    pub adopt: bool,
    /// Remove the entries of all PeerRelays of the cluster that are not given.
    pub prune: bool,
    /// Write no markers.
    pub no_markers: bool,
    /// PeerRelays, as `NAMESPACE/NAME`, whose entries are removed.
    pub removed: Vec<String>,
}

impl MergeRequest {
    /// Returns the marker of each region.
    pub(super) fn markers(&self) -> impl Iterator<Item = Marker> {
        self.regions.iter().map(|region| Marker {
            origin: match &self.cluster {
                Some(cluster) => format!("{} in {cluster}", region.origin),
                None => region.origin.clone(),
            },
            tag: region.tag.clone(),
        })
    }
}

/// Effect of the first `grants` on connections that the policy allowed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstGrants {
    /// Every connection stays allowed, by an additional grant.
    AllowAll,
    /// Only relays are allowed.
    RelaysOnly,
}

/// Result of a merge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merged {
    /// Text of the policy file.
    pub text: String,
    /// Facts about the file that its owner should look at.
    pub notes: Vec<Note>,
}

/// Fact about an entry of a policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Line of the entry in the merged file.
    pub line: usize,
    /// Description of the entry and of the possible action.
    pub message: String,
}

/// Adds and updates the entries of the given regions, and removes entries of their PeerRelays that
/// are not needed any more. All other bytes stay as they are.
///
/// # Errors
/// The text is not a policy file, or the merge needs a permission that `request` does not give.
pub fn merge(text: &str, request: &MergeRequest) -> Result<Merged, PolicyFileError> {
    let mut document = Document::parse(text)?;
    if let Some(duplicate) = document.duplicate().filter(|_| !request.duplicate_names) {
        return Err(duplicate);
    }
    let plan = Plan::new(request);
    document = plan.first_grants(document)?;
    for _ in 0..MOST_EDITS {
        let Some(edit) = plan.next(&document)? else {
            let notes = plan.notes(&document);
            return Ok(Merged {
                text: document.text,
                notes,
            });
        };
        document = Document::parse(&edit.apply(&document.text))?;
    }
    Err(PolicyFileError::at(text, 0, PolicyFault::Endless))
}

/// Reads the bytes of a policy file as text.
///
/// # Errors
/// The bytes are not UTF-8.
pub fn decode(bytes: &[u8]) -> Result<&str, PolicyFileError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = &bytes[..error.valid_up_to()];
        let valid = std::str::from_utf8(valid).unwrap_or_default();
        PolicyFileError::at(valid, valid.len(), PolicyFault::NotText)
    })
}

/// Entries that the file must have, and the owners of entries that it must not have.
struct Plan<'a> {
    request: &'a MergeRequest,
    wanted: Vec<Wanted>,
    /// PeerRelays whose regions are all known.
    known: BTreeSet<String>,
}

/// Entry of a section that is generated or satisfies a wanted one.
struct Found<'d> {
    child: usize,
    entry: &'d Entry,
    marker: Option<(usize, Marker)>,
}

impl<'a> Plan<'a> {
    fn new(request: &'a MergeRequest) -> Self {
        let markers: Vec<_> = request.markers().collect();
        let known = markers.iter().map(|marker| marker.peer_relay().to_owned());
        let removed = request.removed.iter().map(|name| match &request.cluster {
            Some(cluster) => format!("{name} in {cluster}"),
            None => name.clone(),
        });
        let known = known.chain(removed).collect();
        let mut by_tag = BTreeMap::new();
        let mut wanted = Vec::new();
        for marker in &markers {
            if by_tag.insert(&*marker.tag, marker).is_none() {
                let owners = request.owners.as_deref();
                wanted.push(Wanted::owners(marker.clone(), owners));
            }
        }
        let grants = markers.iter().zip(&request.regions);
        wanted.extend(grants.map(|(marker, region)| Wanted::grant(marker.clone(), region)));
        for test in Policy::new(request.regions.clone()).tests() {
            let marker = markers.iter().find(|marker| marker.tag == test.src);
            wanted.extend(marker.map(|marker| Wanted::test(marker.clone(), test)));
        }
        Self {
            request,
            wanted,
            known,
        }
    }

    /// Adds `grants` to a policy that has neither `acls` nor `grants`, if that is permitted.
    fn first_grants(&self, document: Document) -> Result<Document, PolicyFileError> {
        let needed = self.wanted.iter().any(|w| w.section == Section::Grants);
        if !needed || document.has("acls") || document.has("grants") {
            return Ok(document);
        }
        match self.request.first_grants {
            None => Err(PolicyFileError::at(
                &document.text,
                document.root.range.start,
                PolicyFault::FirstGrants,
            )),
            Some(FirstGrants::RelaysOnly) => Ok(document),
            Some(FirstGrants::AllowAll) => {
                let edit = section(&document, Section::Grants);
                let document = Document::parse(&edit.apply(&document.text))?;
                let Some(grants) = Section::Grants.of(&document) else {
                    return Ok(document);
                };
                let edit = edit::insert(&document, grants, Placement::Line, |_| ALLOW_ALL.into());
                Document::parse(&edit.apply(&document.text))
            }
        }
    }

    /// Returns the next change, or nothing if the file is as it must be.
    fn next(&self, document: &Document) -> Result<Option<Edit>, PolicyFileError> {
        for wanted in &self.wanted {
            if let Some(edit) = self.toward(document, wanted)? {
                return Ok(Some(edit));
            }
        }
        Ok(self.obsolete(document))
    }

    /// Returns the next change toward one wanted entry.
    fn toward(
        &self,
        document: &Document,
        wanted: &Wanted,
    ) -> Result<Option<Edit>, PolicyFileError> {
        let Some(container) = wanted.section.of(document) else {
            return match document.root.member(wanted.section.name()) {
                Some(member) if !matches!(member.value, Value::Null) => {
                    let (name, kind) = (wanted.section.name(), wanted.section.kind());
                    let fault = PolicyFault::Section(name, kind);
                    let at = member.value_range.start;
                    Err(PolicyFileError::at(&document.text, at, fault))
                }
                _ => Ok(Some(section(document, wanted.section))),
            };
        };
        Ok(match self.find(document, container, wanted) {
            Some(found) => self.update(document, container, &found, wanted),
            None => {
                let placement = match self.request.no_markers {
                    true => Placement::Line,
                    false => Placement::Marked(&wanted.marker),
                };
                let render = |layout: &edit::Layout| wanted.render(layout);
                Some(edit::insert(document, container, placement, render))
            }
        })
    }

    /// Finds the entry of a wanted one: by its marker, or by its content if it has none.
    fn find<'d>(
        &self,
        document: &'d Document,
        container: &'d Container,
        wanted: &Wanted,
    ) -> Option<Found<'d>> {
        let all = || found(document, container, wanted.section);
        if wanted.section == Section::TagOwners {
            return all().find(|found| found.entry.name.as_ref() == Some(&wanted.marker.tag));
        }
        let is_own = |found: &Found<'_>| {
            let marker = found.marker.as_ref().map(|(_, marker)| marker);
            marker.is_some_and(|marker| marker.origin == wanted.marker.origin)
        };
        let has_tag = |found: &Found<'_>| {
            let marker = found.marker.as_ref().map(|(_, marker)| marker);
            marker.is_some_and(|marker| marker.tag == wanted.marker.tag)
        };
        let unmarked = || all().filter(|found| found.marker.is_none());
        all()
            .find(|found| is_own(found) && has_tag(found))
            // The tag of the region has changed: its entry is updated, and keeps its place and the
            // comments in it.
            .or_else(|| all().find(is_own))
            .or_else(|| unmarked().find(|found| wanted.is_satisfied_by(found.entry)))
            .or_else(|| {
                let adopted = |found: &Found<'_>| wanted.has_form_of(found.entry);
                unmarked().find(|found| self.request.adopt && adopted(found))
            })
    }

    /// Returns the next change of an entry that was found.
    fn update(
        &self,
        document: &Document,
        container: &Container,
        found: &Found<'_>,
        wanted: &Wanted,
    ) -> Option<Edit> {
        let is_adopted = self.request.adopt && wanted.has_form_of(found.entry);
        let marker = match &found.marker {
            Some((_, marker)) if *marker == wanted.marker => None,
            Some((at, _)) => Some(renamed(document, container, *at, &wanted.marker)),
            None if wanted.section == Section::TagOwners || !is_adopted => return None,
            None if self.request.no_markers => None,
            None => Some(marked(document, found.entry, &wanted.marker)),
        };
        let content = match &wanted.content {
            Content::Owners { exact: false, .. } => None,
            Content::Owners { owners, .. } => {
                let owners = Field::Set(owners.clone());
                (!owners.is(&found.entry.value))
                    .then(|| Edit::replace(found.entry.value_range.clone(), owners.render()))
            }
            Content::Rule(members) => {
                let rule = found.entry.object();
                rule.and_then(|rule| update_rule(document, rule, members, marker.is_some()))
            }
        };
        match (marker, content) {
            (Some(marker), Some(content)) => Some(marker.and(content)),
            (marker, content) => marker.or(content),
        }
    }

    /// Returns the removal of an entry that no region needs any more.
    fn obsolete(&self, document: &Document) -> Option<Edit> {
        // Tags are removed last, when nothing refers to them.
        // Control servers refuse a policy with a tag that has no owner.
        Section::ALL.into_iter().rev().find_map(|section| {
            let container = section.of(document)?;
            let mut all = found(document, container, section);
            let found = all.find(|found| self.is_obsolete(document, section, found))?;
            let marker = found.marker.as_ref().map(|(at, _)| *at);
            Some(edit::remove(document, container, found.child, marker))
        })
    }

    fn is_obsolete(&self, document: &Document, section: Section, found: &Found<'_>) -> bool {
        let Some((_, marker)) = &found.marker else {
            return false;
        };
        let is_needed = self.wanted.iter().any(|wanted| {
            wanted.section == section
                && match section {
                    Section::TagOwners => wanted.marker.tag == marker.tag,
                    _ => wanted.marker.origin == marker.origin,
                }
        });
        let is_ours = self.known.contains(marker.peer_relay())
            || (self.request.prune && self.is_of_cluster(marker));
        is_ours && !is_needed && (section != Section::TagOwners || !is_used(document, found.entry))
    }

    fn is_of_cluster(&self, marker: &Marker) -> bool {
        let cluster = marker.origin.split_once(" in ").map(|(_, cluster)| cluster);
        cluster == self.request.cluster.as_deref()
    }
}

/// Returns the entries of a section. A marker counts only if the entry has its tag.
fn found<'d>(
    document: &'d Document,
    container: &'d Container,
    section: Section,
) -> impl Iterator<Item = Found<'d>> {
    let children = container.children.iter().enumerate();
    children.filter_map(move |(at, child)| match child {
        Child::Entry(entry) => {
            let marker = marker::above(document, container, at);
            let has_tag = |(_, marker): &(usize, Marker)| section.tag(entry) == Some(&*marker.tag);
            Some(Found {
                child: at,
                entry,
                marker: marker.filter(has_tag),
            })
        }
        _ => None,
    })
}

/// Returns the addition of an empty section.
fn section(document: &Document, section: Section) -> Edit {
    if let Some(member) = document.root.member(section.name()) {
        return Edit::replace(member.value_range.clone(), section.empty());
    }
    edit::insert(document, &document.root, Placement::Line, |_| {
        format!("{}: {}", quoted(section.name()), section.empty())
    })
}

/// Returns the next change of the members of a rule. Lists whose entries change are changed entry
/// by entry, so that comments in them stay. The first change includes everything that identifies
/// the rule.
fn update_rule(
    document: &Document,
    rule: &Container,
    members: &[(&'static str, Field)],
    is_renamed: bool,
) -> Option<Edit> {
    let mut whole: Option<Edit> = None;
    for (name, field) in members {
        let Some(member) = rule.member(name) else {
            return Some(edit::insert(document, rule, Placement::Inline, |_| {
                format!("{}: {}", quoted(name), field.render())
            }));
        };
        // A marker counts only if its entry has its tag. If marker and `dst` changed in two steps, the
        // second one would not find the entry, and would add another.
        let is_identity = *name == "dst" || !matches!(field, Field::Set(_));
        if is_identity && !field.is(&member.value) {
            let edit = Edit::replace(member.value_range.clone(), field.render());
            whole = Some(match whole {
                Some(whole) => whole.and(edit),
                None => edit,
            });
        }
    }
    if whole.is_some() || is_renamed {
        return whole;
    }
    members.iter().find_map(|(name, field)| {
        let member = rule.member(name)?;
        match (field, &member.value) {
            _ if field.is(&member.value) => None,
            (Field::Set(wanted), Value::Array(list)) if list.texts().is_some() => {
                update_list(document, list, wanted)
            }
            _ => Some(Edit::replace(member.value_range.clone(), field.render())),
        }
    })
}

/// Returns the next change of a list of texts.
fn update_list(document: &Document, list: &Container, wanted: &[String]) -> Option<Edit> {
    let texts = list.texts()?;
    if let Some(missing) = wanted.iter().find(|wanted| !texts.contains(&&***wanted)) {
        let render = |_: &edit::Layout| quoted(missing);
        return Some(edit::insert(document, list, Placement::Inline, render));
    }
    let mut children = list.children.iter();
    let extra = children.position(|child| match child {
        Child::Entry(entry) => {
            let text = entry.text();
            text.is_some_and(|text| !wanted.iter().any(|wanted| wanted == text))
        }
        _ => false,
    })?;
    Some(edit::remove(document, list, extra, None))
}

/// Returns the change of a marker's text.
fn renamed(document: &Document, container: &Container, child: usize, marker: &Marker) -> Edit {
    let range = container.children[child].range().clone();
    let text = match document.slice(&range).starts_with("//") {
        true => marker.line_comment(),
        false => marker.block_comment(),
    };
    Edit::replace(range, text)
}

/// Returns the addition of a marker above an entry.
fn marked(document: &Document, entry: &Entry, marker: &Marker) -> Edit {
    let start = entry.range.start;
    let text = match edit::indent_of(document, entry) {
        Some(indent) => {
            let newline = edit::newline(document);
            format!("{}{newline}{indent}", marker.line_comment())
        }
        None => format!("{} ", marker.block_comment()),
    };
    Edit::replace(start..start, text)
}

/// Returns whether anything in the policy except for its owners refers to a tag.
fn is_used(document: &Document, owners: &Entry) -> bool {
    let Some(tag) = &owners.name else {
        return false;
    };
    let refers = |text: &str| {
        let rest = text.strip_prefix(&**tag);
        // Destinations in `acls` have ports, such as `tag:relay:22`.
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    };
    uses(&document.root, &refers, owners.range.start)
}

fn uses(container: &Container, refers: &impl Fn(&str) -> bool, except: usize) -> bool {
    container.entries().any(|entry| {
        let by_name = entry.name.as_deref().is_some_and(refers);
        entry.range.start != except
            && (by_name
                || match &entry.value {
                    Value::Text(text) => refers(text),
                    Value::Object(inside) | Value::Array(inside) => uses(inside, refers, except),
                    Value::Null | Value::Other => false,
                })
    })
}
