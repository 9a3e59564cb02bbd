//! The repository, the cache, and the one environment in which cargo is called.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use crdb_kind::cache::Cache;
use crdb_kind::{Cmd, Progress};

use crate::rocksdb;

/// How long one call of cargo may take unless its caller says otherwise: a cold build.
const CARGO_S: u64 = 5400;

/// A Cargo profile that is used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Tests, and the images that tests run.
    Dev,
    /// What people run, and benchmarks.
    Release,
}

impl Profile {
    /// The directory below the target directory.
    pub(crate) fn dir(self) -> &'static str {
        match self {
            Profile::Dev => "debug",
            Profile::Release => "release",
        }
    }
}

/// Makes cargo look at what is in this checkout when another one used the target directory last.
/// All checkouts share it, cargo names their crates alike and goes by the times of files: a file
/// that was cloned before the other checkout was built would count as built.
fn claim(target: &Path, root: &Path) -> Result<()> {
    let stamp = target.join(".checkout");
    let own = root.display().to_string();
    if std::fs::read_to_string(&stamp).is_ok_and(|last| last == own) {
        return Ok(());
    }
    let touch = Cmd::new("find").path(root).words("-name .git -prune -o -name target -prune");
    touch.words("-o -type f -exec touch {} +").run()?;
    std::fs::create_dir_all(target)?;
    std::fs::write(&stamp, own).with_context(|| format!("write {}", stamp.display()))
}

/// The repository on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
    cache: Cache,
    progress: Progress,
    rocksdb: Option<PathBuf>,
}

impl Workspace {
    /// The repository that this program was built from.
    pub(crate) fn find(progress: &Progress) -> Result<Workspace> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = here.ancestors().nth(2).context("xtask is two levels below the root")?;
        let cache = Cache::open()?;
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => std::path::absolute(PathBuf::from(dir))?,
            None => cache.root().join("target"),
        };
        claim(&target, root)?;
        let (root, progress) = (root.to_owned(), progress.clone());
        Ok(Workspace { root, target, cache, progress, rocksdb: None })
    }

    /// The same, with the static RocksDB that everything links; it is built when it is not cached.
    pub(crate) fn with_rocksdb(&self) -> Result<Workspace> {
        let rocksdb = rocksdb::archive(self)?;
        Ok(Workspace { rocksdb: Some(rocksdb), ..self.clone() })
    }

    /// The top directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The cache of slow things.
    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Where steps are reported.
    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Where cargo leaves the programs of a profile.
    pub(crate) fn programs(&self, profile: Profile) -> PathBuf {
        self.target.join(profile.dir())
    }

    /// A cargo command; `line` are its words.
    pub(crate) fn cargo(&self, line: &str) -> Cmd {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let cargo = Cmd::new(cargo)
            .words(line)
            .dir(&self.root)
            .env("CARGO_TARGET_DIR", self.target.display())
            .seconds(CARGO_S);
        match &self.rocksdb {
            Some(dir) => cargo.env("ROCKSDB_LIB_DIR", dir.display()).env("ROCKSDB_STATIC", 1),
            None => cargo,
        }
    }
}
