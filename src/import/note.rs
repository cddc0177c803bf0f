//! Notes about settings that differ between a source and its PeerRelay.

/// Field of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Index of the document.
    pub document: usize,
    /// Path of the field, such as `spec.tags`. It is empty for the document as a whole.
    pub path: String,
}

/// Effect of the conversion on a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// The user must provide something before the PeerRelay works.
    ToDo,
    /// The setting has no counterpart, and its effect is lost.
    Lost,
    /// The setting is expressed in another way, or is not needed.
    Changed,
}

impl Effect {
    /// Returns the word for messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::ToDo => "to do",
            Self::Lost => "not kept",
            Self::Changed => "changed",
        }
    }
}

/// Note about one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Effect of the conversion.
    pub effect: Effect,
    /// Setting of the source.
    pub place: Place,
    /// Reason, and the action that the user can take.
    pub message: String,
}

/// Notes of one conversion.
#[derive(Debug, Default)]
pub(super) struct Notes(Vec<Note>);

impl Notes {
    pub(super) fn required(&mut self, place: Place, message: impl Into<String>) {
        self.add(Effect::ToDo, place, message.into());
    }

    pub(super) fn lost(&mut self, place: Place, message: impl Into<String>) {
        self.add(Effect::Lost, place, message.into());
    }

    pub(super) fn changed(&mut self, place: Place, message: impl Into<String>) {
        self.add(Effect::Changed, place, message.into());
    }

    /// Returns the notes by effect. Notes of the same effect keep their order.
    pub(super) fn sorted(mut self) -> Vec<Note> {
        self.0.sort_by_key(|note| note.effect);
        self.0
    }

    fn add(&mut self, effect: Effect, place: Place, message: String) {
        self.0.push(Note {
            effect,
            place,
            message,
        });
    }
}
