//! Locks made with apt from a small signed archive.

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anemos_base::{BaseList, Fetcher, Limits, Lock, Resolve, Security, Sha256, Sources, resolve};
use common::{deb_of, file};

/// A package of an archive: its name, its version, and what it depends on.
type Deb<'a> = (&'a str, &'a str, &'a str);

/// A directory of archives, and a key that signs them.
struct Archives {
    root: tempfile::TempDir,
}

impl Archives {
    /// None where the tools are not that make and read such archives.
    fn new() -> Option<Self> {
        let there = |tool: &&str| Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_ok();
        if let Some(tool) = ["apt-get", "gpg", "gpgconf"].iter().find(|tool| !there(tool)) {
            let _ = writeln!(std::io::stderr(), "skipped: locks of an archive: there is no {tool}");
            return None;
        }
        let archives = Self { root: tempfile::tempdir().unwrap() };
        fs::create_dir(archives.at("gpg")).unwrap();
        archives.gpg(&["--quick-gen-key", "archive@example.org", "ed25519", "sign", "never"]);
        archives.gpg(&["--output", &archives.at("keyring.gpg").display().to_string(), "--export"]);
        Some(archives)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn url(&self, archive: &str) -> String {
        format!("file://{}", self.at(archive).display())
    }

    fn gpg(&self, arguments: &[&str]) {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir").arg(self.at("gpg")).args(["--batch", "--quiet", "--yes", "--passphrase", ""]);
        let ended = gpg.args(arguments).stderr(Stdio::null()).status().unwrap();
        assert!(ended.success(), "gpg {arguments:?}");
    }

    /// Makes a suite of an archive, with these packages in this part of its pool.
    fn publish(&self, archive: &str, suite: &str, date: &str, pool: &str, debs: &[Deb<'_>]) {
        let root = self.at(archive);
        let mut index = String::new();
        for (name, version, depends) in debs {
            let deb = deb_of(&[
                file("./usr/lib/common", "common"),
                file(Box::leak(format!("./usr/lib/{name}").into_boxed_str()), version),
            ]);
            let path = format!("{pool}/{name}_{version}_amd64.deb");
            let (size, sha256) = (deb.len(), Sha256::of(&deb));
            write(&root.join(&path), &deb);
            index.extend([format!(
                "Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: x\nDescription: x\n\
                 Depends: {depends}\nFilename: {path}\nSize: {size}\nSHA256: {sha256}\n\n"
            )]);
        }
        let dists = root.join("dists").join(suite);
        write(&dists.join("main/binary-amd64/Packages"), index.as_bytes());
        let (size, sha256) = (index.len(), Sha256::of(index.as_bytes()));
        let release = format!(
            "Origin: Debian\nLabel: Debian\nSuite: {suite}\nCodename: {suite}\nDate: {date}\nArchitectures: amd64\n\
             Components: main\nSHA256:\n {sha256} {size} main/binary-amd64/Packages\n"
        );
        write(&dists.join("Release"), release.as_bytes());
        let [signed, plain] = ["InRelease", "Release"].map(|name| dists.join(name).display().to_string());
        self.gpg(&["--output", &signed, "--clear-sign", &plain]);
    }

    fn lock(&self, list: &str) -> Result<Lock, String> {
        let list = BaseList::parse("my.toml", list).unwrap();
        let fetcher = Fetcher::new(Limits::default());
        let sources = Sources::find(&list.suite, &self.url("debian"), Security::Find(&[]), &fetcher).unwrap();
        let how = Resolve { sources, keyring: self.at("keyring.gpg"), snapshot: None };
        resolve(&list, &how, &fetcher, &mut |_| {}).map_err(|error| error.to_string())
    }
}

impl Drop for Archives {
    fn drop(&mut self) {
        // gpg leaves an agent behind.
        let _ = Command::new("gpgconf").arg("--homedir").arg(self.at("gpg")).args(["--kill", "all"]).status();
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

const LIST: &str = "suite = \"trixie\"\narch = \"amd64\"\ninstall = [\"tool\"]\n";

#[test]
fn an_archive_that_has_not_changed_gives_the_same_lock() {
    let Some(archives) = Archives::new() else { return };
    let date = "Sat, 06 Sep 2025 09:27:46 UTC";
    let debs = [("tool", "1.2", "lib++x"), ("lib++x", "1:3~4", "tool"), ("other", "1", "tool")];
    archives.publish("debian", "trixie", date, "pool/main/x", &debs);
    let first = archives.lock(LIST).unwrap();
    assert_eq!(first.made.to_string(), "2025-09-06T09:27:46Z");
    let names: Vec<_> = first.packages().map(|package| (&*package.name, &*package.version)).collect();
    assert_eq!(names, [("lib++x", "1:3~4"), ("tool", "1.2")]);
    assert_eq!(first.to_text(), archives.lock(LIST).unwrap().to_text());
}

/// A word that is misspelt, or left behind, would be silently without effect.
#[test]
fn words_without_effect_are_errors() {
    let Some(archives) = Archives::new() else { return };
    let date = "Sat, 06 Sep 2025 09:27:46 UTC";
    archives.publish("debian", "trixie", date, "pool/main/x", &[("tool", "1", "dbus"), ("dbus", "1", "tool")]);
    let lock = |more: &str| archives.lock(&format!("{LIST}{more}"));
    let good = lock("drop = [\"dbus\"]\nexclude = [\"usr/lib/tool\", \"usr/lib/com*\"]\n").unwrap();
    assert_eq!(good.packages().count(), 1);
    for (more, said) in [
        ("drop = [\"dbus\", \"dbsu\", \"udev\"]\n", "my.toml: `drop` names what nothing depends on: dbsu, udev"),
        (
            "exclude = [\"usr/lib/dbus\", \"usr/lib/d/**\"]\n",
            "my.toml: `exclude` names what no package has: usr/lib/d/**",
        ),
        // What is dropped has nothing that could be left out.
        (
            "drop = [\"dbus\"]\nexclude = [\"usr/lib/dbus\"]\n",
            "my.toml: `exclude` names what no package has: usr/lib/dbus",
        ),
    ] {
        assert_eq!(lock(more).unwrap_err(), said);
    }
}

/// From the suite, its updates, or its security updates, whichever has the newest version; the lock says which archive
/// has it.
#[test]
fn updates_come_into_the_lock() {
    let Some(archives) = Archives::new() else { return };
    let list = format!("{LIST}kernel = \"linux-image-amd64\"\n");
    let old = [("tool", "1", "lib"), ("lib", "1", "tool"), ("linux-image-amd64", "6.1", "linux-image-6.1")];
    let old = [&old[..], &[("linux-image-6.1", "6.1", "lib")]].concat();
    archives.publish("debian", "trixie", "Sat, 06 Sep 2025 09:27:46 UTC", "pool/main/x", &old);
    let lock = || archives.lock(&list).unwrap();
    assert_eq!(lock().kernel.unwrap().release, "6.1");
    archives.publish(
        "debian",
        "trixie-updates",
        "Sun, 07 Sep 2025 09:27:46 UTC",
        "pool/main/x",
        &[("tool", "2", "lib")],
    );
    let new =
        [("linux-image-amd64", "6.2", "linux-image-6.2"), ("linux-image-6.2", "6.2", "lib"), ("lib", "1", "tool")];
    archives.publish(
        "debian-security",
        "trixie-security",
        "Mon, 08 Sep 2025 09:27:46 UTC",
        "pool/updates/main/x",
        &new,
    );
    let lock = lock();
    assert_eq!(lock.made.to_string(), "2025-09-08T09:27:46Z");
    let packages: Vec<_> = lock.all_packages().map(|p| (&*p.name, &*p.version, &*p.path, p.security)).collect();
    let expected = [
        ("lib", "1", "pool/main/x/lib_1_amd64.deb", false),
        ("tool", "2", "pool/main/x/tool_2_amd64.deb", false),
        ("linux-image-6.2", "6.2", "pool/updates/main/x/linux-image-6.2_6.2_amd64.deb", true),
    ];
    assert_eq!(packages, expected);
    assert_eq!(lock.kernel.unwrap().release, "6.2");
}

#[test]
fn security_updates_are_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let at = |archive: &str| format!("file://{}/{archive}", dir.path().display());
    let release = |archive: &str, suite: &str| {
        write(&dir.path().join(archive).join("dists").join(suite).join("InRelease"), b"");
    };
    release("debian", "trixie");
    release("known", "trixie-security");
    let fetcher = Fetcher::new(Limits::default());
    let find = |security: Security<'_>| Sources::find("trixie", &at("debian"), security, &fetcher);
    let known = [at("other"), at("known")];
    let found =
        |updates: bool, security: Option<&str>| Sources { mirror: at("debian"), updates, security: security.map(&at) };
    assert_eq!(find(Security::Find(&[])).unwrap(), found(false, None));
    assert_eq!(find(Security::Find(&known)).unwrap(), found(false, Some("known")));
    assert_eq!(find(Security::At(&known[1])).unwrap(), found(false, Some("known")));
    release("debian", "trixie-updates");
    release("debian-security", "trixie-security");
    assert_eq!(find(Security::Find(&known)).unwrap(), found(true, Some("debian-security")));
    assert_eq!(find(Security::Without).unwrap(), found(true, None));
    let error = find(Security::At(&known[0])).unwrap_err().to_string();
    assert!(error.starts_with("the release file of trixie-security: ") && error.contains("not found"), "{error}");
    // One that can't tell may have them.
    let gone = ["http://127.0.0.1:1".to_owned()];
    assert!(Sources::find("forky", &at("debian"), Security::Find(&gone), &fetcher).is_err());
}
