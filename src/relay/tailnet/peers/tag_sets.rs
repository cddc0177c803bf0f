//! Sets of tags, each of which is stored once however many peers have it.

use std::{collections::HashSet, sync::Arc};

/// The tags of a peer, as control sends them.
pub(crate) type TagSet = Arc<Vec<String>>;

/// Number of sets from which on unused ones are looked for.
const FIRST_PURGE: usize = 64;

/// The sets of tags that peers have.
#[derive(Debug, Clone, Default)]
pub(super) struct TagSets {
    sets: HashSet<TagSet>,
    /// Number of sets at which unused ones are removed.
    purge_at: usize,
}

impl TagSets {
    /// Returns the stored set that equals this one.
    pub(super) fn intern(&mut self, tags: TagSet) -> TagSet {
        if let Some(stored) = self.sets.get(&tags) {
            return stored.clone();
        }
        if self.sets.len() >= self.purge_at {
            self.sets.retain(|tags| Arc::strong_count(tags) > 1);
            self.purge_at = (self.sets.len() * 2).max(FIRST_PURGE);
        }
        self.sets.insert(tags.clone());
        tags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_are_one_and_unused_ones_do_not_stay() {
        let mut sets = TagSets::default();
        let tags = |number: usize| Arc::new(vec![format!("tag:{number}")]);
        let first = sets.intern(tags(0));
        for number in 0..10_000 {
            let stored = sets.intern(tags(number % 5_000));
            assert_eq!(Arc::ptr_eq(&stored, &first), number % 5_000 == 0);
        }
        assert!(sets.sets.len() <= FIRST_PURGE, "{}", sets.sets.len());
    }
}
