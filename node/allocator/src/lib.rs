//! Chooses where the replicas of a range should live.
//!
//! Pure: [`next_action`] looks at one range, what its leaseholder knows about it, and the list of
//! stores, and names the next single step; the replicate queue executes that step and asks again
//! with fresh knowledge. What it is not: it keeps nothing, moves no lease for balance, and does
//! not rebalance a range that has what it needs.
//!
//! A missing voter is first added as a learner, gets a snapshot, and becomes a voter through a
//! joint configuration in the same step that demotes the voter it replaces; all missing voters are
//! promoted together, so that a range never rests on an even number of voters.
//!
//! Invariants:
//! 1. The leaseholder's own replica is never demoted or removed; the lease moves first.
//! 2. A voter is demoted only when enough healthy voters stay.
//! 3. Diversity (distinct locality tiers) before balance (fewer replicas).
//! 4. Same input, same output: ties break by lowest store id.

mod action;
mod diversity;
mod store;

pub use action::{Action, Progress, next_action, replica_target, voter_target};
pub use store::{StoreInfo, StoreStatus};
