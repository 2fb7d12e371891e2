//! What comes out of a build, read by others' programs: qemu-img, unsquashfs, skopeo. Only the bootstrap is a stand-in.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::is_root;

/// Makes a root file system of busybox, in which no time is the same twice.
const STANDIN: &str = r#"#!/bin/sh
set -e
for root in "$@"; do case $root in /*) break ;; esac; done
mkdir -p "$root/bin" "$root/etc/apt" "$root/root" "$root/tmp" "$root/usr/sbin"
cp /bin/busybox "$root/bin/"
for file in $(ldd /bin/busybox | grep -o '/[^ ]*'); do mkdir -p "$root${file%/*}"; cp "$file" "$root$file"; done
PATH=$PATH:/usr/sbin:/sbin chroot "$root" /bin/busybox --install -s /bin
ln "$root/bin/busybox" "$root/bin/again"
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
printf 'deb http://m.test/debian stable%s main\n' '' -updates -security >"$root/etc/apt/sources.list"
"#;

const IMGBUILD: &str = "
target=debian
imgname=web
bootloader=none
provision() {
    echo hello >/etc/motd
    chown 7:8 /etc/motd
}
";

struct Project(tempfile::TempDir);

impl Project {
    fn new(more: &str) -> Self {
        let project = Self(tempfile::tempdir().unwrap());
        for dir in ["web", "out", "bin"] {
            fs::create_dir(project.path(dir)).unwrap();
        }
        fs::write(project.path("web/IMGBUILD"), format!("{IMGBUILD}{more}\n")).unwrap();
        fs::write(project.path("bin/mmdebstrap"), STANDIN).unwrap();
        fs::set_permissions(project.path("bin/mmdebstrap"), fs::Permissions::from_mode(0o755)).unwrap();
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, format: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_makeimg"));
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        command.arg("build").arg("-C").arg(self.path("web")).arg("-o").arg(self.path("out")).args(["--format", format]);
        command.env("PATH", path).env("SOURCE_DATE_EPOCH", "1700000000").env_remove("MAKEIMG_CACHE");
        command
    }

    fn build(&self, format: &str) -> Output {
        self.command(format).output().unwrap()
    }

    fn built(&self, format: &str, name: &str) -> PathBuf {
        let output = self.build(format);
        assert!(output.status.success(), "{format}: {}", String::from_utf8_lossy(&output.stderr));
        self.path("out").join(name)
    }

    /// Builds it twice, and insists that the bytes are the same.
    fn built_twice(&self, format: &str, name: &str) -> PathBuf {
        let first = self.path("first");
        fs::rename(self.built(format, name), &first).unwrap();
        let second = self.built(format, name);
        let same = Command::new("cmp").arg(&first).arg(&second).output().unwrap();
        assert!(same.status.success(), "{format}: {}", String::from_utf8_lossy(&same.stdout));
        second
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn squashfs() {
    if !is_root() {
        return;
    }
    let project = Project::new("");
    for compression in ["", " gz", " xz"] {
        let file = project.built_twice(&format!("squashfs{compression}"), "web.squashfs");
        let listed = run(Command::new("unsquashfs").args(["-lln", "-UTC"]).arg(&file).arg("etc/motd"));
        assert!(listed.contains("-rw-r--r-- 7/8 ") && listed.contains("2023-11-14 22:13"), "{listed}");
        let told = run(Command::new("unsquashfs").arg("-s").arg(&file));
        let named = if compression.is_empty() { "zstd" } else { ["gzip", "xz"][usize::from(compression == " xz")] };
        assert!(told.contains(&format!("Compression {named}\n")), "{told}");
    }
}

#[test]
fn oci() {
    if !is_root() {
        return;
    }
    let project = Project::new("");
    for (format, ending) in [("oci", "+gzip"), ("oci zst", "+zstd"), ("oci none", "")] {
        let archive = project.built_twice(format, "web.oci.tar");
        // skopeo checks the hashes of all that it copies.
        let copy = project.path("copy");
        let from = format!("oci-archive:{}:web:latest", archive.display());
        let to = format!("dir:{}", copy.display());
        run(Command::new("skopeo").args(["--insecure-policy", "copy", &from, &to]));
        let manifest = json(&copy.join("manifest.json"));
        let layer = &manifest["layers"][0];
        assert_eq!(layer["mediaType"], format!("application/vnd.oci.image.layer.v1.tar{ending}"));
        let blob = |descriptor: &serde_json::Value| {
            copy.join(descriptor["digest"].as_str().unwrap().trim_start_matches("sha256:"))
        };
        let told = run(Command::new("skopeo").args(["--insecure-policy", "inspect", &from]));
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!((&told["Created"], &told["Os"]), (&"2023-11-14T22:13:20Z".into(), &"linux".into()));
        let listed = run(Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(blob(layer)));
        assert!(listed.contains(" 7/8 ") && listed.contains("./bin/busybox"), "{listed}");
        // The hash of what is in the layer, whatever compresses it.
        let config = json(&blob(&manifest["config"]));
        let id = config["rootfs"]["diff_ids"][0].as_str().unwrap().trim_start_matches("sha256:").to_owned();
        let unpack = match ending {
            "+gzip" => "gzip -dc",
            "+zstd" => "zstd -qdc",
            _ => "cat",
        };
        let sum = run(Command::new("sh").arg("-c").arg(format!("{unpack} <'{}' | sha256sum", blob(layer).display())));
        assert_eq!(sum.split(' ').next(), Some(&*id));
        fs::remove_dir_all(&copy).unwrap();
    }
}

/// A disk image has the same bytes, and what a file system does not show in `cmp` is as it was in the tree.
#[test]
fn disks_are_the_same_each_time() {
    if !is_root() {
        return;
    }
    let lines = "filesystems='\n/ rest\n/var/tmp 40M ext2\n/srv 40M ext3\nswap 20M\n'\n\
                 setup() {\n    sleep 1.1\n}\n\
                 provision() {\n    chmod 1777 /var/tmp\n    echo a >/var/tmp/a\n    chown 7:8 /srv\n    \
                 echo hello >/etc/motd\n    touch -d '2001-02-03 00:00:00' /etc/old\n    mkfifo /root/pipe\n}\n";
    for table in ["msdos", "gpt"] {
        let project = Project::new(lines);
        let image = project.built_twice(&format!("raw 300M {table}"), "web.img");
        let dump = run(Command::new("/sbin/sfdisk").arg("--dump").arg(&image));
        // The root is last on the disk, and the file systems are in the order of their lines.
        for (number, mib) in [(1, 101), (2, 1), (3, 41)] {
            assert!(dump.contains(&format!("web.img{number} : start=")), "{dump}");
            let (part, mib_long) = (project.path("part"), if number == 1 { 198 } else { 40 });
            run(Command::new("dd").args(["bs=1M", "status=none"]).args([
                format!("if={}", image.display()),
                format!("of={}", part.display()),
                format!("skip={mib}"),
                format!("count={mib_long}"),
            ]));
            run(Command::new("/sbin/e2fsck").args(["-f", "-n"]).arg(&part));
            let debugfs = |request: &str| run(Command::new("/sbin/debugfs").args(["-R", request]).arg(&part));
            if number == 1 {
                assert!(debugfs("cat /etc/motd").contains("hello"));
                let old = debugfs("stat /etc/old");
                assert!(old.contains("mtime: 0x3a7b4") && old.contains("ctime: 0x6553f100:00000000"), "{old}");
                assert!(debugfs("stat /root/pipe").contains("Type: FIFO"));
                let [one, two] = ["/bin/busybox", "/bin/again"].map(|path| debugfs(&format!("stat {path}")));
                assert!(one.contains("Links: ") && one.lines().nth(1) == two.lines().nth(1), "{one}{two}");
            } else {
                let found = debugfs("stat /");
                let is = ["Mode:  01777", "User:     7   Group:     8"].iter().any(|what| found.contains(what));
                assert!(is, "{found}");
            }
        }
    }
}

#[test]
fn what_cannot_be_the_same_is_told() {
    if !is_root() {
        return;
    }
    let project = Project::new("");
    let output = project.build("raw 400M gpt xfs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("two builds of this image differ: Linux writes xfs (/) in an order of its own"), "{said}");
}

/// A dpkg's database, and an apt that knows one of the packages.
const PACKAGES: &str = r#"
mkdir -p "$root/var/lib/dpkg" "$root/var/lib/apt/lists" "$root/usr/bin" "$root/usr/share/doc/a++"
: >"$root/var/lib/apt/lists/m.test_debian_dists_stable_main_binary-amd64_Packages"
echo ID=debian >"$root/etc/os-release"
printf 'Package: %s\nStatus: install ok installed\nArchitecture: %s\nVersion: %s\n\n' \
    local all 3 a++ amd64 1:2+b1 >"$root/var/lib/dpkg/status"
{
    echo 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/'
    printf '\nFiles: *\nLicense: GPL-2+\n'
} >"$root/usr/share/doc/a++/copyright"
cat >"$root/usr/bin/apt-cache" <<'END'
#!/bin/sh
case "$*" in *' show local=3 a++:amd64=1:2+b1'*) ;; *) echo "$@" >&2; exit 1 ;; esac
printf 'Package: a++\nVersion: 1:2+b1\nArchitecture: amd64\nFilename: pool/a.deb\nSHA256: %064d\n' 7
exit 100
END
chmod 755 "$root/usr/bin/apt-cache"
"#;

/// Against what the schema of SPDX 2.3 demands of documents, packages and relationships.
#[test]
fn manifests() {
    if !is_root() {
        return;
    }
    let project = Project::new("");
    fs::write(project.path("bin/mmdebstrap"), format!("{STANDIN}{PACKAGES}")).unwrap();
    project.built_twice("squashfs", "web.squashfs");
    let list = fs::read_to_string(project.path("out/web.packages")).unwrap();
    assert_eq!(list, format!("a++ 1:2+b1 amd64 {:064}\nlocal 3 all -\n", 7));
    let text = fs::read_to_string(project.path("out/web.spdx.json")).unwrap();
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (field, value) in
        [("spdxVersion", "SPDX-2.3"), ("dataLicense", "CC0-1.0"), ("SPDXID", "SPDXRef-DOCUMENT"), ("name", "web")]
    {
        assert_eq!(document[field], value);
    }
    assert_eq!(document["creationInfo"]["created"], "2023-11-14T22:13:20Z");
    assert!(document["creationInfo"]["creators"][0].as_str().unwrap().starts_with("Tool: makeimg-"));
    assert!(document["documentNamespace"].as_str().unwrap().starts_with("https://spdx.org/spdxdocs/web-"));
    let packages = document["packages"].as_array().unwrap();
    let mut ids = vec!["SPDXRef-DOCUMENT"];
    for package in packages {
        let id = package["SPDXID"].as_str().unwrap();
        let good = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
        assert!(id.strip_prefix("SPDXRef-").is_some_and(|rest| rest.chars().all(good)) && !ids.contains(&id), "{id}");
        assert!(package["name"].is_string() && package["downloadLocation"] == "NOASSERTION");
        ids.push(id);
    }
    let relations = document["relationships"].as_array().unwrap();
    assert_eq!((packages.len(), relations.len()), (3, 3));
    for relation in relations {
        let ends = ["spdxElementId", "relatedSpdxElement"].map(|end| relation[end].as_str().unwrap());
        assert!(ends.iter().all(|end| ids.contains(end)), "{relation}");
    }
    let package = &packages[1];
    assert_eq!(package["checksums"][0]["checksumValue"], format!("{:064}", 7));
    assert_eq!(package["externalRefs"][0]["referenceLocator"], "pkg:deb/debian/a%2B%2B@1:2%2Bb1?arch=amd64");
    assert!(package["licenseComments"].as_str().unwrap().ends_with(": GPL-2+"), "{package}");
    assert!(packages[2]["checksums"].is_null() && packages[2]["licenseComments"].is_null());
}

/// Counts how often it is called, and makes an apt that has news if `$apt_proxy` says so.
const CACHED: &str = r#"
echo >>"${0%/*}/calls"
mkdir -p "$root/usr/bin" "$root/var/lib/apt/lists"
cat >"$root/usr/bin/apt-get" <<'END'
#!/bin/sh
case "$* $apt_proxy" in *simulate*news) echo "Inst a (2)" ;; *update*broken) exit 100 ;; esac
END
chmod 755 "$root/usr/bin/apt-get"
"#;

#[test]
fn what_was_bootstrapped_is_kept_until_there_are_news() {
    if !is_root() {
        return;
    }
    let project = Project::new("");
    fs::write(project.path("bin/mmdebstrap"), format!("{STANDIN}{CACHED}")).unwrap();
    let imgbuild = fs::read_to_string(project.path("web/IMGBUILD")).unwrap();
    let calls = || fs::read_to_string(project.path("bin/calls")).unwrap_or_default().lines().count();
    let build = |apt: &str| {
        let cache = format!("--cache={}", project.path("cache").display());
        let mut command = project.command("tar");
        let output = command.arg(cache).env("apt_proxy", apt).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    build("");
    let first = fs::read(project.path("out/web.tar")).unwrap();
    build("");
    assert_eq!(calls(), 1);
    assert!(fs::read(project.path("out/web.tar")).unwrap() == first, "what is kept is another tree");
    build("news");
    assert_eq!(calls(), 2);
    let said = build("broken");
    assert!(said.contains("the cache is not used: apt-get failed"), "{said}");
    fs::write(project.path("web/IMGBUILD"), format!("{imgbuild}packages=nginx\n")).unwrap();
    build("");
    assert_eq!(calls(), 4);
    // What can't be read is not used.
    for entry in fs::read_dir(project.path("cache")).unwrap().flatten() {
        fs::write(entry.path(), "no archive").unwrap();
    }
    assert!(build("").contains("the cache is not used: tar failed"));
    assert_eq!(calls(), 5);
    let names = fs::read_dir(project.path("cache")).unwrap().flatten().map(|entry| entry.path());
    assert_eq!(names.filter(|path| path.extension().is_some_and(|ending| ending == "tar")).count(), 2);
}

#[test]
fn what_a_failed_build_leaves_can_be_looked_at() {
    if !is_root() {
        return;
    }
    for format in ["tar", "raw 200M gpt"] {
        let project = Project::new("provision() {\n    echo half >/etc/half\n    false\n}\nfilesystems='/srv 40M'\n");
        let output = project.command(format).arg("--keep-failed").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let failed = project.path("out/web.failed");
        let hint = format!("`makeimg shell {}` shows", failed.canonicalize().unwrap().display());
        assert!(!output.status.success() && said.contains(&hint), "{said}");
        let shell = |words: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_makeimg"));
            command.arg("shell").arg(&failed).args(words).output().unwrap()
        };
        let script = "cat /etc/half; [ -c /dev/null ] && [ -d /proc/self ] && exit 7";
        let output = shell(&["sh", "-c", script]);
        assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout, b"half\n");
        // The file system of its own, too, where there is one.
        assert_eq!(failed.join("srv/lost+found").exists(), format != "tar");
        assert_eq!(fs::read_dir(failed.join("dev")).unwrap().count(), 0, "what was mounted is gone");
        // What is kept is not overwritten.
        let output = project.command(format).arg("--keep-failed").output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        assert!(!mounts.contains(project.0.path().to_str().unwrap()), "{mounts}");
    }
}

/// By the real programs, as docs/IMGBUILD.md says them.
#[test]
fn secrets_of_age_and_pass() {
    if !is_root() {
        return;
    }
    let project = Project::new("");
    fs::create_dir_all(project.path("web/secrets/etc")).unwrap();
    let [key, gnupg, store] = ["key.txt", "gnupg", "store"].map(|name| project.path(name));
    let built = |command: &str, file: &str| {
        let mut build = project.command("tar");
        build.args(["--reveal", command]).env("GNUPGHOME", &gnupg).env("PASSWORD_STORE_DIR", &store);
        let output = build.output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!String::from_utf8_lossy(&output.stderr).contains("hush"), "a secret is told");
        run(Command::new("tar").arg("-xOf").arg(project.path("out/web.tar")).arg(format!("./etc/{file}")))
    };
    let made = run(Command::new("age-keygen").arg("-o").arg(&key));
    let recipient = made.split_whitespace().last().unwrap();
    let encrypt =
        format!("echo hush-age | age -r {recipient} -o '{}'", project.path("web/secrets/etc/a.age").display());
    run(Command::new("sh").args(["-c", &encrypt]));
    let command = format!("age -d -i '{}'", key.display());
    assert_eq!(built(&command, "a"), "hush-age\n");
    let reveal = |command: &str, words: &[&str]| {
        let mut reveal = Command::new(env!("CARGO_BIN_EXE_makeimg"));
        reveal.args(["reveal", "--reveal", command]).args(words).current_dir(project.path("web"));
        reveal.output().unwrap()
    };
    let shown = reveal(&command, &["secrets/etc/a.age"]);
    assert_eq!(shown.stdout, b"hush-age\n");
    let listed = reveal(&command, &[]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout), "./secrets/etc/a.age: /etc/a, 9 bytes\n");
    let failed = reveal("age -d -i /dev/null", &[]);
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(!failed.status.success() && said.contains("secrets/etc/a.age: can't be revealed: "), "{said}");

    fs::remove_file(project.path("web/secrets/etc/a.age")).unwrap();
    fs::write(project.path("web/secrets/etc/p"), "hosts/web\n").unwrap();
    fs::create_dir(&gnupg).unwrap();
    fs::set_permissions(&gnupg, fs::Permissions::from_mode(0o700)).unwrap();
    let script = "gpg --batch --quiet --passphrase '' --quick-gen-key web@m.test default default never\n\
                  pass init web@m.test\n\
                  echo hush-pass | pass insert --multiline hosts/web\n\
                  gpgconf --kill all";
    run(Command::new("sh").args(["-ec", script]).env("GNUPGHOME", &gnupg).env("PASSWORD_STORE_DIR", &store));
    assert_eq!(built("pass show \"$(cat)\"", "p"), "hush-pass\n");
}

#[test]
fn qcow2() {
    if !is_root() {
        return;
    }
    let project = Project::new("");
    let file = project.built_twice("qcow2 100M gpt", "web.qcow2");
    let told = run(Command::new("qemu-img").args(["info", "--output=json"]).arg(&file));
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["format"], &told["virtual-size"]), (&"qcow2".into(), &(100 << 20).into()));
    let raw = project.path("raw");
    run(Command::new("qemu-img").args(["convert", "-O", "raw"]).arg(&file).arg(&raw));
    let motd = run(Command::new("/sbin/debugfs")
        .args(["-R", "cat /etc/motd"])
        .arg(format!("{}?offset=1048576", raw.display())));
    assert!(motd.starts_with("hello\n"), "{motd}");
    let left: Vec<_> = fs::read_dir(project.path("out")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["web.qcow2"]);
}

/// What Debian's packages bring with which an initramfs opens encrypted file systems, and a cryptsetup(8) that tells
/// how it was called.
const LUKS: &str = r#"
mkdir -p "$root/usr/share/initramfs-tools/hooks"
: >"$root/usr/share/initramfs-tools/hooks/cryptroot"
printf '#!/bin/sh\ncat /etc/crypttab /etc/cryptsetup-initramfs/conf-hook >/seen\n' >"$root/usr/sbin/update-initramfs"
chmod 755 "$root/usr/sbin/update-initramfs"
"#;

#[test]
fn encrypted_file_systems() {
    if !is_root() {
        return;
    }
    let project = Project::new(
        "packages=cryptsetup-initramfs\nfilesystems='\n/ luks=system\n/boot 32M ext2\n\
         swap 64M luks=swap key=initramfs\n'\n",
    );
    let (standin, cryptsetup) = (project.path("bin/mmdebstrap"), project.path("bin/cryptsetup"));
    fs::write(&standin, format!("{STANDIN}{LUKS}")).unwrap();
    let real = run(Command::new("sh").args(["-c", "PATH=$PATH:/usr/sbin:/sbin command -v cryptsetup"]));
    let log = project.path("called");
    let wrapper = format!("#!/bin/sh\necho \"$@\" >>'{}'\nexec {} \"$@\"\n", log.display(), real.trim());
    fs::write(&cryptsetup, wrapper).unwrap();
    fs::set_permissions(&cryptsetup, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(project.path("web/luks")).unwrap();
    // What `tr` makes of `hush hush` and `more hush`.
    fs::write(project.path("web/luks/system.age"), "uhfu uhfu\n").unwrap();
    fs::write(project.path("web/luks/swap"), "zber uhfu\n").unwrap();
    let mut build = project.command("raw 250M gpt ext4");
    let output = build.args(["--verbose", "--reveal", "tr a-z n-za-m"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("two builds of this image differ: what encrypts / is random"), "{said}");
    let called = fs::read_to_string(&log).unwrap();
    assert!(called.lines().count() == 2 && !called.contains("hush") && !said.contains("hush"), "{called}{said}");

    let image = project.path("out/web.img");
    let parts = run(Command::new("/sbin/sfdisk").arg("--json").arg(&image));
    let parts: serde_json::Value = serde_json::from_str(&parts).unwrap();
    // The root, then swap; /boot is the second.
    let [root, boot, swap] = [0, 1, 2].map(|at| {
        let part = &parts["partitiontable"]["partitions"][at];
        let (start, size) = (part["start"].as_u64().unwrap(), part["size"].as_u64().unwrap());
        let path = project.path(&format!("part{at}"));
        let mut dd = Command::new("dd");
        dd.args([format!("if={}", image.display()), format!("of={}", path.display()), format!("skip={start}")]);
        run(dd.arg(format!("count={size}")));
        path
    });
    let blkid = |path: &Path, what: &str| {
        run(Command::new("/sbin/blkid").args(["-p", "-s", what, "-o", "value"]).arg(path)).trim().to_owned()
    };
    assert_eq!([&root, &boot, &swap].map(|part| blkid(part, "TYPE")), ["crypto_LUKS", "ext2", "crypto_LUKS"]);
    assert_eq!(blkid(&root, "LABEL"), "root");
    let ids = [&root, &swap].map(|part| blkid(part, "UUID"));
    let cryptsetup = |words: &[&str], path: &Path, passphrase: &str| {
        let mut command = Command::new(real.trim());
        command.args(words).args(["--batch-mode", "--key-file", "-"]).arg(path);
        let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), passphrase.as_bytes()).unwrap();
        child.wait().unwrap().success()
    };
    let opens = |path: &Path, passphrase: &str| cryptsetup(&["open", "--test-passphrase"], path, passphrase);
    assert!(opens(&root, "hush hush") && opens(&swap, "more hush") && !opens(&root, "more hush"));
    let dump = run(Command::new(real.trim()).arg("luksDump").arg(&root));
    assert!(dump.contains("argon2id") && dump.contains("65536") && dump.contains("aes-xts-plain64"), "{dump}");

    // What was encrypted is all there, where nothing is in the clear.
    let has = |path: &Path| {
        Command::new("grep").args(["-q", "-a", "errors=remount-ro"]).arg(path).status().unwrap().success()
    };
    assert!(!has(&root));
    let header = project.path("header");
    let decrypt = ["reencrypt", "--decrypt", "--force-offline-reencrypt", "--header", header.to_str().unwrap()];
    assert!(cryptsetup(&decrypt, &root, "hush hush"));
    assert!(has(&root));
    let read = |file: &str| {
        let output = Command::new("/sbin/debugfs").args(["-R", &format!("cat {file}")]).arg(&root).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let crypttab = format!(
        "system UUID={} none luks,initramfs\nswap UUID={} /etc/cryptsetup-keys.d/swap.key luks,initramfs\n",
        ids[0], ids[1]
    );
    assert_eq!(read("/etc/crypttab"), crypttab);
    let seen = read("/seen");
    assert!(seen.starts_with(&crypttab) && seen.ends_with("KEYFILE_PATTERN=/etc/cryptsetup-keys.d/*.key\n"), "{seen}");
    assert_eq!(read("/etc/cryptsetup-keys.d/swap.key"), "more hush");
    assert!(
        read("/etc/fstab").starts_with(&format!("UUID={} / ext4 ", blkid(&root, "UUID"))),
        "{}",
        read("/etc/fstab")
    );
    let fsck = Command::new("/sbin/fsck.ext4").args(["-f", "-n"]).arg(&root).output().unwrap();
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
}
