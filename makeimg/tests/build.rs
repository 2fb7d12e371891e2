//! Builds by the real command, with real file systems, mounts and namespaces. Only the bootstrap is a stand-in, called
//! `mmdebstrap`: a directory with busybox, made in an instant. tests/e2e/makeimg.rs builds with the real one.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{is_root, skipped};
use rustix::process::{Pid, Signal, kill_process};

/// Makes a root file system of busybox, or does what `$STANDIN` says instead.
const STANDIN: &str = r#"#!/bin/sh
set -e
for root in "$@"; do case $root in /*) break ;; esac; done
case ${STANDIN-} in
    missing) echo "E: Unable to locate package nosuch" >&2; echo "E: more" >&2; exit 100 ;;
    full) head -c 200000000 /dev/zero >"$root/big" ;;
esac
mkdir -p "$root/bin" "$root/etc" "$root/root" "$root/tmp" "$root/usr/lib"
for file in $(ldd /bin/busybox | grep -o '/[^ ]*'); do
    mkdir -p "$root${file%/*}"
    cp "$file" "$root$file"
done
cp /bin/busybox "$root/bin/"
PATH=$PATH:/usr/sbin:/sbin chroot "$root" /bin/busybox --install -s /bin
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\nadm:x:4:\n' >"$root/etc/group"
printf 'one\ntwo\nthree\n' >"$root/etc/old.conf"
mkdir "$root/etc/apt"
printf 'deb http://m.test/debian stable%s main\n' '' -updates -security >"$root/etc/apt/sources.list"
mkdir -p "$root/usr/sbin"
cat >"$root/usr/sbin/useradd" <<'END'
#!/bin/sh
for name in "$@"; do :; done
echo "$name:x:1000:1000::/home/$name:/bin/sh" >>/etc/passwd
echo "$name:x:1000:" >>/etc/group
mkdir -p "/home/$name" && chown 1000:1000 "/home/$name"
END
cat >"$root/usr/sbin/usermod" <<'END'
#!/bin/sh
sed -i "s/^$3:.*/&$4/" /etc/group
END
chmod 755 "$root/usr/sbin/useradd" "$root/usr/sbin/usermod"
echo "0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded."
echo "Setting up busybox (1.0) ..."
"#;

/// Writes the sources that mmdebstrap or debootstrap writes, from `$ARCHIVE` where it is given none, and an apt that
/// tells how it was called.
const SOURCES: &str = r#"#!/bin/sh
set -e
STANDIN= "${0%/*}/standin" "$@"
echo "$@" >"${0%/*}/called"
while [ "${1#/}" = "$1" ]; do suite=$1; shift; done
root=$1; shift
hostname >"$root/etc/hostname"
cp /etc/resolv.conf "$root/etc/"
cp /etc/resolv.conf "$root/etc/.resolv.conf.systemd-resolved.bak"
mkdir -p "$root/run/lock/subsys" "$root/run/mount" "$root/var/lib/dbus"
echo 0123456789abcdef0123456789abcdef >"$root/var/lib/dbus/machine-id"
mkdir -p "$root/usr/lib/systemd" "$root/etc/ssh"
: >"$root/usr/lib/systemd/systemd"
for key in rsa_key rsa_key.pub ed25519_key ed25519_key.pub; do echo package >"$root/etc/ssh/ssh_host_$key"; done
mkdir -p "$root/etc/apt/sources.list.d" "$root/var/lib/apt/lists/partial" "$root/usr/bin" "$root/usr/share/keyrings"
echo ID=debian >"$root/etc/os-release"
: >"$root/usr/share/keyrings/debian-archive-keyring.gpg"
: >"$root/var/lib/apt/lists/left"
for line in "$@"; do
    case $line in deb*) ;; *) line="deb $line $suite main" ;; esac
    echo "$line"
