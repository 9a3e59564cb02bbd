//! Asks a session to stop what it does.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::Poll;

use futures::task::AtomicWaker;

use crate::error::{Result, SqlError, SqlState};

/// A client asked for it, by a cancel request.
const REQUEST: u8 = 1;
/// CANCEL QUERY.
const QUERY: u8 = 2;
/// CANCEL SESSION.
const SESSION: u8 = 4;
/// Its time is over, while a write of it was on its way: nothing else is begun.
const OVERDUE: u8 = 8;

/// Asks a session to stop its statement, or to end. Clones share one flag. Any number of callers may
/// raise it; one task, that of the session, waits for it.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// What was asked for, a bit for each.
    asked: AtomicU8,
    waker: AtomicWaker,
}

impl CancelFlag {
    /// A flag that is not raised.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the statement to stop, as its own client wishes.
    pub fn cancel(&self) {
        self.ask(REQUEST);
    }

    /// Asks the statement to stop, as somebody's CANCEL QUERY wishes.
    pub(super) fn cancel_query(&self) {
        self.ask(QUERY);
    }

    /// Asks the session to end, as somebody's CANCEL SESSION wishes.
    pub(super) fn close_session(&self) {
        self.ask(SESSION);
    }

    /// Says that the statement, which is being waited for, begins nothing more; or takes that back.
    pub(crate) fn set_overdue(&self, overdue: bool) {
        if overdue {
            self.0.asked.fetch_or(OVERDUE, Ordering::AcqRel);
        } else {
            self.0.asked.fetch_and(!OVERDUE, Ordering::AcqRel);
        }
    }

    fn ask(&self, what: u8) {
        self.0.asked.fetch_or(what, Ordering::AcqRel);
        self.0.waker.wake();
    }

    /// Lowers the flag for the next statement. A session that is to end stays asked to.
    pub fn reset(&self) {
        if self.0.asked.load(Ordering::Acquire) != 0 {
            self.0.asked.fetch_and(SESSION, Ordering::AcqRel);
        }
    }

    /// Whether somebody asked the statement to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.asked.load(Ordering::Acquire) & !OVERDUE != 0
    }

    /// Whether the session is to end.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.asked.load(Ordering::Acquire) & SESSION != 0
    }

    /// Waits until the statement is to stop.
    pub async fn cancelled(&self) {
        self.wait(Self::is_cancelled).await;
    }

    /// Waits until the session is to end.
    pub async fn closed(&self) {
        self.wait(Self::is_closed).await;
    }

    async fn wait(&self, raised: fn(&Self) -> bool) {
        poll_fn(|cx| {
            self.0.waker.register(cx.waker());
            // Looked at after the waker is in place: nobody raises it unseen.
            if raised(self) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// What the client of the statement or the session is told.
    #[must_use]
    pub fn error(&self) -> SqlError {
        let asked = self.0.asked.load(Ordering::Acquire);
        if asked & SESSION != 0 {
            return SqlError::new(
                SqlState::ADMIN_SHUTDOWN,
                "terminating connection due to administrator command",
            )
            .with_detail("The session was canceled by CANCEL SESSION.");
        }
        let message = if asked & QUERY == 0 {
            "canceling statement due to user request"
        } else {
            "query execution canceled"
        };
        SqlError::new(SqlState::QUERY_CANCELED, message)
    }

    /// An error if the statement is to stop, whoever asked.
    pub(crate) fn check(&self) -> Result<()> {
        if self.0.asked.load(Ordering::Acquire) == 0 { Ok(()) } else { Err(self.error()) }
    }
}
