//! Facts about entries that a merge leaves as they are.

use super::{
    Container, Content, Document, Field, Found, Note, Plan, Section, Wanted, found, is_used,
};

impl Plan<'_> {
    /// Returns facts about entries that the merge leaves as they are.
    pub(super) fn notes(&self, document: &Document) -> Vec<Note> {
        let mut notes = Vec::new();
        for section in [Section::TagOwners, Section::Grants] {
            let Some(container) = section.of(document) else {
                continue;
            };
            for found in found(document, container, section) {
                let line = document.line(found.entry.range.start);
                let message = match section {
                    Section::TagOwners => self.note_of_tag(document, &found),
                    _ => self.note_of_grant(&found),
                };
                notes.extend(message.map(|message| Note { line, message }));
            }
        }
        notes
    }

    fn note_of_tag(&self, document: &Document, found: &Found<'_>) -> Option<String> {
        let tag = found.entry.name.as_deref()?;
        let wanted = self
            .wanted
            .iter()
            .find(|wanted| wanted.section == Section::TagOwners && wanted.marker.tag == tag);
        if let Some(wanted) = wanted {
            let Content::Owners {
                owners,
                exact: true,
            } = &wanted.content
            else {
                return None;
            };
            let is = Field::Set(owners.clone()).is(&found.entry.value);
            return (!is && found.marker.is_none()).then(|| {
                format!(
                    "the owners of {tag} are not the ones of --tag-owner, and are kept because \
                     the entry has no marker"
                )
            });
        }
        let (_, marker) = found.marker.as_ref()?;
        let is_known = self.known.contains(marker.peer_relay());
        (is_known && is_used(document, found.entry)).then(|| {
            format!("{tag} is kept, although no region needs it: other rules of the policy use it")
        })
    }

    fn note_of_grant(&self, found: &Found<'_>) -> Option<String> {
        let tag = Section::Grants.tag(found.entry)?;
        let mut wanted = self
            .wanted
            .iter()
            .filter(|wanted| wanted.section == Section::Grants && wanted.marker.tag == tag)
            .peekable();
        let satisfied = wanted.clone().find(|w| w.is_satisfied_by(found.entry));
        wanted.peek()?;
        match (&found.marker, satisfied) {
            (None, Some(wanted)) => {
                let rule = found.entry.object();
                let is_more = rule.is_some_and(|rule| !is_exact(rule, wanted));
                is_more.then(|| {
                    format!(
                        "this grant without a marker lets more clients use {tag} than the \
                         PeerRelay names: --adopt takes it over and removes them"
                    )
                })
            }
            (None, None) => Some(format!(
                "this grant for {tag} has no marker and was not changed: --adopt takes it over if \
                 it has no other members than src, dst and app"
            )),
            (Some((_, marker)), _) => {
                let is_known = self.known.contains(marker.peer_relay());
                (!is_known).then(|| {
                    format!(
                        "this grant for {tag} belongs to {}, which was not given: --prune removes \
                         it",
                        marker.origin
                    )
                })
            }
        }
    }
}

fn is_exact(rule: &Container, wanted: &Wanted) -> bool {
    match &wanted.content {
        Content::Rule(members) => members.iter().all(|(name, field)| {
            let member = rule.member(name);
            member.is_some_and(|member| field.is(&member.value))
        }),
        Content::Owners { .. } => true,
    }
}
