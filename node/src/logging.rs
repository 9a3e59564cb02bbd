//! Where log lines go: a file that is rotated by size in `<store>/logs`, and stderr on request.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// A log file is set aside when it is larger.
const FILE_BYTES_MAX: u64 = 10 << 20;
/// How many files set aside are kept.
const FILES_KEPT: u32 = 9;
/// What is logged unless `CRDB_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info";

/// Sends log lines to `<dir>/crdb.log` and, at `stderr_level` and above, to stderr.
pub(crate) fn start(dir: &Path, stderr_level: Option<tracing::Level>) -> io::Result<()> {
    let file = RotatingFile::open(dir.join("crdb.log"))?;
    let filter =
        || EnvFilter::try_from_env("CRDB_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let to_file =
        tracing_subscriber::fmt::layer().with_ansi(false).with_writer(file).with_filter(filter());
    let to_stderr = stderr_level.map(|level| {
        tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(io::stderr)
            .with_filter(tracing_subscriber::filter::LevelFilter::from_level(level))
    });
    tracing_subscriber::registry()
        .with(to_file)
        .with(to_stderr)
        .try_init()
        .map_err(io::Error::other)
}

/// A file that moves aside when it has grown.
struct RotatingFile {
    path: PathBuf,
    open: Mutex<(File, u64)>,
}

impl RotatingFile {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path, open: Mutex::new((file, bytes)) })
    }

    fn rotate(&self, open: &mut (File, u64)) -> io::Result<()> {
        let aside = |n: u32| self.path.with_extension(format!("log.{n}"));
        for n in (1..FILES_KEPT).rev() {
            match fs::rename(aside(n), aside(n + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, aside(1))?;
        *open = (OpenOptions::new().create(true).append(true).open(&self.path)?, 0);
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for RotatingFile {
    type Writer = RotatingWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        RotatingWriter(self)
    }
}

struct RotatingWriter<'a>(&'a RotatingFile);

impl Write for RotatingWriter<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut open = self.0.open.lock();
        if open.1 > FILE_BYTES_MAX {
            self.0.rotate(&mut open)?;
        }
        let written = open.0.write(line)?;
        open.1 += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.open.lock().0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let file = RotatingFile::open(dir.path().join("crdb.log")).unwrap();
        let line = vec![b'x'; 1 << 20];
        for _ in 0..25 {
            file.make_writer().write_all(&line).unwrap();
        }
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["crdb.log", "crdb.log.1", "crdb.log.2"]);
    }
}
