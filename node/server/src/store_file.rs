//! The data directory of a node: its lock and its `STORE` file.
//!
//! Layout: `STORE` (who this store is, JSON), `LOCK` (held while a process uses it, holds its pid
//! and addresses), `db/` (the engine), `logs/`.
//!
//! Invariants:
//! * one process at a time uses a directory;
//! * the file is replaced atomically and synced before it is relied on;
//! * a cluster id, once written, never changes; a store of another cluster is refused, never wiped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use fs4::fs_std::FileExt;
use serde_json::{Value, json};

/// Version of the layout this binary writes.
pub const FORMAT_VERSION: u64 = 1;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreDirError {
    /// Another process uses the directory.
    #[error("store {path} is in use by another process{}", holder(.owner))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What the other process wrote about itself, if readable.
        owner: Option<LockOwner>,
    },
    /// The `STORE` file cannot be understood.
    #[error(
        "{path} is damaged: {reason}; restore it from a backup, or start with an empty --store"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The store was written by a newer binary.
    #[error(
        "store {path} has format version {found}, this binary knows up to {FORMAT_VERSION}; use a newer binary"
    )]
    TooNew {
        /// The directory.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// The file system refused.
    #[error("store {path}: {source}")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

fn holder(owner: &Option<LockOwner>) -> String {
    owner.as_ref().map(|owner| format!(" (pid {})", owner.pid)).unwrap_or_default()
}

/// The process that uses a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockOwner {
    /// Process id.
    pub pid: u32,
    /// Value of `--listen-addr` with defaults filled in.
    pub listen_address: String,
}

/// Who a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreIdent {
    /// UUID of the store, chosen at its first start.
    pub store_uuid: String,
    /// Cluster and node, once it belongs to one.
    pub member: Option<Member>,
}

/// Membership of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// UUID of the cluster.
    pub cluster_id: String,
    /// Number of the node.
    pub node_id: u32,
    /// Whether the first ranges were written, which the bootstrapping node does after this file.
    pub bootstrap: Option<Bootstrap>,
}

/// What a bootstrapping node has still to do when it crashed after it wrote its `STORE` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    /// Addresses for which the ids from 1 on are reserved, in order.
    pub reserved: Vec<String>,
}

/// A locked data directory.
#[derive(Debug)]
pub struct StoreDir {
    path: PathBuf,
    lock: File,
}

impl StoreDir {
    /// Creates the directory if needed and takes its lock.
    pub fn open(path: &Path) -> Result<Self, StoreDirError> {
        let io = |source| StoreDirError::Io { path: path.to_owned(), source };
        fs::create_dir_all(path.join("logs")).map_err(io)?;
        let path = fs::canonicalize(path).map_err(io)?;
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path.join("LOCK"))
            .map_err(io)?;
        match FileExt::try_lock_exclusive(&lock) {
            Ok(true) => Ok(Self { path, lock }),
            Ok(false) => Err(StoreDirError::Locked { owner: read_owner(&lock), path }),
            Err(source) => Err(StoreDirError::Io { path, source }),
        }
    }

    /// The process that uses the directory at `path`, if one does.
    #[must_use]
    pub fn owner(path: &Path) -> Option<LockOwner> {
        let lock = File::open(path.join("LOCK")).ok()?;
        match FileExt::try_lock_shared(&lock) {
            Ok(true) | Err(_) => None,
            Ok(false) => read_owner(&lock),
        }
    }

    /// Writes into the lock file who holds it.
    pub fn announce(&mut self, owner: &LockOwner) -> Result<(), StoreDirError> {
        let text = format!("{}\n{}\n", owner.pid, owner.listen_address);
        let write = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(text.as_bytes())
        };
        write(&mut self.lock)
            .map_err(|source| StoreDirError::Io { path: self.path.clone(), source })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The engine's directory.
    #[must_use]
    pub fn db(&self) -> PathBuf {
        self.path.join("db")
    }

    /// The log directory.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Reads the `STORE` file; `None` on the first start.
    pub fn load(&self) -> Result<Option<StoreIdent>, StoreDirError> {
        let path = self.path.join("STORE");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound && !self.db().exists() => {
                return Ok(None);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let reason = "the file is missing although the store holds data".to_owned();
                return Err(StoreDirError::Damaged { path, reason });
            }
            Err(source) => return Err(StoreDirError::Io { path, source }),
        };
        let damaged = |reason: String| StoreDirError::Damaged { path: path.clone(), reason };
        let value: Value = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
        let found = value.get("format_version").and_then(Value::as_u64);
        let found = found.ok_or_else(|| damaged("format_version is missing".to_owned()))?;
        if found > FORMAT_VERSION {
            return Err(StoreDirError::TooNew { path: self.path.clone(), found });
        }
        ident_from_json(&value).map(Some).map_err(|what| damaged(format!("{what} is not valid")))
    }

    /// Replaces the `STORE` file; `still_allowed` is asked once the content is on disk, right
    /// before it takes the file's place.
    pub fn save(
        &self,
        ident: &StoreIdent,
        still_allowed: impl FnOnce() -> bool,
    ) -> Result<bool, StoreDirError> {
        let path = self.path.join("STORE");
        let next = self.path.join("STORE.next");
        let replace = || -> io::Result<bool> {
            let mut file = File::create(&next)?;
            file.write_all(format!("{:#}\n", ident_to_json(ident)).as_bytes())?;
            file.sync_all()?;
            if !still_allowed() {
                fs::remove_file(&next)?;
                return Ok(false);
            }
            fs::rename(&next, &path)?;
            File::open(&self.path)?.sync_all()?;
            Ok(true)
        };
        replace().map_err(|source| StoreDirError::Io { path: path.clone(), source })
    }
}

