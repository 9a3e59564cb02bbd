//! Container images without a daemon and without a registry: a directory becomes a docker archive,
//! as `docker save` writes it. `docker load`, `ctr images import` and `kind load image-archive`
//! read it.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::command::Cmd;

/// The PATH of every image made here.
const PATH_ENV: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image with one layer.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    /// Name and tag.
    pub name: &'a str,
    /// The directory that becomes the layer.
    pub root: &'a Path,
    /// The entry point; empty for none.
    pub entrypoint: &'a [&'a str],
    /// Environment, as `NAME=value`, besides PATH.
    pub env: &'a [&'a str],
    /// The signal that ends the container, when it is not TERM.
    pub stop_signal: Option<&'a str>,
    /// Whether the layer is compressed: smaller, but slower to unpack.
    pub compress: bool,
}

impl Image<'_> {
    /// Writes the archive. The same directory gives the same bytes: names are sorted, times are 0.
    pub fn write(&self, archive: &Path) -> Result<()> {
        let staging =
            tempfile::tempdir_in(archive.parent().context("the archive has a directory")?)?;
        let layer = staging.path().join("layer.tar");
        Cmd::new("tar")
            .words("--sort=name --numeric-owner --mtime=@0 --format=gnu -C")
            .path(self.root)
            .arg("-cf")
            .path(&layer)
            .arg(".")
            .seconds(600)
            .run()?;
        let digest = sha256_of(&layer)?;
        if self.compress {
            Cmd::new("gzip").words("-n -1").path(&layer).seconds(600).run()?;
            fs::rename(layer.with_extension("tar.gz"), &layer)?;
        }
        let config = self.config(&digest);
        let config_name = format!("{}.json", hex::encode(Sha256::digest(config.as_bytes())));
        fs::write(staging.path().join(&config_name), config)?;
        let layer_name = PathBuf::from(&digest).join("layer.tar");
        fs::create_dir(staging.path().join(&digest))?;
        fs::rename(&layer, staging.path().join(&layer_name))?;
        let manifest =
            json!([{"Config": config_name, "RepoTags": [self.name], "Layers": [layer_name]}]);
        fs::write(staging.path().join("manifest.json"), manifest.to_string())?;
        Cmd::new("tar")
            .words("--numeric-owner --owner=0 --group=0 --mtime=@0 --format=gnu -C")
            .path(staging.path())
            .arg("-cf")
            .path(archive)
            .args_of(&[config_name.as_str(), digest.as_str(), "manifest.json"])
            .seconds(600)
            .run()
            .with_context(|| format!("write the image {}", self.name))
    }

    fn config(&self, layer_digest: &str) -> String {
        let mut env = vec![PATH_ENV];
        env.extend_from_slice(self.env);
        let mut process = serde_json::Map::new();
        process.insert("Env".to_owned(), json!(env));
        process.insert("WorkingDir".to_owned(), json!("/"));
        if !self.entrypoint.is_empty() {
            process.insert("Entrypoint".to_owned(), json!(self.entrypoint));
        }
        if let Some(signal) = self.stop_signal {
            process.insert("StopSignal".to_owned(), json!(signal));
        }
        let created = "1970-01-01T00:00:00Z";
        json!({
            "architecture": "amd64",
            "os": "linux",
            "created": created,
            "config": process,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
            "history": [{"created": created, "created_by": "crdb-kind"}],
        })
        .to_string()
    }
}

fn sha256_of(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut block)?;
        let Some(bytes) = block.get(..read).filter(|bytes| !bytes.is_empty()) else {
            return Ok(hex::encode(hash.finalize()));
        };
        hash.update(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_has_the_layer_that_its_configuration_names() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::write(root.join("bin/hello"), "hi").unwrap();
        for compress in [false, true] {
            let image = Image {
                name: "localhost/hello:1",
                root: &root,
                entrypoint: &["/bin/hello"],
                env: &["A=b"],
                stop_signal: Some("SIGRTMIN+3"),
                compress,
            };
            let archive = dir.path().join("hello.tar");
            image.write(&archive).unwrap();
            let out = dir.path().join(format!("out-{compress}"));
            fs::create_dir(&out).unwrap();
            Cmd::new("tar").arg("-xf").path(&archive).dir(&out).run().unwrap();
            let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
            let manifest: serde_json::Value = serde_json::from_str(&read("manifest.json")).unwrap();
            assert_eq!(manifest[0]["RepoTags"][0], "localhost/hello:1");
            let config: serde_json::Value =
                serde_json::from_str(&read(manifest[0]["Config"].as_str().unwrap())).unwrap();
            assert_eq!(config["config"]["Entrypoint"][0], "/bin/hello");
            assert_eq!(config["config"]["StopSignal"], "SIGRTMIN+3");
            let mut layer = out.join(manifest[0]["Layers"][0].as_str().unwrap());
            if compress {
                let packed = layer.with_extension("tar.gz");
                fs::rename(&layer, &packed).unwrap();
                Cmd::new("gunzip").path(&packed).run().unwrap();
                layer = packed.with_extension("");
            }
            let digest = format!("sha256:{}", sha256_of(&layer).unwrap());
            assert_eq!(config["rootfs"]["diff_ids"][0], digest.as_str());
            let list = Cmd::new("tar").arg("-tf").path(&layer).output().unwrap();
            assert_eq!(list, "./\n./bin/\n./bin/hello\n");
        }
    }
}
