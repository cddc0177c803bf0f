//! How many sessions the nodes of each tag have, for a limit that holds for a tag as a whole.

use std::collections::BTreeMap;

use crate::key::NodeKey;

/// Sessions by tag. A node that has several counts for each of them.
#[derive(Debug, Default)]
pub(crate) struct Tags {
    of: BTreeMap<NodeKey, Vec<u32>>,
    sessions: BTreeMap<u32, usize>,
}

impl Tags {
    /// Takes in which node has which tags, and counts anew: `open` has the nodes that have
    /// sessions, and how many.
    pub(crate) fn set(
        &mut self,
        of: BTreeMap<NodeKey, Vec<u32>>,
        open: impl Iterator<Item = (NodeKey, usize)>,
    ) {
        self.of = of;
        self.sessions.clear();
        for (node, sessions) in open {
            for tag in self.of.get(&node).into_iter().flatten() {
                *self.sessions.entry(*tag).or_default() += sessions;
            }
        }
    }

    /// Tags of `node` that have `most` sessions or more.
    pub(crate) fn full(&self, node: NodeKey, most: usize) -> impl Iterator<Item = u32> {
        let has = move |tag: &&u32| self.sessions.get(tag).is_some_and(|have| *have >= most);
        self.tags(node).iter().filter(has).copied()
    }

    /// Whether `node` has `tag`.
    pub(crate) fn has(&self, node: NodeKey, tag: u32) -> bool {
        self.tags(node).contains(&tag)
    }

    /// Counts one more session of `node`.
    pub(crate) fn enter(&mut self, node: NodeKey) {
        for tag in self.of.get(&node).into_iter().flatten() {
            *self.sessions.entry(*tag).or_default() += 1;
        }
    }

    /// Takes back what [`Tags::enter`] counted.
    pub(crate) fn leave(&mut self, node: NodeKey) {
        for tag in self.of.get(&node).into_iter().flatten() {
            if let Some(have) = self.sessions.get_mut(tag) {
                *have = have.saturating_sub(1);
            }
        }
    }

    fn tags(&self, node: NodeKey) -> &[u32] {
        self.of.get(&node).map_or(&[], Vec::as_slice)
    }
}
