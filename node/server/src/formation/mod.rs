//! Decides which node makes the cluster, and when.
//!
//! What it is: a state machine over time and messages, without sockets or clocks. What it is not:
//! it knows nothing of members; a node that has a cluster id no longer needs it, but still answers
//! [`PromiseRequest`]s with that id.
//!
//! Flow of the automatic way, on the node that stands first in its own `--join`: every other entry
//! was reached lately → ask each for a promise → all promised within the write window → bootstrap.
//! Flow of `crdb init`: ask every entry → nobody objects → bootstrap. A node that cannot be reached
//! does not object: a cluster must be made although one of its machines is late. So two people who
//! run `init` on both sides of a cut network make two clusters. As soon as the sides see each other
//! their nodes notice (`--join` names nodes of another cluster), stop with an error, and keep their
//! data.
//!
//! An entry may be a name that stands for several nodes, this one among them, as it is under an
//! orchestrator. All of them are asked; see [`PeerAnswer::of_all`].
//!
//! Invariants:
//! 1. A node with a promise outstanding neither makes a cluster nor promises to another attempt.
//! 2. A promise lasts [`PROMISE`]; the one it was given to writes its `STORE` file within
//!    [`WRITE_WINDOW`] of the moment it asked for the first one, or starts over.
//! 3. Promises are not kept on disk, so a restarted node neither gives one nor makes a cluster
//!    before [`PROMISE`] has passed since its start.
//! 4. A node that knows of a cluster id among its peers never makes a second cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crdb_proto::peer::{PromiseRefusal, PromiseRequest, PromiseResponse};

use crate::address::{Address, JoinList};

/// How long a promise holds.
pub const PROMISE: Duration = Duration::from_secs(10);
/// How long after the first promise the bootstrapper may still write.
pub const WRITE_WINDOW: Duration = Duration::from_secs(5);
/// Pause between two requests to a peer, and before an attempt that failed is made again.
const RETRY: Duration = Duration::from_millis(500);
/// A peer heard of this lately counts as reachable.
const SEEN: Duration = Duration::from_secs(3);
/// How long one request for a promise may take before the peer counts as unreachable.
pub const ASK_TIMEOUT: Duration = Duration::from_millis(1500);
/// How long `init` asks peers that do not answer. With the last request it stays within the
/// [`WRITE_WINDOW`].
const MANUAL_PATIENCE: Duration = Duration::from_secs(3);

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this to the peer and report the answer.
    Ask {
        /// Where to.
        peer: Address,
        /// What.
        request: PromiseRequest,
    },
    /// Write the `STORE` file, if [`Formation::may_write`] still says so at that moment.
    Bootstrap {
        /// Attempt to name in later calls.
        attempt: String,
        /// Cluster id asked for; `None`: choose one.
        cluster_id: Option<String>,
        /// Nodes of the list that did not answer.
        silent: Vec<Address>,
    },
    /// Tell the caller of `init` that it failed.
    InitFailed(InitRefusal),
}

/// Why `init` was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InitRefusal {
    /// There is a cluster already.
    #[error("cluster has already been initialized")]
    AlreadyInitialized {
        /// Its id.
        cluster_id: String,
    },
    /// Somebody else is making it at this moment: the same call may succeed or find it made later.
    #[error("the cluster is being initialized by another node: {0}; try again in a few seconds")]
    InProgress(String),
    /// The disk or the peers were so slow that the promises given for it have lapsed.
    #[error(
        "the cluster could not be initialized in time: the disk or the other nodes are slow; try again"
    )]
    TooSlow,
    /// This node started again a moment ago and may have promised to stay quiet before.
    #[error("this node was restarted a moment ago; try again in {} seconds", .0.as_secs() + 1)]
    RecentlyStarted(Duration),
}

/// What a peer answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerAnswer {
    /// It answered.
    Response(PromiseResponse),
    /// No answer was had.
    Unreachable,
    /// The name stands for several processes, of which some promised and some did not answer.
    Incomplete,
}

