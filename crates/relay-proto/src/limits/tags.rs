//! Sessions by tag, for a limit that holds for all nodes of a tag together.

use std::collections::{BTreeMap, BTreeSet};

use crate::{crypto::key::NodeKey, slab::Slot};

/// Session counts of tags. A node with several tags counts for each of them.
#[derive(Debug, Default)]
pub(crate) struct Tags {
    tags: BTreeMap<NodeKey, Vec<u32>>,
    sessions: BTreeMap<u32, usize>,
    /// Nodes that have sessions, by tag.
    nodes: BTreeSet<(u32, Slot)>,
}

impl Tags {
    /// Replaces the tags of all nodes and counts anew. `open` yields each node that has sessions,
    /// its slot, and the number of its sessions.
    pub(crate) fn set(
        &mut self,
        tags: BTreeMap<NodeKey, Vec<u32>>,
        open: impl Iterator<Item = (NodeKey, Slot, usize)>,
    ) {
        self.tags = tags;
        self.sessions.clear();
        self.nodes.clear();
        for (node, slot, sessions) in open {
            for tag in self.tags.get(&node).into_iter().flatten() {
                *self.sessions.entry(*tag).or_default() += sessions;
                self.nodes.insert((*tag, slot));
            }
        }
    }

    /// Replaces the tags of one node. `open` is its slot and the number of its sessions, if it has some.
    pub(crate) fn change(&mut self, node: NodeKey, tags: Vec<u32>, open: Option<(Slot, usize)>) {
        let previous = match tags.is_empty() {
            true => self.tags.remove(&node),
            false => self.tags.insert(node, tags),
        };
        let Some((slot, sessions)) = open else {
            return;
        };
        for tag in previous.into_iter().flatten() {
            if let Some(have) = self.sessions.get_mut(&tag) {
                *have = have.saturating_sub(sessions);
            }
            self.nodes.remove(&(tag, slot));
        }
        for tag in self.tags.get(&node).into_iter().flatten() {
            *self.sessions.entry(*tag).or_default() += sessions;
            self.nodes.insert((*tag, slot));
        }
    }

    /// Tags of `node` that have at least `limit` sessions.
    pub(crate) fn full(&self, node: NodeKey, limit: usize) -> impl Iterator<Item = u32> {
        let is_full = move |tag: &&u32| self.sessions.get(tag).is_some_and(|have| *have >= limit);
        self.of(node).iter().filter(is_full).copied()
    }

    /// Nodes with sessions that have `tag`, in the order of slots.
    pub(crate) fn nodes(&self, tag: u32) -> impl Iterator<Item = Slot> {
        let nodes = self.nodes.range((tag, Slot::MIN)..=(tag, Slot::MAX));
        nodes.map(|(_, slot)| *slot)
    }

    /// Counts one more session of `node`.
    pub(crate) fn enter(&mut self, node: NodeKey, slot: Slot) {
        for tag in self.tags.get(&node).into_iter().flatten() {
            *self.sessions.entry(*tag).or_default() += 1;
            self.nodes.insert((*tag, slot));
        }
    }

    /// Undoes one [`Tags::enter`]; `last` if the node has no session left.
    pub(crate) fn leave(&mut self, node: NodeKey, slot: Slot, last: bool) {
        for tag in self.tags.get(&node).into_iter().flatten() {
            if let Some(have) = self.sessions.get_mut(tag) {
                *have = have.saturating_sub(1);
            }
            if last {
                self.nodes.remove(&(*tag, slot));
            }
        }
    }

    fn of(&self, node: NodeKey) -> &[u32] {
        self.tags.get(&node).map_or(&[], Vec::as_slice)
    }
}
