//! The index of a kernel's modules, from depmod's files or from the modules themselves.

use std::collections::{BTreeMap, BTreeSet};

use super::modinfo::ModInfo;

/// Every module of one kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// By name.
    pub modules: BTreeMap<String, Module>,
    /// Patterns, and the module that wants devices matching them.
    pub aliases: Vec<(String, String)>,
    /// Module, and names of modules that should be loaded before or after it.
    pub softdeps: Vec<(String, Vec<String>)>,
}

/// One module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Module {
    /// Path relative to the modules directory, e.g. `kernel/fs/ext4/ext4.ko.xz`.
    pub path: String,
    /// Names of the modules that it needs.
    pub needs: Vec<String>,
}

/// A module's name as the kernel has it: of `kernel/drivers/block/virtio-blk.ko.xz`, `virtio_blk`.
pub fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split_once(".ko").map_or(file, |(name, _)| name).replace('-', "_")
}

impl Index {
    /// From depmod's files.
    pub fn parse(dep: &str, alias: &str, softdep: &str) -> Self {
        let modules = dep.lines().filter_map(|line| {
            let (path, needs) = line.split_once(':')?;
            let needs = needs.split_whitespace().map(name_of).collect();
            Some((name_of(path), Module { path: path.trim().into(), needs }))
        });
        Self { modules: modules.collect(), aliases: parse_aliases(alias), softdeps: parse_softdeps(softdep) }
    }

    /// Adds the module at `path`, by what it says about itself.
    pub fn add(&mut self, path: &str, info: ModInfo) {
        let name = name_of(path);
        self.aliases.extend(info.aliases.into_iter().map(|pattern| (pattern, name.clone())));
        self.softdeps.extend(info.softdeps.iter().map(|text| (name.clone(), soft_words(text.split_whitespace()))));
        self.modules.insert(name, Module { path: path.into(), needs: info.depends });
    }

    /// Names that modules need and that are not here.
    pub fn missing(&self) -> BTreeSet<String> {
        let needs = self.modules.values().flat_map(|module| &module.needs);
        needs.filter(|need| !self.modules.contains_key(*need)).cloned().collect()
    }

    /// Names of what `word` means: a module, or those that have it as an alias word for word.
    pub fn resolve(&self, word: &str) -> Vec<&str> {
        let name = word.replace('-', "_");
        if let Some((name, _)) = self.modules.get_key_value(&name) {
            return vec![name];
        }
        let matching = self.aliases.iter().filter(|(pattern, _)| pattern.replace('-', "_") == name);
        matching.filter(|(_, module)| self.modules.contains_key(module)).map(|(_, module)| &**module).collect()
    }
}

fn parse_aliases(text: &str) -> Vec<(String, String)> {
    let parse = |line: &str| {
        // A pattern can hold spaces (DMI strings do), a module's name can't.
        let (pattern, module) = line.strip_prefix("alias ")?.rsplit_once(' ')?;
        Some((pattern.trim().to_owned(), module.replace('-', "_")))
    };
    text.lines().filter_map(parse).collect()
}

fn parse_softdeps(text: &str) -> Vec<(String, Vec<String>)> {
    let parse = |line: &str| {
        let mut words = line.strip_prefix("softdep ")?.split_whitespace();
        let module = words.next()?.replace('-', "_");
        Some((module, soft_words(words)))
    };
    text.lines().filter_map(parse).collect()
}

/// The modules of a soft dependency, whether before or after.
fn soft_words<'a>(words: impl Iterator<Item = &'a str>) -> Vec<String> {
    words.filter(|word| !matches!(*word, "pre:" | "post:")).map(str::to_owned).collect()
}

/// Whether `text` matches the alias `pattern` (`*`, `?` and `[…]`, as depmod's).
pub fn matches(pattern: &str, text: &str) -> bool {
    glob(pattern.as_bytes(), text.as_bytes())
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go on after a mismatch: in the pattern behind the last star, in the text one byte further than the last
    // time.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'[') if t < text.len() => set(&pattern[p..], text[t]),
            Some(b'?') if t < text.len() => Some((1, true)),
            Some(&byte) if t < text.len() => Some((1, byte == text[t])),
            None if t == text.len() => return true,
            _ => Some((0, false)),
        };
        match (step, retry) {
            (Some((length, true)), _) => {
                p += length;
                t += 1;
            }
            (_, Some((star, taken))) if taken < text.len() => {
                retry = Some((star, taken + 1));
                p = star;
                t = taken + 1;
            }
            _ => return false,
        }
    }
}

