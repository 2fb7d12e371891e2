//! What the executable carries for hosts: stage, agent, base.lock.

use std::path::Path;
use std::sync::Arc;

use anemos_base::Lock;

use crate::engine::{Artifacts, Blob, PACKINGS, StageBinary};

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
}

/// What the build calls itself.
pub const BUILD: &str = match option_env!("ANEMOS_BUILD") {
    Some(build) => build,
    None => env!("CARGO_PKG_VERSION"),
};

/// Machines that the stage and agent in here run on.
pub const ARCH: &str = "x86_64";

/// Something that should be in here and isn't.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// Built by plain cargo.
    #[error("this anemos was built without stage and agent (plain `cargo build`); run `make build`")]
    Lacking,
    /// A file that was named instead.
    #[error("{path}: {why}")]
    File {
        /// The file.
        path: String,
        /// Why not.
        why: String,
    },
    /// No lock in here.
    #[error("this anemos was built without base.lock; name one with `--lock` or `base.lock` in hosts.toml")]
    NoLock,
}

/// The bytes that were built in; in a plain build, those of the file that the variable names, with this at the end of
/// its name.
fn carried(built_in: Option<&[u8]>, variable: &str, ending: &str) -> Result<Arc<[u8]>, EmbedError> {
    if let Some(bytes) = built_in {
        return Ok(bytes.into());
    }
    let mut path = std::env::var_os(variable).ok_or(EmbedError::Lacking)?;
    path.push(ending);
    let shown = Path::new(&path).display().to_string();
    std::fs::read(&path).map(Into::into).map_err(|e| EmbedError::File { path: shown, why: e.to_string() })
}

/// Stage and agents.
pub fn artifacts() -> Result<Artifacts, EmbedError> {
    let for_scripts = carried(embedded::ANEMOS_AGENT, "ANEMOS_AGENT", ".patch")?;
    let for_imgbuilds = carried(embedded::ANEMOS_AGENT_IMGBUILD, "ANEMOS_AGENT", "-imgbuild.patch")?;
    let (mut executable, mut packed) = (Vec::new(), Vec::new());
    for packing in &PACKINGS {
        let built_in = embedded::ANEMOS_STAGE.iter().find(|(name, _)| *name == packing.name).map(|(_, bytes)| *bytes);
        let bytes = carried(built_in, "ANEMOS_STAGE", &format!(".{}", packing.name))?;
        if packing.name == "zst" {
            let damaged = |e: std::io::Error| EmbedError::File { path: "the stage".into(), why: e.to_string() };
            executable = zstd::decode_all(&bytes[..]).map_err(damaged)?;
        }
        packed.push((packing, bytes));
    }
    let stage = StageBinary::new(&executable, packed, ARCH);
    let (agent, agent_imgbuild) = (Blob::new(for_scripts), Blob::new(for_imgbuilds));
    Ok(Artifacts { stage, agent, agent_imgbuild, build: BUILD.into() })
}

/// A lock.
pub fn lock(file: Option<&Path>) -> Result<Lock, EmbedError> {
    let (name, text) = match file {
        Some(path) => {
            let shown = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|e| EmbedError::File { path: shown.clone(), why: e.to_string() })?;
            (shown, text)
        }
        None => ("base.lock".to_owned(), embedded::BASE_LOCK.ok_or(EmbedError::NoLock)?.to_owned()),
    };
    Lock::parse(&name, &text).map_err(|e| EmbedError::File { path: name, why: e.to_string() })
}
