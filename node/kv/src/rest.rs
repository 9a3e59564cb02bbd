//! What a request with a bound leaves to be done.

use crdb_proto::kv::Span;

/// What is left of the span of a request whose caller set a bound: to be taken care of, or to be
/// left on purpose.
///
/// Requests without a bound are answered whole, see [`crate::Sender`]. Of one with a bound neither
/// the number of rows nor that of bytes says whether something is left: this does.
#[must_use = "what is left of a request is to be asked for, or left on purpose"]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rest {
    /// All of the span is done.
    Nothing,
    /// This is left of it.
    Of(Span),
}

impl Rest {
    /// Moves it out of the `resume` of an answer.
    pub fn take(resume: &mut Option<Span>) -> Self {
        resume.take().map_or(Self::Nothing, Self::Of)
    }
}
