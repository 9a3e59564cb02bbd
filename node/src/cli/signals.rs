//! The signals that ask a process to end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Failure;

/// Listens for signals; from its making on, they no longer end the process by themselves.
pub(crate) struct Signals(Vec<(Signal, u8)>);

impl Signals {
    /// Listens for SIGTERM and SIGINT.
    pub(crate) fn to_stop() -> Result<Self, Failure> {
        Self::of(&[SignalKind::terminate(), SignalKind::interrupt()])
    }

    /// Listens for SIGTERM and SIGHUP: what ends a program whose Ctrl-C means something else.
    pub(crate) fn to_leave() -> Result<Self, Failure> {
        Self::of(&[SignalKind::terminate(), SignalKind::hangup()])
    }

    fn of(kinds: &[SignalKind]) -> Result<Self, Failure> {
        let listen = |kind: &SignalKind| {
            let number = u8::try_from(kind.as_raw_value()).unwrap_or(0);
            let listener = signal(*kind)
                .map_err(|error| Failure::new(format!("cannot handle signals: {error}")))?;
            Ok((listener, number))
        };
        kinds.iter().map(listen).collect::<Result<_, _>>().map(Self)
    }

    /// Number of the next signal.
    pub(crate) async fn next(&mut self) -> u8 {
        std::future::poll_fn(|cx| {
            for (listener, number) in &mut self.0 {
                if listener.poll_recv(cx).is_ready() {
                    return std::task::Poll::Ready(*number);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// Exit code of a process that a signal ended.
pub(crate) fn exit_code(signal: u8) -> std::process::ExitCode {
    std::process::ExitCode::from(128_u8.saturating_add(signal))
}
