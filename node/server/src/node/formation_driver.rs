//! Carries out what [`crate::formation`] decides, until the node belongs to a cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crdb_keys::NodeId;
use crdb_proto::peer::{JoinRequest, JoinResponse};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Status;
use tracing::{info, warn};
use uuid::Uuid;

use super::shared::Shared;
use super::{NodeError, StartStatus};
use crate::address::Address;
use crate::clock::elapsed;
use crate::formation::{ASK_TIMEOUT, Action, InitRefusal, PeerAnswer};
use crate::peer::{one_shot_any, one_shot_each};
use crate::status_detail::{NOT_INITIALIZED, detail};
use crate::store_file::{Bootstrap, Member, StoreIdent};

/// Granularity of the state machine's time.
const TICK: Duration = Duration::from_millis(50);
/// Pause between two attempts to join through the same entry.
const JOIN_RETRY: Duration = Duration::from_millis(300);
/// An unreachable entry is logged once in this time.
const COMPLAIN: Duration = Duration::from_secs(10);

enum Event {
    Promise { attempt: String, peer: Address, answer: PeerAnswer },
    Join { peer: Address, answer: Box<Result<JoinResponse, Status>> },
}

struct Driver<'a> {
    shared: &'a Arc<Shared>,
    calls: JoinSet<Event>,
    /// When each entry may be asked again; absent while a call is under way.
    next_join: BTreeMap<Address, Duration>,
    complained: Duration,
}

/// Returns once the node belongs to a cluster, with what its `STORE` file says then.
pub(crate) async fn become_member(
    shared: &Arc<Shared>,
    init_actions: &mut mpsc::Receiver<Vec<Action>>,
) -> Result<(Member, StartStatus), NodeError> {
    let list = shared.config.mode.join_list();
    let own = shared.advertised.rpc.normalized();
    let others = list.entries().iter().filter(|entry| **entry != own);
    let mut driver = Driver {
        shared,
        calls: JoinSet::new(),
        next_join: others.map(|entry| (entry.clone(), Duration::ZERO)).collect(),
        complained: elapsed(),
    };
    let mut ticks = tokio::time::interval(TICK);
    loop {
        let event = tokio::select! {
            _ = ticks.tick() => None,
            Some(actions) = init_actions.recv() => {
                if let Some(done) = driver.perform(actions)? {
                    return Ok(done);
                }
                None
            }
            Some(event) = driver.calls.join_next() => event.ok(),
        };
        let done = match event {
            None => driver.tick()?,
            Some(event) => driver.handle(event)?,
        };
        if let Some(done) = done {
            return Ok(done);
        }
    }
}

type Outcome = Result<Option<(Member, StartStatus)>, NodeError>;

