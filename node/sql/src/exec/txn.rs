//! The transaction as one statement uses it: reads with locks, and writes into its buffer.

use std::time::Duration;

use bytes::Bytes;
use crdb_keys::Key;
use crdb_kv::{CommitOutcome, ReadOptions, TxnError};
use crdb_proto::kv::{LockStrength, WaitPolicy};

use crate::activity::CancelFlag;
use crate::catalog::TableDesc;
use crate::error::{Result, SqlError, SqlState};
use crate::kv::{Batch, Reply, txn_error};
use crate::plan::{LockWait, RowLock};
use crate::session::WriteFlag;

/// What a statement may do with the transaction it belongs to.
pub(crate) struct StatementTxn<'a> {
    kv: &'a mut crdb_kv::Txn,
    /// The statement is all there is in its transaction, which commits with it: whether a new key
    /// exists already may be left to the commit.
    pub(crate) alone: bool,
    lock_timeout: Duration,
}

/// How strong a lock is at the leaseholder.
pub(super) fn strength(lock: Option<RowLock>) -> LockStrength {
    match lock {
        None => LockStrength::LockNone,
        Some(lock) if lock.exclusive => LockStrength::LockExclusive,
        Some(_) => LockStrength::LockShared,
    }
}

impl<'a> StatementTxn<'a> {
    pub(crate) fn new(kv: &'a mut crdb_kv::Txn, alone: bool, lock_timeout: Duration) -> Self {
        Self { kv, alone, lock_timeout }
    }

    /// Reads without locks, though intents of others are waited for.
    pub(crate) async fn read(&mut self, batch: Batch) -> Result<Reply> {
        let options =
            ReadOptions { wait_policy: WaitPolicy::WaitBlock, lock_timeout: self.lock_timeout };
        let responses = self.kv.read(batch.into_requests(), options).await.map_err(txn_error)?;
        Ok(Reply { responses })
    }

    /// Reads rows of a table whose keys the batch locks as `lock` says.
    pub(crate) async fn read_locking(
        &mut self,
        batch: Batch,
        lock: Option<RowLock>,
        table: &TableDesc,
    ) -> Result<Reply> {
        let Some(lock) = lock else { return self.read(batch).await };
        let wait_policy = match lock.wait {
            LockWait::Block => WaitPolicy::WaitBlock,
            LockWait::Fail => WaitPolicy::WaitError,
            LockWait::Skip => WaitPolicy::WaitSkip,
        };
        let options = ReadOptions { wait_policy, lock_timeout: self.lock_timeout };
        match self.kv.read(batch.into_requests(), options).await {
            Ok(responses) => Ok(Reply { responses }),
            Err(TxnError::LockConflict { timed_out: false, .. }) => Err(SqlError::new(
                SqlState::LOCK_NOT_AVAILABLE,
                format!("could not obtain lock on row in relation \"{}\"", table.name),
            )),
            Err(error) => Err(txn_error(error)),
        }
    }

    /// Writes a row.
    pub(crate) async fn put(&mut self, key: Key, value: Bytes) -> Result<()> {
        loop {
            match self.kv.put(key.clone(), value.clone()) {
                Err(TxnError::BufferFull) => self.kv.flush().await.map_err(txn_error)?,
                result => return result.map_err(txn_error),
            }
        }
    }

    /// Deletes a row.
    pub(crate) async fn delete(&mut self, key: Key) -> Result<()> {
        loop {
            match self.kv.delete(key.clone()) {
                Err(TxnError::BufferFull) => self.kv.flush().await.map_err(txn_error)?,
                result => return result.map_err(txn_error),
            }
        }
    }

    /// Writes a row whose key must not exist. The key that does, of this call or, when the buffer
    /// was full, of one before, comes back as the inner error.
    pub(crate) async fn insert(
        &mut self,
        key: Key,
        value: Bytes,
    ) -> Result<std::result::Result<(), Key>> {
        loop {
            let result = match self.kv.insert(key.clone(), value.clone()) {
                Err(TxnError::BufferFull) => match self.kv.flush().await {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
                result => result,
            };
            return match result {
                Ok(()) => Ok(Ok(())),
                Err(TxnError::Duplicate { key, .. }) => Ok(Err(key)),
                Err(error) => Err(txn_error(error)),
            };
        }
    }

    /// Commits the transaction of a statement that is alone in it. A key that exists comes back as
    /// the inner error.
    pub(crate) async fn commit(
        &mut self,
        flag: &WriteFlag,
        cancel: &CancelFlag,
    ) -> Result<std::result::Result<(), Key>> {
        match commit(self.kv, flag, cancel).await? {
            Ok(()) => Ok(Ok(())),
            Err(TxnError::Duplicate { key, .. }) => Ok(Err(key)),
            Err(error) => Err(txn_error(error)),
        }
    }
}

/// Commits. `flag` is raised while what is sent may take effect, but not while the transaction waits
/// for the locks of others. The outer error is that of a statement cancelled before its commit.
pub(crate) async fn commit(
    kv: &mut crdb_kv::Txn,
    flag: &WriteFlag,
    cancel: &CancelFlag,
) -> Result<std::result::Result<(), TxnError>> {
    loop {
        cancel.check()?;
        // From here on the fate of the statement is the commit's.
        let guard = kv.has_writes().then(|| flag.raise());
        let outcome = kv.try_commit().await;
        drop(guard);
        let locked = match outcome {
            Ok(CommitOutcome::Committed(_)) => return Ok(Ok(())),
            Ok(CommitOutcome::Blocked) => {
                // Nobody is there to end the wait of a statement that was to stop while the flag was
                // up.
                cancel.check()?;
                kv.lock_writes().await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = locked {
            return Ok(Err(error));
        }
    }
}
