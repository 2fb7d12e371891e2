//! What modprobe would be told about modules: by the files of modprobe.d(5) and by the kernel's command line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anemos_host::Root;

use super::index::Index;
use crate::cmdline;

/// Directories of configuration, as modprobe.d(5) has them. A file hides those of its name in later directories.
const DIRECTORIES: [&str; 5] =
    ["/etc/modprobe.d", "/run/modprobe.d", "/usr/local/lib/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d"];

/// What is configured for modules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Modprobe {
    /// Parameters by the name of a module, or by an alias of it, in the order in which modprobe gives them.
    options: Vec<(String, String)>,
    /// Modules that no device gets loaded.
    pub blacklist: BTreeSet<String>,
    /// Patterns, and the module that wants devices matching them.
    pub aliases: Vec<(String, String)>,
    /// Module, and names of modules that should be loaded before or after it.
    pub softdeps: Vec<(String, Vec<String>)>,
}

impl Modprobe {
    /// Reads the host's configuration.
    pub fn read(root: &Root) -> Self {
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for directory in DIRECTORIES {
            for name in
                root.names(directory).into_iter().filter(|name| Path::new(name).extension() == Some("conf".as_ref()))
            {
                // A file that can't be read is none: such as a link to nowhere.
                let Some(text) = root.text(&format!("{directory}/{name}")) else { continue };
                files.entry(name).or_insert(text);
            }
        }
        let mut all = Self::default();
        for text in files.values() {
            all.add_file(text);
        }
        all.add_cmdline(&root.text("/proc/cmdline").unwrap_or_default());
        all
    }

    /// Adds a file of modprobe.d(5).
    pub fn add_file(&mut self, text: &str) {
        for line in text.replace("\\\n", " ").lines() {
            let (command, rest) = word(line);
            let (module, rest) = word(rest);
            let name = module.replace('-', "_");
            match command {
                "options" if !rest.is_empty() => self.options.push((name, rest.to_owned())),
                "blacklist" if !name.is_empty() => _ = self.blacklist.insert(name),
                // The usual way to have a module never loaded.
                "install" if matches!(word(rest).0.rsplit('/').next(), Some("false" | "true")) => {
                    self.blacklist.insert(name);
                }
                "alias" if !rest.is_empty() => self.aliases.push((module.to_owned(), rest.replace('-', "_"))),
                "softdep" => {
                    let words = rest.split_whitespace().filter(|word| !matches!(*word, "pre:" | "post:"));
                    self.softdeps.push((name, words.map(str::to_owned).collect()));
                }
                _ => {}
            }
        }
    }

    /// Adds what the kernel's command line says about modules: `module.parameter=value`, `modprobe.blacklist=a,b`, and
    /// the kernel's own `module_blacklist=a,b`.
    pub fn add_cmdline(&mut self, line: &str) {
        for word in cmdline::words(line) {
            let plain = word.trim_matches('"');
            let lists = ["modprobe.blacklist=", "module_blacklist="];
            if let Some(names) = lists.iter().find_map(|list| plain.strip_prefix(list)) {
                self.blacklist.extend(names.split(',').filter(|n| !n.is_empty()).map(|name| name.replace('-', "_")));
            } else if let Some((module, parameter)) = cmdline::parameter(word) {
                self.options.push((module.replace('-', "_"), parameter));
            }
        }
    }

    /// Parameters by the name of the module of `index` that they are for, as the kernel takes them.
    pub fn parameters(&self, index: &Index) -> BTreeMap<String, String> {
        let mut found: BTreeMap<String, String> = BTreeMap::new();
        for (of, text) in &self.options {
            for name in index.resolve(of) {
                let all = found.entry(name.to_owned()).or_default();
                all.push_str(if all.is_empty() { "" } else { " " });
                all.push_str(text);
            }
        }
        found
    }
}

