//! Hybrid logical timestamps.

use std::fmt;

/// A point in hybrid logical time: wall clock nanoseconds since the Unix epoch, then a counter
/// that orders events of the same nanosecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Nanoseconds since the Unix epoch.
    pub wall_nanos: u64,
    /// Counter within one `wall_nanos`.
    pub logical: u32,
}

impl Timestamp {
    /// The smallest timestamp; never the timestamp of a version.
    pub const ZERO: Self = Self { wall_nanos: 0, logical: 0 };
    /// The largest timestamp.
    pub const MAX: Self = Self { wall_nanos: u64::MAX, logical: u32::MAX };

    /// A timestamp at `wall_nanos` with counter `logical`.
    #[must_use]
    pub const fn new(wall_nanos: u64, logical: u32) -> Self {
        Self { wall_nanos, logical }
    }

    /// The next larger timestamp; saturates at [`Self::MAX`].
    #[must_use]
    pub fn next(self) -> Self {
        match self.logical.checked_add(1) {
            Some(logical) => Self { logical, ..self },
            None => match self.wall_nanos.checked_add(1) {
                Some(wall_nanos) => Self { wall_nanos, logical: 0 },
                None => Self::MAX,
            },
        }
    }

    /// The next smaller timestamp; saturates at [`Self::ZERO`].
    #[must_use]
    pub fn prev(self) -> Self {
        match self.logical.checked_sub(1) {
            Some(logical) => Self { logical, ..self },
            None => match self.wall_nanos.checked_sub(1) {
                Some(wall_nanos) => Self { wall_nanos, logical: u32::MAX },
                None => Self::ZERO,
            },
        }
    }

    /// This timestamp moved by `nanos` of wall time; saturates.
    #[must_use]
    pub fn add_nanos(self, nanos: u64) -> Self {
        Self { wall_nanos: self.wall_nanos.saturating_add(nanos), ..self }
    }

    /// Whether this is [`Self::ZERO`].
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (self.wall_nanos / 1_000_000_000, self.wall_nanos % 1_000_000_000);
        write!(f, "{seconds}.{nanos:09},{}", self.logical)
    }
}
