//! `--background`: the command starts itself again, detached, and returns when that one serves or
//! waits for something else: for other nodes, or for `init`.
//!
//! The child's stdout is a pipe to the parent. The child's notices go to the stderr they share
//! until the child detaches: it then writes one line to the pipe and turns both streams to
//! /dev/null, or to a file in its log directory, so that whoever waits for the parent's output to
//! end does not wait for the node.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use super::Failure;

/// Set in the environment of the child.
const CHILD: &str = "CRDB_BACKGROUND_CHILD";
/// What the child writes when it is left to itself.
const READY: &str = "ready";

/// Whether this process is the child.
pub(crate) fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Whether a process runs.
pub(crate) fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    // EPERM: it runs, as somebody else.
    pid.is_some_and(|pid| {
        !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
    })
}

/// Starts the child and waits until it detaches or gives up.
pub(crate) fn start(logs: &Path) -> Result<ExitCode, Failure> {
    let failed =
        |error: io::Error| Failure::new(format!("cannot start in the background: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(CHILD, logs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let stdout = child.stdout.take().ok_or_else(|| Failure::new("the child has no stdout"))?;
    for line in BufReader::new(stdout).lines() {
        match line {
            Ok(line) if line == READY => return Ok(ExitCode::SUCCESS),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    // It ended before it detached and has said why on stderr.
    let status = child.wait().map_err(failed)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code.max(1)))
}

/// In the child: leaves the terminal's session. Called first.
pub(crate) fn leave_session() {
    if is_child()
        && let Err(error) = rustix::process::setsid()
    {
        // It still works, but ends with the terminal.
        super::print_error(&format!("WARNING: cannot leave the terminal's session: {error}\n"));
    }
}

/// In the child: tells the parent to go on without it, and lets go of its streams.
pub(crate) fn detach() -> io::Result<()> {
    let Some(logs) = std::env::var_os(CHILD) else { return Ok(()) };
    let mut stdout = io::stdout();
    writeln!(stdout, "{READY}")?;
    stdout.flush()?;
    let null = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    let stray = Path::new(&logs).join("crdb-stderr.log");
    let stderr = OpenOptions::new().create(true).append(true).open(stray)?;
    rustix::stdio::dup2_stderr(&stderr)?;
    Ok(())
}
