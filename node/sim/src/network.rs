//! The links between stores, each direction by itself.

use std::collections::BTreeMap;

use crate::{plan::Plan, rng::Rng};

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    cut_until: u64,
    slow_until: u64,
    extra: u64,
    lossy_until: u64,
    loss: u32,
}

/// State of all links.
#[derive(Debug, Default)]
pub(crate) struct Network {
    links: BTreeMap<(usize, usize), Link>,
}

impl Network {
    /// Loses everything from `from` to `to` until `until`.
    pub(crate) fn cut(&mut self, from: usize, to: usize, until: u64) {
        let link = self.links.entry((from, to)).or_default();
        link.cut_until = link.cut_until.max(until);
    }

    /// Delays everything from `from` to `to` by `extra` until `until`.
    pub(crate) fn slow(&mut self, from: usize, to: usize, extra: u64, until: u64) {
        let link = self.links.entry((from, to)).or_default();
        (link.extra, link.slow_until) = (extra, until);
    }

    /// Loses `percent` of what goes from `from` to `to` until `until`.
    pub(crate) fn lose(&mut self, from: usize, to: usize, percent: u32, until: u64) {
        let link = self.links.entry((from, to)).or_default();
        (link.loss, link.lossy_until) = (percent, until);
    }

    /// Whether nothing gets through from `from` to `to`.
    pub(crate) fn is_cut(&self, from: usize, to: usize, now: u64) -> bool {
        self.links.get(&(from, to)).is_some_and(|link| now < link.cut_until)
    }

    /// Repairs all links.
    pub(crate) fn heal(&mut self) {
        self.links.clear();
    }

    /// When the copies of a message sent at `now` arrive: none if it is lost.
    pub(crate) fn arrivals(
        &self,
        rng: &mut Rng,
        plan: &Plan,
        healthy: bool,
        (from, to): (usize, usize),
        now: u64,
    ) -> Vec<u64> {
        let link = self.links.get(&(from, to)).copied().unwrap_or_default();
        if now < link.cut_until {
            return Vec::new();
        }
        let loss = if now < link.lossy_until { link.loss } else { 0 };
        if !healthy && rng.chance(plan.drop.max(loss)) {
            return Vec::new();
        }
        let extra = if now < link.slow_until { link.extra } else { 0 };
        let copies = if !healthy && rng.chance(plan.duplicate) { 2 } else { 1 };
        let longest = if healthy { plan.delay.0 * 4 } else { plan.delay.1 };
        (0..copies).map(|_| now + extra + rng.within(plan.delay.0..longest)).collect()
    }
}
