//! What the fuzzer calls: everything here that reads text of the kernel's, with what must hold for all of it.

use crate::memory::Memory;
use crate::{host_keys, mounts, processes};

/// What is done with an input.
pub type Target = fn(&[u8]);

/// Targets by name.
pub const TARGETS: &[(&str, Target)] = &[("mountinfo", mountinfo), ("proc", proc)];

/// `/proc/self/mountinfo` and `/proc/swaps`. Nothing is longer than the line that it stands in, and a path that was
/// escaped as the kernel does it is the path again.
fn mountinfo(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let longest = text.lines().map(str::len).max().unwrap_or(0);
    let found = mounts::parse_mountinfo(&text);
    assert!(found.len() <= text.lines().count());
    for mount in &found {
        // A byte that was escaped and is no UTF-8 becomes a character of three.
        assert!(mount.target.len() <= longest && mount.source.len() <= longest, "{mount:?}");
        let escape = |text: &str| {
            text.replace('\\', "\\134").replace(' ', "\\040").replace('\n', "\\012").replace('\t', "\\011")
        };
        let line = format!("1 2 8:1 / {} rw - ext4 /dev/sda1 rw", escape(&mount.target));
        if mount.target.starts_with('/') {
            assert_eq!(mounts::parse_mountinfo(&line).first().map(|again| &again.target), Some(&mount.target));
        }
    }
    mounts::parse_swaps(&text);
}

/// Other files of `/proc`, and names of files in `/etc/ssh`.
fn proc(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Memory { total, available } = Memory::parse(&text);
    assert!([total, available].iter().flatten().all(|bytes| bytes % 1024 == 0));
    for line in text.lines() {
        processes::running(line);
        if host_keys::is_name(line) {
            assert!(!line.contains('/'), "it leads elsewhere: {line}");
        }
    }
}

#[cfg(test)]
#[path = "../../fuzz/seeds.rs"]
mod seeds;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_and_what_is_near_them() {
        seeds::run(TARGETS, 256);
    }
}