/// The first word of a line, and what follows it.
fn word(line: &str) -> (&str, &str) {
    let line = line.trim();
    line.split_once(char::is_whitespace).map_or((line, ""), |(word, rest)| (word, rest.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        for (path, text) in files {
            let path = root.at(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        (dir, root)
    }

    /// Knows these modules, and an alias of one.
    fn index() -> Index {
        let mut index = Index::default();
        for name in ["ixgbe", "kvm_intel", "nvme_core", "e1000e", "scsi_mod", "dm_mod"] {
            index.modules.insert(name.into(), super::super::index::Module::default());
        }
        index.aliases.push(("eth-alias".into(), "e1000e".into()));
        index
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    // As Debian 12 and Ubuntu 22.04 have them (shortened), and what people write.
    const FILES: &[(&str, &str)] = &[
        ("/etc/modprobe.d/ixgbe.conf", "# an SFP that Intel doesn't know\noptions ixgbe allow_unsupported_sfp=1,1\n"),
        (
            "/etc/modprobe.d/a.conf",
            "options kvm-intel \\\n  nested=1 \\\n  ept=1\n\toptions\tnvme_core   io_timeout=30\n",
        ),
        ("/etc/modprobe.d/hidden.conf", ""),
        ("/usr/lib/modprobe.d/hidden.conf", "blacklist ahci\n"),
        ("/lib/modprobe.d/blacklist_linux_5.15.0.conf", "blacklist iTCO_wdt\nblacklist i2c-i801\n# blacklist e1000e\n"),
        ("/lib/modprobe.d/fbdev-blacklist.conf", "# This file\nblacklist\nblacklist arkfb\n"),
        (
            "/run/modprobe.d/x.conf",
            "install usb-storage /bin/false\ninstall sctp /bin/true\ninstall b43 modprobe ssb\n",
        ),
        ("/etc/modprobe.d/soft.conf", "softdep mlx4_core post: mlx4_en\nalias pci:v00001000d* mpt-3sas\nalias x\n"),
        ("/etc/modprobe.d/notes.txt", "blacklist sd_mod\n"),
    ];

    #[test]
    fn what_files_say() {
        let (_dir, root) = host(FILES);
        let found = Modprobe::read(&root);
        let expected = names(&["iTCO_wdt", "i2c_i801", "arkfb", "usb_storage", "sctp"]);
        assert_eq!(found.blacklist, expected);
        let parameters = found.parameters(&index());
        let parameters: Vec<_> = parameters.iter().map(|(name, text)| (&**name, &**text)).collect();
        let nested = "nested=1    ept=1";
        let expected = [("ixgbe", "allow_unsupported_sfp=1,1"), ("kvm_intel", nested), ("nvme_core", "io_timeout=30")];
        assert_eq!(parameters, expected);
        assert_eq!(found.softdeps, [("mlx4_core".to_owned(), vec!["mlx4_en".to_owned()])]);
        assert_eq!(found.aliases, [("pci:v00001000d*".to_owned(), "mpt_3sas".to_owned())]);
    }

    #[test]
    fn files_go_by_name_and_the_command_line_comes_last() {
        let (_dir, root) = host(&[
            ("/usr/lib/modprobe.d/50-vendor.conf", "options scsi_mod scan=sync\n"),
            ("/etc/modprobe.d/90-own.conf", "options scsi-mod scan=async\noptions eth-alias IntMode=0\n"),
            (
                "/proc/cmdline",
                "BOOT_IMAGE=/vmlinuz root=/dev/sda1 scsi_mod.scan=none scsi_mod.use_blk_mq nvme-core.io_timeout=255 \
                 \"dm_mod.create=a, b\" modprobe.blacklist=nouveau,i2c-i801 module_blacklist=floppy quiet\n",
            ),
        ]);
        let found = Modprobe::read(&root);
        let parameters = found.parameters(&index());
        assert_eq!(parameters["scsi_mod"], "scan=sync scan=async scan=none use_blk_mq");
        assert_eq!(parameters["nvme_core"], "io_timeout=255");
        assert_eq!(parameters["dm_mod"], "\"create=a, b\"");
        assert_eq!(parameters["e1000e"], "IntMode=0", "by an alias");
        assert_eq!(found.blacklist, names(&["nouveau", "i2c_i801", "floppy"]));
    }

    /// Where distributions have their files and those of the machine, and how they switch one off.
    #[test]
    fn directories_of_distributions() {
        use std::os::unix::fs::symlink;
        let links: &[(&str, &str)] = &[
            // Debian 13, Fedora, Arch and openSUSE have a merged /usr.
            ("usr/lib", "/lib"),
            // systemd's way to hide a file of a package.
            ("/dev/null", "/etc/modprobe.d/systemd.conf"),
            // NixOS.
            ("static/modprobe.d", "/etc/modprobe.d/static"),
            ("../static/modprobe.d/nixos.conf", "/etc/modprobe.d/nixos.conf"),
            ("nowhere", "/etc/modprobe.d/gone.conf"),
        ];
        let (_dir, root) = host(&[
            ("/usr/lib/modprobe.d/systemd.conf", "options bonding max_bonds=0\n"),
            ("/usr/lib/modprobe.d/dist-blacklist.conf", "blacklist iTCO_wdt\n"),
            ("/usr/lib/modprobe.d/50-default.conf", "blacklist ignored\n"),
            ("/usr/local/lib/modprobe.d/50-default.conf", "blacklist local\n"),
            ("/usr/lib/modprobe.d/gone.conf", "blacklist packaged\n"),
            ("/run/modprobe.d/generated.conf", "blacklist nouveau\n"),
            ("/etc/static/modprobe.d/nixos.conf", "options nvme_core io_timeout=255\n"),
        ]);
        for (target, link) in links {
            std::fs::create_dir_all(root.at(link).parent().unwrap()).unwrap();
            symlink(target, root.at(link)).unwrap();
        }
        let found = Modprobe::read(&root);
        assert_eq!(found.blacklist, names(&["iTCO_wdt", "local", "packaged", "nouveau"]));
        assert_eq!(found.parameters(&index()), [("nvme_core".to_owned(), "io_timeout=255".to_owned())].into());
        // Alpine, whose /lib is a directory.
        let (_dir, root) = host(&[
            ("/lib/modprobe.d/blacklist.conf", "blacklist pcspkr\n"),
            ("/etc/modprobe.d/blacklist.conf", "blacklist microcode\n"),
            ("/lib/modprobe.d/kms.conf", "options dm_mod dm_mq_queue_depth=64\n"),
        ]);
        let found = Modprobe::read(&root);
        assert_eq!(found.blacklist, names(&["microcode"]));
        assert_eq!(found.parameters(&index())["dm_mod"], "dm_mq_queue_depth=64");
    }

    proptest::proptest! {
        /// Whatever is configured, the parameters of a module are one line.
        #[test]
        fn parameters_are_one_line(file in "(?s).{0,200}", line in ".{0,100}") {
            let mut found = Modprobe::default();
            found.add_file(&file);
            found.add_file(&format!("options e1000e {line}\noptions eth-alias {line}"));
            found.add_cmdline(&line);
            proptest::prop_assert!(found.parameters(&index()).values().all(|text| text.lines().count() <= 1));
        }
    }
}
