//! Points at which a test may end the process, to show that every state left behind converges.

use std::fmt;

use clap::ValueEnum;

/// Exit status of a process that ended at a fault point.
const EXIT_STATUS: i32 = 86;

/// A point of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FaultPoint {
    /// Everything was read, nothing was written.
    Observed,
    /// The objects were written.
    Applied,
    /// A step was recorded and not done.
    Recorded,
    /// A step was done and its outcome not written.
    Executed,
    /// The status was written.
    StatusWritten,
}

impl fmt::Display for FaultPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The fault point of this process, if it has one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FaultPoints(Option<FaultPoint>);

impl FaultPoints {
    pub(crate) fn new(point: Option<FaultPoint>) -> FaultPoints {
        FaultPoints(point)
    }

    /// Ends the process here if it was asked for, with nothing cleaned up.
    pub(crate) fn hit(self, point: FaultPoint) {
        if self.0 == Some(point) {
            tracing::warn!(%point, "ending at a fault point");
            std::process::exit(EXIT_STATUS);
        }
    }
}
