//! Commands as data: they can be printed, compared in golden tests, and run with a deadline.

use std::fmt;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::progress::now;

/// How often a running command is looked at.
const POLL: Duration = Duration::from_millis(20);
/// How long a pipe is read after the command ended, for a child of it that still holds the pipe.
const PIPE_GRACE: Duration = Duration::from_secs(2);
/// Lines that wait for the reader of a command's output; a faster command waits.
const LINES_IN_FLIGHT: usize = 256;
/// How much of a failed command's output goes into the error.
const LINES_IN_ERROR: usize = 40;

/// A command line with its surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmd {
    program: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    dir: Option<PathBuf>,
    stdin: Option<String>,
    deadline: Duration,
}

impl Cmd {
    /// A command that has two minutes.
    pub fn new(program: impl AsRef<Path>) -> Cmd {
        Cmd {
            program: program.as_ref().display().to_string(),
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
            stdin: None,
            deadline: Duration::from_secs(120),
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl fmt::Display) -> Cmd {
        self.args.push(arg.to_string());
        self
    }

    /// Adds the arguments of a line that needs no quoting.
    #[must_use]
    pub fn words(mut self, line: &str) -> Cmd {
        self.args.extend(line.split_whitespace().map(str::to_owned));
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args_of(mut self, args: &[&str]) -> Cmd {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
        self
    }

    /// Adds a path as an argument.
    #[must_use]
    pub fn path(self, path: &Path) -> Cmd {
        self.arg(path.display())
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl fmt::Display) -> Cmd {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Sets several environment variables.
    #[must_use]
    pub fn envs(mut self, vars: &[(String, String)]) -> Cmd {
        self.env.extend_from_slice(vars);
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Cmd {
        self.dir = Some(dir.to_owned());
        self
    }

    /// Feeds the text to the command's standard input; without it the command reads nothing.
    #[must_use]
    pub fn stdin(mut self, text: impl Into<String>) -> Cmd {
        self.stdin = Some(text.into());
        self
    }

    /// Sets how long the command may take.
    #[must_use]
    pub fn seconds(mut self, seconds: u64) -> Cmd {
        self.deadline = Duration::from_secs(seconds);
        self
    }

    /// Sets how long the command may take.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Cmd {
        self.deadline = deadline;
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(k, v)| (k, v))).process_group(0);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    /// Runs the command and returns what it wrote to stdout. An exit status other than 0 is an
    /// error that carries the end of the output.
    pub fn output(&self) -> Result<String> {
        let mut stdout = tempfile::tempfile()?;
        let mut stderr = tempfile::tempfile()?;
        let status = self.spawn_and_wait(stdout.try_clone()?, stderr.try_clone()?)?;
        let out = contents(&mut stdout)?;
        if !status.success() {
            let err = contents(&mut stderr)?;
            bail!("`{self}` {}:\n{}", describe(status), tail(&format!("{out}\n{err}")));
        }
        Ok(out)
    }

    /// Runs the command for its effect.
    pub fn run(&self) -> Result<()> {
        self.output().map(drop)
    }

    /// Runs the command; true when it ends with exit status 0. Not to be started at all is an error.
    pub fn succeeds(&self) -> Result<bool> {
        let sink = || File::options().write(true).open("/dev/null");
        Ok(self.spawn_and_wait(sink()?, sink()?)?.success())
    }

    /// Runs the command with its output in a file, from where the error of a failure quotes.
    pub fn log_to(&self, log: &Path) -> Result<()> {
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(log)
            .with_context(|| format!("create {}", log.display()))?;
        let status = self.spawn_and_wait(file.try_clone()?, file.try_clone()?)?;
        if !status.success() {
            let text = contents(&mut file)?;
            bail!("`{self}` {}; {} ends with:\n{}", describe(status), log.display(), tail(&text));
        }
        Ok(())
    }

    /// Runs the command with this program's stdout and stderr; the deadline holds. None: it passed.
    pub fn status(&self) -> Result<Option<ExitStatus>> {
        let mut command = self.command();
        let mut child =
            command.stdin(Stdio::null()).spawn().with_context(|| format!("start `{self}`"))?;
        wait(&mut child, self.deadline)
    }

    /// Like [`Cmd::status`], and every line of stdout is also handed to `see`.
    pub fn status_seeing(&self, mut see: impl FnMut(&str)) -> Result<Option<ExitStatus>> {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start `{self}`"))?;
        let stdout = child.stdout.take().context("the child's stdout is a pipe")?;
        let (lines, seen) = mpsc::sync_channel(LINES_IN_FLIGHT);
        // Not joined: a process that left the group may keep the pipe open for ever. The thread ends
        // when the pipe does, or when nobody listens any more.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(|line| line.ok()) {
                if lines.send(line).is_err() {
                    break;
                }
            }
        });
        let end = now() + self.deadline;
        let mut status = None;
        let mut quiet_since = None;
        loop {
            match seen.recv_timeout(POLL) {
                Ok(line) => {
                    let line = String::from_utf8_lossy(&line);
                    writeln!(std::io::stdout().lock(), "{line}").ok();
                    see(&line);
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let left = end.saturating_duration_since(now());
                    return if status.is_some() { Ok(status) } else { wait(&mut child, left) };
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if status.is_none() {
                status = child.try_wait()?;
            }
            if status.is_some() {
                let since = *quiet_since.get_or_insert_with(now);
                if now().duration_since(since) > PIPE_GRACE {
                    return Ok(status);
                }
            } else if now() >= end {
                return wait(&mut child, Duration::ZERO);
            }
        }
    }

    fn spawn_and_wait(&self, stdout: File, stderr: File) -> Result<ExitStatus> {
        let mut command = self.command();
        command.stdout(stdout).stderr(stderr);
        command.stdin(match &self.stdin {
            Some(text) => Stdio::from(file_with(text)?),
            None => Stdio::null(),
        });
        let mut child = command.spawn().with_context(|| format!("start `{self}`"))?;
        wait(&mut child, self.deadline)?.with_context(|| {
            format!(
                "`{self}` was still running after {} s, so it was ended",
                self.deadline.as_secs()
            )
        })
    }
}

/// Waits for a child that leads a process group. At the deadline the whole group is killed and the
/// answer is None.
pub fn wait(child: &mut Child, deadline: Duration) -> Result<Option<ExitStatus>> {
    let end = now() + deadline;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if now() >= end {
            // The group may be gone in this very moment; then there is nothing to kill.
            kill_process_group(Pid::from_child(child), Signal::KILL).ok();
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

fn file_with(text: &str) -> Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

fn contents(file: &mut File) -> Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit status {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The last lines of an output.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let skip = lines.len().saturating_sub(LINES_IN_ERROR);
    lines.into_iter().skip(skip).map(|line| format!("    {line}\n")).collect()
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.env {
            write!(f, "{name}={} ", quoted(value))?;
        }
        write!(f, "{}", quoted(&self.program))?;
        for arg in &self.args {
            write!(f, " {}", quoted(arg))?;
        }
        Ok(())
    }
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%{}".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_the_status_and_the_output() {
        let error = Cmd::new("sh").arg("-c").arg("echo lost; exit 3").output().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("`sh -c 'echo lost; exit 3'` ended with exit status 3"), "{text}");
        assert!(text.contains("    lost"), "{text}");
    }

