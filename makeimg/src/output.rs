//! What comes out of a build, and where.

use std::path::{Path, PathBuf};

use crate::command::{Context, Tool};
use crate::problem::Problem;
use crate::settings::Format;
use crate::words::Compression;

/// Name of what comes out, in the output directory; nothing with `format=custom`.
pub fn name(imgname: &str, format: &Format) -> Option<String> {
    match format {
        Format::Raw { .. } => Some(format!("{imgname}.img")),
        Format::Tar(Compression::None) => Some(format!("{imgname}.tar")),
        Format::Tar(compression) => Some(format!("{imgname}.tar.{}", compression.word())),
        Format::Dir => Some(imgname.to_owned()),
        Format::Custom => None,
    }
}

/// The program that compresses, with its words.
fn compressor(compression: Compression) -> Option<&'static str> {
    match compression {
        Compression::None => None,
        // Without the time.
        Compression::Gzip => Some("gzip -n"),
        Compression::Xz => Some("xz"),
        Compression::Zstd => Some("zstd -q"),
        Compression::Bzip2 => Some("bzip2"),
    }
}

/// Programs that are needed.
pub fn tools(format: &Format) -> Vec<&'static str> {
    let Format::Tar(compression) = format else { return Vec::new() };
    let program = compressor(*compression).and_then(|command| command.split(' ').next());
    std::iter::once("tar").chain(program).collect()
}

/// Packs a directory, sorted by name. If `SOURCE_DATE_EPOCH` is set, no time in the archive is later than that, and
/// equal directories give equal bytes (reproducible-builds.org's specification; tar(1)).
///
/// # Errors
/// It can't be read or written.
pub fn tar(context: &Context, root: &Path, archive: &Path, compression: Compression) -> Result<(), Problem> {
    let mut tool = Tool::new("tar").args([
        "--create",
        "--format=posix",
        "--sort=name",
        "--numeric-owner",
        "--xattrs",
        "--xattrs-include=*",
        "--one-file-system",
        // Without the numbers of processes and what reading changes.
        "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
    ]);
    if let Some(epoch) = std::env::var_os("SOURCE_DATE_EPOCH") {
        tool = tool.arg(format!("--mtime=@{}", epoch.to_string_lossy())).arg("--clamp-mtime");
    }
    if let Some(compressor) = compressor(compression) {
        tool = tool.arg(format!("--use-compress-program={compressor}"));
    }
    tool.arg("--file").arg(archive).arg("--directory").arg(root).arg(".").run(context)
}

/// A path next to an output at which nothing is yet.
pub fn work_dir(output_dir: &Path, imgname: &str) -> PathBuf {
    output_dir.join(format!("{}{}", work_prefix(imgname), std::process::id()))
}

/// What the names of working directories begin with.
pub fn work_prefix(imgname: &str) -> String {
    format!(".{imgname}.makeimg-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (compression, file) in [
            (Compression::None, "web.tar"),
            (Compression::Gzip, "web.tar.gz"),
            (Compression::Xz, "web.tar.xz"),
            (Compression::Zstd, "web.tar.zst"),
            (Compression::Bzip2, "web.tar.bz2"),
        ] {
            assert_eq!(name("web", &Format::Tar(compression)).as_deref(), Some(file));
        }
        assert_eq!(name("web", &Format::Dir).as_deref(), Some("web"));
        assert_eq!(name("web", &Format::Custom), None);
        assert_eq!(tools(&Format::Tar(Compression::Zstd)), ["tar", "zstd"]);
    }
}
