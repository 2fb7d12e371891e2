//! Kernel modules for the initramfs: chosen on the host, uncompressed, with what modprobe needs to find them.

pub mod index;
pub mod modinfo;
pub mod select;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Read;
use std::path::Path;

use index::{Index, name_of};
use select::{Hardware, Selection};

use crate::error::{Doing, Fault, Result};
use crate::root::Root;

/// No module is larger than this when unpacked.
const LIMIT: u64 = 256 << 20;

/// Reads depmod's files in the modules directory `dir`.
pub fn read_index(dir: &Path) -> Result<Index> {
    let read = |name: &str| {
        let path = dir.join(name);
        std::fs::read(&path).doing(|| format!("reading {}", path.display()))
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let dep = text(read("modules.dep")?);
    // Kernels with few modules may lack these.
    let alias = read("modules.alias").map(text).unwrap_or_default();
    let softdep = read("modules.softdep").map(text).unwrap_or_default();
    Ok(Index::parse(&dep, &alias, &softdep))
}

/// Makes an index from the modules themselves, given as path and uncompressed bytes.
pub fn index_of<'a>(modules: impl Iterator<Item = (&'a str, Vec<u8>)>) -> Index {
    let mut index = Index::default();
    for (path, bytes) in modules {
        let Some(info) = modinfo::parse(&bytes) else { continue };
        let name = name_of(path);
        index.aliases.extend(info.aliases.into_iter().map(|pattern| (pattern, name.clone())));
        let words = |text: &String| {
            text.split_whitespace().filter(|w| !matches!(*w, "pre:" | "post:")).map(str::to_owned).collect::<Vec<_>>()
        };
        index.softdeps.extend(info.softdeps.iter().map(|text| (name.clone(), words(text))));
        index.modules.insert(name, index::Module { path: path.into(), needs: info.depends });
    }
    index
}

/// What the machine has: loaded modules and modaliases.
pub fn hardware(root: &Root) -> Hardware {
    let modules = root.text("/proc/modules").unwrap_or_default();
    let loaded = modules.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    let mut modaliases = BTreeSet::new();
    find_modaliases(&root.at("/sys/devices"), 0, &mut modaliases);
    Hardware { loaded, modaliases }
}

fn find_modaliases(dir: &Path, depth: usize, found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() && depth < 40 {
            find_modaliases(&entry.path(), depth + 1, found);
        } else if kind.is_file() && entry.file_name() == "modalias" {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let text = text.trim();
            if !text.is_empty() {
                found.insert(text.to_owned());
            }
        }
    }
}

/// Unpacks a module by its file name (`.ko`, `.ko.xz`, `.ko.zst`, `.ko.gz`).
pub fn unpack(path: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let packed = bytes.as_slice();
    let extension = path.rsplit('.').next().unwrap_or_default();
    let unpacked = match extension {
        "ko" => return Ok(bytes),
        "xz" => liblzma::read::XzDecoder::new(packed).take(LIMIT).read_to_end(&mut out),
        "zst" => zstd::stream::read::Decoder::new(packed).and_then(|d| d.take(LIMIT).read_to_end(&mut out)),
        "gz" => flate2::read::GzDecoder::new(packed).take(LIMIT).read_to_end(&mut out),
        _ => return Err(Fault::new(format!("unpacking module {path}"), "its compression is not known")),
    };
    unpacked.doing(|| format!("unpacking module {path}"))?;
    Ok(out)
}

/// The path of a module once it is uncompressed.
pub fn plain_path(path: &str) -> &str {
    path.find(".ko").map_or(path, |at| &path[..at + 3])
}

/// depmod's files for what was selected, by name.
pub fn render(index: &Index, selection: &Selection) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("modules.dep", render_dep(index, selection).into_bytes()),
        ("modules.alias", render_alias(index, selection).into_bytes()),
        ("modules.softdep", render_softdep(index, selection).into_bytes()),
    ]
}

