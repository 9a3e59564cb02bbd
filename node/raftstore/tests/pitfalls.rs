//! One test for each trap that the consensus library, or the lease on top of it, sets.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod cluster;

use std::{task::Waker, time::Duration};

use cluster::{Cluster, batch, get, key, outcome, put};
use crdb_keys::{
    NodeId, RangeId, StoreId, Timestamp,
    layout::{RangeLocal, range_local_key},
};
use crdb_proto::{
    kv::{self, BatchHeader, request},
    peer::{RaftBatch, RaftMessage, RangeHeartbeat},
};
use crdb_raftstore::{Input, Progress, ReplicaChange, Store, StoreError};
use crdb_storage::{Engine as _, Family, Reader as _, Sync, WriteBatch};
use protobuf::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

/// Gives `to` a raft message of replica `from` (of the store with the same number) of r4.
fn inject(cluster: &mut Cluster, to: u32, mut message: Message) {
    let from = u32::try_from(message.from).unwrap();
    message.to = u64::from(to);
    let envelope = RaftMessage {
        range_id: 4,
        from_replica: message.from,
        to_replica: message.to,
        message: message.write_to_bytes().unwrap().into(),
        ..RaftMessage::default()
    };
    let batch =
        RaftBatch { incarnation: 1, sequence: 1, messages: vec![envelope], ..RaftBatch::default() };
    cluster.input(to, Input::Raft { from: StoreId(from), batch });
    cluster.settle();
}

fn message(kind: MessageType, from: u64, term: u64) -> Message {
    let mut message = Message { from, term, ..Message::default() };
    message.set_msg_type(kind);
    message
}

fn term(cluster: &Cluster, id: u32) -> u64 {
    cluster.status(id, 4).unwrap().term
}

#[test]
fn proposals_reads_and_transfers_from_the_network_are_dropped() {
    let mut cluster = Cluster::of_three();
    let now = term(&cluster, 1);
    let before = cluster.status(1, 4).unwrap().last_index;
    for kind in [MessageType::MsgPropose, MessageType::MsgReadIndex, MessageType::MsgTransferLeader]
    {
        for term in [0, now] {
            let mut forged = message(kind, 2, term);
            let entry = Entry { data: b"forged".to_vec().into(), ..Entry::default() };
            forged.set_entries(vec![entry].into());
            inject(&mut cluster, 1, forged);
        }
    }
    cluster.run(Duration::from_secs(2));
    let status = cluster.status(1, 4).unwrap();
    assert!(status.is_leaseholder);
    assert_eq!((status.term, status.last_index), (now, before));
}

#[test]
fn messages_that_raft_takes_for_its_own_are_dropped() {
    let mut cluster = Cluster::of_three();
    let now = term(&cluster, 2);
    for kind in [MessageType::MsgHup, MessageType::MsgTimeoutNow, MessageType::MsgBeat] {
        inject(&mut cluster, 2, message(kind, 1, 0));
    }
    cluster.run(Duration::from_secs(1));
    assert_eq!(term(&cluster, 2), now);
    assert_eq!(cluster.leaseholder(4), Some(1));
}

#[test]
fn an_append_with_a_gap_is_dropped() {
    let mut cluster = Cluster::of_three();
    let now = term(&cluster, 2);
    let last = cluster.status(2, 4).unwrap().last_index;
    let mut append = message(MessageType::MsgAppend, 1, now);
    append.index = last;
    append.log_term = now;
    let entry = Entry { index: last + 5, term: now, ..Entry::default() };
    append.set_entries(vec![entry].into());
    inject(&mut cluster, 2, append);
    cluster.run(Duration::from_secs(1));
    assert_eq!(outcome(&cluster.put(1, "a", "1")), "ok");
}

