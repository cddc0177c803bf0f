//! The policy file of a tailnet, as text that its owner wrote. Pure: text in, text or findings out.
//!
//! A file is HuJSON: JSON with comments and trailing commas. Edits are insertions and removals at
//! positions of a concrete syntax tree, so all other bytes stay as they are.

mod diff;
mod document;
mod edit;
mod error;
mod marker;
mod merge;
mod review;
mod wanted;

pub use self::{
    diff::unified,
    error::{PolicyFault, PolicyFileError},
    merge::{FirstGrants, MergeRequest, Merged, Note, decode, merge},
    review::{
        ClientUse, Finding, FindingKind, ReviewRequest, ReviewedRegion, UNUSED_DAYS, review,
        review_entries, review_observations,
    },
};

#[cfg(test)]
mod tests;