fn read_owner(lock: &File) -> Option<LockOwner> {
    let mut text = String::new();
    lock.take(4096).read_to_string(&mut text).ok()?;
    let mut lines = text.lines();
    let pid = lines.next()?.parse().ok()?;
    Some(LockOwner { pid, listen_address: lines.next()?.to_owned() })
}

fn ident_to_json(ident: &StoreIdent) -> Value {
    let member = ident.member.as_ref().map(|member| {
        json!({
            "cluster_id": member.cluster_id,
            "node_id": member.node_id,
            "bootstrap": member.bootstrap.as_ref().map(|b| json!({ "reserved": b.reserved })),
        })
    });
    json!({
        "format_version": FORMAT_VERSION,
        "store_uuid": ident.store_uuid,
        "member": member,
    })
}

fn ident_from_json(value: &Value) -> Result<StoreIdent, &'static str> {
    let text = |value: &Value| value.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    let member = match &value["member"] {
        Value::Null => None,
        member => Some(Member {
            cluster_id: text(&member["cluster_id"]).ok_or("member.cluster_id")?,
            node_id: member["node_id"]
                .as_u64()
                .and_then(|id| u32::try_from(id).ok())
                .filter(|id| *id > 0)
                .ok_or("member.node_id")?,
            bootstrap: match &member["bootstrap"] {
                Value::Null => None,
                bootstrap => Some(Bootstrap {
                    reserved: bootstrap["reserved"]
                        .as_array()
                        .and_then(|list| list.iter().map(text).collect())
                        .ok_or("member.bootstrap.reserved")?,
                }),
            },
        }),
    };
    Ok(StoreIdent { store_uuid: text(&value["store_uuid"]).ok_or("store_uuid")?, member })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ident() -> StoreIdent {
        StoreIdent {
            store_uuid: "3f0b".into(),
            member: Some(Member {
                cluster_id: "c1".into(),
                node_id: 3,
                bootstrap: Some(Bootstrap { reserved: vec!["a:1".into(), "b:2".into()] }),
            }),
        }
    }

    #[test]
    fn a_store_file_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = StoreDir::open(dir.path()).unwrap();
        assert_eq!(store.load().unwrap(), None);
        assert!(store.save(&ident(), || true).unwrap());
        assert_eq!(store.load().unwrap(), Some(ident()));
        let blank = StoreIdent { member: None, ..ident() };
        assert!(!store.save(&blank, || false).unwrap());
        assert_eq!(store.load().unwrap(), Some(ident()));
        assert!(store.save(&blank, || true).unwrap());
        assert_eq!(store.load().unwrap(), Some(blank));
    }

    #[test]
    fn a_directory_has_one_user() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = StoreDir::open(dir.path()).unwrap();
        let owner = LockOwner { pid: 7, listen_address: "localhost:26257".into() };
        store.announce(&owner).unwrap();
        let error = StoreDir::open(dir.path()).unwrap_err();
        assert!(error.to_string().ends_with("is in use by another process (pid 7)"), "{error}");
        assert_eq!(StoreDir::owner(dir.path()), Some(owner));
        drop(store);
        assert_eq!(StoreDir::owner(dir.path()), None);
        StoreDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_damaged_file_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = StoreDir::open(dir.path()).unwrap();
        for text in ["", "{", "{\"format_version\": 1}", "{\"format_version\": 99}", "[]"] {
            fs::write(dir.path().join("STORE"), text).unwrap();
            store.load().unwrap_err();
            assert_eq!(fs::read_to_string(dir.path().join("STORE")).unwrap(), text);
        }
    }
}
