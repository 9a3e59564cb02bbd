//! Bugs that can be planted in the gateway's part of transactions, to prove that checks find them.
//!
//! Nothing is planted unless the crate is built with the feature `planted-bugs` and its caller asks
//! for it.

use std::fmt;

/// A bug of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PlantedTxnBug {
    /// Reads take no version for uncertain.
    SkipUncertaintyRestart,
    /// A transaction moves to a later timestamp without looking at what it read.
    SkipRefresh,
    /// A commit whose fate is unknown is sent again.
    RetryAmbiguous,
    /// Who waits for a STAGING transaction takes it for an aborted one.
    StagingIsAborted,
    /// A transaction goes on after a flush that was given up.
    ForgetGivenUp,
    /// What a range left unresolved is taken for done, and the record is removed.
    ForgetIntents,
    /// Rows that a range left out of an answer are taken for absent.
    ForgetRows,
    /// What a range left of a rollback to a savepoint is taken for done.
    ForgetReverts,
}

impl PlantedTxnBug {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::SkipUncertaintyRestart,
        Self::SkipRefresh,
        Self::RetryAmbiguous,
        Self::StagingIsAborted,
        Self::ForgetGivenUp,
        Self::ForgetIntents,
        Self::ForgetRows,
        Self::ForgetReverts,
    ];
}

impl fmt::Display for PlantedTxnBug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SkipUncertaintyRestart => "skip-uncertainty-restart",
            Self::SkipRefresh => "skip-refresh",
            Self::RetryAmbiguous => "retry-ambiguous",
            Self::StagingIsAborted => "staging-is-aborted",
            Self::ForgetGivenUp => "forget-given-up",
            Self::ForgetIntents => "forget-intents",
            Self::ForgetRows => "forget-rows",
            Self::ForgetReverts => "forget-reverts",
        })
    }
}
