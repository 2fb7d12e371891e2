//! What file systems are made with: features that Linux and GRUB have known for long. Those that the building machine's
//! own tools would choose may be newer than what the image has to check them, and to boot from them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::command::{Context, Tool};
use crate::problem::{Doing, Problem};
use crate::words::Filesystem;

/// What ext2, ext3 and ext4 are made with, in the working directory.
const MKE2FS_FILE: &str = "mke2fs.conf";

/// As mke2fs.conf(5) and ext4(5) have it.
const MKE2FS_CONF: &str = "\
[defaults]
	base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
	default_mntopts = acl,user_xattr
	enable_periodic_fsck = 0
	blocksize = 4096
	inode_size = 256
	inode_ratio = 16384
[fs_types]
	ext3 = {
		features = has_journal
	}
	ext4 = {
		features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
	}
	small = {
		blocksize = 1024
		inode_ratio = 4096
	}
";

/// What mkfs.xfs(8) has switched on by itself since Linux 5.4, so that what is left is what its own lts_5.4.conf has. A
/// kernel or a GRUB that does not know one of them refuses the file system.
const NEW_IN_XFS: [(&str, &str); 7] = [
    ("-m", "bigtime=0"),
    ("-m", "inobtcount=0"),
    ("-m", "rmapbt=0"),
    ("-m", "metadir=0"),
    ("-i", "nrext64=0"),
    ("-i", "exchange=0"),
    ("-n", "parent=0"),
];

/// The newest Linux whose features Btrfs is made with. `free-space-tree` and `no-holes`, which mkfs.btrfs(8) itself
/// has used since 5.15, are of 4.5 and 3.14.
const BTRFS_LINUX: (u32, u32) = (5, 4);

/// The program that makes a file system of this kind, with such features. `device` is looked at only. `id` is its UUID
/// if that is not to be random; `extended` is for `-E` of mke2fs(8), which it takes once.
///
/// # Errors
/// The tool can't be started.
pub fn mkfs(
    context: &Context,
    kind: Filesystem,
    device: &str,
    work: &Path,
    id: Option<&str>,
    extended: &[String],
) -> Result<Tool, Problem> {
    let tool = Tool::new(kind.mkfs());
    match kind {
        Filesystem::Ext4 | Filesystem::Ext3 | Filesystem::Ext2 => {
            let conf = work.join(MKE2FS_FILE);
            fs::write(&conf, MKE2FS_CONF).doing(|| format!("writing {}", conf.display()))?;
            let tool = tool.args(["-q", "-F"]).env("MKE2FS_CONFIG", conf);
            let mut options = vec!["lazy_itable_init=1".to_owned()];
            options.extend_from_slice(extended);
            // The order of names in large directories depends on it.
            options.extend(id.iter().map(|id| format!("hash_seed={id}")));
            let tool = id.iter().fold(tool, |tool, id| tool.args(["-U", id]));
            Ok(tool.args(["-E", &options.join(",")]))
        }
        Filesystem::Xfs => {
            let mut tool = tool.args(["-q", "-f"]);
            for (option, value) in NEW_IN_XFS {
                // A tool that has never heard of a feature does not use it, and takes the word for an error.
                let trial = Tool::new(kind.mkfs()).args(["-N", "-f", option, value, device]);
                if trial.try_output(context)?.is_ok() {
                    tool = tool.args([option, value]);
                }
            }
            Ok(id.iter().fold(tool, |tool, id| tool.args(["-m", &format!("uuid={id}")])))
        }
        Filesystem::Btrfs => {
            // It is told on stderr, by some versions on stdout.
            let mut list = String::new();
            let listing = Tool::new(kind.mkfs()).args(["-O", "list-all"]);
            let _ = listing.watch(context, |line| {
                list.push_str(line);
                list.push('\n');
            })?;
            let without: Vec<String> = new_in_btrfs(&list).map(|name| format!("^{name}")).collect();
            let tool = id.iter().fold(tool.args(["-q", "-f"]), |tool, id| tool.args(["-U", id]));
            Ok(if without.is_empty() { tool } else { tool.args(["-O", &without.join(",")]) })
        }
        Filesystem::F2fs | Filesystem::Nilfs2 => Ok(tool.args(["-f", "-q"])),
        Filesystem::Jfs => Ok(tool.arg("-q")),
        Filesystem::Exfat => Ok(tool),
        // On a disk's partition as on one of a memory stick: it guesses otherwise.
        Filesystem::Vfat => Ok(tool.args(["-F", "32"])),
    }
}