/// Length of the set at the start of `pattern`, and whether it holds `byte`; `None` if the set has no end.
fn set(pattern: &[u8], byte: u8) -> Option<(usize, bool)> {
    let end = pattern.iter().skip(2).position(|&b| b == b']')? + 2;
    let inner = &pattern[1..end];
    let (negated, inner) = match inner {
        [b'!' | b'^', rest @ ..] if !rest.is_empty() => (true, rest),
        _ => (false, inner),
    };
    let mut found = false;
    let mut i = 0;
    while i < inner.len() {
        if let [low, b'-', high, ..] = inner[i..] {
            found |= (low..=high).contains(&byte);
            i += 3;
        } else {
            found |= inner[i] == byte;
            i += 1;
        }
    }
    Some((end + 1, found != negated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (path, name) in [
            ("kernel/drivers/block/virtio_blk.ko", "virtio_blk"),
            ("kernel/arch/x86/crypto/crc32c-intel.ko.xz", "crc32c_intel"),
            ("updates/dkms/zfs.ko.zst", "zfs"),
            ("ext4", "ext4"),
        ] {
            assert_eq!(name_of(path), name);
        }
    }

    #[test]
    fn made_from_the_modules_themselves() {
        let mut index = Index::default();
        let info = ModInfo {
            depends: vec!["drm".into()],
            aliases: vec!["pci:v00001A03d*".into()],
            softdeps: vec!["pre: a-b post: c".into()],
            firmware: Vec::new(),
        };
        index.add("kernel/drivers/gpu/drm/ast/ast.ko.xz", info);
        assert_eq!(index.missing(), ["drm".to_owned()].into());
        assert_eq!(index.aliases, [("pci:v00001A03d*".to_owned(), "ast".to_owned())]);
        assert_eq!(index.softdeps, [("ast".to_owned(), vec!["a-b".to_owned(), "c".to_owned()])]);
        index.add("kernel/drivers/gpu/drm/drm.ko.xz", ModInfo::default());
        assert!(index.missing().is_empty());
    }

    #[test]
    fn globs() {
        for (pattern, text, expected) in [
            ("pci:v00001AF4d00001001sv*sd*bc*sc*i*", "pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00", true),
            ("pci:v00001AF4d00001042sv*sd*bc*sc*i*", "pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00", false),
            ("pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", true),
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4", true),
            (
                "cpu:type:x86,ven*fam*mod*:feature:*0081*",
                "cpu:type:x86,ven0000fam0006mod0006:feature:,0000,0081,0082",
                true,
            ),
            ("usb:v0BDAp*d0[0-8]*dc*", "usb:v0BDAp0100d0512dc01", true),
            ("usb:v0BDAp*d0[0-4]*dc*", "usb:v0BDAp0100d0512dc01", false),
            ("a[!b]c", "abc", false),
            ("a[!b]c", "axc", true),
            ("a[bc", "a[bc", false),
            ("*", "", true),
            ("", "x", false),
            ("a*b*c", "axxbyybzc", true),
            ("fs-ext4", "fs-ext4", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn globbing_ends(pattern in "[a*?\\[\\]!-]{0,20}", text in "[ab]{0,30}") {
            matches(&pattern, &text);
        }

        #[test]
        fn text_matches_itself(text in "[a-z0-9:,]{0,40}") {
            proptest::prop_assert!(matches(&text, &text));
            let starred = format!("*{text}*");
            proptest::prop_assert!(matches(&starred, &text));
        }

        #[test]
        fn any_text_is_survived(a in "(?s).{0,200}", b in "(?s).{0,200}", c in "(?s).{0,200}") {
            Index::parse(&a, &b, &c);
        }
    }
}
