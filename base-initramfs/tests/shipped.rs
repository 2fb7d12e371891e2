//! The lock that ships, for real: from the machine's own mirror, unpacked, entered.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anemos_base::{Archive, Fetcher, Limits, Lock, build, mirrors_from_apt_sources, verify};

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

#[test]
#[ignore = "downloads 73 MB from the machine's Debian mirror, and needs root for chroot"]
fn builds_and_runs() {
    let lock = Lock::parse("base.lock", include_str!("../base.lock")).unwrap();
    let mirrors = mirrors_from_apt_sources(Path::new("/etc/apt"));
    assert!(!mirrors.is_empty(), "this machine's apt sources name no mirror");
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image.zst");
    let fetcher = Fetcher::new(Limits::default());
    let archive = Archive::new(&fetcher, &lock, mirrors, None);
    let built = build(&lock, &archive, 3, File::create(&image).unwrap(), &mut |_| {}).unwrap();
    assert_eq!(verify(&lock, File::open(&image).unwrap()).unwrap(), built);

    let root = directory.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let mut cpio = Command::new("cpio")
        .args(["--extract", "--make-directories", "--quiet"])
        .current_dir(&root)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    zstd::stream::copy_decode(File::open(&image).unwrap(), cpio.stdin.take().unwrap()).unwrap();
    assert!(cpio.wait().unwrap().success());
    let output = Command::new("chroot").arg(&root).args(["/bin/sh", "-c", CHECK]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
}
