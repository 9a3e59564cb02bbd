//! The `crdb` binary: arguments, start-up and the client commands.
//!
//! Everything of weight lives in the crates below; this one reads flags, wires the parts, prints
//! what people read, and turns outcomes into exit codes.

mod cli;
mod logging;

fn main() -> std::process::ExitCode {
    cli::main()
}
