//! Values in numbered slots. The slab grows by one piece at a time, so growth moves no value and
//! never allocates far more than is used.

pub(crate) mod index;

/// Number of slots in one piece.
const PIECE: usize = 256;

/// The number of a slot.
pub(crate) type Slot = u32;

/// A collection of values whose slots are used again.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    pieces: Vec<Vec<Option<T>>>,
    free: Vec<Slot>,
    slots: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            pieces: Vec::new(),
            free: Vec::new(),
            slots: 0,
        }
    }
}

impl<T> Slab<T> {
    pub(crate) const fn len(&self) -> usize {
        self.slots - self.free.len()
    }

    pub(crate) fn insert(&mut self, value: T) -> Slot {
        if let Some(slot) = self.free.pop() {
            *self.at(slot) = Some(value);
            return slot;
        }
        if self.slots == self.pieces.len() * PIECE {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        let slot = Slot::try_from(self.slots).expect("limits are far below 2^32");
        self.pieces[self.slots / PIECE].push(Some(value));
        self.slots += 1;
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> Option<T> {
        let value = self.at(slot).take()?;
        self.free.push(slot);
        Some(value)
    }

    #[inline]
    pub(crate) fn get(&self, slot: Slot) -> Option<&T> {
        let slot = slot as usize;
        self.pieces.get(slot / PIECE)?.get(slot % PIECE)?.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut T> {
        self.at(slot).as_mut()
    }

    /// All values with their slots, in the order of slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        let slots = self.pieces.iter().flatten().zip(0..);
        slots.filter_map(|(value, slot)| Some((slot, value.as_ref()?)))
    }

    #[inline]
    fn at(&mut self, slot: Slot) -> &mut Option<T> {
        let slot = slot as usize;
        &mut self.pieces[slot / PIECE][slot % PIECE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_again_and_values_stay_where_they_are() {
        let mut slab = Slab::default();
        let slots: Vec<_> = (0..1000).map(|value| slab.insert(value)).collect();
        for slot in slots.iter().step_by(2) {
            assert_eq!(slab.remove(*slot), Some(*slot));
            assert_eq!(slab.remove(*slot), None);
        }
        assert_eq!(slab.len(), 500);
        assert!(slab.iter().all(|(slot, value)| slot == *value));
        for _ in 0..500 {
            let slot = slab.insert(7);
            assert!(slot < 1000);
            assert_eq!(slab.get(slot), Some(&7));
        }
        assert_eq!(slab.insert(8), 1000);
        assert_eq!(slab.get(5), Some(&5));
        assert_eq!(slab.get(4000), None);
    }
}
