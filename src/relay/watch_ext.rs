//! Sends to watch channels that wake their receivers for changes only.

use tokio::sync::watch;

/// Extends [`watch::Sender`].
pub(crate) trait SendIfChanged<T> {
    /// Replaces what `field` selects by `value` if they differ. Returns whether they did.
    fn send_field_if_changed<V: PartialEq>(
        &self,
        field: impl FnOnce(&mut T) -> &mut V,
        value: V,
    ) -> bool;

    /// Replaces the whole value by `value` if they differ. Returns whether they did.
    fn send_if_changed(&self, value: T) -> bool
    where
        T: PartialEq,
    {
        self.send_field_if_changed(|whole| whole, value)
    }
}

impl<T> SendIfChanged<T> for watch::Sender<T> {
    fn send_field_if_changed<V: PartialEq>(
        &self,
        field: impl FnOnce(&mut T) -> &mut V,
        value: V,
    ) -> bool {
        self.send_if_modified(|whole| {
            let current = field(whole);
            let differs = *current != value;
            if differs {
                *current = value;
            }
            differs
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use super::*;

    #[test]
    fn receivers_are_woken_by_changes_only() {
        let (sender, mut receiver) = watch::channel((1, "a"));
        assert!(!sender.send_if_changed((1, "a")));
        assert!(!sender.send_field_if_changed(|pair| &mut pair.1, "a"));
        assert!(!receiver.has_changed().unwrap());
        assert!(sender.send_field_if_changed(|pair| &mut pair.1, "b"));
        assert!(receiver.has_changed().unwrap());
        assert_eq!(*receiver.borrow_and_update(), (1, "b"));
        assert!(sender.send_if_changed((2, "b")));
        assert!(receiver.has_changed().unwrap());
    }
}