#[test]
fn a_store_that_lost_what_it_acknowledged_stops() {
    let mut cluster = Cluster::of_three();
    let status = cluster.status(2, 4).unwrap();
    let heartbeat = RangeHeartbeat {
        range_id: 4,
        from_replica: 1,
        to_replica: 2,
        term: status.term,
        commit: status.last_index + 1,
    };
    let batch = RaftBatch { heartbeats: vec![heartbeat], ..RaftBatch::default() };
    let now = cluster.now;
    let store = cluster.nodes.get_mut(&2).unwrap().store.as_mut().unwrap();
    let mut inputs = vec![Input::Raft { from: StoreId(1), batch }];
    let error = store.step(now, &mut inputs).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    // It takes nothing in any more, and serves nothing.
    let error = store.step(now, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, StoreError::Stopped { .. }), "{error}");
    assert!(store.handle().is_stopped());
}

#[test]
fn a_failed_write_stops_the_store_and_its_proposals_are_ambiguous() {
    let mut cluster = Cluster::bootstrap();
    let mut evaluation = cluster.handle(1).evaluate(put("a", "1"), cluster.now);
    let proposal = loop {
        if let Progress::Propose(proposal) = evaluation.poll(cluster.now, Waker::noop()) {
            break proposal;
        }
    };
    let now = cluster.now;
    let node = cluster.nodes.get_mut(&1).unwrap();
    node.engine.fail_next_write("no space left on device");
    let store = node.store.as_mut().unwrap();
    let error = store.step(now, &mut vec![Input::Propose(proposal)]).unwrap_err();
    assert!(error.to_string().contains("no space left on device"), "{error}");
    let Progress::Done(response) = evaluation.poll(now, Waker::noop()) else {
        panic!("the proposal is decided")
    };
    assert_eq!(outcome(&response), "ambiguous");
}

/// Whether a raft message carries the command to leave the joint configuration of r4.
fn leaves_joint(envelope: &RaftMessage) -> bool {
    let message = Message::parse_from_bytes(&envelope.message).unwrap();
    envelope.range_id == 4
        && message.get_entries().iter().any(|entry| {
            entry.get_entry_type() == EntryType::EntryConfChangeV2 && entry.data.is_empty()
        })
}

