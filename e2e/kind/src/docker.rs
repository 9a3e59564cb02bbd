//! The docker daemon that holds the nodes: one that answers already, or our own.
//!
//! Our own has its data, its socket and its recorded process id under the cache directory. It
//! outlives the program that started it, because clusters do; [`Docker::stop_if_own`] ends it.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::cache::Cache;
use crate::command::{Cmd, tail};
use crate::progress::{Progress, now};
use crate::tools::executable;

const RUNC_WRAPPER: &str = include_str!("../assets/runc-wrapper.py");
const RUNC_WRAPPER_NAME: &str = "runc-without-sys-resource";
/// The number of CAP_SYS_RESOURCE in the masks of `/proc/self/status`.
const CAP_SYS_RESOURCE: u32 = 24;
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// A daemon that answers.
#[derive(Clone, Debug)]
pub struct Docker {
    /// Set when it is our own.
    own: Option<OwnDaemon>,
}

/// Where our own daemon keeps its things.
#[derive(Clone, Debug)]
struct OwnDaemon {
    dir: PathBuf,
    /// Locked for others to share while this process may use the daemon, and alone to stop it.
    users: Arc<File>,
}

impl Docker {
    /// The daemon of the user's environment if it answers, else our own if it runs.
    pub fn find(cache: &Cache) -> Result<Option<Docker>> {
        let users = Docker { own: None };
        if users.answers()? {
            return Ok(Some(users));
        }
        let docker = Docker { own: Some(OwnDaemon::join(cache)?) };
        Ok(if docker.answers()? { Some(docker) } else { None })
    }

    /// As [`Docker::find`], and starts our own when there is none.
    pub fn find_or_start(cache: &Cache, progress: &Progress) -> Result<Docker> {
        if let Some(docker) = Docker::find(cache)? {
            return Ok(docker);
        }
        let own = OwnDaemon::join(cache)?;
        progress.step("start a docker daemon", || own.start())?;
        Ok(Docker { own: Some(own) })
    }

    /// The environment that leads the docker client, and kind, to this daemon.
    pub fn env(&self) -> Vec<(String, String)> {
        let own = self.own.iter();
        own.map(|own| ("DOCKER_HOST".to_owned(), format!("unix://{}", own.socket().display())))
            .collect()
    }

    /// Whether this is the daemon that we started.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// A docker command.
    pub fn cmd(&self) -> Cmd {
        Cmd::new("docker").envs(&self.env())
    }

    fn answers(&self) -> Result<bool> {
        self.cmd()
            .words("version --format {{.Server.Version}}")
            .seconds(20)
            .succeeds()
            .context("docker is needed: install docker.io, or docker itself")
    }

    /// Stops our own daemon unless another run uses it, which may have no cluster yet; does nothing
    /// to any other daemon. Only to be called when no cluster is left.
    pub fn stop_if_own(&self, progress: &Progress) -> Result<()> {
        let Some(own) = &self.own else { return Ok(()) };
        if !own.leave()? {
            progress.note("another run uses the docker daemon, so it stays");
            return Ok(());
        }
        let stopped = progress.step("stop the docker daemon", || own.stop());
        own.users.unlock()?;
        stopped
    }
}

impl OwnDaemon {
    /// Counts this process among the users of the daemon, until it ends.
    fn join(cache: &Cache) -> Result<OwnDaemon> {
        let dir = cache.root().join("docker");
        fs::create_dir_all(&dir)?;
        let path = dir.join("users.lock");
        let users = File::create(&path).with_context(|| format!("open {}", path.display()))?;
        users.lock_shared().with_context(|| format!("lock {}", path.display()))?;
        Ok(OwnDaemon { dir, users: Arc::new(users) })
    }

    /// Ends being a user of the daemon; true, and nobody can become one, if there is no other.
    fn leave(&self) -> Result<bool> {
        self.users.unlock()?;
        match self.users.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error).context("lock the docker daemon"),
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("dockerd.pid")
    }

    fn data_root(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn start(&self) -> Result<()> {
        fs::create_dir_all(&self.dir)?;
        // dockerd refuses to start when the file names any living process.
        if self.running()?.is_none() && self.pid_file().exists() {
            fs::remove_file(self.pid_file())?;
        }
        let log = self.dir.join("dockerd.log");
        let mut command = Command::new("setsid"); // it outlives the terminal
        command.arg("dockerd").args(self.args()?);
        let output = File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut child = command.spawn().context("start dockerd")?;
        let docker = Docker { own: Some(self.clone()) };
        let end = now() + START_DEADLINE;
        loop {
            if docker.answers()? {
                return Ok(());
            }
            if let Some(status) = child.try_wait()? {
                bail!("dockerd ended ({status}):\n{}", tail(&fs::read_to_string(&log)?));
            }
            if now() > end {
                bail!("dockerd does not answer:\n{}", tail(&fs::read_to_string(&log)?));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn args(&self) -> Result<Vec<String>> {
        let mut args: Vec<String> = [
            ("--host", format!("unix://{}", self.socket().display())),
            ("--data-root", self.data_root().display().to_string()),
            ("--exec-root", self.dir.join("exec").display().to_string()),
            ("--pidfile", self.pid_file().display().to_string()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect();
        if !can_raise_limits()? {
            let wrapper = self.dir.join(RUNC_WRAPPER_NAME);
            fs::write(&wrapper, RUNC_WRAPPER)?;
            executable(&wrapper)?;
            args.push(format!("--add-runtime={RUNC_WRAPPER_NAME}={}", wrapper.display()));
            args.push(format!("--default-runtime={RUNC_WRAPPER_NAME}"));
        }
        Ok(args)
    }

    /// The process that the file names, if it is our daemon: numbers of processes are used again.
    fn running(&self) -> Result<Option<Pid>> {
        let Ok(text) = fs::read_to_string(self.pid_file()) else { return Ok(None) };
        let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(None) };
        let cmdline =
            fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        let data_root = self.data_root().display().to_string();
        let ours = cmdline.split(|byte| *byte == 0).any(|word| word == data_root.as_bytes());
        Ok(ours.then_some(pid))
    }

    fn stop(&self) -> Result<()> {
        let Some(pid) = self.running()? else { return Ok(()) };
        kill_process(pid, Signal::TERM).context("stop dockerd")?;
        let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let end = now() + STOP_DEADLINE;
        while is_alive(&proc) {
            if now() > end {
                bail!(
                    "dockerd (process {pid:?}) does not end; its log is in {}",
                    self.dir.display()
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// A process that ended but whose parent has not looked yet is not alive.
fn is_alive(proc: &Path) -> bool {
    fs::read_to_string(proc.join("stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Whether CAP_SYS_RESOURCE is in the bounding set. Without it, a container cannot be started
/// privileged in the usual way, and nothing can lower its own oom_score_adj.
pub fn can_raise_limits() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let mask = mask.context("/proc/self/status has no CapBnd line")?;
    let mask =
        u64::from_str_radix(mask.trim(), 16).context("the CapBnd line of /proc/self/status")?;
    Ok(mask >> CAP_SYS_RESOURCE & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_left_to_other_users() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().to_owned()).unwrap();
        let (first, second) = (OwnDaemon::join(&cache).unwrap(), OwnDaemon::join(&cache).unwrap());
        assert!(!first.leave().unwrap(), "another process uses the daemon");
        drop(second);
        assert!(first.leave().unwrap(), "nobody else uses the daemon");
    }
}
