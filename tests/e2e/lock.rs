//! `anemos base`: from a list of packages to an image, with the ordinary apt tooling; and the image that ships.

use crate::{Outcome, Scenario};
use lab::anemos::Anemos;
use lab::archive::{Fault, Server};
use lab::command::{program, run};
use lab::{Context, Lab, Result, base};
use std::fs;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "lock::lock_build_verify", run: lock_build_verify },
    Scenario { name: "lock::shipped_image_is_whole", run: shipped_image_is_whole },
];

const LIMIT: Duration = Duration::from_secs(300);

fn lock_build_verify(lab: &Lab) -> Result<Outcome> {
    let server = Server::start(lab)?;
    let url = server.url();
    let anemos = Anemos::new(lab, "lock")?;
    let run = |words: &[&str]| anemos.run([&["base"], words].concat(), LIMIT);
    anemos.write("base.toml", "suite = \"trixie\"\narch = \"amd64\"\ninstall = [\"dash\", \"coreutils\"]\n")?;

    let locked = run(&["lock", "--mirror", &url, "--output", "base.lock", "base.toml"])?;
    assert_eq!(locked.code(), 0, "{}", locked.stderr);
    let lock = fs::read_to_string(anemos.dir().join("base.lock")).context("base.lock")?;
    assert!(lock.contains("name = \"dash\"") && lock.contains("name = \"libc6\""), "{lock}");
    assert!(!lock.contains("127.0.0.1"), "a lock names no mirror:\n{lock}");

    let build = |to: &str| run(&["build", "--mirror", &url, "--output", to, "base.lock"]);
    for image in ["one.zst", "two.zst"] {
        let built = build(image)?;
        assert_eq!(built.code(), 0, "{}", built.stderr);
    }
    let image = fs::read(anemos.dir().join("one.zst")).context("the image")?;
    assert_eq!(image, fs::read(anemos.dir().join("two.zst")).context("the other image")?);
    assert_eq!(run(&["verify", "--lock", "base.lock", "one.zst"])?.code(), 0);

    // What isn't right is refused by name, and leaves no image behind.
    let mut wrong = image;
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    fs::write(anemos.dir().join("wrong.zst"), wrong).context("the wrong image")?;
    let refused = run(&["verify", "--lock", "base.lock", "wrong.zst"])?;
    assert_eq!(refused.code(), 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("wrong.zst"), "{}", refused.stderr);
    server.fault("/dash_", Fault::FlipByte(5000));
    let refused = build("three.zst")?;
    assert!(refused.code() != 0 && refused.stderr.contains("dash_"), "{}", refused.stderr);
    assert!(!anemos.dir().join("three.zst").exists());
    Ok(Outcome::Passed)
}

/// Every program's and library's libraries are in the image, and the tools that payloads need start.
const CHECK: &str = r#"
export PATH=/usr/sbin:/usr/bin
find /usr/bin /usr/sbin /usr/lib -type f | while read -r file; do
    [ "$(head -c 4 "$file" | tail -c 3)" = ELF ] || continue
    missing=$(ldd "$file" 2>/dev/null | grep 'not found') && echo "$file: $missing"
done
while read -r command; do
    $command >/tmp/said 2>&1 </dev/null || echo "$command: $(head -n 3 /tmp/said)"
done <<END
apt-get --version
awk BEGIN{}
bash --version
btrfs --version
cryptsetup --version
curl --version
debootstrap --version
dpkg --version
getent passwd sshd
gpgv --version
grub-install --version
grub-mkimage --version
ip -V
kmod --version
lvm version
mdadm --version
mkfs.btrfs --version
mkfs.ext4 -V
mkfs.vfat --help
mkfs.xfs -V
mmdebstrap --version
openssl version
parted --version
patch --version
perl -MEncode -MPOSIX -e1
sfdisk --version
sgdisk --version
ssh-keygen -A
sshd -t
tar --version
test -s /etc/ssl/certs/ca-certificates.crt
vi --version
wget --version
xz --version
zstd --version
END
"#;

fn shipped_image_is_whole(lab: &Lab) -> Result<Outcome> {
    let images = base::ensure(lab)?;
    let root = tempfile::tempdir_in(lab.dir()).context("cannot make a directory in the lab")?;
    // cpio has no option for what the kernel and the agent do: a file in place of one that is as old.
    let unpack = r#"for image in "$0"/*.cpio.zst; do
        zstd -dc "$image" | (cd "$1" && cpio --extract --make-directories --unconditional --quiet)
    done"#;
    run(program("bash").args(["-o", "pipefail", "-ec", unpack]).args([&images, root.path()]))?;
    let output = program("chroot").arg(root.path()).args(["/bin/sh", "-c", CHECK]).output().context("chroot")?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
    Ok(Outcome::Passed)
}