impl Driver<'_> {
    fn tick(&mut self) -> Outcome {
        let now = elapsed();
        let due: Vec<Address> =
            self.next_join.iter().filter(|(_, at)| **at <= now).map(|(a, _)| a.clone()).collect();
        for peer in due {
            self.next_join.remove(&peer);
            let descriptor = Some(self.shared.descriptor());
            let request = JoinRequest { descriptor, cluster_id: String::new() };
            let limits = *self.shared.limits();
            self.calls.spawn(async move {
                let address = peer.to_string();
                // One after another: each call that succeeds would give out a node id.
                let call = one_shot_any(&address, &limits, |mut client| {
                    let request = request.clone();
                    async move { client.join(request).await }
                });
                let answer = Box::new(call.await);
                Event::Join { peer, answer }
            });
        }
        let actions = self.shared.formation.lock().tick(now);
        self.perform(actions)
    }

    fn perform(&mut self, actions: Vec<Action>) -> Outcome {
        for action in actions {
            match action {
                Action::Ask { peer, request } => {
                    let limits = *self.shared.limits();
                    self.calls.spawn(async move {
                        let attempt = request.attempt.clone();
                        let address = peer.to_string();
                        let call = one_shot_each(&address, &limits, ASK_TIMEOUT, |mut client| {
                            let request = request.clone();
                            async move { client.promise(request).await }
                        });
                        let answer = match call.await {
                            Ok(answers) => {
                                PeerAnswer::of_all(answers.into_iter().map(Result::ok).collect())
                            }
                            Err(_) => PeerAnswer::Unreachable,
                        };
                        Event::Promise { attempt, peer, answer }
                    });
                }
                Action::Bootstrap { attempt, cluster_id, silent } => {
                    if let Some(member) = self.bootstrap(&attempt, cluster_id, &silent)? {
                        return Ok(Some((member, StartStatus::NewCluster)));
                    }
                }
                Action::InitFailed(refusal) => self.init_failed(refusal),
            }
        }
        Ok(None)
    }

    fn init_failed(&self, refusal: InitRefusal) {
        if let Some(waiter) = self.shared.init_waiter.lock().take() {
            // Who called init may have left meanwhile.
            drop(waiter.send(Err(refusal)));
        }
    }

    /// Writes the `STORE` file that makes this node the first of a new cluster.
    fn bootstrap(
        &self,
        attempt: &str,
        cluster_id: Option<String>,
        silent: &[Address],
    ) -> Result<Option<Member>, NodeError> {
        let cluster_id = cluster_id.unwrap_or_else(|| Uuid::new_v4().to_string());
        let member = first_member(self.shared, cluster_id.clone());
        let formation = &self.shared.formation;
        let in_time = || formation.lock().may_write(attempt, elapsed());
        if !save(self.shared, &member, in_time)? {
            warn!("the STORE file could not be written in time; starting over");
            let told = formation.lock().write_failed(attempt, elapsed());
            for action in told {
                if let Action::InitFailed(refusal) = action {
                    self.init_failed(refusal);
                }
            }
            return Ok(None);
        }
        formation.lock().set_member(cluster_id.clone());
        info!(cluster_id, "initialized new cluster");
        for peer in silent {
            warn!(%peer, "this node of --join did not answer while the cluster was initialized");
        }
        Ok(Some(member))
    }

    fn handle(&mut self, event: Event) -> Outcome {
        let now = elapsed();
        match event {
            Event::Promise { attempt, peer, answer } => {
                if let PeerAnswer::Response(response) = &answer
                    && !response.promised
                {
                    info!(%peer, reason = response.reason, "no promise");
                }
                let actions = self.shared.formation.lock().on_answer(&attempt, &peer, &answer, now);
                self.perform(actions)
            }
            Event::Join { peer, answer } => {
                self.next_join.insert(peer.clone(), now + JOIN_RETRY);
                match *answer {
                    Ok(response) => return self.joined(&peer, response).map(Some),
                    Err(status) => self.not_joined(&peer, &status, now),
                }
                Ok(None)
            }
        }
    }

    fn not_joined(&mut self, peer: &Address, status: &Status, now: Duration) {
        if detail(status).is_some_and(|detail| detail.reason == NOT_INITIALIZED) {
            self.shared.formation.lock().peer_seen(peer, now);
            return;
        }
        self.shared.formation.lock().peer_silent(peer);
        if now > self.complained + COMPLAIN {
            self.complained = now;
            warn!(
                %peer,
                reason = status.message(),
                "cannot join through this node yet: check that it runs and that --join names it"
            );
        }
    }

    fn joined(
        &self,
        peer: &Address,
        response: JoinResponse,
    ) -> Result<(Member, StartStatus), NodeError> {
        if response.cluster_id.is_empty() || response.node_id == 0 {
            return Err(NodeError::BadJoin { peer: peer.clone() });
        }
        let member = Member {
            cluster_id: response.cluster_id.clone(),
            node_id: response.node_id,
            bootstrap: None,
        };
        save(self.shared, &member, || true)?;
        self.shared.formation.lock().set_member(response.cluster_id.clone());
        info!(%peer, cluster_id = response.cluster_id, node = %NodeId(response.node_id), "joined");
        learn(self.shared, response);
        Ok((member, StartStatus::NewNode))
    }
}

/// Takes in what a member says about the cluster.
pub(crate) fn learn(shared: &Shared, response: JoinResponse) {
    for node in response.nodes {
        shared.view.learn_node(node);
    }
    for range in response.ranges {
        shared.cache.insert(range);
    }
}

/// What the first node of a new cluster writes.
pub(crate) fn first_member(shared: &Shared, cluster_id: String) -> Member {
    let list = shared.config.mode.join_list();
    let position = list.position(&shared.advertised.rpc);
    let reserved = match position {
        Some(_) => list.entries().iter().map(ToString::to_string).collect(),
        None => Vec::new(),
    };
    let node_id = position.and_then(|at| u32::try_from(at + 1).ok()).unwrap_or(1);
    Member { cluster_id, node_id, bootstrap: Some(Bootstrap { reserved }) }
}

/// Writes the `STORE` file if `still_allowed` when it is about to take effect.
pub(crate) fn save(
    shared: &Shared,
    member: &Member,
    still_allowed: impl FnOnce() -> bool,
) -> Result<bool, NodeError> {
    let ident = StoreIdent { store_uuid: shared.store_uuid.clone(), member: Some(member.clone()) };
    shared.dir.save(&ident, still_allowed).map_err(NodeError::StoreDir)
}
