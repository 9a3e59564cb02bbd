//! The static RocksDB that every build links.
//!
//! The crate compiles RocksDB's 343 files one by one: 20 minutes on two processors, most of it spent
//! on parsing the same headers, and again for every profile. Here the same files, with the same
//! flags, are compiled in twelve pieces that each include about thirty of them, once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use crdb_kind::Cmd;
use crdb_kind::cache::Key;
use crdb_kind::tools::in_path;
use serde_json::Value;

use crate::workspace::Workspace;

const PIECES: usize = 12;
/// One compiler needs up to 2.1 GB.
const BYTES_PER_COMPILER: u64 = 3 << 30;
const PIECE_S: u64 = 1800;
/// The flags of the crate's build script on Linux, for the features that the workspace chooses, and
/// the instruction set on which the CRC of every block is fast.
const FLAGS: &str = "-O3 -std=c++20 -fPIC -w -DNDEBUG -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION \
    -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT \
    -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT \
    -DROCKSDB_SUPPORT_THREAD_LOCAL -D_FILE_OFFSET_BITS=64 -D_LARGEFILE64_SOURCE=1 \
    -include cstdint -DLZ4=1 -DZSTD=1 -march=x86-64-v2 -mpclmul";

/// The directory that holds `librocksdb.a`, built when it is not cached.
pub(crate) fn archive(workspace: &Workspace) -> Result<PathBuf> {
    let sources = Sources::find(workspace)?;
    let compiler = Cmd::new("g++").arg("--version").output()?;
    let compiler = compiler.lines().next().unwrap_or_default();
    let pieces = [PIECES.to_string(), sources.versions.join(" ")];
    let key = Key::of(
        [compiler, FLAGS].into_iter().chain(pieces.iter().map(String::as_str)).map(str::as_bytes),
    );
    workspace.cache().get("rocksdb", &key, workspace.progress(), |site| sources.build(site))
}

/// Where cargo unpacked the crates.
struct Sources {
    rocksdb: PathBuf,
    lz4: PathBuf,
    zstd: PathBuf,
    versions: Vec<String>,
}

impl Sources {
    fn find(workspace: &Workspace) -> Result<Sources> {
        let text = workspace.cargo("metadata --format-version 1 --locked").output()?;
        let metadata: Value = serde_json::from_str(&text)?;
        let mut versions = Vec::new();
        let mut directory = |name: &str| -> Result<PathBuf> {
            let packages = metadata.get("packages").and_then(Value::as_array);
            let field = |package: &Value, field: &str| {
                package.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
            };
            let package = packages
                .and_then(|packages| packages.iter().find(|package| field(package, "name") == name))
                .with_context(|| format!("{name} is not among the dependencies"))?;
            versions.push(format!("{name} {}", field(package, "version")));
            let manifest = PathBuf::from(field(package, "manifest_path"));
            Ok(manifest.parent().context("a manifest is in a directory")?.to_owned())
        };
        let rocksdb = directory("librocksdb-sys")?;
        let lz4 = directory("lz4-sys")?.join("liblz4/lib");
        let zstd = directory("zstd-sys")?.join("zstd/lib");
        Ok(Sources { rocksdb, lz4, zstd, versions })
    }

    fn build(&self, site: &Path) -> Result<()> {
        let pieces = self.write_pieces(site)?;
        // A queue, taken from by as many threads as there are compilers to run.
        let queue = Mutex::new(pieces.clone());
        let take = || queue.lock().map_or(None, |mut left| left.pop());
        let compile = || -> Result<()> {
            while let Some(piece) = take() {
                self.compile(site, &piece)?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..compilers()?).map(|_| scope.spawn(compile)).collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(outcome) => outcome,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
        let objects = pieces.iter().map(|piece| format!("{piece}.o"));
        objects.fold(Cmd::new("ar").words("crs librocksdb.a"), Cmd::arg).dir(site).run()?;
        for piece in pieces {
            fs::remove_file(site.join(format!("{piece}.o")))?;
            fs::remove_file(site.join(format!("{piece}.cc")))?;
        }
        Ok(())
    }

    /// Writes the files that include the sources, in the order of the crate's list.
    fn write_pieces(&self, site: &Path) -> Result<Vec<String>> {
        let list = self.rocksdb.join("rocksdb_lib_sources.txt");
        let list = fs::read_to_string(&list).with_context(|| format!("read {}", list.display()))?;
        let files: Vec<&str> = list.split_whitespace().collect();
        let mut names = Vec::new();
        for (number, chunk) in files.chunks(files.len().div_ceil(PIECES).max(1)).enumerate() {
            let text: String = chunk
                .iter()
                .map(|file| format!("#include \"{}\"\n", self.source(file).display()))
                .collect();
            let name = format!("piece{number}");
            fs::write(site.join(format!("{name}.cc")), text)?;
            names.push(name);
        }
        names.reverse(); // the queue is taken from its end
        Ok(names)
    }

    /// The crate brings its own file with the version of the build.
    fn source(&self, file: &str) -> PathBuf {
        match file {
            "util/build_version.cc" => self.rocksdb.join("build_version.cc"),
            _ => self.rocksdb.join("rocksdb").join(file),
        }
    }

    fn compile(&self, site: &Path, piece: &str) -> Result<()> {
        let compiler = match in_path("ccache") {
            Some(ccache) => Cmd::new(ccache).arg("g++"),
            None => Cmd::new("g++"),
        };
        let rocksdb = self.rocksdb.join("rocksdb");
        let include = [
            rocksdb.join("include"),
            rocksdb.clone(),
            rocksdb.join("third-party/gtest-1.8.1/fused-src"),
            self.lz4.clone(),
            self.zstd.clone(),
            self.zstd.join("dictBuilder"),
            self.rocksdb.clone(),
        ];
        let compiler = include
            .iter()
            .fold(compiler.words(FLAGS), |cmd, dir| cmd.arg(format_args!("-I{}", dir.display())));
        compiler.words(&format!("-c {piece}.cc -o {piece}.o")).dir(site).seconds(PIECE_S).run()
    }
}

/// As many as there are processors, and memory for.
fn compilers() -> Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let available = meminfo
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse().ok()
        })
        .unwrap_or(0_u64);
    let processors = std::thread::available_parallelism()?.get();
    let processors = u64::try_from(processors)?;
    Ok(processors.min(available * 1024 / BYTES_PER_COMPILER).max(1))
}
