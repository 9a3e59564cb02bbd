//! Requests at a store: polled from one yield point to the next, and watched when they are served.

use std::{
    sync::Arc,
    task::{Wake, Waker},
};

use crdb_proto::kv::{BatchRequest, BatchResponse};
use crdb_raftstore::{Input, Progress, YieldPoint};
use parking_lot::Mutex;

use crate::{
    node::Call,
    plan::MS,
    world::{Event, RANGES, World},
};

/// Calls that are to be polled: node, process, call.
pub(crate) type Woken = Arc<Mutex<Vec<(usize, u64, u64)>>>;

struct CallWaker {
    woken: Woken,
    call: (usize, u64, u64),
}

impl Wake for CallWaker {
    fn wake(self: Arc<Self>) {
        self.woken.lock().push(self.call);
    }
}

impl World {
    pub(crate) fn request(
        &mut self,
        client: usize,
        attempt: u64,
        index: usize,
        timed: bool,
        batch: BatchRequest,
    ) {
        let now = self.now;
        self.next_id += 1;
        let call = self.next_id;
        let node = self.node(index);
        let mono = node.tell_time(now);
        let Some(handle) = &node.handle else {
            let delay = self.rng.within(0..2 * MS);
            self.after(delay, Event::Response { client, attempt, response: None });
            return;
        };
        let evaluation = handle.evaluate(batch, mono);
        let process = node.process;
        node.calls.insert(call, Call { evaluation, client, attempt, timed, lease: None });
        self.after(0, Event::Poll { node: index, process, call });
    }

    pub(crate) fn poll(&mut self, index: usize, process: u64, id: u64) -> Result<(), String> {
        let now = self.now;
        let waker = CallWaker { woken: Arc::clone(&self.woken), call: (index, process, id) };
        let waker = Waker::from(Arc::new(waker));
        let node = self.node(index);
        if node.process != process {
            return Ok(());
        }
        if node.paused_until > now {
            let delay = node.paused_until - now;
            self.after(delay, Event::Poll { node: index, process, call: id });
            return Ok(());
        }
        let mono = node.tell_time(now);
        let (Some(call), Some(handle)) = (node.calls.get_mut(&id), &node.handle) else {
            return Ok(());
        };
        match call.evaluation.poll(mono, &waker) {
            Progress::Yield(point) => {
                if point == YieldPoint::AfterLeaseCheck {
                    let range = call.evaluation.range_id().unwrap_or_default();
                    call.lease = handle.lease_of(range, mono).map(|lease| lease.sequence);
                }
                let long = self.rng.chance(5);
                let delay = if long { self.rng.within(0..self.plan.linger) } else { 0 };
                let delay = delay + self.rng.within(0..MS / 10);
                self.after(delay, Event::Poll { node: index, process, call: id });
            }
            // Who waits is woken, yet looks at the time now and then.
            Progress::WaitLease => {
                self.after(300 * MS, Event::Poll { node: index, process, call: id });
            }
            Progress::WaitLatch | Progress::WaitProposal => {}
            Progress::Propose(proposal) => {
                self.give(index, Input::Propose(proposal));
                self.after(0, Event::Poll { node: index, process, call: id });
            }
            Progress::Done(response) => {
                let call = node.calls.remove(&id).expect("it was just polled");
                self.served(index, &call, &response)?;
                let delay = self.rng.within(MS / 10..3 * MS);
                let (client, attempt) = (call.client, call.attempt);
                let response = Some(response);
                self.after(delay, Event::Response { client, attempt, response });
            }
        }
        Ok(())
    }

    fn served(
        &mut self,
        index: usize,
        call: &Call,
        response: &BatchResponse,
    ) -> Result<(), String> {
        if response.error.is_some() {
            return Ok(());
        }
        let range = call.evaluation.range_id().unwrap_or_default();
        let sequence = call
            .lease
            .ok_or_else(|| format!("s{} served {range} without holding its lease", index + 1))?;
        let (timestamp, present) = match (response.write_timestamp, response.read_timestamp) {
            (Some(write), _) => (write, true),
            (None, Some(read)) => (read, !call.timed),
            (None, None) => return Err("a response without a timestamp".into()),
        };
        self.oracle.served(range, sequence, index, timestamp.into(), present)
    }

    /// No two stores hold the lease of one range at this moment.
    pub(crate) fn check_leases(&mut self) -> Result<(), String> {
        for range in RANGES {
            let mut holder: Option<usize> = None;
            for node in &self.nodes {
                let Some(handle) = &node.handle else { continue };
                let Some(lease) = handle.lease_of(range, node.mono(self.now)) else { continue };
                if self.plan.steady {
                    self.oracle.held(range, lease.sequence, lease.start, lease.bound)?;
                }
                if let Some(other) = holder {
                    let index = node.index;
                    return Err(format!(
                        "s{} and s{} both hold the lease of {range}",
                        other + 1,
                        index + 1
                    ));
                }
                holder = Some(node.index);
            }
        }
        Ok(())
    }
}
