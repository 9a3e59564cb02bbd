//! Placeholder page, rewritten with the crate's content.
