//! What the stage and init left for the agent: two configurations, and the problems of the boot.

use std::fs;
use std::path::Path;

use anemos_proto::codec::from_bytes;
use anemos_proto::config::{HostConfig, RunConfig};
use serde::de::DeserializeOwned;

use crate::paths::Paths;

/// Name of the file in [`Paths::run`] that lists init's problems, one a line, for the agent to report.
pub const PROBLEMS: &str = "problems";

/// Reads what the stage found out about the host.
pub fn read_host(paths: &Paths) -> Result<HostConfig, String> {
    read(&paths.anemos.join("host.bin"))
}

/// Reads what the controller wants of this run. The stage stored the controller's bytes unchanged.
pub fn read_run(paths: &Paths) -> Result<RunConfig, String> {
    read(&paths.anemos.join("run.bin"))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    from_bytes(&bytes).map_err(|e| format!("{}: {e}", path.display()))
}
