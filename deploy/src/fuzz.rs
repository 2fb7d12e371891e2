//! What the fuzzer calls: everything here that reads bytes of somebody else's, with what must hold for all of them.

use std::collections::BTreeSet;
use std::io;

use anemos_proto::{Hello, Role};

use crate::kexec::place::{self, PAGE, Range};
use crate::kexec::segments::{self, Machine};
use crate::modules::index::{self, Index};
use crate::modules::modprobe::Modprobe;
use crate::modules::select::{self, Hardware, Place};
use crate::modules::{self, modinfo};
use crate::{boot, cmdline, facts, kernel, kexec, wire};

/// What is done with an input.
pub type Target = fn(&[u8]);

/// Targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("modinfo", modinfo),
    ("modules", modules),
    ("module-file", module_file),
    ("bzimage", bzimage),
    ("disk-head", disk_head),
    ("host-texts", host_texts),
    ("stage-requests", stage_requests),
];

/// An uncompressed kernel module. What it says is no longer than it is.
fn modinfo(data: &[u8]) {
    let Some(info) = modinfo::parse(data) else { return };
    let all = [&info.depends, &info.aliases, &info.softdeps, &info.firmware];
    assert!(all.into_iter().flatten().map(String::len).sum::<usize>() <= data.len());
    let mut index = Index::default();
    index.add("kernel/fuzz.ko", info);
    index.missing();
    for (pattern, _) in &index.aliases {
        index::matches(pattern, "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00");
    }
}

/// `modules.dep`, `modules.alias`, `modules.softdep`, a file of modprobe.d, a command line, and modaliases of devices,
/// each up to a zero byte.
///
/// The list that the agent loads by has a line for each module that was chosen and no other, and a module comes after
/// those that it needs, unless they need each other.
fn modules(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('\0');
    let mut next = || parts.next().unwrap_or_default();
    let index = Index::parse(next(), next(), next());
    index.missing();
    let mut modprobe = Modprobe::default();
    modprobe.add_file(next());
    modprobe.add_cmdline(next());
    let modaliases: BTreeSet<String> = next().lines().map(str::to_owned).collect();
    let network = modaliases.iter().map(|modalias| Place { modalias: Some(modalias.clone()), module: None }).collect();
    let loaded: BTreeSet<String> = next().split_whitespace().map(str::to_owned).collect();
    let hardware = Hardware { loaded, modaliases, network, modprobe, ..Hardware::default() };
    let chosen = select::select(&index, &hardware);
    for names in [&chosen.first, &chosen.load] {
        assert!(names.iter().all(|name| index.modules.contains_key(name) && chosen.modules.contains(name)));
        let list = modules::render_load(&index, names, &chosen.parameters, "6.1");
        assert_eq!(list.lines().count(), names.len(), "{list:?}");
        assert!(list.lines().all(|line| line.starts_with("/usr/lib/modules/6.1/")), "{list:?}");
    }
    let circle = |name: &String, need: &String| needs(&index, need).contains(name);
    let order: Vec<&String> = chosen.first.iter().chain(&chosen.load).collect();
    if hardware.modprobe.softdeps.is_empty() && index.softdeps.is_empty() {
        for (at, name) in order.iter().enumerate() {
            let needed = index.modules[*name].needs.iter().filter(|need| !circle(name, need));
            for need in needed.filter(|need| index.modules.contains_key(*need)) {
                assert!(order[..at].contains(&need), "{name} is loaded before {need}");
            }
        }
    }
}

/// The names of all that a module needs, directly or not.
fn needs<'a>(index: &'a Index, name: &'a str) -> BTreeSet<&'a String> {
    let (mut seen, mut todo) = (BTreeSet::new(), vec![name]);
    while let Some(name) = todo.pop() {
        let needs = index.modules.get(name).into_iter().flat_map(|module| &module.needs);
        todo.extend(needs.filter(|need| seen.insert(*need)).map(String::as_str));
    }
    seen
}

/// A compressed module or firmware. The first byte says how it is compressed. No more is unpacked than is asked for.
fn module_file(data: &[u8]) {
    const LIMIT: u64 = 1 << 20;
    let Some((kind, packed)) = data.split_first() else { return };
    let extension = ["xz", "zst", "gz"][usize::from(kind % 3)];
    if let Some(Ok(plain)) = modules::decompress(extension, packed, LIMIT) {
        assert!(plain.len() as u64 <= LIMIT);
        modinfo(&plain);
    }
}

/// A kernel image, or a unified one and the kernels in it.
fn bzimage(data: &[u8]) {
    boots(data);
    let inner = kernel::in_uki(data);
    assert!(inner.len() * 40 <= data.len(), "{inner:?}");
    for (start, size) in inner {
        // Numbers of 32 bits: their sum is one of 64.
        let part = (start as usize)..(start + size) as usize;
        if let Some(kernel) = data.get(part) {
            boots(kernel);
        }
    }
}

