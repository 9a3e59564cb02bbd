//! Slow things, built once and kept outside the checkout, named by what went into them.
//!
//! An artifact is a directory `<root>/<name>-<key>`. It is built beside that place under a lock and
//! renamed, so it is complete or absent. Nothing is ever removed: an old version serves an older
//! checkout.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::progress::Progress;

/// Digits of a key that go into a name.
const KEY_DIGITS: usize = 16;

/// A digest of everything that decides what an artifact contains.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The key of the given inputs. Their boundaries count: `["ab", "c"]` is not `["a", "bc"]`.
    pub fn of<'a>(inputs: impl IntoIterator<Item = &'a [u8]>) -> Key {
        let mut hash = Sha256::new();
        for input in inputs {
            hash.update(u64::try_from(input.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(input);
        }
        let mut digits = hex::encode(hash.finalize());
        digits.truncate(KEY_DIGITS);
        Key(digits)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

/// The directory of artifacts.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `$XDG_CACHE_HOME/crdb`, or `~/.cache/crdb`.
    pub fn open() -> Result<Cache> {
        let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
            (Some(dir), _) if Path::new(&dir).is_absolute() => PathBuf::from(dir),
            (_, Some(home)) => PathBuf::from(home).join(".cache"),
            _ => bail!("neither XDG_CACHE_HOME nor HOME is set: set one to place the cache"),
        };
        Cache::at(base.join("crdb"))
    }

    /// A cache in the given directory, which is created.
    pub fn at(root: PathBuf) -> Result<Cache> {
        fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
        Ok(Cache { root })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the artifact is, once it is built.
    pub fn path(&self, name: &str, key: &Key) -> PathBuf {
        self.root.join(format!("{name}-{key}"))
    }

    /// The artifact's directory; `build` is called with an empty directory when it is not there.
    pub fn get(
        &self,
        name: &str,
        key: &Key,
        progress: &Progress,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let place = self.path(name, key);
        if place.is_dir() {
            return Ok(place);
        }
        let _lock = self.lock(name, progress)?;
        if place.is_dir() {
            return Ok(place); // built by the process that held the lock
        }
        let site = self.root.join(format!(".building-{name}-{key}"));
        remove_tree(&site)?; // what an interrupted build left
        fs::create_dir_all(&site)?;
        progress.step(&format!("make {name}"), || build(&site))?;
        fs::rename(&site, &place)
            .with_context(|| format!("move {} to {}", site.display(), place.display()))?;
        Ok(place)
    }

    fn lock(&self, name: &str, progress: &Progress) -> Result<File> {
        let path = self.root.join(format!(".lock-{name}"));
        let file = File::options().create(true).append(true).open(&path)?;
        if file.try_lock().is_err() {
            progress.note(format_args!("waiting for another process that makes {name}"));
            file.lock().with_context(|| format!("lock {}", path.display()))?;
        }
        Ok(file)
    }
}

/// Removes a directory with all it holds; one that is not there is fine.
pub fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_is_built_once_and_never_half() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache")).unwrap();
        let (key, quiet) = (Key::of([b"v1".as_slice()]), Progress::new());
        let failed = cache.get("thing", &key, &quiet, |site| {
            fs::write(site.join("half"), "")?;
            bail!("interrupted")
        });
        assert!(failed.is_err());
        assert!(!cache.path("thing", &key).exists());
        let mut built = 0;
        for _ in 0..2 {
            let place = cache
                .get("thing", &key, &quiet, |site| {
                    assert!(!site.join("half").exists(), "leftovers of the failed build");
                    built += 1;
                    Ok(fs::write(site.join("whole"), "")?)
                })
                .unwrap();
            assert!(place.join("whole").exists());
        }
        assert_eq!(built, 1);
    }

    #[test]
    fn the_key_knows_where_inputs_begin() {
        assert_ne!(
            Key::of([b"ab".as_slice(), b"c".as_slice()]),
            Key::of([b"a".as_slice(), b"bc".as_slice()])
        );
    }
}
