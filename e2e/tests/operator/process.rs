//! Programs that end with the test process, however it ends.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result};

/// Runs the arguments, and kills them when standard input ends: the kernel closes the pipe when
/// the test process is gone.
const GUARD: &str = r#"
exec 3<&0
"$@" 3<&- </dev/null &
child=$!
(cat <&3 >/dev/null; kill -9 $child 2>/dev/null) &
watcher=$!
exec 3<&-
wait $child
status=$?
kill $watcher 2>/dev/null
exit $status
"#;

/// A guarded program.
pub(crate) struct Process {
    guard: Child,
}

impl Process {
    /// Starts a program; its output goes to a file.
    pub(crate) fn start(
        program: &Path,
        args: &[String],
        env: &[(&str, String)],
        log: &Path,
    ) -> Result<Process> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new("sh");
        command.arg("-c").arg(GUARD).arg("guard").arg(program).args(args);
        for (name, value) in env {
            command.env(name, value);
        }
        command.stdin(Stdio::piped()).stdout(file.try_clone()?).stderr(file);
        let guard = command.spawn().with_context(|| format!("start {}", program.display()))?;
        Ok(Process { guard })
    }

    /// The exit status, once the program has ended.
    pub(crate) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.guard.try_wait()?)
    }

    /// Kills the program and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        drop(self.guard.stdin.take());
        self.guard.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
