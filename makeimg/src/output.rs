//! What comes out of a build, and where.

#[cfg(feature = "images")]
pub mod oci;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::command::{Context, Tool};
use crate::problem::{Doing, Problem};
use crate::settings::Format;
use crate::words::{Compression, Image, Squash};

/// Name of what comes out, in the output directory; nothing with `format=custom`.
pub fn name(imgname: &str, format: &Format) -> Option<String> {
    match format {
        Format::Raw { kind: Image::Raw, .. } => Some(format!("{imgname}.img")),
        Format::Raw { kind: Image::Qcow2, .. } => Some(format!("{imgname}.qcow2")),
        Format::Squashfs(_) => Some(format!("{imgname}.squashfs")),
        Format::Oci(_) => Some(format!("{imgname}.oci.tar")),
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
    let (first, compression) = match format {
        Format::Tar(compression) | Format::Oci(compression) => ("tar", *compression),
        Format::Squashfs(_) => ("mksquashfs", Compression::None),
        Format::Raw { kind: Image::Qcow2, .. } => ("qemu-img", Compression::None),
        Format::Raw { kind: Image::Raw, .. } | Format::Dir | Format::Custom => return Vec::new(),
    };
    let program = compressor(compression).and_then(|command| command.split(' ').next());
    std::iter::once(first).chain(program).collect()
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

/// Makes a SquashFS of a directory. mksquashfs(1) itself heeds `SOURCE_DATE_EPOCH`: then equal directories give equal
/// bytes.
///
/// # Errors
/// It can't be read or written.
pub fn squashfs(context: &Context, root: &Path, file: &Path, squash: Squash) -> Result<(), Problem> {
    let compressor = match squash {
        Squash::Zstd => "zstd",
        Squash::Gzip => "gzip",
        Squash::Xz | Squash::Lz4 | Squash::Lzo => squash.word(),
    };
    let tool = Tool::new("mksquashfs").arg(root).arg(file).args(["-comp", compressor, "-noappend", "-no-progress"]);
    tool.args(["-quiet", "-xattrs"]).run(context)
}

/// Opens a directory to all, as it is told of.
///
/// # Errors
/// Its mode can't be changed.
pub fn directory(root: &Path) -> Result<PathBuf, Problem> {
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(root, mode).doing(|| format!("opening {} to all", root.display()))?;
    Ok(root.to_owned())
}

/// Makes the file that holds a disk image of it, which is gone then, or is that file. Returns which it is.
///
/// # Errors
/// It can't be read or written.
pub fn disk(context: &Context, image: PathBuf, file: PathBuf, kind: Image) -> Result<PathBuf, Problem> {
    if kind == Image::Raw {
        return Ok(image);
    }
    let tool = Tool::new("qemu-img").args(["convert", "-q", "-c", "-f", "raw", "-O", kind.word()]);
    tool.arg(image).arg(&file).run(context).map(|()| file)
}

/// The time that an image tells: `SOURCE_DATE_EPOCH`, which was checked before, or now; in whole seconds.
#[cfg(feature = "images")]
pub(crate) fn created() -> jiff::Timestamp {
    let epoch = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|epoch| epoch.parse().ok());
    let epoch = epoch.unwrap_or_else(|| jiff::Timestamp::now().as_second());
    jiff::Timestamp::from_second(epoch).unwrap_or_default()
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
    use crate::words::{Filesystem, Table};

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
        let image = |kind| Format::Raw { size: 1 << 30, table: Table::Gpt, filesystem: Filesystem::Ext4, kind };
        for (format, file, needs) in [
            (image(Image::Raw), "web.img", &[][..]),
            (image(Image::Qcow2), "web.qcow2", &["qemu-img"]),
            (Format::Squashfs(Squash::Xz), "web.squashfs", &["mksquashfs"]),
            (Format::Oci(Compression::Gzip), "web.oci.tar", &["tar", "gzip"]),
        ] {
            assert_eq!((name("web", &format).as_deref(), &tools(&format)[..]), (Some(file), needs));
        }
        assert_eq!(name("web", &Format::Dir).as_deref(), Some("web"));
        assert_eq!(name("web", &Format::Custom), None);
        assert_eq!(tools(&Format::Tar(Compression::Zstd)), ["tar", "zstd"]);
    }
}
