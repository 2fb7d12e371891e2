//! The payloads of the repository's `examples/`, as `anemos init` writes them.

/// A payload.
pub struct Example {
    /// Its folder in `examples/`.
    pub name: &'static str,
    /// What becomes of a host, for whoever chooses.
    pub what: &'static str,
    /// Lines of hosts.toml that go with it.
    pub settings: &'static str,
    /// Its files.
    pub files: &'static [File],
}

/// One file of a payload: its path there, its bytes, and whether it is executable.
pub type File = (&'static str, &'static [u8], bool);

/// Names a file of an example once, for its path and for its bytes.
macro_rules! file {
    ($example:literal, $path:literal, $executable:literal) => {
        ($path, include_bytes!(concat!("../../../../examples/", $example, "/payload/", $path)).as_slice(), $executable)
    };
}

/// All of them, the one that is meant by default first.
pub const EXAMPLES: [Example; 3] = [
    Example {
        name: "debian",
        what: "Debian 13, with the host's network and SSH identity; a script to change",
        settings: "\n# The new system must pass this before it counts as deployed.\n\
                   check = \"test -s /etc/os-release\"\n",
        files: &[file!("debian", "deploy", true)],
    },
    Example {
        name: "imgbuild-debian",
        what: "Debian 13 from an IMGBUILD: files, packages and settings, less of a script",
        settings: "",
        files: &[
            file!("imgbuild-debian", "IMGBUILD", false),
            file!("imgbuild-debian", "files/etc/default/ssh.makeimg.patch", false),
            file!("imgbuild-debian", "files/etc/motd.makeimg.template", false),
            file!("imgbuild-debian", "files/etc/ssh/sshd_config.d/keys-only.conf", false),
            file!("imgbuild-debian", "files/etc/systemd/network/80-dhcp.network", false),
        ],
    },
    Example {
        name: "hello",
        what: "a small system with SSH and nothing else, in a few seconds: to try it out",
        settings: "\n# The script finds this as $ANEMOS_VAR_GREETING.\nvars = { greeting = \"Hello from Anemos.\" }\n",
        files: &[
            file!("hello", "deploy", true),
            file!("hello", "init", true),
            file!("hello", "initrd-init", true),
            file!("hello", "needs", false),
            file!("hello", "reboot", true),
        ],
    },
];

/// The one of that name. An error lists those that there are.
pub fn named(name: &str) -> Result<&'static Example, String> {
    let found = EXAMPLES.iter().find(|example| example.name == name);
    let all = || EXAMPLES.map(|example| example.name).join(", ");
    found.ok_or_else(|| format!("there is no payload `{name}`; there are {}", all()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;

    fn walk(dir: &Path, below: &str, found: &mut BTreeMap<String, (Vec<u8>, bool)>) {
        for entry in dir.read_dir().unwrap().map(Result::unwrap) {
            let path = format!("{below}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{path}/"), found);
            } else {
                let executable = entry.metadata().unwrap().permissions().mode() & 0o100 != 0;
                found.insert(path, (std::fs::read(entry.path()).unwrap(), executable));
            }
        }
    }

    #[test]
    fn they_are_those_of_the_repository() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        for example in &EXAMPLES {
            let mut there = BTreeMap::new();
            walk(&examples.join(example.name).join("payload"), "", &mut there);
            let here: BTreeMap<String, (Vec<u8>, bool)> = example
                .files
                .iter()
                .map(|(path, bytes, executable)| ((*path).to_owned(), (bytes.to_vec(), *executable)))
                .collect();
            assert!(here == there, "{}: {:?} {:?}", example.name, here.keys(), there.keys());
            assert!(named(example.name).is_ok());
        }
        let error = named("arch").err().unwrap();
        assert_eq!(error, "there is no payload `arch`; there are debian, imgbuild-debian, hello");
    }
}
