//! An image for containers: an image layout of the OCI image specification (1.0), as a tar archive. Its blobs are named
//! by their hashes, so equal systems give equal bytes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{compressor, created, tar};
use crate::command::{Context, Tool};
use crate::problem::{Doing, Problem};
use crate::words::Compression;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What becomes an image's only layer.
#[derive(Debug)]
pub struct Layer<'a> {
    /// A root file system.
    pub root: &'a Path,
    /// Not at all, gzip or zstd.
    pub compression: Compression,
}

/// Names a blob (descriptor.md).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'static str, String>,
}

/// What index.json is, and each manifest (image-index.md, manifest.md).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listing {
    schema_version: u32,
    media_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    config: Option<Descriptor>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<Descriptor>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    manifests: Vec<Descriptor>,
}

/// How a container of the image starts (config.md).
fn config(diff_id: &str, created: jiff::Timestamp) -> serde_json::Value {
    // As Go names them.
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    serde_json::json!({
        "created": created.to_string(),
        "architecture": architecture,
        "os": "linux",
        "config": { "Env": [path], "Cmd": ["/bin/sh"] },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created": created.to_string(), "created_by": "makeimg" }],
    })
}

/// `org.opencontainers.image.ref.name`, by which tools know an image, if its name is one (annotations.md).
fn reference(imgname: &str) -> BTreeMap<&'static str, String> {
    let is_reference = imgname.split(['-', '.', '_', ':', '@', '+']).all(|part| !part.is_empty());
    let name = is_reference.then(|| ("org.opencontainers.image.ref.name", format!("{imgname}:latest")));
    name.into_iter().collect()
}

/// The SHA-256 of a file, as digests have it.
fn digest(file: &Path) -> io::Result<String> {
    let (mut file, mut hash, mut buffer) = (File::open(file)?, Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    Ok(named(&hash.finalize()))
}

fn named(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A layout that is being written.
struct Layout {
    dir: PathBuf,
}

impl Layout {
    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs/sha256")
    }

    /// Takes a file over as a blob.
    fn keep(&self, file: &Path, media_type: String) -> io::Result<Descriptor> {
        let (digest, size) = (digest(file)?, file.metadata()?.len());
        fs::rename(file, self.blobs().join(digest.trim_start_matches("sha256:")))?;
        Ok(Descriptor { media_type, digest, size, annotations: BTreeMap::new() })
    }

    fn json(&self, value: &impl Serialize, media_type: &str) -> io::Result<Descriptor> {
        let file = self.dir.join("blob");
        fs::write(&file, serde_json::to_vec(value)?)?;
        self.keep(&file, media_type.to_owned())
    }
}

/// Writes the image, with `imgname` for its name, into `archive`. `work` is for files in between.
///
/// # Errors
/// A file can't be read or written, or a tool failed.
pub fn write(context: &Context, imgname: &str, layer: &Layer<'_>, work: &Path, archive: &Path) -> Result<(), Problem> {
    let layout = Layout { dir: work.join("oci") };
    let doing = || format!("writing {}", layout.dir.display());
    fs::create_dir_all(layout.blobs()).doing(doing)?;
    let plain = layout.dir.join("layer");
    tar(context, layer.root, &plain, Compression::None)?;
    let diff_id = digest(&plain).doing(doing)?;
    let (packed, kind) = match compressor(layer.compression) {
        None => (plain, LAYER.to_owned()),
        Some(command) => {
            let mut words = command.split(' ');
            let tool = Tool::new(words.next().unwrap_or_default()).args(words).arg("--force").arg(&plain);
            // zstd keeps what it has read, others do not.
            let is_zstd = layer.compression == Compression::Zstd;
            if is_zstd { tool.arg("--rm") } else { tool }.run(context)?;
            let kind = if is_zstd { "zstd" } else { "gzip" };
            (plain.with_extension(layer.compression.word()), format!("{LAYER}+{kind}"))
        }
    };
    context.cancel.check()?;
    let layers = vec![layout.keep(&packed, kind).doing(doing)?];
    let config = config(&diff_id, created());
    let config = Some(layout.json(&config, CONFIG).doing(doing)?);
    let manifest = Listing { schema_version: 2, media_type: MANIFEST, config, layers, manifests: Vec::new() };
    let manifest = layout.json(&manifest, MANIFEST).doing(doing)?;
    let manifests = vec![Descriptor { annotations: reference(imgname), ..manifest }];
    let index = Listing { schema_version: 2, media_type: INDEX, config: None, layers: Vec::new(), manifests };
    for (name, bytes) in [
        ("index.json", serde_json::to_vec(&index).doing(doing)?),
        ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
    ] {
        fs::write(layout.dir.join(name), bytes).doing(doing)?;
    }
    let tar = Tool::new("tar").args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
    // What is in it tells its time.
    let tar = tar.args(["--format=gnu", "--mode=u=rwX,go=rX", "--mtime=@0", "--file"]).arg(archive);
    tar.arg("--directory").arg(&layout.dir).args(["blobs", "index.json", "oci-layout"]).run(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_as_the_specification_has_it() {
        assert_eq!(
            named(&Sha256::digest(b"")),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
        assert_eq!(reference("web-1.2")["org.opencontainers.image.ref.name"], "web-1.2:latest");
        assert!(reference("web--").is_empty());
        let config = config("sha256:00", jiff::Timestamp::from_second(1_700_000_000).unwrap());
        assert_eq!((&config["created"], &config["os"]), (&"2023-11-14T22:13:20Z".into(), &"linux".into()));
    }
}