impl PeerAnswer {
    /// What the answers of all processes behind one name amount to; `None` is one that did not
    /// answer. Who belongs to a cluster outweighs who refuses, that outweighs who is silent, and
    /// only promises of all are a promise.
    #[must_use]
    pub fn of_all(answers: Vec<Option<PromiseResponse>>) -> Self {
        let complete = answers.iter().all(Option::is_some);
        let mut answers: Vec<PromiseResponse> = answers.into_iter().flatten().collect();
        answers.sort_by_key(|answer| (answer.cluster_id.is_empty(), answer.promised));
        match answers.into_iter().next() {
            None => Self::Unreachable,
            Some(worst) if worst.promised && !complete => Self::Incomplete,
            Some(worst) => Self::Response(worst),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    attempt: String,
    to: String,
    until: Duration,
}

#[derive(Debug, Clone)]
struct Attempt {
    id: String,
    manual: bool,
    cluster_id: Option<String>,
    began: Duration,
    /// When the first request that was granted left.
    first_promise: Option<Duration>,
    peers: BTreeMap<Address, Peer>,
    writing: bool,
}

#[derive(Debug, Clone, Default)]
struct Peer {
    asked: Option<Duration>,
    in_flight: bool,
    granted: bool,
    answered: bool,
}

/// The part of an uninitialised node that decides about bootstrap.
#[derive(Debug)]
pub struct Formation {
    own: Address,
    join: JoinList,
    auto: bool,
    quiet_until: Duration,
    seed: u64,
    attempts: u64,
    seen: BTreeMap<Address, Duration>,
    /// Entries that did not answer when they were asked last.
    silent: BTreeSet<Address>,
    given: Option<Given>,
    attempt: Option<Attempt>,
    not_before: Duration,
    cluster_id: Option<String>,
}

impl Formation {
    /// A node that advertises `own`, started at `now`; `restarted` says that its store was used
    /// by an earlier process. `seed` names its attempts.
    #[must_use]
    pub fn new(
        own: Address,
        join: JoinList,
        auto: bool,
        restarted: bool,
        seed: u64,
        now: Duration,
    ) -> Self {
        Self {
            own: own.normalized(),
            join,
            auto,
            quiet_until: if restarted { now + PROMISE } else { Duration::ZERO },
            seed,
            attempts: 0,
            seen: BTreeMap::new(),
            silent: BTreeSet::new(),
            given: None,
            attempt: None,
            not_before: now,
            cluster_id: None,
        }
    }

    /// Notes that this node belongs to a cluster now.
    pub fn set_member(&mut self, cluster_id: String) {
        self.cluster_id = Some(cluster_id);
        self.attempt = None;
        self.given = None;
    }

    /// Whether this node belongs to a cluster.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.cluster_id.is_some()
    }

    /// Notes that an uninitialised process answered at `peer`.
    pub fn peer_seen(&mut self, peer: &Address, now: Duration) {
        self.seen.insert(peer.normalized(), now);
        self.silent.remove(&peer.normalized());
    }

    /// Notes that nobody answered at `peer`.
    pub fn peer_silent(&mut self, peer: &Address) {
        self.silent.insert(peer.normalized());
    }

    /// Whether all entries that were asked answered when they were asked last.
    #[must_use]
    pub fn hears_all(&self) -> bool {
        self.silent.is_empty()
    }

    /// Whether something has to happen elsewhere before this node can belong to a cluster: another
    /// node has to start, or somebody has to call `init`.
    #[must_use]
    pub fn waits_for_others(&self) -> bool {
        let mut others = self.join.entries().iter().filter(|entry| **entry != self.own);
        let needs_init = !self.auto && others.all(|peer| self.seen.contains_key(peer));
        self.cluster_id.is_none() && (needs_init || !self.hears_all())
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Duration) -> Vec<Action> {
        if self.given.as_ref().is_some_and(|given| given.until <= now) {
            self.given = None;
        }
        if self.cluster_id.is_some() {
            return Vec::new();
        }
        if let Some(attempt) = &self.attempt {
            let lapsed = attempt.first_promise.is_some_and(|first| now >= first + WRITE_WINDOW);
            if lapsed && !attempt.writing {
                let told = self.too_slow(now);
                if !told.is_empty() {
                    return told;
                }
            }
        }
        if self.attempt.is_none() && self.may_begin_by_itself(now) {
            self.begin(None, false, now);
        }
        self.drive(now)
    }

    /// Answers another node's request for a promise.
    pub fn on_request(&mut self, request: &PromiseRequest, now: Duration) -> PromiseResponse {
        let refuse = |refusal: PromiseRefusal, reason: String, cluster_id: Option<&String>| {
            PromiseResponse {
                promised: false,
                reason,
                cluster_id: cluster_id.cloned().unwrap_or_default(),
                refusal: refusal.into(),
            }
        };
        if let Some(id) = &self.cluster_id {
            let reason = format!("this node belongs to cluster {id}");
            return refuse(PromiseRefusal::Member, reason, Some(id));
        }
        if !request.manual && request.join_hash != self.join.hash() {
            let reason = "the nodes were started with different --join lists".to_owned();
            return refuse(PromiseRefusal::JoinListDiffers, reason, None);
        }
        if let Some(attempt) = &self.attempt {
            if attempt.id == request.attempt {
                // Its own request: the name that was asked stands for several nodes, this one among
                // them.
                return PromiseResponse { promised: true, ..PromiseResponse::default() };
            }
            let reason =
                format!("{} is initializing the cluster itself ({})", self.own, attempt.id);
            return refuse(PromiseRefusal::OtherPromise, reason, None);
        }
        if now < self.quiet_until {
            let reason = "this node was restarted a moment ago".to_owned();
            return refuse(PromiseRefusal::RecentlyStarted, reason, None);
        }
        if let Some(given) = &self.given
            && now < given.until
            && given.attempt != request.attempt
        {
            let reason = format!("this node promised to {}", given.to);
            return refuse(PromiseRefusal::OtherPromise, reason, None);
        }
        // Asking again for the same attempt does not prolong the promise: its asker counts from
        // the first time.
        let until = match &self.given {
            Some(given) if given.attempt == request.attempt => given.until.max(now),
            _ => now + PROMISE,
        };
        self.given = Some(Given {
            attempt: request.attempt.clone(),
            to: request.from_address.clone(),
            until,
        });
        PromiseResponse { promised: true, ..PromiseResponse::default() }
    }

    /// Takes a peer's answer to attempt `attempt`.
    pub fn on_answer(
        &mut self,
        attempt: &str,
        peer: &Address,
        answer: &PeerAnswer,
        now: Duration,
    ) -> Vec<Action> {
        let Some(current) = self.attempt.as_mut().filter(|current| current.id == attempt) else {
            return Vec::new();
        };
        let Some(state) = current.peers.get_mut(peer) else { return Vec::new() };
        state.in_flight = false;
        let asked = state.asked.unwrap_or(now);
        let promised_at = |first: Option<Duration>| Some(first.map_or(asked, |t| t.min(asked)));
        let response = match answer {
            PeerAnswer::Response(response) => response,
            PeerAnswer::Unreachable => return self.drive(now),
            PeerAnswer::Incomplete => {
                current.first_promise = promised_at(current.first_promise);
                return self.drive(now);
            }
        };
        if response.promised {
            state.granted = true;
            state.answered = true;
            current.first_promise = promised_at(current.first_promise);
            return self.drive(now);
        }
        let refusal = PromiseRefusal::try_from(response.refusal).unwrap_or_default();
        if current.manual && refusal == PromiseRefusal::RecentlyStarted {
            // What it promised before its restart, this node would have been asked for as well.
            state.answered = true;
            return self.drive(now);
        }
        let manual = current.manual;
        self.fail(now);
        if !response.cluster_id.is_empty() {
            // Somebody has a cluster: join it, never make another.
            self.auto = false;
        }
        if !manual {
            return Vec::new();
        }
        vec![Action::InitFailed(if response.cluster_id.is_empty() {
            InitRefusal::InProgress(format!("{peer}: {}", response.reason))
        } else {
            InitRefusal::AlreadyInitialized { cluster_id: response.cluster_id.clone() }
        })]
    }

    /// Starts an attempt on behalf of `init`.
    pub fn init(
        &mut self,
        cluster_id: Option<String>,
        now: Duration,
    ) -> Result<Vec<Action>, InitRefusal> {
        if let Some(id) = &self.cluster_id {
            return Err(InitRefusal::AlreadyInitialized { cluster_id: id.clone() });
        }
        if now < self.quiet_until {
            return Err(InitRefusal::RecentlyStarted(self.quiet_until - now));
        }
        if let Some(given) = self.given.as_ref().filter(|given| now < given.until) {
            return Err(InitRefusal::InProgress(given.to.clone()));
        }
        if let Some(attempt) = &self.attempt {
            if attempt.manual || attempt.writing {
                return Err(InitRefusal::InProgress(self.own.to_string()));
            }
            self.attempt = None;
        }
        self.begin(cluster_id, true, now);
        Ok(self.drive(now))
    }

    /// Whether the bootstrapper of `attempt` may still put its `STORE` file in place.
    #[must_use]
    pub fn may_write(&self, attempt: &str, now: Duration) -> bool {
        self.attempt.as_ref().is_some_and(|current| {
            let in_time = current.first_promise.is_none_or(|first| now < first + WRITE_WINDOW);
            current.id == attempt && current.writing && in_time
        })
    }

    /// Notes that the `STORE` file of an attempt was not written.
    pub fn write_failed(&mut self, attempt: &str, now: Duration) -> Vec<Action> {
        if self.attempt.as_ref().is_some_and(|current| current.id == attempt) {
            self.too_slow(now)
        } else {
            Vec::new()
        }
    }

    /// Ends the attempt, whose time is over. Who called `init` is told; the automatic way begins
    /// anew.
    fn too_slow(&mut self, now: Duration) -> Vec<Action> {
        let manual = self.attempt.as_ref().is_some_and(|attempt| attempt.manual);
        self.fail(now);
        if manual { vec![Action::InitFailed(InitRefusal::TooSlow)] } else { Vec::new() }
    }

    fn may_begin_by_itself(&self, now: Duration) -> bool {
        let peers = || self.join.entries().iter().filter(|entry| **entry != self.own);
        self.auto
            && now >= self.not_before
            && now >= self.quiet_until
            && self.given.is_none()
            && self.join.position(&self.own) == Some(0)
            && peers().all(|peer| self.seen.get(peer).is_some_and(|at| now < *at + SEEN))
    }

    fn begin(&mut self, cluster_id: Option<String>, manual: bool, now: Duration) {
        self.attempts += 1;
        let peers = self.join.entries().iter().filter(|entry| **entry != self.own);
        self.attempt = Some(Attempt {
            id: format!("{:016x}-{}", self.seed, self.attempts),
            manual,
            cluster_id,
            began: now,
            first_promise: None,
            peers: peers.map(|peer| (peer.clone(), Peer::default())).collect(),
            writing: false,
        });
    }

    fn fail(&mut self, now: Duration) {
        self.attempt = None;
        self.not_before = now + RETRY;
    }

    /// Sends what is due and starts to write once nothing is missing.
    fn drive(&mut self, now: Duration) -> Vec<Action> {
        let hash = self.join.hash();
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| !attempt.writing) else {
            return Vec::new();
        };
        let patience_over = attempt.manual && now >= attempt.began + MANUAL_PATIENCE;
        // A request on its way is waited for: its answer may name a cluster that exists.
        let given_up = |peer: &Peer| patience_over && !peer.in_flight && peer.asked.is_some();
        let ready = attempt
            .peers
            .values()
            .all(|peer| peer.granted || (attempt.manual && (peer.answered || given_up(peer))));
        if ready {
            attempt.writing = true;
            let silent = attempt.peers.iter().filter(|(_, peer)| !peer.answered);
            return vec![Action::Bootstrap {
                attempt: attempt.id.clone(),
                cluster_id: attempt.cluster_id.clone(),
                silent: silent.map(|(address, _)| address.clone()).collect(),
            }];
        }
        let mut actions = Vec::new();
        for (address, peer) in &mut attempt.peers {
            let due = peer.asked.is_none_or(|asked| now >= asked + RETRY);
            if peer.answered || peer.in_flight || !due || given_up(peer) {
                continue;
            }
            peer.in_flight = true;
            peer.asked = Some(now);
            let request = PromiseRequest {
                join_hash: hash.clone(),
                from_address: self.own.to_string(),
                attempt: attempt.id.clone(),
                manual: attempt.manual,
            };
            actions.push(Action::Ask { peer: address.clone(), request });
        }
        actions
    }
}

#[cfg(test)]
mod tests;
