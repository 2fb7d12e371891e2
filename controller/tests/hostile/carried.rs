//! What a plain build of the command does not carry.

use std::path::Path;

/// Writes stage and agents into a directory, for `ANEMOS_STAGE=DIRECTORY/stage` and `ANEMOS_AGENT=DIRECTORY/agent`. No
/// host runs them.
pub fn write(dir: &Path) {
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes).unwrap();
    for ending in ["x86.xz", "xz", "gz"] {
        write(&format!("stage.{ending}"), b"");
    }
    write("stage.zst", &zstd::encode_all(&b"x"[..], 1).unwrap());
    write("agent.patch", b"");
    write("agent-imgbuild.patch", b"");
}
