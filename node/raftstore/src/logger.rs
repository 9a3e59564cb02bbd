//! Passes the log lines of the consensus library on to `tracing`.

use std::fmt::{self, Write as _};

use slog::{Drain, KV, Key, Level, Logger, OwnedKVList, Record, Serializer, o};

/// A logger for one replica; `replica` appears in each line as `r4/2`.
pub(crate) fn logger(replica: String) -> Logger {
    Logger::root(TracingDrain, o!("replica" => replica))
}

struct TracingDrain;

impl Drain for TracingDrain {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), slog::Never> {
        // Formatting costs more than the consensus itself, so ask first whether anybody listens.
        // The library is chatty at info: an election makes a dozen lines.
        macro_rules! forward {
            ($level:ident) => {
                if tracing::enabled!(target: "raft", tracing::Level::$level) {
                    let fields = fields(record, values);
                    tracing::event!(target: "raft", tracing::Level::$level, "{}{fields}", record.msg());
                }
            };
        }
        match record.level() {
            Level::Critical | Level::Error => forward!(ERROR),
            Level::Warning => forward!(WARN),
            Level::Info => forward!(DEBUG),
            Level::Debug | Level::Trace => forward!(TRACE),
        }
        Ok(())
    }
}

fn fields(record: &Record<'_>, values: &OwnedKVList) -> String {
    let mut text = Fields(String::new());
    // Writing to a string does not fail; a field that cannot print itself is left out.
    let printed =
        values.serialize(record, &mut text).and_then(|()| record.kv().serialize(record, &mut text));
    if printed.is_err() {
        text.0.push_str(" (a field could not be printed)");
    }
    text.0
}

struct Fields(String);

impl Serializer for Fields {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, " {key}={value}")?;
        Ok(())
    }
}