/// A kernel, laid out for kexec on a machine with 1 GiB. All that is placed is in free memory, and apart.
fn boots(data: &[u8]) {
    if let Ok(version) = kernel::version(data) {
        assert!(!version.is_empty() && !version.contains([' ', '\0']));
    }
    let free: Vec<Range> = vec![(0x1000, 0x9_f000), (0x10_0000, 0x3ffd_a000), (1 << 32, (1 << 32) + (1 << 28))];
    let initramfs = 0x500_0001;
    let map = vec![(0, 0x9_fc00, 1), (0x10_0000, 0x3fed_a000, 1)];
    let params = vec![0x5a; 4096];
    let machine = Machine { free: free.clone(), map, params, efi: None, rsdp: None };
    let Ok(layout) = segments::lay_out(data, initramfs, "console=ttyS0", &machine) else { return };
    let (kernel, size, begin) = layout.kernel;
    assert!(begin < data.len() && (data.len() - begin) as u64 <= size);
    let (params, block) = layout.params;
    let mut places: Vec<Range> = [(kernel, size), (layout.initramfs, initramfs), (params, block.len() as u64)]
        .map(|(start, size)| (start, start + size))
        .into();
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{places:x?}");
    for (start, end) in places {
        assert!(start % PAGE == 0 && free.iter().any(|free| free.0 <= start && end <= free.1), "{start:x}-{end:x}");
    }
    assert!((params..params + block.len() as u64).contains(&layout.entry));
}

/// The beginning of a disk or partition: pieces, each a place (three bytes), a length (one byte) and so many bytes; all
/// others are zero. A label is short and is what is there.
fn disk_head(data: &[u8]) {
    let mut head = vec![0; facts::signature::HEAD];
    let mut rest = data;
    while let [a, b, c, length, after @ ..] = rest {
        let at = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let (bytes, after) = after.split_at(after.len().min(usize::from(*length)));
        if let Some(place) = head.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
        rest = after;
    }
    // A short device has less than is looked at.
    for head in [&head[..], &head[..head.len() / 3], &head[..1000], &head[..100], data] {
        facts::signature::table(head);
        if let Some(label) = facts::signature::content(head).and_then(|content| content.label) {
            assert!(label.len() <= 3 * 256 && !label.contains('\0'), "{label:?}");
        }
    }
}

/// Files of `/proc`, `/sys` and `/etc` that are lines or words.
fn host_texts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let words = cmdline::words(&text);
    let composed = cmdline::compose(&text);
    for word in cmdline::words(&composed) {
        assert!(words.contains(&word) || ["rdinit=/init", "panic=10"].contains(&word), "{word:?}");
        assert!(!["init=", "root=", "rd.", "systemd."].iter().any(|other| word.starts_with(other)), "{word:?}");
    }
    assert!(composed.ends_with("rdinit=/init panic=10") && !composed.contains(char::is_control), "{composed:?}");
    for word in words {
        if let Some((module, parameter)) = cmdline::parameter(word) {
            assert!(!module.is_empty() && module.len() + parameter.len() < word.len() + 1);
        }
    }
    let free = place::free_ram(&text);
    assert!(free.iter().all(|(start, end)| start < end));
    for taken in &free {
        let left = place::without(&free, *taken);
        assert!(left.iter().all(|(start, end)| start < end && (*end <= taken.0 || *start >= taken.1)));
    }
    for size in [1, PAGE, u64::MAX] {
        place::lowest(&free, size, PAGE, 1 << 20, u64::MAX);
        place::highest(&free, size, 1 << 20, u64::MAX);
    }
    kexec::efi::find_table(&text, "ACPI20");
    facts::inside::encrypts(&text, 2);
    facts::is_appraised(&text, &text);
    facts::os_release(&text, "PRETTY_NAME");
    facts::lockdown(&text);
    facts::ssh_port(Some(&text));
    boot::writable_disks(&text);
    assert!(kernel::not_in(&text).iter().all(|name| name.starts_with("CONFIG_")));
    let names: Vec<String> = text.lines().map(str::to_owned).collect();
    let (blobs, bases) = facts::parse_cache(&names);
    assert!(blobs.len() + bases.len() <= names.len());
}

/// What comes on standard input, however it is cut. With an odd first byte it is what follows a good hello.
fn stage_requests(data: &[u8]) {
    let hello = Hello::new(Role::Controller, "0.1.0").encode();
    let data = &match data.split_first() {
        Some((first, rest)) if first % 2 == 1 => [&hello, rest].concat(),
        _ => data.to_vec(),
    }[..];
    let read = |cut: usize| {
        let mut said = Vec::new();
        wire::read(Pieces(data, cut), "0.1.0", |input| {
            said.push(match input {
                wire::Input::Request(request) => format!("{request:?}"),
                wire::Input::Closed => "closed".into(),
                wire::Input::Broken(why) => why,
            });
            true
        });
        said
    };
    let whole = read(usize::MAX);
    // Of what is no message, more or less may be shown.
    let cut = read(5);
    assert_eq!(whole.len(), cut.len(), "{whole:?} {cut:?}");
    assert_eq!(whole.split_last().map(|(_, requests)| requests), cut.split_last().map(|(_, requests)| requests));
}

/// Gives bytes in pieces of a length.
struct Pieces<'a>(&'a [u8], usize);

impl io::Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (piece, rest) = self.0.split_at(self.0.len().min(self.1).min(buffer.len()));
        buffer[..piece.len()].copy_from_slice(piece);
        self.0 = rest;
        Ok(piece.len())
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
