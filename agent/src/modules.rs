//! Kernel modules in RAM: loading those that a list of the stage's names, and the device nodes that have the kernel
//! load others when they are opened.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path};
use std::time::Duration;

use anemos_host::Root;
use anemos_host::deadline::within;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::detectors;
use crate::paths::Paths;

/// Loads the modules that the file `list` of the stage's names, in its order; returns what went wrong. A module that
/// doesn't load within `each` is left behind, and the others go on. It hangs on, so tasks that hang are no longer a
/// reason to go back to the old system.
///
/// A line of the list is the path of a module, which has no spaces; a space and the module's parameters may follow, as
/// modprobe would give them to the kernel.
pub fn load(paths: &Paths, list: &str, each: Duration) -> Vec<String> {
    let list = fs::read_to_string(paths.anemos.join(list)).unwrap_or_default();
    let load = |path: &str, parameters: &str| crate::sys::load_module(&File::open(path)?, &CString::new(parameters)?);
    let (mut problems, left_behind) = load_all(&list, each, load);
    if left_behind && paths.machine {
        problems.extend(detectors::bear_hung_tasks(&Root::host()));
    }
    problems
}

/// Returns what went wrong, and whether a module was left behind.
fn load_all(list: &str, each: Duration, load: fn(&str, &str) -> io::Result<()>) -> (Vec<String>, bool) {
    let mut left_behind = false;
    let one = |line: &str| {
        let (path, parameters) = line.split_once(' ').unwrap_or((line, ""));
        let (name, parameters) = (path.to_owned(), parameters.trim().to_owned());
        // A driver that hangs while it looks for its hardware can't be interrupted.
        match within(each, move || load(&name, &parameters)) {
            None => {
                left_behind = true;
                Some(format!("module {path}: does not load within {} s, and is left behind", each.as_secs()))
            }
            // EEXIST: the module is built in, or loaded already.
            Some(Err(e)) if e.kind() != io::ErrorKind::AlreadyExists => Some(format!("module {path}: {e}")),
            Some(_) => None,
        }
    };
    let problems = list.lines().map(str::trim).filter(|line| !line.is_empty()).filter_map(one).collect();
    (problems, left_behind)
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
pub fn static_node(line: &str) -> Option<(&str, FileType, u64)> {
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
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_module_that_hangs_or_fails_costs_no_other() {
        static LOADED: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());
        fn load(path: &str, parameters: &str) -> io::Result<()> {
            LOADED.lock().unwrap().push((path.into(), parameters.into()));
            match path {
                "/m/hangs.ko" => loop {
                    std::thread::park();
                },
                "/m/there.ko" => Err(io::ErrorKind::AlreadyExists.into()),
                "/m/fails.ko" => Err(io::Error::other("no such device")),
                _ => Ok(()),
            }
        }
        let list = "/m/plain.ko\n/m/there.ko\n/m/hangs.ko debug=1\n\n/m/fails.ko\n\
                    /m/nvme.ko io_timeout=255 names=\"a b\"\n  /m/last.ko  \n";
        let (problems, left_behind) = load_all(list, Duration::from_millis(50), load);
        assert!(left_behind);
        let hangs = "module /m/hangs.ko: does not load within 0 s, and is left behind";
        assert_eq!(problems, [hangs, "module /m/fails.ko: no such device"]);
        let loaded = LOADED.lock().unwrap();
        let loaded: Vec<(&str, &str)> = loaded.iter().map(|(path, parameters)| (&**path, &**parameters)).collect();
        let expected = [
            ("/m/plain.ko", ""),
            ("/m/there.ko", ""),
            ("/m/hangs.ko", "debug=1"),
            ("/m/fails.ko", ""),
            ("/m/nvme.ko", "io_timeout=255 names=\"a b\""),
            ("/m/last.ko", ""),
        ];
        assert_eq!(loaded, expected);
        assert!(!load_all("/m/plain.ko", Duration::from_secs(60), |_, _| Ok(())).1);
    }

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
