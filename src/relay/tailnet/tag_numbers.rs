//! Tags as the core knows them: by numbers.

use std::collections::{BTreeSet, HashMap};

/// Numbers of tags, which hold until [`TagNumbers::forget`].
#[derive(Debug, Default)]
pub(super) struct TagNumbers(HashMap<String, u32>);

impl TagNumbers {
    /// Forgets all tags, before all peers get new numbers.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// The number of each of these tags, once.
    pub(super) fn of(&mut self, tags: &[String]) -> Vec<u32> {
        let tags: BTreeSet<_> = tags.iter().collect();
        let number = |tag: &String| {
            if let Some(number) = self.0.get(tag) {
                return *number;
            }
            let next = self.0.len() as u32;
            self.0.insert(tag.clone(), next);
            next
        };
        tags.into_iter().map(number).collect()
    }
}
