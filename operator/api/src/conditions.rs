//! Conditions of a cluster: their types and how one replaces another.
//!
//! Invariants:
//! 1. a condition's `lastTransitionTime` moves only when its status flips;
//! 2. reasons are one CamelCase word and stable: people and tools match on them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Every wanted node is Ready (the summary).
pub const READY: &str = "Ready";
/// SQL can be served.
pub const AVAILABLE: &str = "Available";
/// The operator is on its way to the declared state.
pub const PROGRESSING: &str = "Progressing";
/// Something is wrong that does not heal by waiting alone.
pub const DEGRADED: &str = "Degraded";
/// The cluster was bootstrapped; never returns to False.
pub const INITIALIZED: &str = "Initialized";
/// Every range has as many replicas as its zone config asks for.
pub const FULLY_REPLICATED: &str = "FullyReplicated";
/// Replicas are where the zone configs want them.
pub const CONSTRAINTS_SATISFIED: &str = "ConstraintsSatisfied";
/// Every wanted volume is bound.
pub const STORAGE_READY: &str = "StorageReady";
/// Connections are protected by valid certificates.
pub const CERTIFICATES_VALID: &str = "CertificatesValid";
/// The SQL Service has an address and ready endpoints.
pub const LOAD_BALANCER_READY: &str = "LoadBalancerReady";

/// Every condition that is reported.
pub const ALL: [&str; 10] = [
    READY,
    AVAILABLE,
    PROGRESSING,
    DEGRADED,
    INITIALIZED,
    FULLY_REPLICATED,
    CONSTRAINTS_SATISFIED,
    STORAGE_READY,
    CERTIFICATES_VALID,
    LOAD_BALANCER_READY,
];

/// Value of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// It cannot be told at the moment.
    Unknown,
}

impl State {
    /// The text that the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            State::True => "True",
            State::False => "False",
            State::Unknown => "Unknown",
        }
    }
}

impl From<bool> for State {
    fn from(holds: bool) -> State {
        if holds { State::True } else { State::False }
    }
}

/// Builds a condition as it would be if it had just changed.
pub fn condition(
    type_: &str,
    state: State,
    reason: &str,
    message: impl Into<String>,
    generation: Option<i64>,
    now: &Time,
) -> Condition {
    let mut message = message.into();
    if message.len() > MESSAGE_BYTES_MAX {
        let mut end = MESSAGE_BYTES_MAX;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
    }
    Condition {
        type_: type_.to_owned(),
        status: state.as_str().to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: now.clone(),
    }
}

/// Longest message that is kept; the API allows more, people do not read it.
const MESSAGE_BYTES_MAX: usize = 2048;

/// Puts a condition into the list, keeping the transition time when the status did not flip.
pub fn set_condition(conditions: &mut Vec<Condition>, new: Condition) {
    match conditions.iter_mut().find(|old| old.type_ == new.type_) {
        Some(old) if old.status == new.status => {
            *old = Condition { last_transition_time: old.last_transition_time.clone(), ..new };
        }
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

/// The condition of a type, if it was ever set.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether a condition is there and True.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap())
    }

    #[test]
    fn the_transition_time_moves_only_on_a_flip() {
        let mut list = Vec::new();
        set_condition(&mut list, condition(READY, State::False, "A", "a", Some(1), &at(1)));
        set_condition(&mut list, condition(READY, State::False, "B", "b", Some(2), &at(2)));
        assert_eq!((list[0].reason.as_str(), &list[0].last_transition_time), ("B", &at(1)));
        set_condition(&mut list, condition(READY, State::True, "C", "c", Some(2), &at(3)));
        assert_eq!((list.len(), &list[0].last_transition_time), (1, &at(3)));
        assert!(is_true(&list, READY) && !is_true(&list, AVAILABLE));
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let long = "é".repeat(MESSAGE_BYTES_MAX);
        let cut = condition(READY, State::True, "A", long, None, &at(1)).message;
        assert!(cut.len() <= MESSAGE_BYTES_MAX && cut.chars().all(|c| c == 'é'));
    }
}
