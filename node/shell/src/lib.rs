//! The SQL shell of `crdb sql`, `crdb demo` and `kubectl crdb sql`.
//!
//! It is a client only: it knows the PostgreSQL wire protocol and nothing of the database's
//! insides, so that the kubectl plugin can carry it without the database.
//!
//! ```text
//! flags, environment, URL -> Target            (target)
//! -e, -f, stdin, prompt   -> lines -> Shell    (shell; interactive, complete)
//! lines                   -> statements        (split)  or commands (meta, help)
//! statement               -> Session -> wire   (session, wire)
//! events                  -> text              (render, settings)
//! ```
//!
//! Everything but `wire`, `session` and `interactive` is pure.
//!
//! Invariants:
//! 1. A statement is sent at most once, whatever happens to the connection.
//! 2. Results go to standard output, everything else to standard error.
//! 3. Outside a terminal the first error ends the shell with a failure.

mod complete;
mod help;
mod interactive;
mod meta;
pub mod render;
mod run;
mod session;
mod settings;
mod shell;
mod split;
mod target;
#[cfg(test)]
mod tests;
mod wire;

pub use run::{ShellArgs, ShellExit, run};
pub use session::{Interrupt, Streams};
pub use target::{
    ConnectionArgs, DEFAULT_PORT, Environment, Target, TargetError, parse_address,
    process_environment,
};
