//! Kernel modules in RAM: loading those that a list of the stage's names, and the device nodes that have the kernel
//! load others when they are opened.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::paths::Paths;

/// Loads the modules that the file `list` of the stage's names, in its order; returns what went wrong.
pub fn load(paths: &Paths, list: &str) -> Vec<String> {
    let list = fs::read_to_string(paths.anemos.join(list)).unwrap_or_default();
    let names = list.lines().map(str::trim).filter(|line| !line.is_empty());
    let load = |path: &str| match File::open(path).and_then(|file| crate::sys::load_module(&file)) {
        // EEXIST: the module is built in, or loaded already.
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Some(format!("module {path}: {e}")),
        _ => None,
    };
    names.filter_map(load).collect()
}

/// Makes the device nodes that modules want to be found at before they are loaded, such as /dev/loop-control: whoever
/// opens such a node has the kernel load its module. On an installed system kmod(8) `static-nodes` makes these nodes.
/// `dir` is the directory of the kernel's modules, indexed by depmod; returns what went wrong.
pub fn make_nodes(dir: &Path) -> Vec<String> {
    let mut problems = Vec::new();
    for line in fs::read_to_string(dir.join("modules.devname")).unwrap_or_default().lines() {
        let Some((name, kind, number)) = static_node(line) else { continue };
        let node = Path::new("/dev").join(name);
        let _ = fs::create_dir_all(node.parent().unwrap_or(&node));
        match mknodat(CWD, &node, kind, Mode::RUSR | Mode::WUSR, number) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => problems.push(format!("{} can't be made: {e}", node.display())),
        }
    }
    problems
}

/// Name, kind and number of a node, from a line of modules.devname: `loop loop-control c10:237`.
fn static_node(line: &str) -> Option<(&str, FileType, u64)> {
    let [_, name, device] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
    let plain = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    let kind = match device.chars().next()? {
        'c' => FileType::CharacterDevice,
        'b' => FileType::BlockDevice,
        _ => return None,
    };
    let (major, minor) = device[1..].split_once(':')?;
    plain.then_some(())?;
    Some((name, kind, makedev(major.parse().ok()?, minor.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_nodes_are_read() {
        let control = Some(("loop-control", FileType::CharacterDevice, makedev(10, 237)));
        assert_eq!(static_node("loop loop-control c10:237"), control);
        assert_eq!(static_node("tun net/tun c10:200").map(|(name, ..)| name), Some("net/tun"));
        for other in
            ["# Device nodes to trigger on-demand module loading.", "x ../../etc/x c1:2", "x y p1:2", "x y c1", ""]
        {
            assert_eq!(static_node(other), None, "{other}");
        }
    }
}
