//! What the fuzzer calls: everything here that reads bytes of somebody else's, with what must hold for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::disk::geometry::{END, MIB};
use crate::disk::layout::Wanted;
use crate::disk::{grub, old};
use crate::settings::Settings;
use crate::volumes::{self, Volume};
use crate::words::{Filesystem, Table};
use crate::{declare, imgbuild, progress, script, shell, sources, template, words};

/// What is done with an input.
pub type Target = fn(&[u8]);

/// Targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("imgbuild", imgbuild),
    ("template", template),
    ("partitions", partitions),
    ("release", release),
    ("image-texts", image_texts),
];

/// What a shell says of an IMGBUILD: variables and functions; and then the IMGBUILD's own text, in which problems are
/// found again.
///
/// No value becomes an option of a program's, or a path that leads elsewhere.
fn imgbuild(data: &[u8]) {
    if let Ok(Some(told)) = shell::parse(data) {
        match Settings::from_variables(&told.variables, "default") {
            Ok(settings) => {
                assert!(!settings.imgname.contains('/') && !settings.imgname.starts_with(['.', '-']));
                let words = settings.packages.iter().chain(&settings.services);
                assert!(words.into_iter().all(|word| !word.starts_with('-') && !word.contains(char::is_whitespace)));
                assert!(!settings.cmdline.contains(['\n', '"', '\'', '$', '`', '\\']));
                for user in &settings.users {
                    assert!(!user.name.contains([':', '/', '\n', ',']), "{}", user.name);
                }
                for (user, hash) in &settings.passwords {
                    assert!(!user.contains([':', '\n']) && !hash.contains([':', '\n', ' ']));
                }
                for (user, key) in &settings.authorized_keys {
                    assert!(!user.contains(['/', ':']) && !key.contains('\n'), "{user} {key}");
                }
                settings.doubts(&told.variables);
            }
            Err(wrong) => assert!(!wrong.is_empty()),
        }
        assert!(told.values.script(true).lines().count() >= told.values.set.len());
        let names = told.variables.keys().map(String::as_str);
        imgbuild::slips(Path::new("IMGBUILD"), &String::from_utf8_lossy(data), names);
    }
    let text = String::from_utf8_lossy(data);
    let lines = text.lines().count() as u32;
    assert!(imgbuild::assignment(&text, "target").is_none_or(|line| line <= lines));
    assert!(script::defined(&text).all(|(line, name)| line <= lines && !name.is_empty()));
}

/// A template. With a value for every name that it asks for it is rendered, and what is no variable stays.
fn template(data: &[u8]) {
    let names = template::names(data);
    let with = |value: &str| -> BTreeMap<String, String> {
        names.iter().map(|name| (name.clone(), value.to_owned())).collect()
    };
    let empty = template::render(data, &with("")).expect("nothing is missing");
    assert!(empty.len() <= data.len());
    let rendered = template::render(data, &with("$x")).expect("nothing is missing");
    assert!(rendered.len() >= empty.len(), "a value is not rendered again");
    let missing = template::render(data, &BTreeMap::new());
    let missing: BTreeSet<String> = missing.err().into_iter().flatten().map(|missing| missing.name).collect();
    assert_eq!(missing, names);
}

/// A disk's size in MiB (a number), what it is to be divided into (lines), and what sfdisk(8) says is on it, each up to
/// a zero byte. All partitions are kept that there are volumes for.
///
/// What is made lies on the disk, and apart from each other and from what is kept.
fn partitions(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('\0');
    let mut next = || parts.next().unwrap_or_default();
    let size = next().trim().parse::<u64>().unwrap_or(4096).saturating_mul(MIB);
    let volumes = next().lines().filter_map(|line| Volume::parse(line).ok()).collect();
    let Ok(volumes) = volumes::together(volumes) else { return };
    let old = old::parse(next(), "/dev/sda");
    let table = old.as_ref().map_or(Table::Gpt, |old| old.table);
    let parts = old.iter().flat_map(|old| &old.parts);
    let keeps = volumes.iter().enumerate().filter(|(_, volume)| volume.keep).map(|(at, _)| at);
    let kept: Vec<old::Kept> = parts.zip(keeps).map(|(part, at)| part.kept(at, "U".into(), "ext4".into())).collect();
    let wanted = Wanted {
        size,
        table,
        filesystem: Filesystem::Ext4,
        grub: text.len().is_multiple_of(2),
        volumes,
        seed: None,
        keys: Vec::new(),
    };
    wanted.tools();
    let Ok(made) = wanted.place(&kept) else { return };
    let mut numbers: Vec<u32> =
        made.iter().map(|part| part.number).chain(kept.iter().map(|kept| kept.number)).collect();
    let mut places: Vec<(u64, u64)> = made.iter().map(|part| (part.start, part.start + part.size)).collect();
    places.sort_unstable();
    assert!(places.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{places:?}");
    for (start, end) in &places {
        assert!(*start >= MIB && *end <= size - END && start < end, "{start}-{end} of {size}");
        for kept in &kept {
            let kept_end = kept.start.saturating_add(kept.size);
            assert!(*end <= kept.start || *start >= kept_end || kept.size == 0, "{start}-{end} is in {kept:?}");
        }
    }
    let script = wanted.script(&made, old.as_ref(), &kept);
    assert_eq!(script.lines().count(), 1 + usize::from(old.is_some()) + made.len() + kept.len(), "{script}");
    numbers.sort_unstable();
    numbers.dedup();
    // A table that has a number twice is the kernel's to refuse.
    assert!(numbers.len() >= made.len());
}

/// Files of a package archive, and what programs say while they fetch.
fn release(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    sources::field(&text, "Valid-Until");
    let said: Vec<String> = text.lines().map(str::to_owned).collect();
    sources::reason(&said, "http://archive.example/a");
    for line in text.lines() {
        sources::time(line);
        sources::one_line(line);
        if let Some(archive) = sources::security_of(line) {
            assert!(archive.starts_with("http"));
        }
        let shown = sources::shown(line);
        if let Some((_, rest)) = shown.split_once("://") {
            assert!(!rest.split('/').next().unwrap_or_default().contains('@'), "{shown}");
        }
        progress::counted(line);
    }
}

/// Files of an image, and single words of an IMGBUILD.
fn image_texts(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let added = declare::with_line(data.to_vec(), "a line");
    assert_eq!(declare::with_line(added.clone(), "a line"), added, "it is added once");
    assert!(added.len() <= data.len() + 8 && added.starts_with(data));
    declare::is_named(data, "web");
    declare::supported(&text, "de_DE.utf8");
    assert!(text.lines().filter_map(declare::account).all(|account| !account.name.contains(':')));
    let names: Vec<String> = text.lines().map(str::to_owned).collect();
    assert!(grub::kernels(&names).len() <= names.len());
    for line in text.lines() {
        if let Ok(bytes) = words::size(line) {
            assert!(bytes >= MIB);
            assert!(line.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{line:?} is taken for {bytes}");
        }
        if let Ok(volume) = Volume::parse(line) {
            assert!(volume.path().is_none_or(|path| path.starts_with('/') && !path.contains("/../")), "{volume:?}");
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