/// Takes the values of `-E` out of words for mke2fs(8), which heeds the last `-E` alone.
pub fn take_extended(words: &mut Vec<String>) -> Vec<String> {
    let mut taken = Vec::new();
    while let Some(at) = words.iter().position(|word| word.starts_with("-E")) {
        let word = words.remove(at);
        match &word[2..] {
            "" if at < words.len() => taken.push(words.remove(at)),
            value => taken.push(value.to_owned()),
        }
    }
    taken.retain(|value| !value.is_empty());
    taken
}

/// What mkfs.btrfs(8) would use by itself though Linux knows it only since [`BTRFS_LINUX`]. Lines are as in
/// `no-holes  - no explicit hole extents for files (compat=3.14, safe=4.0, default=5.15)`.
fn new_in_btrfs(list: &str) -> impl Iterator<Item = &str> {
    let mut seen = BTreeSet::new();
    list.lines().filter_map(move |line| {
        let (name, rest) = line.split_once(" - ")?;
        let (_, facts) = rest.rsplit_once('(')?;
        let fact = |name: &str| facts.split([',', ')']).find_map(|fact| fact.trim().strip_prefix(name));
        let version = |text: &str| {
            let mut parts = text.split('.').map(str::parse::<u32>);
            Some((parts.next()?.ok()?, parts.next()?.ok()?))
        };
        fact("default=")?;
        let since = version(fact("compat=")?)?;
        let name = name.trim();
        (since > BTRFS_LINUX && seen.insert(name)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_options_are_joined() {
        let mut words = ["-N", "9", "-E", "stride=2", "-m1", "-Enodiscard"].map(str::to_owned).to_vec();
        assert_eq!(take_extended(&mut words), ["stride=2", "nodiscard"]);
        assert_eq!(words, ["-N", "9", "-m1"]);
        let mut words = vec!["-E".to_owned()];
        assert_eq!((take_extended(&mut words), words), (vec![], vec![]));
    }

    /// Linux need not know them here: their own programs make them, and GRUB's own code, run as a program, reads them.
    #[test]
    fn what_grub_reads_besides() {
        use crate::command::Cancel;
        use crate::report::Report;
        let context = Context { report: std::sync::Arc::new(Report::new(|_| {})), cancel: Cancel::default() };
        let dir = tempfile::tempdir().unwrap();
        for kind in [Filesystem::F2fs, Filesystem::Jfs, Filesystem::Nilfs2, Filesystem::Vfat, Filesystem::Exfat] {
            let file = dir.path().join(kind.word());
            fs::File::create(&file).unwrap().set_len(150 << 20).unwrap();
            let device = file.display().to_string();
            let tool = mkfs(&context, kind, &device, dir.path(), None, &[]).unwrap();
            tool.args([kind.label_option(), "label"]).arg(&file).run(&context).unwrap();
            let told =
                Tool::new("grub-fstest").arg(&file).args(["--", "ls", "-l", "(loop0)"]).output(&context).unwrap();
            let told = String::from_utf8_lossy(&told).into_owned();
            let uuid =
                Tool::new("blkid").args(["-p", "-s", "UUID", "-o", "value"]).arg(&file).output(&context).unwrap();
            let uuid = String::from_utf8_lossy(&uuid).trim().to_owned();
            let is_whole = ["Filesystem type ", "Label `label'", &uuid].iter().all(|words| told.contains(words));
            assert!(is_whole && uuid.len() > 8, "{device}, {uuid}: {told}");
        }
    }

    #[test]
    fn new_features_of_btrfs_are_known_by_their_version() {
        // `mkfs.btrfs -O list-all` of btrfs-progs 6.2, and a line as of one that uses a newer feature by itself.
        let list = "\
Filesystem features available:
mixed-bg            - mixed data and metadata block groups (compat=2.6.37, safe=2.6.37)
no-holes            - no explicit hole extents for files (compat=3.14, safe=4.0, default=5.15)
raid1c34            - RAID1 with 3 or 4 copies (compat=5.5)
zoned               - support zoned devices (compat=5.12)
block-group-tree    - block group tree to reduce mount time (compat=6.1, safe=6.1, default=6.19)
free-space-tree     - free space tree (space_cache=v2) (compat=4.5, safe=4.9, default=5.15)
";
        assert_eq!(new_in_btrfs(list).collect::<Vec<_>>(), ["block-group-tree"]);
    }
}
