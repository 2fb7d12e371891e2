//! What the system in RAM needs of its kernel, and the running kernel may lack.

use anemos_host::Root;

use crate::error::{Fault, Result};
use crate::modules;

/// What must have been built into it, as its configuration calls it: an initramfs (ours needs no decompressor of the
/// kernel's); the file systems that init mounts; and the filters without which no payload starts, those of devices for
/// its cgroup and that of system calls.
const CONFIG: [&str; 7] = [
    "CONFIG_BLK_DEV_INITRD",
    "CONFIG_DEVTMPFS",
    "CONFIG_TMPFS",
    "CONFIG_CGROUPS",
    "CONFIG_CGROUP_BPF",
    "CONFIG_BPF_SYSCALL",
    "CONFIG_SECCOMP_FILTER",
];

/// The release with which filters of devices came.
const RELEASE: (u32, u32) = (4, 15);

/// Most bytes of a configuration.
const LIMIT: u64 = 4 << 20;

/// Fails if the running kernel, `release`, can't run the system in RAM.
pub fn check(root: &Root, release: &str) -> Result<()> {
    let lacks = lacks(root, release);
    if lacks.is_empty() {
        return Ok(());
    }
    let why = format!("the host's kernel {release} lacks {}", lacks.join(", "));
    Err(Fault::new("making sure that the host's kernel can run the system in RAM", why)
        .hint("use kernel = \"locked\", or boot another kernel of the distribution's"))
}

/// What the running kernel, `release`, lacks, in short words. Where the host has no configuration of it, only its
/// release and its modules count.
pub fn lacks(root: &Root, release: &str) -> Vec<String> {
    let mut lacks: Vec<String> = Vec::new();
    if is_old(release) {
        lacks.push("the device filters of Linux 4.15".into());
    }
    lacks.extend(config(root, release).iter().flat_map(|text| not_in(text)));
    let uses_modules = || root.text("/proc/modules").is_some_and(|text| !text.is_empty());
    if let Some(dir) = modules::directory(root, release) {
        let missing = modules::missing(root, &dir);
        if !missing.is_empty() {
            let names = missing.join(", ");
            lacks
                .push(format!("modules that drive its disks or its network now, in {dir} or its modules.dep: {names}"));
        }
    } else if uses_modules() {
        let without_index = modules::directories(release).into_iter().find(|dir| root.inside(dir).is_some());
        lacks.push(match without_index {
            Some(dir) => format!("{dir}/modules.dep, which depmod makes"),
            None => format!("its modules (/lib/modules/{release})"),
        });
    }
    lacks
}

fn is_old(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < RELEASE,
        _ => false,
    }
}

/// The configuration of the running kernel, from the kernel itself or from its package.
fn config(root: &Root, release: &str) -> Option<String> {
    let own = || modules::decompress("gz", &root.read("/proc/config.gz").ok()?, LIMIT)?.ok();
    let packaged = || {
        let places = ["/boot/config-", "/usr/lib/ostree-boot/config-"].map(|place| format!("{place}{release}"));
        places.iter().find_map(|place| root.read(place).ok())
    };
    let beside = || modules::read(root, &modules::directory(root, release)?, "config").ok();
    let bytes = own().or_else(packaged).or_else(beside)?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// What is not built into the kernel with this configuration. A text that is no configuration of such a kernel says
/// nothing.
pub fn not_in(text: &str) -> Vec<String> {
    let built_in = |name: &str| text.lines().any(|line| line.strip_suffix("=y") == Some(name));
    if !built_in("CONFIG_64BIT") {
        return Vec::new();
    }
    CONFIG.into_iter().filter(|name| !built_in(name)).map(str::to_owned).collect()
}