#[test]
fn a_joint_configuration_is_left_by_the_next_leader() {
    let mut cluster = Cluster::bootstrap();
    for id in [2, 3] {
        cluster.add(id);
        cluster.start(id);
    }
    cluster.tell_stores();
    // The leader's command to leave the joint configuration is lost, and then the leader is.
    cluster.filter = Some(Box::new(|from, _, batch: &mut RaftBatch| {
        if from == 1 {
            batch.messages.retain(|message| !leaves_joint(message));
        }
    }));
    let joint = |cluster: &Cluster, id: u32| {
        cluster.is_up(id)
            && cluster.status(id, 4).is_some_and(|status| {
                status
                    .descriptor
                    .replicas
                    .iter()
                    .any(|replica| replica.r#type() == kv::ReplicaType::VoterIncoming)
            })
    };
    let mut steps = 0;
    while !joint(&cluster, 2) || !joint(&cluster, 3) {
        cluster.run(Duration::from_millis(1));
        steps += 1;
        assert!(steps < 20_000, "no joint configuration\n{}", cluster.describe());
    }
    cluster.filter = None;
    cluster.crash(1, 0);
    cluster.start(1);
    cluster.tell_stores();
    cluster.wait("three plain voters", |cluster| {
        [1, 2, 3].iter().all(|id| {
            cluster.status(*id, 4).is_some_and(|status| {
                status.descriptor.replicas.len() == 3
                    && status
                        .descriptor
                        .replicas
                        .iter()
                        .all(|replica| replica.r#type() == kv::ReplicaType::Voter)
            })
        })
    });
}

#[test]
fn a_snapshot_that_fails_is_sent_again() {
    let mut cluster = Cluster::bootstrap();
    assert_eq!(outcome(&cluster.put(1, "a", "1")), "ok");
    for id in [2, 3] {
        cluster.add(id);
        cluster.start(id);
    }
    cluster.tell_stores();
    cluster.cut.insert((1, 3));
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.handle(3).counts().replicas, 0);
    cluster.cut.clear();
    cluster.wait("a replica on s3", |cluster| cluster.handle(3).counts().replicas == 4);
}

#[test]
fn a_removed_replica_does_not_come_back_by_a_late_message() {
    let mut cluster = Cluster::of_three();
    cluster.add(4);
    cluster.start(4);
    let descriptor = cluster.status(1, 4).unwrap().descriptor;
    let old = cluster.status(1, 4).unwrap().term;
    // s3 is away while it is replaced, and destroys its replica when it comes back.
    cluster.crash(3, 0);
    cluster.dead.insert(3);
    cluster.tell_stores();
    cluster.wait("a replacement", |cluster| {
        let replicas = cluster.status(1, 4).unwrap().descriptor.replicas;
        replicas.len() == 3 && replicas.iter().any(|replica| replica.store_id == 4)
    });
    cluster.run(Duration::from_secs(2));
    cluster.start(3);
    cluster.wait("the end of the old replica", |cluster| cluster.status(3, 4).is_none());
    let mut late = message(MessageType::MsgAppend, 1, old);
    late.to = 3;
    let envelope = RaftMessage {
        range_id: 4,
        from_replica: 1,
        to_replica: 3,
        message: late.write_to_bytes().unwrap().into(),
        descriptor: Some(descriptor),
        ..RaftMessage::default()
    };
    let batch = RaftBatch { messages: vec![envelope], ..RaftBatch::default() };
    cluster.input(3, Input::Raft { from: StoreId(1), batch });
    cluster.run(Duration::from_secs(1));
    assert!(cluster.status(3, 4).is_none());
    // Nor after a restart, and nothing of its data is left.
    cluster.crash(3, usize::MAX);
    cluster.start(3);
    cluster.run(Duration::from_secs(1));
    assert!(cluster.status(3, 4).is_none());
    let mut left = 0;
    let (start, end) = crdb_storage::mvcc::engine_span(&crdb_keys::layout::tables_span());
    let engine = &cluster.nodes[&3].engine;
    engine
        .scan(crdb_storage::Family::State, &start, &end, &mut |_, _| {
            left += 1;
            Ok(std::ops::ControlFlow::Continue(()))
        })
        .unwrap();
    assert_eq!(left, 0);
}

#[test]
fn latches_of_a_write_are_held_although_its_caller_left() {
    let mut cluster = Cluster::of_three();
    assert_eq!(outcome(&cluster.put(1, "a", "1")), "ok");
    cluster.cut.extend([(1, 2), (1, 3)]);
    let abandoned = cluster.call(1, put("a", "2"));
    cluster.settle();
    let call = cluster.calls.remove(&abandoned).unwrap();
    assert!(call.evaluation.is_proposed());
    assert_eq!(outcome(&call.evaluation.abandon("the client left")), "ambiguous");
    // A read of the same key waits for the write's fate; one of another key does not.
    let behind = cluster.call(1, get("a"));
    let beside = cluster.call(1, get("b"));
    cluster.settle();
    assert!(cluster.responses.contains_key(&beside));
    assert!(!cluster.responses.contains_key(&behind));
    cluster.cut.clear();
    cluster.wait("the read", |cluster| cluster.responses.contains_key(&behind));
    assert_eq!(outcome(&cluster.responses[&behind]), "2");
}

#[test]
fn nothing_is_served_or_written_after_the_deadline() {
    let mut cluster = Cluster::bootstrap();
    let written = cluster.put(1, "a", "1");
    let past = written.write_timestamp.unwrap();
    for kind in [
        request::Kind::Get(kv::GetRequest { key: key("a"), ..Default::default() }),
        request::Kind::Put(kv::PutRequest { key: key("a"), value: "2".into() }),
    ] {
        let mut late = batch(vec![kind]);
        late.header.as_mut().unwrap().deadline = Some(past);
        let error = cluster.request(1, late).error.unwrap();
        assert!(matches!(error.kind, Some(kv::error::Kind::DeadlineExceeded(_))), "{error:?}");
    }
    assert_eq!(cluster.get(1, "a").unwrap().as_deref(), Some("1"));
    // A deadline ahead does no harm.
    let mut fine = get("a");
    let ahead = Timestamp::from(past).add_nanos(60_000_000_000);
    fine.header.as_mut().unwrap().deadline = Some(ahead.into());
    assert_eq!(outcome(&cluster.request(1, fine)), "1");
}

#[test]
fn a_read_at_a_past_timestamp_sees_the_past_also_under_a_new_lease() {
    let mut cluster = Cluster::of_three();
    let first = cluster.put(1, "a", "1").write_timestamp;
    assert_eq!(outcome(&cluster.put(1, "a", "2")), "ok");
    let mut past = get("a");
    past.header.as_mut().unwrap().read_timestamp = first;
    assert_eq!(outcome(&cluster.request(1, past.clone())), "1");
    let target = Some(StoreId(2));
    cluster.input(1, Input::TransferLease { range_id: RangeId(4), target });
    cluster.wait("the transfer", |cluster| cluster.leaseholder(4) == Some(2));
    assert_eq!(outcome(&cluster.request(2, past)), "1");
    assert_eq!(cluster.get(2, "a").unwrap().as_deref(), Some("2"));
}

#[test]
fn a_read_far_in_the_future_is_refused() {
    let mut cluster = Cluster::bootstrap();
    let far = cluster.nodes[&1].clock.now().add_nanos(10_000_000_000);
    let mut request = get("a");
    request.header.as_mut().unwrap().read_timestamp = Some(far.into());
    let error = cluster.request(1, request).error.unwrap();
    assert!(matches!(error.kind, Some(kv::error::Kind::Invalid(_))), "{error:?}");
}

#[test]
fn keys_outside_of_the_range_are_told_where_to_go() {
    let mut cluster = Cluster::bootstrap();
    let meta = request::Kind::Get(kv::GetRequest {
        key: crdb_keys::layout::KEY_MIN,
        ..Default::default()
    });
    let mut request = batch(vec![meta]);
    let error = cluster.request(1, request.clone()).error.unwrap();
    let Some(kv::error::Kind::RangeMismatch(_)) = error.kind else { panic!("{error:?}") };
    // Without a range in the header the store finds it.
    request.header = Some(BatchHeader::default());
    assert_eq!(outcome(&cluster.request(1, request.clone())), "ok");
    request.header = Some(BatchHeader { range_id: 99, ..BatchHeader::default() });
    let error = cluster.request(1, request).error.unwrap();
    let Some(kv::error::Kind::RangeMismatch(mismatch)) = error.kind else { panic!("{error:?}") };
    assert_eq!(mismatch.descriptors[0].range_id, 1);
}

#[test]
fn doubled_and_delayed_batches_do_no_harm() {
    let mut cluster = Cluster::of_three();
    // Every batch arrives twice, the second time much later.
    let mut kept: Vec<(u32, u32, RaftBatch)> = Vec::new();
    let log = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let sink = std::rc::Rc::clone(&log);
    cluster.filter = Some(Box::new(move |from, to, batch: &mut RaftBatch| {
        sink.borrow_mut().push((from, to, batch.clone()));
    }));
    for i in 0..20 {
        assert_eq!(outcome(&cluster.put(1, "a", &i.to_string())), "ok");
        cluster.run(Duration::from_millis(50));
        kept.extend(log.borrow_mut().drain(..));
    }
    cluster.filter = None;
    let now = term(&cluster, 1);
    for (from, to, batch) in kept.into_iter().rev() {
        cluster.input(to, Input::Raft { from: StoreId(from), batch });
        cluster.settle();
    }
    cluster.run(Duration::from_secs(1));
    assert_eq!(term(&cluster, 1), now);
    assert_eq!(cluster.get(1, "a").unwrap().as_deref(), Some("19"));
}

#[test]
fn messages_that_would_stop_raft_are_dropped() {
    let mut cluster = Cluster::of_three();
    assert_eq!(outcome(&cluster.put(1, "a", "1")), "ok");
    let now = term(&cluster, 1);
    let last = cluster.status(1, 4).unwrap().last_index;
    // Term 0 is what raft answers for an index beyond its log, so these would seem to fit.
    let mut beyond = message(MessageType::MsgAppend, 1, now);
    (beyond.index, beyond.commit) = (last + 50, last + 50);
    inject(&mut cluster, 2, beyond.clone());
    let entry = Entry { index: last + 51, term: now, ..Entry::default() };
    beyond.set_entries(vec![entry].into());
    inject(&mut cluster, 2, beyond);
    // Acknowledgements of what the leader does not have.
    let mut ack = message(MessageType::MsgAppendResponse, 2, now);
    for index in [last + 50, u64::MAX] {
        ack.index = index;
        inject(&mut cluster, 1, ack.clone());
    }
    (ack.index, ack.reject, ack.reject_hint, ack.log_term) = (last, true, u64::MAX, now);
    inject(&mut cluster, 1, ack);
    // A term behind which there is none.
    for kind in [MessageType::MsgRequestPreVote, MessageType::MsgAppend, MessageType::MsgHeartbeat]
    {
        inject(&mut cluster, 2, message(kind, 1, u64::MAX));
    }
    cluster.run(Duration::from_secs(2));
    assert_eq!(term(&cluster, 1), now);
    assert_eq!(cluster.leaseholder(4), Some(1));
    assert_eq!(outcome(&cluster.put(1, "a", "2")), "ok");
    cluster.wait("all replicas", |cluster| {
        let applied = |id| cluster.status(id, 4).unwrap().applied_index;
        applied(1) == applied(2) && applied(2) == applied(3)
    });
}

/// Whether every node knows four replicas of the tables' range or more that are of `kind`.
fn has_four(cluster: &Cluster, kind: kv::ReplicaType) -> bool {
    cluster.nodes.keys().all(|id| {
        let status = cluster.status(*id, 4).unwrap();
        status.descriptor.replicas.iter().filter(|replica| replica.r#type() == kind).count() >= 4
    })
}

#[test]
fn a_late_vote_does_not_displace_the_bounds_of_the_others() {
    let mut cluster = Cluster::configured(|config| config.replicate_queue = false);
    cluster.add(1);
    let node = &cluster.nodes[&1];
    let (engine, clock) = (node.engine.clone(), node.clock.clone());
    Store::bootstrap(&engine, &clock, NodeId(1), StoreId(1), &[]).unwrap();
    cluster.start(1);
    let change = |cluster: &mut Cluster, what: &str, change, done: fn(&Cluster) -> bool| {
        cluster.wait("the lease", |cluster| cluster.leaseholder(4) == Some(1));
        cluster.input(1, Input::ChangeReplicas { range_id: RangeId(4), change });
        cluster.wait(what, done);
    };
    for id in 2..=5 {
        cluster.add(id);
        cluster.start(id);
        change(&mut cluster, "a learner", ReplicaChange::AddLearner(StoreId(id)), |cluster| {
            cluster.nodes.keys().all(|id| cluster.status(*id, 4).is_some())
        });
    }
    let promote = (2..=5).map(StoreId).collect();
    let promote = ReplicaChange::Promote { promote, demote: Vec::new() };
    change(&mut cluster, "a joint configuration", promote, |cluster| {
        has_four(cluster, kv::ReplicaType::VoterIncoming)
    });
    change(&mut cluster, "five voters", ReplicaChange::LeaveJoint, |cluster| {
        has_four(cluster, kv::ReplicaType::Voter)
    });
    // s4 is alone and would lead.
    for id in [1, 2, 3, 5] {
        cluster.crash(id, usize::MAX);
    }
    cluster.run(Duration::from_secs(3));
    let old = term(&cluster, 4);
    let vote = |cluster: &mut Cluster, from: u64, kind, term: u64, bound: Timestamp| {
        let mut vote = message(kind, from, term);
        vote.to = 4;
        let envelope = RaftMessage {
            range_id: 4,
            from_replica: from,
            to_replica: 4,
            message: vote.write_to_bytes().unwrap().into(),
            vote_bound: Some(bound.into()),
            vote_bound_term: old,
            ..RaftMessage::default()
        };
        let from = StoreId(u32::try_from(from).unwrap());
        let batch = RaftBatch { messages: vec![envelope], ..RaftBatch::default() };
        cluster.input(4, Input::Raft { from, batch });
        cluster.settle();
    };
    let now = cluster.nodes[&4].clock.now();
    let (far, near) = (now.add_nanos(300_000_000), now);
    for from in [2, 3] {
        let granted = MessageType::MsgRequestPreVoteResponse;
        vote(&mut cluster, from, granted, old + 1, Timestamp::ZERO);
    }
    let granted = MessageType::MsgRequestVoteResponse;
    vote(&mut cluster, 2, granted, old + 1, far);
    vote(&mut cluster, 5, granted, old, near);
    vote(&mut cluster, 3, granted, old + 1, near);
    cluster.start(2);
    cluster.start(3);
    let lease = |cluster: &Cluster| cluster.handle(4).lease_of(RangeId(4), cluster.now);
    cluster.wait("the lease of s4", |cluster| lease(cluster).is_some());
    let lease = lease(&cluster).unwrap();
    assert_eq!(lease.term, old + 1);
    assert!(lease.start > far, "{lease:?} does not start above {far}");
}

#[test]
fn a_proposal_that_nobody_takes_is_ambiguous() {
    let mut cluster = Cluster::bootstrap();
    let mut evaluation = cluster.handle(1).evaluate(put("a", "1"), cluster.now);
    let proposal = loop {
        if let Progress::Propose(proposal) = evaluation.poll(cluster.now, Waker::noop()) {
            break proposal;
        }
    };
    drop(proposal);
    let Progress::Done(response) = evaluation.poll(cluster.now, Waker::noop()) else {
        panic!("the fate of the proposal is known")
    };
    assert_eq!(outcome(&response), "ambiguous");
    // Its latches are free again.
    assert_eq!(outcome(&cluster.put(1, "a", "2")), "ok");
}

#[test]
#[should_panic(expected = "n1 stopped: s1 stopped at a check that failed")]
fn a_failed_check_stops_the_store() {
    let mut cluster = Cluster::of_three();
    cluster.crash(3, usize::MAX);
    let next = cluster.status(1, 4).unwrap().last_index + 1;
    for value in ["1", "2", "3"] {
        assert_eq!(outcome(&cluster.put(1, "a", value)), "ok");
    }
    // The leader reads from its disk what s3 misses, and it is not there.
    cluster.crash(1, usize::MAX);
    cluster.crash(2, usize::MAX);
    cluster.start(1);
    cluster.start(2);
    cluster.wait("the same leader", |cluster| cluster.leaseholder(4) == Some(1));
    let mut hole = WriteBatch::new();
    hole.delete(Family::Raft, range_local_key(RangeId(4), RangeLocal::RaftLog(next)));
    cluster.nodes[&1].engine.write(&hole, Sync::Yes).unwrap();
    cluster.start(3);
    cluster.run(Duration::from_secs(5));
}

#[test]
fn a_drained_store_counts_its_leases_until_another_store_leads() {
    let mut cluster = Cluster::of_three();
    cluster.input(1, Input::Drain(true));
    let mut steps = 0;
    while cluster.handle(1).counts().leases > 0 {
        cluster.run(Duration::from_millis(1));
        steps += 1;
        assert!(steps < 5_000, "the leases stay\n{}", cluster.describe());
    }
    for range in 1..=4 {
        assert!(!cluster.status(1, range).unwrap().is_leader, "r{range}\n{}", cluster.describe());
    }
}
