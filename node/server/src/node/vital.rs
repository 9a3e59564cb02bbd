//! Parts without which the node must not go on.
//!
//! A task or thread that panics ends quietly, and the node would look alive without its heartbeats
//! or its store. Whoever runs such a part holds an [`OnPanic`] for its duration.

use std::sync::Arc;

use super::NodeError;
use super::shared::Shared;

/// Raises the alarm if it is dropped by a panic.
pub(crate) struct OnPanic<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for OnPanic<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)();
        }
    }
}

impl Shared {
    /// What fails the node if `part` panics.
    pub(crate) fn alarm(self: &Arc<Self>, part: &'static str) -> OnPanic<impl FnMut() + use<>> {
        let shared = Arc::clone(self);
        OnPanic(move || shared.fail(NodeError::Panicked(part.to_owned())))
    }

    /// Runs a task without which the node cannot go on.
    pub(crate) fn spawn_vital(
        self: &Arc<Self>,
        part: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.tasks.spawn_on(self.guarded(part, task), &self.main);
    }

    /// Runs a task without which the node is soon taken for dead, where no statement keeps it
    /// waiting. What it evaluates itself is small.
    pub(crate) fn spawn_prompt(
        self: &Arc<Self>,
        part: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.tasks.spawn_on(self.guarded(part, task), &self.io);
    }

    fn guarded(
        self: &Arc<Self>,
        part: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let alarm = self.alarm(part);
        async move {
            let _alarm = alarm;
            task.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio_util::task::TaskTracker;

    use super::*;

    async fn alarms(panics: bool) -> u32 {
        let alarms = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&alarms);
        let alarm = OnPanic(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let task = TaskTracker::new().spawn(async move {
            let _alarm = alarm;
            tokio::task::yield_now().await;
            assert!(!panics, "as the test wants it");
        });
        assert_eq!(task.await.is_err(), panics);
        alarms.load(Ordering::SeqCst)
    }

    #[tokio::test]
    async fn only_a_panic_raises_the_alarm() {
        assert_eq!(alarms(false).await, 0);
        assert_eq!(alarms(true).await, 1);
    }
}
