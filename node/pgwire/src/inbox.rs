//! The messages of a client on their way to the worker: read, decoded, bounded.

use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::config::Config;
use crate::frame::{Frame, FrameError, Message, next_frame};

/// Unit in which the bytes of waiting messages are counted.
const QUEUE_UNIT: usize = 1024;

/// A message that waits for the worker.
pub(crate) struct Queued {
    pub(crate) kind: u8,
    pub(crate) message: Result<Message, FrameError>,
    /// Its share of the bytes that may wait.
    _share: Option<OwnedSemaphorePermit>,
}

/// The messages that wait, the first of which can be looked at.
pub(crate) struct Inbox {
    queue: mpsc::Receiver<Queued>,
    first: Option<Queued>,
}

impl Inbox {
    /// The messages of a connection.
    pub(crate) fn new(queue: mpsc::Receiver<Queued>) -> Inbox {
        Inbox { queue, first: None }
    }

    /// The next message, if it is there already.
    pub(crate) fn try_next(&mut self) -> Option<Queued> {
        self.first.take().or_else(|| self.queue.try_recv().ok())
    }

    /// The next message; none once there will be no more.
    pub(crate) async fn next(&mut self) -> Option<Queued> {
        match self.first.take() {
            Some(first) => Some(first),
            None => self.queue.recv().await,
        }
    }

    /// Whether a Sync is there already and comes next.
    pub(crate) fn sync_is_next(&mut self) -> bool {
        self.first = self.try_next();
        self.first.as_ref().is_some_and(|first| matches!(first.message, Ok(Message::Sync)))
    }
}

/// Why the read half ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The client closed its side.
    HungUp,
    /// What follows cannot be understood; the worker has been told.
    OutOfStep,
    /// The worker has ended.
    Unwanted,
}

/// Drops the next bytes, which are not held; false if there are no more before.
async fn skip<R: AsyncRead + Unpin>(
    reader: &mut R,
    buffer: &mut BytesMut,
    mut bytes: usize,
    read_bytes: usize,
) -> bool {
    loop {
        let here = bytes.min(buffer.len());
        buffer.advance(here);
        bytes -= here;
        if bytes == 0 {
            return true;
        }
        buffer.reserve(read_bytes);
        if !matches!(reader.read_buf(buffer).await, Ok(1..)) {
            return false;
        }
    }
}

/// Cuts and decodes messages and hands them to the worker; waits while too much is waiting.
pub(crate) async fn read<R: AsyncRead + Unpin>(
    reader: &mut R,
    mut buffer: BytesMut,
    queue: mpsc::Sender<Queued>,
    config: Config,
) -> Reading {
    let message_bytes_max = config.message_bytes_max;
    let units_max = message_bytes_max / QUEUE_UNIT + config.queue_messages;
    let shares = Arc::new(Semaphore::new(units_max));
    loop {
        let kind = buffer.first().copied().unwrap_or(0);
        match next_frame(&mut buffer, message_bytes_max) {
            Ok(Some(frame)) => {
                let units = u32::try_from(frame.body.len() / QUEUE_UNIT).unwrap_or(u32::MAX);
                let share = if units == 0 {
                    None
                } else {
                    match Arc::clone(&shares).acquire_many_owned(units).await {
                        Ok(share) => Some(share),
                        Err(_) => return Reading::Unwanted,
                    }
                };
                let message = Frame::decode(frame);
                if queue.send(Queued { kind, message, _share: share }).await.is_err() {
                    return Reading::Unwanted;
                }
            }
            Ok(None) => {
                buffer.reserve(config.read_bytes);
                match reader.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => return Reading::HungUp,
                    Ok(_) => {}
                }
            }
            Err(FrameError::TooLong(bytes, most)) if bytes <= config.skipped_bytes_max => {
                if !skip(reader, &mut buffer, bytes + 1, config.read_bytes).await {
                    return Reading::HungUp;
                }
                let message = Err(FrameError::Skipped(bytes, most));
                if queue.send(Queued { kind, message, _share: None }).await.is_err() {
                    return Reading::Unwanted;
                }
            }
            Err(error) => {
                let queued = Queued { kind, message: Err(error), _share: None };
                return match queue.send(queued).await {
                    Ok(()) => Reading::OutOfStep,
                    Err(_) => Reading::Unwanted,
                };
            }
        }
    }
}
