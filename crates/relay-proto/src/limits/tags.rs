//! How many sessions the nodes of each tag have, for a limit that holds for a tag as a whole.

use std::collections::{BTreeMap, BTreeSet};

use crate::{crypto::key::NodeKey, slab::Slot};

/// Sessions by tag. A node that has several counts for each of them.
#[derive(Debug, Default)]
pub(crate) struct Tags {
    of: BTreeMap<NodeKey, Vec<u32>>,
    sessions: BTreeMap<u32, usize>,
    /// Nodes that have sessions, by tag.
    nodes: BTreeSet<(u32, Slot)>,
}

impl Tags {
    /// Takes in which node has which tags, and counts anew: `open` has the nodes that have
    /// sessions, their slots, and how many.
    pub(crate) fn set(
        &mut self,
        of: BTreeMap<NodeKey, Vec<u32>>,
        open: impl Iterator<Item = (NodeKey, Slot, usize)>,
    ) {
        self.of = of;
        self.sessions.clear();
        self.nodes.clear();
        for (node, slot, sessions) in open {
            for tag in self.of.get(&node).into_iter().flatten() {
                *self.sessions.entry(*tag).or_default() += sessions;
                self.nodes.insert((*tag, slot));
            }
        }
    }

    /// Tags of `node` that have `most` sessions or more.
    pub(crate) fn full(&self, node: NodeKey, most: usize) -> impl Iterator<Item = u32> {
        let has = move |tag: &&u32| self.sessions.get(tag).is_some_and(|have| *have >= most);
        self.tags(node).iter().filter(has).copied()
    }

    /// Nodes with sessions that have `tag`, in the order of slots.
    pub(crate) fn nodes(&self, tag: u32) -> impl Iterator<Item = Slot> {
        let theirs = self.nodes.range((tag, Slot::MIN)..=(tag, Slot::MAX));
        theirs.map(|(_, slot)| *slot)
    }

    /// Counts one more session of `node`.
    pub(crate) fn enter(&mut self, node: NodeKey, slot: Slot) {
        for tag in self.of.get(&node).into_iter().flatten() {
            *self.sessions.entry(*tag).or_default() += 1;
            self.nodes.insert((*tag, slot));
        }
    }

    /// Takes back what [`Tags::enter`] counted; `last` when the node has no session any more.
    pub(crate) fn leave(&mut self, node: NodeKey, slot: Slot, last: bool) {
        for tag in self.of.get(&node).into_iter().flatten() {
            if let Some(have) = self.sessions.get_mut(tag) {
                *have = have.saturating_sub(1);
            }
            if last {
                self.nodes.remove(&(*tag, slot));
            }
        }
    }

    fn tags(&self, node: NodeKey) -> &[u32] {
        self.of.get(&node).map_or(&[], Vec::as_slice)
    }
}
