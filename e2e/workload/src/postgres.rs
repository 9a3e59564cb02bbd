//! PostgreSQL on this machine: a control of the checkers, and the peer of the benchmarks.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::ports::reserve_port;
use crate::session::Isolation;

/// The login of the workloads. Statements on their own have the level of transactions, too.
#[must_use]
pub fn login(isolation: Isolation) -> String {
    let level = isolation.sql().to_lowercase().replace(' ', "\\ ");
    format!(
        "user=postgres dbname=postgres options='-c default_transaction_isolation={}'",
        level.replace('\\', "\\\\")
    )
}

/// A primary and its standbys, each a process with a directory of its own.
#[derive(Debug)]
pub struct Postgres {
    /// The primary first.
    servers: Vec<Server>,
    bin: PathBuf,
    user: Option<(u32, u32)>,
    dir: TempDir,
}

#[derive(Debug)]
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        // An immediate shutdown: the processes of a killed postmaster would live on for a moment.
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // If it is gone already, there is nothing to end.
        pid.and_then(|pid| kill_process(pid, Signal::QUIT).ok());
        self.child.wait().ok();
    }
}

impl Postgres {
    /// Starts a primary with so many standbys; with any, a commit waits for one of them.
    ///
    /// # Errors
    ///
    /// PostgreSQL is not installed, or does not start.
    pub async fn start(standbys: usize) -> Result<Postgres> {
        let bin = bin_dir()?;
        let user =
            if rustix::process::geteuid().is_root() { Some(ids_of("postgres")?) } else { None };
        let dir = tempfile::tempdir()?;
        if let Some((uid, gid)) = user {
            chown(dir.path(), Some(uid), Some(gid))?;
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let mut postgres = Postgres { servers: Vec::new(), bin, user, dir };
        let data = postgres.dir.path().join("primary");
        let init = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"];
        postgres.run("initdb", &[&init[..], &["--pgdata", &text(&data)]].concat())?;
        let port = reserve_port()?;
        let names: Vec<String> = (1..=standbys).map(|n| format!("s{n}")).collect();
        let common = ["max_connections=200", "max_pred_locks_per_transaction=256"];
        let mut settings = common.map(str::to_owned).to_vec();
        if standbys > 0 {
            settings.push("synchronous_commit=on".to_owned());
            settings.push(format!("synchronous_standby_names=ANY 1 ({})", names.join(", ")));
        }
        postgres.start_server(&data, port, &settings)?;
        postgres.wait(port).await?;
        for name in &names {
            let data = postgres.dir.path().join(name);
            let source =
                format!("host=127.0.0.1 port={port} user=postgres application_name={name}");
            let backup = ["--pgdata", &text(&data), "--dbname", &source, "--write-recovery-conf"];
            postgres.run("pg_basebackup", &[&backup[..], &["--checkpoint=fast"]].concat())?;
            let port = reserve_port()?;
            postgres.start_server(&data, port, &common.map(str::to_owned))?;
            postgres.wait(port).await?;
        }
        Ok(postgres)
    }

    /// The port of the primary.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.servers.first().map(|server| server.port).unwrap_or_default()
    }

    /// The processes of all servers, and theirs.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.servers.iter().map(|server| server.child.id()).collect()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<()> {
        let output = self.command(program).args(args).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{program} {}: {said}", args.join(" "));
        Ok(())
    }

    fn start_server(&mut self, data: &Path, port: u16, settings: &[String]) -> Result<()> {
        let log = fs::File::create(data.with_extension("log"))?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(data).args(["-p", &port.to_string(), "-h", "127.0.0.1"]);
        command.args(["-c", &format!("unix_socket_directories={}", text(self.dir.path()))]);
        for setting in settings {
            command.args(["-c", setting]);
        }
        let child = command.stdout(log.try_clone()?).stderr(log).spawn()?;
        self.servers.push(Server { child, port });
        Ok(())
    }

    async fn wait(&self, port: u16) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) =
            self.run("pg_isready", &["-q", "-h", "127.0.0.1", "-p", &port.to_string()])
        {
            ensure!(Instant::now() < deadline, "{error:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Where the programs of the newest installed version are.
///
/// # Errors
///
/// None is installed.
pub fn bin_dir() -> Result<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = Vec::new();
    for entry in fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten() {
        let version = entry.file_name().to_string_lossy().parse().unwrap_or(0);
        let bin = entry.path().join("bin");
        if bin.join("initdb").exists() && bin.join("postgres").exists() {
            versions.push((version, bin));
        }
    }
    let newest = versions.into_iter().max_by_key(|(version, _)| *version);
    let (_, bin) =
        newest.context("no PostgreSQL server is installed: apt-get install postgresql")?;
    Ok(bin)
}

/// The user and the group of a name: PostgreSQL does not run as root.
fn ids_of(name: &str) -> Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd")?;
    for line in users.lines() {
        let mut fields = line.split(':');
        if fields.next() == Some(name) {
            let mut number = |skip: usize| -> Result<u32> {
                Ok(fields.nth(skip).context("a line of /etc/passwd is short")?.parse()?)
            };
            return Ok((number(1)?, number(0)?));
        }
    }
    anyhow::bail!("there is no user {name}")
}