/// `modules.dep` of what was selected: every module with all that it needs, the next needed first, as depmod writes it.
fn render_dep(index: &Index, selection: &Selection) -> String {
    let mut out = String::new();
    for name in &selection.modules {
        let Some(module) = index.modules.get(name) else { continue };
        _ = write!(out, "{}:", plain_path(&module.path));
        for need in all_needs(index, name) {
            _ = write!(out, " {}", plain_path(&index.modules[need].path));
        }
        out.push('\n');
    }
    out
}

/// Everything that `name` needs, directly or not; a module always stands before those that it needs itself.
fn all_needs<'a>(index: &'a Index, name: &str) -> Vec<&'a str> {
    fn visit<'a>(index: &'a Index, name: &str, seen: &mut BTreeSet<&'a str>, order: &mut Vec<&'a str>) {
        for need in index.modules.get(name).into_iter().flat_map(|module| &module.needs) {
            if let Some((need, _)) = index.modules.get_key_value(need)
                && seen.insert(need)
            {
                visit(index, need, seen, order);
                order.push(need);
            }
        }
    }
    let mut order = Vec::new();
    visit(index, name, &mut BTreeSet::new(), &mut order);
    order.retain(|need| *need != name);
    order.reverse();
    order
}

/// `modules.alias` of what was selected.
fn render_alias(index: &Index, selection: &Selection) -> String {
    let mut out = String::new();
    for (pattern, name) in index.aliases.iter().filter(|(_, name)| selection.modules.contains(name)) {
        _ = writeln!(out, "alias {pattern} {name}");
    }
    out
}

/// `modules.softdep` of what was selected; the order of before and after is lost, which only ever loads more.
fn render_softdep(index: &Index, selection: &Selection) -> String {
    let mut out = String::new();
    for (name, words) in index.softdeps.iter().filter(|(name, _)| selection.modules.contains(name)) {
        _ = writeln!(out, "softdep {name} pre: {}", words.join(" "));
    }
    out
}

/// The agent's list: absolute paths in loading order.
pub fn render_load(index: &Index, selection: &Selection, release: &str) -> String {
    let mut out = String::new();
    for module in selection.load.iter().filter_map(|name| index.modules.get(name)) {
        _ = writeln!(out, "/usr/lib/modules/{release}/{}", plain_path(&module.path));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacking() {
        let plain = b"\x7fELF something".repeat(50);
        let mut xz = Vec::new();
        liblzma::read::XzEncoder::new(&plain[..], 6).read_to_end(&mut xz).unwrap();
        let mut gz = Vec::new();
        flate2::read::GzEncoder::new(&plain[..], flate2::Compression::best()).read_to_end(&mut gz).unwrap();
        let zst = zstd::stream::encode_all(&plain[..], 3).unwrap();
        for (name, bytes) in [("a.ko", plain.clone()), ("a.ko.xz", xz), ("a.ko.gz", gz), ("a.ko.zst", zst)] {
            assert_eq!(unpack(name, bytes).unwrap(), plain, "{name}");
        }
        assert!(unpack("a.ko.lz4", plain.clone()).unwrap_err().to_string().contains("not known"));
        assert!(unpack("a.ko.xz", plain).unwrap_err().to_string().contains("a.ko.xz"));
    }

    #[test]
    fn dep_lists_each_module_before_what_it_needs() {
        let mut index = Index::default();
        for (name, needs) in [("a", &["b", "c"][..]), ("b", &["c"]), ("c", &["d"]), ("d", &[])] {
            let needs = needs.iter().map(|&n| n.to_owned()).collect();
            index.modules.insert(name.into(), index::Module { path: format!("kernel/{name}.ko.xz"), needs });
        }
        let selection = Selection { modules: ["a", "b"].map(str::to_owned).into(), load: vec!["d".into(), "a".into()] };
        assert_eq!(
            render_dep(&index, &selection),
            "kernel/a.ko: kernel/b.ko kernel/c.ko kernel/d.ko\nkernel/b.ko: kernel/c.ko kernel/d.ko\n"
        );
        assert_eq!(
            render_load(&index, &selection, "6.1"),
            "/usr/lib/modules/6.1/kernel/d.ko\n/usr/lib/modules/6.1/kernel/a.ko\n"
        );
    }
}