    #[test]
    fn the_deadline_ends_the_children_of_the_command_too() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid_file.display());
        let command = Cmd::new("sh").arg("-c").arg(script).deadline(Duration::from_millis(400));
        let error = command.run().unwrap_err().to_string();
        assert!(error.contains("still running after"), "{error}");
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        let end = now() + Duration::from_secs(10);
        loop {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            if stat.map_or(true, |stat| stat.contains(") Z ")) {
                break;
            }
            assert!(now() < end, "the grandchild {pid} outlived its group");
            std::thread::yield_now();
        }
    }

    #[test]
    fn lines_are_seen_until_the_end() {
        let mut lines = Vec::new();
        let command = Cmd::new("sh").arg("-c").arg("seq 3; exit 5");
        let status = command.status_seeing(|line| lines.push(line.to_owned())).unwrap().unwrap();
        assert_eq!((status.code(), lines.join(" ").as_str()), (Some(5), "1 2 3"));
        let slow = Cmd::new("sleep").arg("600").deadline(Duration::from_millis(100));
        assert!(slow.status_seeing(|_| ()).unwrap().is_none());
    }

    #[test]
    fn stdin_is_the_given_text_and_else_empty() {
        assert_eq!(Cmd::new("cat").stdin("abc").output().unwrap(), "abc");
        assert_eq!(Cmd::new("cat").output().unwrap(), "");
    }
}