done >"$root/etc/apt/sources.list"
if [ $# = 0 ]; then
    echo "deb $ARCHIVE $suite main" >"$root/etc/apt/sources.list"
    [ "${0##*/}" = debootstrap ] ||
        printf 'deb %s\n' "$ARCHIVE $suite-updates main" "$ARCHIVE-security $suite-security main" \
            >>"$root/etc/apt/sources.list"
fi
printf '#!/bin/sh\necho "$@" >>/apt-was-called\n' >"$root/usr/bin/apt-get"
chmod 755 "$root/usr/bin/apt-get"
"#;

/// A build that goes on until it is told to end. It ends with a test that fails, too.
struct Blocked {
    child: Child,
    place: PathBuf,
}

impl Deref for Blocked {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for Blocked {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A loop device is found by the name of its file, which goes with the project.
        let until = Instant::now() + Duration::from_secs(20);
        while !loops_below(&self.place).is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The files below a directory that loop devices have.
fn loops_below(dir: &Path) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").unwrap().flatten();
    let files = devices.map(|entry| fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default());
    files.filter(|file| file.contains(dir.to_str().unwrap())).collect()
}

/// Blocks the first time it is called (but for `losetup --find`), and otherwise is the next program of its name.
const BLOCK: &str = r#"#!/bin/sh
if [ "$1" != --find ] && mkdir "${0%/*}/blocked" 2>/dev/null; then
    echo blocked
    exec sleep 1000
fi
PATH=${PATH#*:}:/usr/sbin:/sbin
exec "${0##*/}" "$@"
"#;

const REVEAL: &str = "tr a-z n-za-m";

/// A project, and a place for what is built.
struct Project(tempfile::TempDir);

impl Project {
    fn new(imgbuild: &str) -> Self {
        let project = Self(tempfile::tempdir().unwrap());
        for dir in ["web", "out", "bin"] {
            fs::create_dir(project.path(dir)).unwrap();
        }
        project.write("web/IMGBUILD", imgbuild);
        project.program("bin/mmdebstrap", STANDIN);
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn program(&self, name: &str, text: &str) {
        self.write(name, text);
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_makeimg"));
        let [block, bin] = ["block", "bin"].map(|dir| self.path(dir).display().to_string());
        let path = format!("{block}:{bin}:{}", std::env::var("PATH").unwrap());
        command.arg("build").arg("-C").arg(self.path("web")).arg("-o").arg(self.path("out")).args(args);
        command.env("PATH", path).env_remove("SOURCE_DATE_EPOCH").stdin(Stdio::null());
        command
    }

    fn build(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Builds, and insists that it works.
    fn built(&self, args: &[&str]) -> String {
        let output = self.build(args);
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        self.assert_nothing_left();
        said
    }

    /// Builds, and insists that it fails; returns what it says, without this project's place.
    fn fails(&self, args: &[&str]) -> String {
        // A build before may have left a manifest.
        let results = || fs::read_dir(self.path("out")).unwrap().count();
        let before = results();
        let output = self.build(args);
        assert!(!output.status.success(), "{}", text(&output.stderr));
        self.assert_nothing_left();
        assert_eq!(results(), before, "there is a result");
        text(&output.stderr).replace(&format!("{}/", self.0.path().canonicalize().unwrap().display()), "")
    }

    /// What of a build is still there, besides results.
    fn left(&self) -> Vec<String> {
        let here = self.0.path().to_str().unwrap();
        let mut left = Vec::new();
        for entry in fs::read_dir(self.path("out")).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with('.') {
                left.push(format!("{}", entry.path().display()));
            }
        }
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        left.extend(mounts.lines().filter(|line| line.contains(here)).map(|line| format!("mount {line}")));
        left.extend(loops_below(self.0.path()).iter().map(|file| format!("loop device of {file}")));
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            // By the environment, which what a build starts inherits, or the working directory.
            let environ = fs::read(entry.path().join("environ")).unwrap_or_default();
            let root = fs::read_link(entry.path().join("root")).unwrap_or_default();
            if text(&environ).contains(here) || root.starts_with(here) {
                let line = text(&fs::read(entry.path().join("cmdline")).unwrap_or_default()).replace('\0', " ");
                left.push(format!("process {}", line.trim()));
            }
        }
        left
    }

    fn assert_nothing_left(&self) {
        assert_eq!(self.left(), [""; 0]);
    }

    /// Makes a build block once: in a function of the IMGBUILD, in a program that it finds first in PATH (`block/`), or
    /// in a program of the image (`image/`).
    fn block(&self, at: &str) {
        if at.contains('/') {
            self.program(at, BLOCK);
        } else {
            let whole = fs::read_to_string(self.path("web/IMGBUILD")).unwrap();
            let begin = format!("{at}() {{\n");
            self.write("web/IMGBUILD", &whole.replace(&begin, &format!("{begin}    echo blocked; sleep 1000\n")));
        }
        if at.ends_with("/grub-mkimage") {
            for file in ["boot/vmlinuz-1", "usr/lib/grub/i386-pc/boot.img", "usr/lib/grub/i386-pc/modinfo.sh"] {
                self.write(&format!("image/{file}"), "a stand-in\n");
            }
        }
    }

    /// Starts a build, with `image/` as another input, and waits until it blocks.
    fn blocked(&self) -> Blocked {
        fs::create_dir_all(self.path("image")).unwrap();
        let mut command = self.command(&["--json", "--reveal", REVEAL]);
        command.args(["web/files", "image"].map(|dir| self.path(dir))).stdout(Stdio::piped()).process_group(0);
        let mut child = Blocked { child: command.spawn().unwrap(), place: self.0.path().to_owned() };
        let said = Arc::new(Mutex::new(Vec::new()));
        let (output, hears) = (child.stdout.take().unwrap(), said.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                hears.lock().unwrap().push(line);
            }
        });
        wait_until("blocking", || {
            let said = said.lock().unwrap();
            // What reveals secrets is not quoted.
            let is = said.iter().any(|line: &String| line.contains("\"output\"") && line.contains("blocked"));
            if is || self.path("block/blocked").exists() { Ok(()) } else { Err(said.join("\n")) }
        });
        child
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> Result<(), String>) {
    let until = Instant::now() + Duration::from_secs(20);
    while let Err(why) = holds() {
        assert!(Instant::now() < until, "{what}: {why}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const ALL: &str = "
target=debian
imgname=web
greeting='hello there'
hostname=web1.example.org
users='
    alice:adm
'
authorized_keys='
    alice ssh-ed25519 AAAA alice@home
    root ssh-ed25519 BBBB root@home
'
setup() {
    [ -d \"$imgdir\" ] && echo setting up
}
provision() {
    echo \"pid $$\" >/etc/provisioned
    [ -c /dev/null ] && [ -e /proc/self/status ] && [ -d /sys/class ] && [ -s /etc/resolv.conf ]
    ls /dev >/etc/devices
    cat /etc/secret >/etc/secret.seen
    rm /etc/secret.seen
    sleep 1000 &
    echo \"home $HOME, project ${imgdir-none}, offline ${SYSTEMD_OFFLINE-no}\"
}
cleanup() {
    touch cleaned
}
";

/// A project with an input of every kind.
fn everything(format: &str) -> Project {
    let project = Project::new(&format!("format='{format}'\n{ALL}"));
    project.write("web/files/etc/motd.makeimg.template", "$greeting\n");
    project.write("web/files/etc/old.conf.makeimg.patch", "--- a\n+++ b\n@@ -1,3 +1,3 @@\n one\n-two\n+zwei\n three\n");
    project.write("web/files/usr/bin/tool", "#!/bin/sh\n");
    project.write("web/secrets/etc/secret.age", "uhfu\n");
    symlink("old.conf", project.path("web/files/etc/new.conf")).unwrap();
    project
}

fn check_image(root: &Path) {
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(read("etc/motd"), "hello there\n");
    assert_eq!(read("etc/new.conf"), "one\nzwei\nthree\n");
    assert_eq!(read("etc/secret"), "hush\n");
    assert_eq!(fs::metadata(root.join("etc/secret")).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(read("etc/hostname"), "web1.example.org\n");
    assert!(read("etc/hosts").contains("127.0.1.1 web1.example.org web1\n"));
    assert_eq!(read("etc/provisioned"), "pid 1\n");
    let devices = read("etc/devices");
    assert!(devices.contains("urandom") && !devices.contains("sda") && !devices.contains("loop"), "{devices}");
    assert!(read("etc/group").contains("adm:x:4:alice"), "{}", read("etc/group"));
    let alice = fs::metadata(root.join("home/alice/.ssh/authorized_keys")).unwrap();
    assert_eq!((alice.mode() & 0o7777, alice.uid()), (0o600, 1000));
    assert_eq!(read("home/alice/.ssh/authorized_keys"), "ssh-ed25519 AAAA alice@home\n");
    assert_eq!(fs::metadata(root.join("root/.ssh")).unwrap().mode() & 0o7777, 0o700);
    for empty in ["dev", "proc", "sys", "run"] {
        assert_eq!(fs::read_dir(root.join(empty)).unwrap().count(), 0, "/{empty} is as it was");
    }
    assert!(!root.join("etc/resolv.conf").exists(), "it was lent");
}

#[test]
fn directory() {
    if !is_root() {
        return;
    }
    let project = everything("dir");
    let said = project.built(&["--verbose", "--reveal", REVEAL]);
    assert!(said.contains("setting up") && said.contains("home /root, project none, offline 1"), "{said}");
    assert!(!said.contains("hush"), "a secret is in the log");
    check_image(&project.path("out/web"));
    assert!(project.path("web/cleaned").exists());
    let said = project.build(&[]);
    assert_eq!(said.status.code(), Some(2));
    assert!(text(&said.stderr).contains("is there already"), "{}", text(&said.stderr));
}

#[test]
fn what_is_lent_is_taken_back_and_what_provision_made_of_it_stays() {
    if !is_root() {
        return;
    }
    let lent = "grep -qv 192.0.2.1 /etc/resolv.conf\n    [ -x /usr/sbin/policy-rc.d ]\n";
    let made =
        "    ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf\n    echo mine >/usr/sbin/policy-rc.d\n";
    for provision in [lent.to_owned(), format!("{lent}{made}")] {
        let imgbuild = format!("target=debian\nformat=dir\nimgname=web\nprovision() {{\n    {provision}}}\n");
        let project = Project::new(&imgbuild);
        project.write("web/files/etc/resolv.conf", "nameserver 192.0.2.1\n");
        fs::set_permissions(project.path("web/files/etc/resolv.conf"), fs::Permissions::from_mode(0o600)).unwrap();
        project.program("web/files/usr/sbin/invoke-rc.d", "#!/bin/sh\n");
        project.built(&[]);
        let [conf, policy] = ["etc/resolv.conf", "usr/sbin/policy-rc.d"].map(|name| project.path("out/web").join(name));
        if provision == lent {
            assert_eq!(fs::read_to_string(&conf).unwrap(), "nameserver 192.0.2.1\n");
            assert_eq!(fs::metadata(&conf).unwrap().mode() & 0o7777, 0o600);
            assert!(!policy.exists());
        } else {
            assert_eq!(fs::read_link(&conf).unwrap(), Path::new("/run/systemd/resolve/stub-resolv.conf"));
            assert_eq!(fs::read_to_string(&policy).unwrap(), "mine\n");
        }
    }
}

#[test]
fn provision_has_the_proxy_of_the_machines_apt() {
    if !is_root() {
        return;
    }
    let provision = "provision() {\n    echo \"$http_proxy\" >/etc/seen\n}\n";
    let project = Project::new(&format!("target=debian\nformat=dir\nimgname=web\n{provision}"));
    project.write("apt.conf", "Acquire::http::Proxy \"http://proxy.example:3142\";\n");
    let config = |command: &mut Command| {
        command.env("APT_CONFIG", project.path("apt.conf"));
        for name in ["http_proxy", "HTTP_PROXY"] {
            command.env_remove(name);
        }
    };
    let mut command = project.command(&[]);
    config(&mut command);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(project.read("out/web/etc/seen"), "http://proxy.example:3142\n");
    // What the caller says comes before it.
    fs::remove_dir_all(project.path("out/web")).unwrap();
    let mut command = project.command(&[]);
    config(&mut command);
    assert!(command.env("http_proxy", "http://mine.example:1").output().unwrap().status.success());
    assert_eq!(project.read("out/web/etc/seen"), "http://mine.example:1\n");
}

/// What of a file is beside its bytes.
#[test]
fn holes_capabilities_and_attributes_of_files_are_kept() {
    if !is_root() {
        return;
    }
    let project = Project::new("target=debian\nformat='raw 200M'\nbootloader=none\nimgname=web\n");
    project.program("web/files/usr/bin/ping", "a program\n");
    let ping = project.path("web/files/usr/bin/ping");
    let set = |file: &Path, name: &str, value: &[u8]| {
        let file = fs::File::open(file).unwrap();
        rustix::fs::fsetxattr(&file, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    // linux/capability.h, revision 2: cap_net_raw, effective.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set(&ping, "security.capability", &capability);
    project.write("web/files/note", "x");
    set(&project.path("web/files/note"), "user.mine", b"yes");
    let sparse = fs::File::create(project.path("web/files/sparse")).unwrap();
    // More than the image has room for, with something in the middle.
    sparse.set_len(400 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 200 << 20).unwrap();
    drop(sparse);
    project.built(&[]);
    let debugfs = |request: &str| {
        let file = format!("{}?offset=1048576", project.path("out/web.img").display());
        text(&Command::new("/sbin/debugfs").args(["-R", request, &file]).output().unwrap().stdout)
    };
    let said = debugfs("ea_get -x /usr/bin/ping security.capability");
    let hex: Vec<String> = said.rsplit_once('=').unwrap().1.split_whitespace().map(str::to_owned).collect();
    let bytes: Vec<String> = capability.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex.concat(), bytes.concat(), "{said}");
    assert!(debugfs("ea_get /note user.mine").contains("\"yes\""), "{}", debugfs("ea_get /note user.mine"));
    let stat = debugfs("stat /sparse");
    assert!(stat.contains(&format!("Size: {}", 400 << 20)), "{stat}");
    debugfs(&format!("dump /sparse {}", project.path("dumped").display()));
    let mut middle = [0; 8];
    let dumped = fs::File::open(project.path("dumped")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&dumped, &mut middle, (200 << 20) - 1).unwrap();
    assert_eq!(&middle, b"\0middle\0");
}

/// Nothing else of the caller's environment gets there.
#[test]
fn provision_has_the_proxies_of_the_caller() {
    if !is_root() {
        return;
    }
    let provision = "provision() {\n    echo \"$https_proxy $NO_PROXY ${OTHER-none}\" >/etc/seen\n}\n";
    let project = Project::new(&format!("target=debian\nformat=dir\nimgname=web\n{provision}"));
    let mut command = project.command(&[]);
    command.env("https_proxy", "http://proxy.example:3128").env("NO_PROXY", ".example").env("OTHER", "x");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(project.read("out/web/etc/seen"), "http://proxy.example:3128 .example none\n");
}

#[test]
fn what_is_declared_is_added_to_the_files_of_the_author() {
    if !is_root() {
        return;
    }
    let project = Project::new(
        "target=debian\nformat=dir\nimgname=web\nhostname=host\nlocale=en_GB.UTF-8\n\
         authorized_keys='\n root ssh-rsa A a\n root ssh-rsa B b'\n",
    );
    project.write("web/files/etc/hosts", "127.0.0.1 localhost\n192.0.2.1 db\n");
    project.write("web/files/etc/locale.gen", "de_DE.UTF-8 UTF-8\n");
    project.write("web/files/root/.ssh/authorized_keys", "ssh-rsa B b\nssh-rsa C c");
    project.program("web/files/usr/sbin/locale-gen", "#!/bin/sh\n");
    project.built(&[]);
    let read = |name: &str| fs::read_to_string(project.path("out/web").join(name)).unwrap();
    assert_eq!(read("etc/hosts"), "127.0.0.1 localhost\n192.0.2.1 db\n127.0.1.1 host\n");
    assert_eq!(read("etc/locale.gen"), "de_DE.UTF-8 UTF-8\nen_GB.UTF-8 UTF-8\n");
    assert_eq!(read("root/.ssh/authorized_keys"), "ssh-rsa B b\nssh-rsa C c\nssh-rsa A a\n");
}

#[test]
fn locales_that_the_image_does_not_have_are_told() {
    if !is_root() {
        return;
    }
    for (locale, hint) in [
        ("xx_XX.UTF-8", "/usr/share/i18n/SUPPORTED in the image lists them"),
        ("hi_IN.UTF-8", "did you mean \"hi_IN\"?"),
        ("en_gb.utf-8", "did you mean \"en_GB.UTF-8\"?"),
    ] {
        let project = Project::new(&format!("target=debian\nformat=dir\nlocale={locale}\n"));
        project.write("web/files/usr/share/i18n/SUPPORTED", "en_GB.UTF-8 UTF-8\nhi_IN UTF-8\n");
        project.program("web/files/usr/sbin/locale-gen", "#!/bin/sh\n");
        let said = project.fails(&[]);
        assert!(said.contains(&format!("locale={locale}: the image can't generate it; {hint}")), "{said}");
    }
}

#[test]
fn archives_are_the_same_each_time() {
    if !is_root() {
        return;
    }
    let project = everything("tar zstd");
    let mut archives = Vec::new();
    for _ in 0..2 {
        let mut command = project.command(&["--reveal", REVEAL]);
        let output = command.env("SOURCE_DATE_EPOCH", "1700000000").output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        project.assert_nothing_left();
        archives.push(fs::read(project.path("out/web.tar.zst")).unwrap());
    }
    assert!(archives[0] == archives[1], "two builds differ");
    let root = project.path("unpacked");
    fs::create_dir(&root).unwrap();
    let tar =
        Command::new("tar").arg("-xpf").arg(project.path("out/web.tar.zst")).arg("-C").arg(&root).status().unwrap();
    assert!(tar.success());
    check_image(&root);
    assert!(fs::metadata(root.join("etc/motd")).unwrap().mtime() <= 1_700_000_000);
}

#[test]
fn disk_images() {
    if !is_root() {
        return;
    }
    for (format, table) in [("raw 100M", "dos"), ("raw 100M gpt", "gpt")] {
        let project = everything(format);
        project.write("web/IMGBUILD", &format!("format='{format}'\nbootloader=none\n{ALL}"));
        project.built(&["--reveal", REVEAL]);
        let image = project.path("out/web.img");
        assert_eq!(fs::metadata(&image).unwrap().len(), 100 << 20);
        let shown = Command::new("sfdisk").arg("--json").arg(&image).output().unwrap();
        assert!(text(&shown.stdout).contains(&format!("\"label\": \"{table}\"")), "{}", text(&shown.stdout));
        // The root, looked at by the file system's own tools.
        let debugfs = |request: &str| {
            let file = format!("{}?offset=1048576", image.display());
            let output = Command::new("/sbin/debugfs").args(["-R", request, &file]).output().unwrap();
            text(&output.stdout)
        };
        assert_eq!(debugfs("cat /etc/motd"), "hello there\n");
        assert!(debugfs("cat /etc/fstab").contains(" / ext4 "), "{}", debugfs("cat /etc/fstab"));
        assert!(debugfs("stat /etc/secret").contains("Mode:  0600"));
    }
}

#[test]
fn killed_at_any_step() {
    if !is_root() {
        return;
    }
    // Those of docs/IMGBUILD.md, "Order", by what blocks there. No program writes /etc/fstab.
    let raw = [
        "setup",
        "block/mkfs.ext4",
        "block/mmdebstrap",
        "block/tr",
        "image/usr/sbin/useradd",
        "provision",
        "image/usr/bin/grub-mkimage",
        "cleanup",
        "block/losetup",
    ];
    let dir = ["setup", "block/mmdebstrap", "block/tr", "image/usr/sbin/useradd", "provision", "cleanup"];
    for (format, steps) in [("raw 200M", &raw[..]), ("dir", &dir), ("tar", &["block/tar"])] {
        for step in steps {
            let project = everything(format);
            let whole = fs::read_to_string(project.path("web/IMGBUILD")).unwrap();
            project.block(step);
            let mut child = project.blocked();
            child.kill().unwrap();
            child.wait().unwrap();
            wait_until(&format!("{format}, killed in {step}"), || match project.left() {
                left if left.is_empty() => Ok(()),
                left => Err(left.join(", ")),
            });
            assert_eq!(fs::read_dir(project.path("out")).unwrap().count(), 0, "{format}, {step}: there is a result");
            project.write("web/IMGBUILD", &whole);
            project.built(&["--reveal", REVEAL]);
        }
    }
}

#[test]
fn interrupted() {
    if !is_root() {
        return;
    }
    let project = everything("raw 200M");
    project.block("provision");
    let mut child = project.blocked();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    project.assert_nothing_left();
    assert!(project.path("web/cleaned").exists(), "cleanup was called");
    assert_eq!(fs::read_dir(project.path("out")).unwrap().count(), 0);
}

#[test]
fn what_a_power_failure_left_is_removed() {
    if !is_root() {
        return;
    }
    let project = everything("dir");
    project.write("out/.web.makeimg-1/root/etc/secret", "hush\n");
    project.write("out/.web.makeimg-1/lock", "");
    project.write("out/.web.makeimg-x/mine", "");
    fs::set_permissions(project.path("out/.web.makeimg-1"), fs::Permissions::from_mode(0o700)).unwrap();
    // What others may have put there is left alone, and not waited for.
    project.write("elsewhere/lock", "");
    symlink(project.path("elsewhere"), project.path("out/.web.makeimg-2")).unwrap();
    project.write("out/.web.makeimg-3/mine", "");
    fs::set_permissions(project.path("out/.web.makeimg-3"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::create_dir(project.path("out/.web.makeimg-4")).unwrap();
    fs::set_permissions(project.path("out/.web.makeimg-4"), fs::Permissions::from_mode(0o700)).unwrap();
    let pipe = project.path("out/.web.makeimg-4/lock");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let output = project.build(&["--reveal", REVEAL]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let left = fs::read_dir(project.path("out")).unwrap().flatten().map(|entry| entry.file_name());
    let mut left: Vec<_> = left.collect();
    left.sort();
    assert_eq!(left, [".web.makeimg-2", ".web.makeimg-3", ".web.makeimg-x", "web"]);
    assert!(project.path("elsewhere/lock").exists());
}

#[test]
fn another_format_than_the_imgbuild_says() {
    if !is_root() {
        return;
    }
    let note = |function: &str| format!("{function}() {{\n    echo \"{function} $format\"\n}}\n");
    let project = Project::new(&format!(
        "target=debian\nimgname=web\nformat='raw 8'\nprovision() {{\n    echo \"$format\" >/etc/format\n}}\n{}{}",
        note("setup"),
        note("cleanup")
    ));
    project.write("web/files/etc/motd.makeimg.template", "for $format\n");
    let said = project.built(&["--verbose", "--format", "dir"]);
    assert!(said.contains("setup dir\n") && said.contains("cleanup dir\n"), "{said}");
    assert_eq!(fs::read_to_string(project.path("out/web/etc/format")).unwrap(), "dir\n");
    assert_eq!(fs::read_to_string(project.path("out/web/etc/motd")).unwrap(), "for dir\n");

    let said = project.built(&["--verbose", "--format", "tar zst"]);
    assert!(said.contains("setup tar zst\n") && said.contains("cleanup tar zst\n"), "{said}");
    let archive = project.path("out/web.tar.zst");
    let tar = Command::new("tar").arg("-xOf").arg(archive).arg("./etc/format").output().unwrap();
    assert_eq!(text(&tar.stdout), "tar zst\n");

    let said = text(&project.build(&["--format", "tar zts"]).stderr);
    assert_eq!(said, "makeimg: error: --format: \"zts\" is no compression; did you mean \"zst\"?\n");
    let bare =
        Command::new(env!("CARGO_BIN_EXE_makeimg")).args(["--format", "rwa"]).current_dir(project.path("web")).output();
    let said = text(&bare.unwrap().stderr);
    assert_eq!(said, "makeimg: error: --format: \"rwa\" is no format; did you mean \"raw\"?\n");
}

#[test]
fn functions_do_not_see_the_callers_variables_of_names_that_mean_something() {
    if !is_root() {
        return;
    }
    let say = "{ echo \"${hostname-none} ${mine-none}\"; }";
    let project = Project::new(&format!("target=debian\nformat=dir\nsetup() {say}\ncleanup() {say}\n"));
    let output = project.command(&["--verbose"]).env("hostname", "caller").env("mine", "seen").output().unwrap();
    assert_eq!(text(&output.stderr).matches("none seen\n").count(), 2, "{}", text(&output.stderr));
}

#[test]
fn functions_that_fail_are_told_with_their_place() {
    if !is_root() {
        return;
    }
    let project = Project::new("target=debian\nformat=dir\nprovision() {\n    true\n    nosuchcommand here\n}\n");
    let said = project.fails(&[]);
    assert!(said.contains("web/IMGBUILD:5: provision() failed (exit status: 127): nosuchcommand"), "{said}");
    let project = Project::new(
        "target=debian\nformat=dir\n\nsetup() {\n    echo no luck\n    false\n    touch never\n}\n\
         cleanup() {\n    touch cleaned\n}\n",
    );
    let said = project.fails(&[]);
    assert!(said.contains("web/IMGBUILD:4: setup() failed (exit status: 1): no luck"), "{said}");
    assert!(project.path("web/cleaned").exists() && !project.path("web/never").exists());
}

#[test]
fn bad_input_is_told_before_anything_is_built() {
    if !is_root() {
        return;
    }
    let project = Project::new("target=debain\nformat='raw 8'\n");
    project.write("web/files/a.makeimg.template", "$nobody\n");
    symlink("../../..", project.path("web/files/out")).unwrap();
    let output = project.build(&[]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    for part in ["IMGBUILD:1: target: \"debain\"", "IMGBUILD:2: format:", "files/out: the symbolic link leads out"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let project = Project::new("target=debian\nformat=dir\nif\n");
    assert!(project.fails(&[]).contains("web/IMGBUILD:"), "a syntax error has its line");
    let project = Project::new("target=debian\nformat=dir\n");
    project.write("web/files/a.makeimg.template", "\n$nobody\n");
    assert!(project.fails(&[]).contains("web/files/a.makeimg.template:2: `nobody` is not set"));
}

#[test]
fn a_time_that_is_none_is_told_before_anything_is_built() {
    if !is_root() {
        return;
    }
    let project = Project::new("target=debian\nformat=dir\nsetup() {\n    touch began\n}\n");
    let output = project.command(&[]).env("SOURCE_DATE_EPOCH", "yesterday").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.starts_with("makeimg: error: SOURCE_DATE_EPOCH: \"yesterday\" is no number; "), "{said}");
    assert!(!project.path("web/began").exists());
}

#[test]
fn a_mistyped_command_is_no_directory() {
    if !is_root() {
        return;
    }
    let project = Project::new("target=debian\nformat=dir\n");
    let said = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_makeimg"));
        let output = command.args(args).current_dir(project.path("web")).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        text(&output.stderr)
    };
    let unread = "can't be read: No such file or directory (os error 2)";
    assert_eq!(said(&["buidl"]), format!("makeimg: error: buidl: {unread}; did you mean makeimg build?\n"));
    assert_eq!(said(&["elsewhere"]), format!("makeimg: error: elsewhere: {unread}\n"));
}

#[test]
fn what_a_tool_says_is_the_reason() {
    if !is_root() {
        return;
    }
    let project = Project::new("target=debian\nformat=dir\npackages=nosuch\n");
    let output = project.command(&[]).env("STANDIN", "missing").output().unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("mmdebstrap: Unable to locate package nosuch"), "{said}");
    let project = Project::new("target=debian\nformat='raw 64M'\nbootloader=none\n");
    let output = project.command(&[]).env("STANDIN", "full").output().unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("No space left on device"), "{said}");
    project.assert_nothing_left();
    let project = everything("dir");
    project.write("web/files/etc/old.conf.makeimg.patch", "--- a\n+++ b\n@@ -1,3 +1,3 @@\n one\n-2\n+zwei\n three\n");
    let said = project.fails(&["--reveal", "cat"]);
    assert!(
        said.contains("web/files/etc/old.conf.makeimg.patch:3: this hunk does not apply to /etc/old.conf"),
        "{said}"
    );
    let project = everything("dir");
    let said = project.fails(&["--reveal", "echo wrong key >&2; exit 1"]);
    assert!(said.contains("web/secrets/etc/secret.age: can't be revealed") && said.contains("wrong key"), "{said}");
}

#[test]
fn events_are_lines_of_json() {
    if !is_root() {
        return;
    }
    let project = everything("dir");
    let output = project.build(&["--json", "--reveal", REVEAL]);
    let events: Vec<serde_json::Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<&str> = events.iter().filter(|e| e["type"] == "step").filter_map(|e| e["name"].as_str()).collect();
    assert_eq!(steps[..4], ["setup()", "bootstrap Debian stable", "files", "settings"], "{steps:?}");
    let progress = events.iter().find(|event| event["type"] == "progress").unwrap();
    assert_eq!((&progress["done"], &progress["total"]), (&1.into(), &4.into()), "{progress}");
    assert_eq!(events.last().unwrap()["type"], "built");
    let mut rest = Vec::new();
    let _ = (&output.stderr[..]).read_to_end(&mut rest);
    assert!(rest.is_empty(), "{}", text(&rest));
}

#[test]
fn a_reader_that_has_gone_is_no_reason_to_stop() {
    if !is_root() {
        return;
    }
    let project = Project::new("target=debian\nformat=dir\n");
    let mut check = Command::new(env!("CARGO_BIN_EXE_makeimg"));
    check.arg("check").arg("-C").arg(project.path("web"));
    for mut command in [check, project.command(&[])] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = command.stdout(writer).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    project.assert_nothing_left();
}

/// Whether a program is there. A test that does without says so.
fn has(program: &str) -> bool {
    let found = makeimg::command::find(program).is_some();
    if !found {
        skipped(&format!("this machine has no {program} (tests/install-tools.sh installs it)"));
    }
    found
}

/// A pacman repository, packed by hand as alpm-package(7) and alpm-repo-db(7) say.
struct Repository<'a> {
    project: &'a Project,
    /// Where its keys are.
    gnupg: tempfile::TempDir,
}

impl<'a> Repository<'a> {
    fn new(project: &'a Project) -> Self {
        fs::create_dir_all(project.path("repository/db")).unwrap();
        let gnupg = tempfile::tempdir().unwrap();
        fs::set_permissions(gnupg.path(), fs::Permissions::from_mode(0o700)).unwrap();
        Self { project, gnupg }
    }

    fn gpg(&self, args: &[&str]) -> Vec<u8> {
        // Whatever gpg starts ends with it.
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "gpg", "--batch", "--quiet", "--homedir"]);
        let output = command.arg(self.gnupg.path()).args(args).output().unwrap();
        assert!(output.status.success(), "gpg {args:?}: {}", text(&output.stderr));
        output.stdout
    }

    /// Makes a key, and a keyring NAME with it (pacman-key(8)).
    fn keyring(&self, name: &str, at: &Path) {
        self.gpg(&["--passphrase", "", "--quick-generate-key", &format!("{name}@example.net"), "ed25519"]);
        fs::create_dir_all(at).unwrap();
        fs::write(at.join(format!("{name}.gpg")), self.gpg(&["--export", name])).unwrap();
        let listed = text(&self.gpg(&["--list-keys", "--with-colons", name]));
        let print = listed.lines().find_map(|line| line.strip_prefix("fpr:::::::::")).unwrap();
        fs::write(at.join(format!("{name}-trusted")), format!("{}:4:\n", print.trim_end_matches(':'))).unwrap();
    }

    /// Makes a package of a directory, signed with the key of this name.
    fn pack(&self, name: &str, key: &str) {
        let (dir, repository) = (self.project.path(name), self.project.path("repository"));
        let info = format!(
            "pkgname = {name}\npkgver = 1-1\npkgdesc = {name}\nbuilddate = 1700000000\npackager = tests\n\
             size = 1\narch = any\n"
        );
        fs::write(dir.join(".PKGINFO"), info).unwrap();
        let file = format!("{name}-1-1-any.pkg.tar.zst");
        tar("--zstd", &repository.join(&file), &dir, ".PKGINFO $(ls)");
        let size = fs::metadata(repository.join(&file)).unwrap().len();
        let packed = repository.join(&file);
        let signature = self.gpg(&["-u", key, "--detach-sign", "-o", "-", packed.to_str().unwrap()]);
        fs::write(repository.join(format!("{file}.sig")), signature).unwrap();
        let entry = repository.join(format!("db/{name}-1-1"));
        fs::create_dir_all(&entry).unwrap();
        let desc = format!(
            "%FILENAME%\n{file}\n\n%NAME%\n{name}\n\n%VERSION%\n1-1\n\n%CSIZE%\n{size}\n\n\
             %ISIZE%\n{size}\n\n%ARCH%\nany\n\n"
        );
        fs::write(entry.join("desc"), desc).unwrap();
        tar("--gzip", &repository.join("core.db"), &repository.join("db"), "$(ls)");
    }
}

fn tar(compression: &str, archive: &Path, dir: &Path, what: &str) {
    let script = format!("tar {compression} -cf \"$0\" {what}");
    assert!(Command::new("sh").args(["-c", &script]).arg(archive).current_dir(dir).status().unwrap().success());
}

/// The real pacman, with a repository of a few packages. The project's key is that of two of them; the third is signed
/// with one that came after the building machine's keyring, and is in the package of keys.
#[test]
fn arch() {
    if !is_root() {
        return;
    }
    if !has("pacman") || !has("pacman-key") || !has("gpg") {
        return;
    }
    let project = Project::new(
        "target=arch\nformat=dir\nimgname=web\npackages='\n  greeting\n'\nkeymap=de\n\
         provision() {\n    greeting >/etc/greeted\n}\n",
    );
    let base = project.path("base");
    fs::create_dir(&base).unwrap();
    let standin = Command::new(project.path("bin/mmdebstrap")).arg(&base).env_remove("STANDIN").output().unwrap();
    assert!(standin.status.success(), "{}", text(&standin.stderr));
    // Arch's has files that makeimg must not have written before.
    project.write("base/etc/resolv.conf", "# resolvers\n");
    project.write("base/etc/hosts", "# hosts\n");
    project.write("base/etc/shadow", "root::14871::::::\n");
    project.program("base/usr/bin/look", "#!/bin/sh\nls /proc/self /dev/null /sys/class && cat /etc/vconsole.conf\n");
    let hook = "[Trigger]\nType = Package\nOperation = Install\nTarget = *\n\n\
                [Action]\nWhen = PostTransaction\nExec = /bin/sh -c '/usr/bin/look >/etc/looked 2>&1'\n";
    project.write("base/usr/share/libalpm/hooks/look.hook", hook);
    project.program("greeting/usr/bin/greeting", "#!/bin/sh\necho good day\n");
    let repository = Repository::new(&project);
    repository.keyring("ours", &project.path("web/keys"));
    repository.keyring("archlinux", &project.path("archlinux-keyring/usr/share/pacman/keyrings"));
    repository.pack("base", "ours");
    repository.pack("archlinux-keyring", "ours");
    repository.pack("greeting", "archlinux");
    // As on Arch, it names no server itself, and a user that this machine need not have.
    let conf = "[options]\nArchitecture = auto\nDownloadUser = nobody-here\n[core]\nSigLevel = PackageRequired\n\
                Include = /etc/pacman.d/mirrorlist\n";
    project.write("web/pacman.conf", conf);
    let servers = format!("Server = file://{}\n", project.path("repository").display());
    project.write("web/mirrorlist", &servers);
    let output = project.build(&["--json"]);
    assert!(output.status.success(), "{}", text(&output.stdout));
    project.assert_nothing_left();
    let read = |name: &str| fs::read_to_string(project.path("out/web").join(name)).unwrap();
    assert_eq!(read("etc/greeted"), "good day\n");
    assert!(project.path("out/web/var/lib/pacman/local/greeting-1-1/desc").exists());
    let counted = r#"{"type":"progress","done":2,"total":2,"what":"installing greeting"}"#;
    assert!(text(&output.stdout).contains(counted), "{}", text(&output.stdout));
    // Hooks find a machine, and what is said of the console.
    let looked = read("etc/looked");
    assert!(looked.ends_with("KEYMAP=de\n") && looked.contains("/dev/null") && !looked.contains("No such"), "{looked}");
    assert_eq!(read("etc/pacman.d/mirrorlist"), servers);
    assert_eq!(read("etc/resolv.conf"), "# resolvers\n");
    assert_eq!(read("etc/hosts"), "# hosts\n127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    assert_eq!(read("etc/shadow"), "root:*:14871::::::\n");
    assert!(read("etc/mkinitcpio.conf.d/makeimg.conf").contains("autodetect"));
    for gone in ["etc/pacman.d/gnupg", "etc/pacman.conf", "var/cache/pacman/pkg/base-1-1-any.pkg.tar.zst"] {
        assert!(!project.path("out/web").join(gone).exists(), "{gone}");
    }

    fs::remove_dir_all(project.path("out/web")).unwrap();
    let imgbuild = fs::read_to_string(project.path("web/IMGBUILD")).unwrap();
    project.write("web/IMGBUILD", &imgbuild.replace("  greeting", "  nosuch"));
    let said = project.fails(&[]);
    assert!(said.contains("(bootstrap Arch): pacman: target not found: nosuch"), "{said}");
    project.write("web/IMGBUILD", &imgbuild);
    // Another package than the one that was signed.
    let packed = |name: &str| project.path(&format!("repository/{name}-1-1-any.pkg.tar.zst.sig"));
    fs::copy(packed("base"), packed("greeting")).unwrap();
    let said = project.fails(&[]);
    assert!(said.contains("greeting: signature from ") && said.contains(" is invalid"), "{said}");
    fs::remove_file(project.path("web/mirrorlist")).unwrap();
    fs::remove_file(project.path("web/pacman.conf")).unwrap();
    let said = project.fails(&[]);
    assert!(said.contains("web/mirrorlist: there is no such file, and no pacman.conf that says where"), "{said}");
}

/// A recorded stand-in for apk, which Debian does not have: the exact call, and no more, is shown.
#[test]
fn alpine_by_a_recorded_stand_in() {
    if !is_root() {
        return;
    }
    let imgbuild = "target=alpine\nformat=dir\nimgname=web\npackages=nginx\n";
    let project = Project::new(imgbuild);
    project.write("web/repositories", "http://192.0.2.1/alpine/v3.20/main\n");
    project.write("web/keys/builder.rsa.pub", "a key\n");
    let apk = "#!/bin/sh\necho \"$*\" >\"${0%/*}/called\"\n[ -s \"$2/etc/apk/keys/builder.rsa.pub\" ] || exit 9\n\
               ${0%/*}/mmdebstrap \"$2\"\nmkdir \"$2/etc/init.d\"\n: >\"$2/etc/init.d/devfs\"\n\
               echo '(1/2) Installing alpine-base (3.20.0-r0)'\n\
               [ -z \"$STANDIN\" ] || { echo 'ERROR: unable to select packages:'; \
               echo '  nosuch (no such package):'; exit 1; }\n";
    project.program("bin/apk", apk);
    let output = project.build(&["--json"]);
    assert!(output.status.success(), "{}", text(&output.stdout));
    let called = fs::read_to_string(project.path("bin/called")).unwrap();
    let root = called.split(' ').nth(1).unwrap();
    assert!(root.contains("/out/.web.makeimg-") && root.ends_with("/root"), "{called}");
    let called = called.replace(root, "ROOT");
    let repositories = project.path("web/repositories").canonicalize().unwrap();
    let rest = "--initdb --no-cache --no-progress add alpine-base nginx\n";
    assert_eq!(called, format!("--root ROOT --repositories-file {} {rest}", repositories.display()));
    let read = |name: &str| fs::read_to_string(project.path("out/web").join(name)).unwrap();
    assert_eq!(read("etc/apk/keys/builder.rsa.pub"), "a key\n");
    assert!(!project.path("out/web/etc/apk/repositories").exists(), "the project's are for the build");
    let started = |service: &str| fs::read_link(project.path("out/web/etc/runlevels/sysinit").join(service));
    assert_eq!(started("devfs").unwrap(), Path::new("/etc/init.d/devfs"));
    assert!(started("mdev").is_err(), "it has no such service");
    assert!(text(&output.stdout).contains(r#""done":1,"total":2,"what":"Installing alpine-base""#));

    fs::remove_dir_all(project.path("out/web")).unwrap();
    let output = project.command(&[]).env("STANDIN", "none").output().unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("apk: unable to select packages: nosuch (no such package):"), "{said}");
    fs::remove_file(repositories).unwrap();
    assert!(project.fails(&[]).contains("web/repositories: can't be read"));

    // A building machine with an apk of its own, whose /etc is seen by this build alone.
    project.write("web/IMGBUILD", &format!("{imgbuild}hostconf='keyring\n repositories'\n"));
    project.write("etc/apk/repositories", "http://192.0.2.2/alpine/edge/main\n");
    project.write("etc/apk/keys/theirs.rsa.pub", "their key\n");
    let build = project.command(&[]);
    let mut command = Command::new("unshare");
    let script = "mount -t overlay overlay -o \"lowerdir=$0:/etc\" /etc && exec \"$@\"";
    command.args(["--mount", "sh", "-c", script]).arg(project.path("etc")).arg(build.get_program());
    command.args(build.get_args()).envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(fs::read_to_string(project.path("bin/called")).unwrap().ends_with(&format!("/root {rest}")));
    assert_eq!(read("etc/apk/repositories"), "http://192.0.2.2/alpine/edge/main\n");
    assert_eq!(
        (read("etc/apk/keys/theirs.rsa.pub"), read("etc/apk/keys/builder.rsa.pub")),
        ("their key\n".into(), "a key\n".into())
    );
}

/// Every process of a build that has this program's name.
fn processes(of: &Project) -> Vec<Pid> {
    let here = of.0.path().to_str().unwrap();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let ours = entries.filter(|entry| {
        let read = |name: &str| text(&fs::read(entry.path().join(name)).unwrap_or_default());
        read("comm").trim() == "makeimg" && read("environ").contains(here)
    });
    ours.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)).collect()
}

#[test]
fn all_processes_told_to_end_at_once() {
    if !is_root() {
        return;
    }
    let project = everything("raw 100M");
    let whole = fs::read_to_string(project.path("web/IMGBUILD")).unwrap();
    let blocking = whole.replace("provision() {\n", "provision() {\n    echo blocked; sleep 1000\n");
    project.write("web/IMGBUILD", &format!("bootloader=none\n{blocking}"));
    let mut child = project.blocked();
    let all = processes(&project);
    assert!(all.len() >= 3, "makeimg itself, its keeper and its worker, and not {all:?}");
    for process in all {
        let _ = kill_process(process, Signal::TERM);
    }
    child.wait().unwrap();
    wait_until("the end", || match project.left() {
        left if left.is_empty() => Ok(()),
        left => Err(left.join(", ")),
    });
}

#[test]
fn several_at_once() {
    if !is_root() {
        return;
    }
    let project = everything("tar");
    let builds: Vec<Child> = (0..6)
        .map(|_| project.command(&["--reveal", "tr a-z n-za-m"]).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    for build in builds {
        let output = build.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    project.assert_nothing_left();
}

#[test]
fn a_full_disk_spoils_no_image() {
    if !is_root() {
        return;
    }
    let project = everything("raw 200M");
    let whole = fs::read_to_string(project.path("web/IMGBUILD")).unwrap();
    project.write("web/IMGBUILD", &format!("bootloader=none\n{whole}"));
    // More than the file system of the result holds, though not more than the image's.
    let big: Vec<u8> = (0..60 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(project.path("web/files/big"), big).unwrap();
    let out = project.path("out");
    rustix::mount::mount("tmpfs", &out, "tmpfs", rustix::mount::MountFlags::empty(), c"size=40M").unwrap();
    let output = project.build(&["--reveal", "tr a-z n-za-m"]);
    let results = fs::read_dir(&out).unwrap().count();
    rustix::mount::unmount(&out, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(!output.status.success() && results == 0, "{}", text(&output.stderr));
    project.assert_nothing_left();
}

#[test]
fn cleanup_is_not_interrupted() {
    if !is_root() {
        return;
    }
    let project = everything("dir");
    let whole = fs::read_to_string(project.path("web/IMGBUILD")).unwrap();
    let marker = project.path("go");
    let waiting = format!("cleanup() {{\n    echo blocked; until [ -e {} ]; do sleep 0.05; done\n", marker.display());
    project.write("web/IMGBUILD", &whole.replace("cleanup() {\n", &waiting));
    let mut child = project.blocked();
    let open = || fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().count();
    let before = open();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    // The build is told by the end of its input.
    wait_until("the signal", || if open() < before { Ok(()) } else { Err("it was not heard".into()) });
    fs::write(&marker, "").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "it was stopped");
    project.assert_nothing_left();
    assert!(project.path("web/cleaned").exists(), "cleanup came to its end");
    assert_eq!(fs::read_dir(project.path("out")).unwrap().count(), 0);
}

#[test]
fn a_disk_that_is_too_small_is_seen_by_check() {
    if !is_root() {
        return;
    }
    let project = Project::new("target=debian\nimgname=web\nformat='raw 1G gpt'\nfilesystems='/var 20G'\n");
    let mut check = Command::new(env!("CARGO_BIN_EXE_makeimg"));
    let output = check.arg("check").arg("-C").arg(project.path("web")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("IMGBUILD: a disk of 1024 MiB has no room for /var: 20480 MiB are needed"), "{said}");
    assert!(project.fails(&[]).contains("web/IMGBUILD: a disk of 1024 MiB has no room for /var"));
}

/// A server with release files, by their paths; it is asked by what asks a mirror.
struct Archive {
    address: std::net::SocketAddr,
}

impl Archive {
    fn new(files: &[(&str, &str)]) -> Self {
        let files: Vec<(String, String)> = files
            .iter()
            .map(|(suite, more)| {
                let path = format!("/{}/InRelease", suite.replacen('/', "/dists/", 1));
                (path, format!("Origin: Debian\n{more}\n"))
            })
            .collect();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut line = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let _ = reader.read_line(&mut line);
                while matches!(reader.read_line(&mut String::new()), Ok(length) if length > 2) {}
                let path = line.split(' ').nth(1).unwrap_or_default();
                let found = files.iter().find(|(known, _)| known == path).map(|(_, text)| &**text);
                let (status, text) = found.map_or(("404 Not Found", ""), |text| ("200 OK", text));
                let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", text.len());
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(text.as_bytes()));
            }
        });
        Self { address }
    }

    fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }
}

impl Project {
    /// With a stand-in that writes sources, called as the bootstrap is.
    fn with_sources(imgbuild: &str, tool: &str) -> Self {
        let project = Self::new(&format!("target=debian\nimgname=web\nformat=dir\ndebian_suite=trixie\n{imgbuild}"));
        fs::remove_file(project.path("bin/mmdebstrap")).unwrap();
        project.program("bin/standin", STANDIN);
        project.program(&format!("bin/{tool}"), SOURCES);
        project
    }

    /// A directory of this machine's programs, but for mmdebstrap, to be all of PATH but for the stand-ins.
    fn without_mmdebstrap(&self) -> String {
        let tools = self.path("tools");
        fs::create_dir_all(&tools).unwrap();
        for entry in
            ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().flat_map(|dir| fs::read_dir(dir).unwrap().flatten())
        {
            if entry.file_name() != "mmdebstrap" {
                let _ = symlink(entry.path(), tools.join(entry.file_name()));
            }
        }
        format!("{}:{}", self.path("bin").display(), tools.display())
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}

#[test]
fn nothing_of_the_building_machine_is_in_the_image_and_each_machine_has_its_own_keys() {
    if !is_root() {
        return;
    }
    let archive = Archive::new(&[("debian/trixie", ""), ("debian/trixie-updates", "")]);
    for tool in ["mmdebstrap", "debootstrap"] {
        for declared in [false, true] {
            let project = Project::with_sources("debian_security=none\n", tool);
            if declared {
                project.write("web/files/etc/ssh/ssh_host_ed25519_key", "declared\n");
            }
            let mut command = project.command(&["--mirror", &archive.url("debian")]);
            let output = command.env("PATH", project.without_mmdebstrap()).output().unwrap();
            assert!(output.status.success(), "{}", text(&output.stderr));
            let root = project.path("out/web");
            for leaked in ["etc/hostname", "etc/resolv.conf"] {
                assert!(!root.join(leaked).exists(), "{tool}: /{leaked}");
            }
            let copy = fs::read(root.join("etc/.resolv.conf.systemd-resolved.bak")).unwrap_or_default();
            assert_eq!(text(&copy), "", "{tool}: a package's copy of the name servers is left");
            assert!(!root.join("var/lib/dbus/machine-id").exists(), "{tool}: D-Bus knows the machine already");
            let left: Vec<_> =
                fs::read_dir(root.join("run")).unwrap().flatten().map(|entry| entry.file_name()).collect();
            assert!(left == ["lock"] && fs::read_dir(root.join("run/lock")).unwrap().count() == 0, "{tool}: {left:?}");
            assert!(project.read("out/web/etc/hosts").starts_with("127.0.0.1 localhost\n"), "{tool}");
            let unit = root.join("etc/systemd/system/ssh.service.wants/makeimg-host-keys.service");
            assert!(fs::read_to_string(unit).unwrap().contains("ssh-keygen -A"), "{tool}");
            let keys = fs::read_dir(root.join("etc/ssh")).unwrap().flatten().map(|entry| entry.file_name());
            let keys: Vec<_> = keys.collect();
            assert_eq!(keys, if declared { vec!["ssh_host_ed25519_key"] } else { Vec::new() }, "{tool}");
        }
    }
}

#[test]
fn root_without_capabilities_is_told_what_it_lacks() {
    if !is_root() {
        return;
    }
    let project = everything("dir");
    let built = project.command(&["--reveal", REVEAL]);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_admin"]).arg(built.get_program()).args(built.get_args());
    for (name, value) in built.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        command.env(name, value);
    }
    command.current_dir(built.get_current_dir().unwrap_or(Path::new(".")));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("root without CAP_SYS_ADMIN") && said.contains("--privileged"), "{said}");
    assert!(!project.path("web/cleaned").exists());
}

#[test]
fn the_sources_are_the_same_whatever_bootstraps() {
    if !is_root() {
        return;
    }
    let archive = Archive::new(&[
        ("debian/trixie", ""),
        ("debian/trixie-updates", "Valid-Until: Fri, 04 Dec 2099 02:10:32 UTC"),
        ("debian-security/trixie-security", ""),
    ]);
    let url = archive.url("debian");
    let keyring = "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg";
    let expected = format!(
        "Types: deb\nURIs: {url}\nSuites: trixie trixie-updates\nComponents: main non-free-firmware\n{keyring}\n\n\
         Types: deb\nURIs: {url}-security\nSuites: trixie-security\nComponents: main non-free-firmware\n{keyring}\n"
    );
    for tool in ["mmdebstrap", "debootstrap"] {
        for mirror in [true, false] {
            let project =
                Project::with_sources("debian_components='main non-free-firmware'\npackages='\nvim=1.2\n'\n", tool);
            let mut command = project.command(&[]);
            if mirror {
                command.args(["--mirror", &url]);
            }
            command.env("STANDIN", "").env("ARCHIVE", &url).env_remove("http_proxy");
            if tool == "debootstrap" {
                command.env("PATH", project.without_mmdebstrap());
            }
            let output = command.output().unwrap();
            let said = text(&output.stderr);
            assert!(output.status.success(), "{tool}, {mirror}: {said}");
            assert!(!said.contains("warning"), "{tool}, {mirror}: {said}");
            assert_eq!(project.read("out/web/etc/apt/sources.list.d/debian.sources"), expected, "{tool}, {mirror}");
            assert_eq!(project.read("out/web/etc/apt/sources.list"), "# See /etc/apt/sources.list.d/debian.sources\n");
            assert!(!project.path("out/web/var/lib/apt/lists/left").exists(), "{tool}: lists are left");
            let called = project.read("bin/called");
            assert!(called.contains("--components=main,non-free-firmware"), "{called}");
            if tool == "mmdebstrap" {
                assert!(called.contains("--include=vim=1.2"), "{called}");
                assert_eq!(called.contains(&format!("{url}-security trixie-security main non-free-firmware")), mirror);
                assert!(!project.path("out/web/apt-was-called").exists(), "there was nothing to upgrade");
            } else {
                let calls = project.read("out/web/apt-was-called");
                let verbs = ["update", "dist-upgrade", "install -- vim=1.2", "clean"];
                let calls: Vec<&str> = calls.lines().collect();
                assert!(
                    calls.iter().zip(verbs).all(|(call, verb)| call.ends_with(verb)) && calls.len() == 4,
                    "{calls:?}"
                );
                assert!(!called.contains("vim"), "the oldest version was installed first: {called}");
            }
        }
    }
}

/// As a user builds it, with the mirror that the environment names and keys beside the IMGBUILD. Only the bootstrap is
/// a stand-in.
#[test]
fn example_of_ubuntu() {
    if !is_root() {
        return;
    }
    let archive = Archive::new(&[("ubuntu/noble", ""), ("ubuntu/noble-updates", ""), ("ubuntu/noble-security", "")]);
    let url = archive.url("ubuntu");
    let project = Project::with_sources("", "mmdebstrap");
    let systemctl = r#"
printf '#!/bin/sh\necho "$@" >>/enabled\n' >"$root/bin/systemctl"
chmod 755 "$root/bin/systemctl"
echo admin:x:7: >>"$root/etc/group"
"#;
    project.program("bin/mmdebstrap", &format!("{SOURCES}{systemctl}"));
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/imgbuild-ubuntu/payload/.");
    let copied = Command::new("cp").arg("-R").arg(example).arg(project.path("web")).status().unwrap();
    assert!(copied.success());
    let build = || {
        let mut command = project.command(&["--format", "dir"]);
        command
            .env("STANDIN", "")
            .env("UBUNTU_MIRROR", &url)
            .env_remove("http_proxy")
            .env_remove("MAKEIMG_EXAMPLE_KEYS");
        command.output().unwrap()
    };
    let said = text(&build().stderr);
    assert!(said.contains("ubuntu-archive-keyring.gpg: debian_keyring: there is no such file"), "{said}");
    project.write("web/ubuntu-archive-keyring.gpg", "keys");
    let built = build();
    let said = text(&built.stderr);
    assert!(built.status.success() && !said.contains("warning"), "{said}");
    let called = project.read("bin/called");
    let of_security = format!("{url} noble-security main universe");
    let words = ["--components=main,universe", "linux-image-virtual", "ubuntu-archive-keyring.gpg", &of_security];
    assert!(words.iter().all(|word| called.contains(word)), "{called}");
    assert_eq!(
        project.read("out/ubuntu/etc/apt/sources.list.d/debian.sources"),
        format!(
            "Types: deb\nURIs: {url}\nSuites: noble noble-updates noble-security\nComponents: main universe\n\
             Signed-By: /etc/apt/keyrings/ubuntu-archive-keyring.gpg\n"
        )
    );
    assert_eq!(project.read("out/ubuntu/etc/motd"), "Made by makeimg: ubuntu, Ubuntu noble.\n");
    assert!(project.read("out/ubuntu/enabled").contains("enable -- ssh\n"));
}

#[test]
fn a_system_without_security_updates_is_told_of_or_meant() {
    if !is_root() {
        return;
    }
    let archive = Archive::new(&[
        ("debian/trixie", ""),
        ("debian/trixie-updates", "Valid-Until: Fri, 04 Dec 2020 02:10:32 UTC"),
        ("debian/sid", ""),
        ("elsewhere/trixie-security", ""),
    ]);
    let url = archive.url("debian");
    let build = |imgbuild: &str, more: &[&str]| {
        let project = Project::with_sources(imgbuild, "mmdebstrap");
        // This machine's apt sources.
        project.program("bin/apt-get", "#!/bin/sh\necho \"'$KNOWN/dists/bookworm-security/InRelease' m 0\"\n");
        let mut command = project.command(&["--mirror", &url]);
        command.env("KNOWN", archive.url(if imgbuild.contains("known") { "elsewhere" } else { "nowhere" }));
        let output = command.args(more).env("STANDIN", "").output().unwrap();
        (text(&output.stderr), project)
    };
    let sources = |project: &Project| project.read("out/web/etc/apt/sources.list.d/debian.sources");
    let elsewhere = archive.url("elsewhere");
    for (imgbuild, more) in
        [("", &["--security-mirror", &*elsewhere][..]), (&*format!("debian_security={elsewhere}/\n"), &[])]
    {
        let (said, project) = build(imgbuild, more);
        assert!(said.contains("no trixie-updates that can be used: it has expired (Fri, 04 Dec 2020"), "{said}");
        assert!(!said.contains("NO SECURITY UPDATES"), "{said}");
        assert!(sources(&project).contains(&format!("URIs: {elsewhere}\nSuites: trixie-security\n")));
    }
    let (said, project) = build("known=y\n", &[]);
    assert!(!said.contains("NO SECURITY UPDATES") && sources(&project).contains(&elsewhere), "{said}");
    let (said, project) = build("", &[]);
    assert!(said.contains("the system has NO SECURITY UPDATES") && !sources(&project).contains("security"), "{said}");
    let tried = format!("{}: 404 Not Found", archive.url("nowhere"));
    assert!(said.contains(&format!("{url}-security: 404 Not Found")) && said.contains(&tried), "{said}");
    let (said, project) = build("debian_security=none\n", &[]);
    assert!(!said.contains("NO SECURITY UPDATES") && !sources(&project).contains("security"), "{said}");
    let (said, _) = build("debian_suite=sid\n", &[]);
    assert!(!said.contains("warning"), "{said}");
    // Nothing is begun.
    let (said, project) = build(&format!("debian_security={url}\n"), &[]);
    assert!(said.contains(&format!("has no trixie-security that can be used: {url}: 404 Not Found")), "{said}");
    assert!(!project.path("bin/called").exists());
    let (said, project) = build("debian_suite=trixy\n", &[]);
    assert!(said.contains(&format!("the archive {url} has no trixy that can be used: 404 Not Found")), "{said}");
    assert!(!project.path("bin/called").exists());
}

#[test]
fn sources_of_the_author_are_the_only_ones() {
    if !is_root() {
        return;
    }
    let archive =
        Archive::new(&[("debian/trixie", ""), ("debian/trixie-updates", ""), ("debian-security/trixie-security", "")]);
    let project = Project::with_sources("", "mmdebstrap");
    project.write("web/files/etc/apt/sources.list", "deb http://mine.test/debian trixie main\n");
    project.command(&["--mirror", &archive.url("debian")]).output().unwrap();
    assert_eq!(project.read("out/web/etc/apt/sources.list"), "deb http://mine.test/debian trixie main\n");
    assert!(!project.path("out/web/etc/apt/sources.list.d/debian.sources").exists());
}

/// A value that is another each time, programs that only the building machine has, a file that only the project has.
#[test]
fn what_stands_outside_of_functions_runs_once() {
    if !is_root() {
        return;
    }
    let project = Project::new(
        "target=debian\nformat=dir\nimgname=web\nstamp=$(cat /proc/sys/kernel/random/uuid)\nechos=$(git --version)\n\
         . ./common.sh\nexport shown=yes\nlist='a\n b'\necho >>evaluated\nreadonly quoted=\"it's\"\n\
         setup() {\n    note setup\n}\ncleanup() {\n    note cleanup\n}\n\
         provision() {\n    note provision\n    echo \"$stamp\" >/etc/inside\n    env | grep ^shown >/etc/shown\n    \
         echo \"$list $quoted $echos\" >/etc/list\n    fail\n}\n",
    );
    project.write(
        "web/common.sh",
        "common=1\nnote() {\n    echo \"$1 $stamp $common\"\n}\nfail() {\n    [ ! -e /fail ]\n}\n",
    );
    project.program("bin/git", "#!/bin/sh\necho git 1\n");
    project.write("web/files/etc/stamp.makeimg.template", "$stamp\n");
    let said = project.built(&["--verbose"]);
    let stamp = project.read("out/web/etc/stamp");
    let stamp = stamp.trim();
    for function in ["setup", "provision", "cleanup"] {
        assert!(said.contains(&format!("{function} {stamp} 1\n")), "{function} has another value: {said}");
    }
    assert_eq!(project.read("out/web/etc/inside").trim(), stamp);
    assert_eq!(project.read("out/web/etc/shown"), "shown=yes\n");
    assert_eq!(project.read("out/web/etc/list"), "a\n b it's git 1\n");
    assert_eq!(project.read("web/evaluated"), "\n");
    // An error in a file that is read has that file's line.
    let text = project.read("web/common.sh").replace("    [ ! -e /fail ]", "\n    nosuchcommand");
    project.write("web/common.sh", &text);
    fs::remove_dir_all(project.path("out/web")).unwrap();
    let said = project.fails(&[]);
    assert!(said.contains("web/./common.sh:7: provision() failed (exit status: 127): nosuchcommand"), "{said}");
    project.write("web/IMGBUILD", "target=debian\nformat=dir\neval 'provision() { :; }'\n");
    let said = project.fails(&[]);
    assert!(said.contains("`provision()` is defined by a command that can't be run again"), "{said}");
}

#[test]
fn passwords_are_given_by_their_hashes() {
    if !is_root() {
        return;
    }
    let hash = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/";
    let project = Project::new(&format!(
        "target=debian\nformat=dir\nimgname=web\nusers=alice\npasswords='\n root {hash}\n alice {hash}\n'\n"
    ));
    // The real chpasswd(8).
    let script = "for file in /usr/sbin/chpasswd $(ldd /usr/sbin/chpasswd | grep -o '/[^ ]*'); do\n\
                  mkdir -p \"$0${file%/*}\" && cp \"$file\" \"$0$file\"\ndone";
    assert!(Command::new("sh").args(["-c", script]).arg(project.path("web/files")).status().unwrap().success());
    project.write("web/files/etc/shadow", "root:*:20000:0:99999:7:::\nalice:!:20000:0:99999:7:::\n");
    let said = project.built(&["--verbose"]);
    assert!(!said.contains("$6$"), "{said}");
    let shadow = project.read("out/web/etc/shadow");
    for user in ["root", "alice"] {
        assert!(shadow.lines().any(|line| line.starts_with(&format!("{user}:{hash}:"))), "{shadow}");
    }
    let project = Project::new(&format!("target=debian\nformat=dir\npasswords='bob {hash}'\n"));
    assert!(project.fails(&[]).contains("passwords: the image has no user bob; add bob to users"));
    let project = Project::new("target=debian\nformat=dir\npasswords='root hunter2'\n");
    let said = project.fails(&[]);
    assert!(
        said.contains("IMGBUILD:3: passwords: what follows \"root\" is no hash") && !said.contains("hunter2"),
        "{said}"
    );
}

#[test]
fn what_a_project_says_to_apt_is_there_before_its_packages() {
    if !is_root() {
        return;
    }
    let archive = Archive::new(&[("debian/trixie", ""), ("debian/trixie-updates", "")]);
    for tool in ["mmdebstrap", "debootstrap"] {
        let project = Project::with_sources(
            "debian_security=none\ndebian_keyring=keys/mine.asc\npackages='\n grub-pc\n vim=1.2\n \
             libc6:riscv64\n ./deb/mine.deb\n'\n",
            tool,
        );
        project.write(
            "web/IMGBUILD",
            &format!("{}debian_mirror={}\n", project.read("web/IMGBUILD"), archive.url("debian")),
        );
        for (name, text) in [
            ("apt/mine.sources", "Types: deb\nURIs: https://m.test/mine\nSuites: x\nComponents: main\n"),
            ("apt/mine.pref", "Package: *\nPin: origin m.test\nPin-Priority: 900\n"),
            ("apt/mine.gpg", "keys"),
            ("apt/preseed", "mine mine/question boolean true\n"),
            ("deb/mine.deb", "a package"),
            ("keys/mine.asc", "more keys"),
        ] {
            project.write(&format!("web/{name}"), text);
        }
        // Programs of the image that tell what is there when they are called.
        for program in ["dpkg", "debconf-set-selections", "apt-get"] {
            let note = "#!/bin/sh\n{ echo \"${0##*/} $*\"; [ \"${0##*/}\" != debconf-set-selections ] || cat; \
                        for word; do case $word in /run/*) cat $word; echo ;; esac; done; \
                        ls /etc/apt/*/mine.*; } >>/calls\n";
            project.program(&format!("programs/{program}"), note);
        }
        let standin = project.read(&format!("bin/{tool}"));
        let programs = project.path("programs");
        project.program(&format!("bin/{tool}"), &format!("{standin}cp {}/* \"$root/usr/bin/\"\n", programs.display()));
        let mut command = project.command(&[]);
        let output = command.env("PATH", project.without_mmdebstrap()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        let called = project.read("bin/called");
        assert!(!called.contains("vim") && called.contains("include=ca-certificates"), "{called}");
        let keyring = project.path("web").canonicalize().unwrap().join("keys/mine.asc");
        let option = if tool == "mmdebstrap" { "signed-by=" } else { "--keyring=" };
        assert!(called.contains(&format!("{option}{}", keyring.display())), "{called}");
        let there = "/etc/apt/keyrings/mine.asc\n/etc/apt/keyrings/mine.gpg\n/etc/apt/preferences.d/mine.pref\n\
                     /etc/apt/sources.list.d/mine.sources\n";
        let calls = [
            "dpkg --add-architecture riscv64\n",
            "debconf-set-selections \ngrub-pc grub-pc/install_devices_empty boolean true\n\
             mine mine/question boolean true\n",
            "apt-get -y -q -o Acquire::Languages=none --error-on=any update\n",
            "apt-get -y -q --no-install-recommends dist-upgrade\n",
            "apt-get -y -q --no-install-recommends install -- grub-pc vim=1.2 libc6:riscv64 \
             /run/makeimg/0/mine.deb\na package\n",
            "apt-get -y -q clean\n",
        ];
        assert_eq!(project.read("out/web/calls"), calls.map(|call| format!("{call}{there}")).concat(), "{tool}");
        let sources = project.read("out/web/etc/apt/sources.list.d/debian.sources");
        assert!(sources.contains("Signed-By: /etc/apt/keyrings/mine.asc\n"), "{sources}");
    }
    let project = Project::new("target=debian\nformat=dir\npackages=./none.deb\ndebian_keyring=keys.gpg\n");
    project.write("web/apt/mine.list", "deb http://m.test x main\n");
    let said = project.fails(&[]);
    for part in [
        "web/apt/mine.list: means nothing to makeimg; names there are",
        "none.deb: packages: ./none.deb: there is",
        "keys.gpg: debian_keyring: there is no such file",
    ] {
        assert!(said.contains(part), "{said}");
    }
}
