//! GRUB's updates in a system that makeimg has built: the real GRUB and the real dpkg of this machine, in a chroot on
//! the image. What firmware starts must be of the version that is installed.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::is_root;

/// Makes a root file system of packages that this machine has, with GRUB as the only ones that dpkg knows there.
const STANDIN: &str = r#"#!/bin/sh
set -e
for root in "$@"; do case $root in /*) break ;; esac; done
for dir in bin sbin lib lib64; do
    mkdir -p "$root/usr/$dir"
    [ -e "$root/$dir" ] || ln -s "usr/$dir" "$root/$dir"
done
packages="base-files bash dash coreutils sed grep mawk util-linux mount tar dpkg libc-bin findutils diffutils"
grub="grub-common grub2-common grub-pc-bin grub-efi-amd64-bin"
dpkg -L $packages $grub | grep -vE '^/usr/share/(doc|man|locale|info)' | sort -u | while read -r file; do
    [ -d "$file" ] || [ ! -e "$file" ] || echo "${file#/}"
done >"${0%/*}/files"
# What the linker loads.
(cd / && xargs -a "${0%/*}/files" ldd 2>/dev/null) |
    sed -n 's,.* => /\([^ ]*\) (.*,\1,p; s,^[[:space:]]*/\([^ ]*ld-linux[^ ]*\) (.*,\1,p' | sort -u >>"${0%/*}/files"
tar -C / -chf - --hard-dereference -T "${0%/*}/files" | tar -C "$root" --keep-directory-symlink -xf -
ln -sf dash "$root/usr/bin/sh"
ln -sf mawk "$root/usr/bin/awk"
mkdir -p "$root/var/log" "$root/root" "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates" "$root/tmp" \
    "$root/boot/efi" \
    "$root/etc/dpkg/dpkg.cfg.d"
for package in $grub; do
    printf 'Package: %s\nStatus: install ok installed\nMaintainer: none\nArchitecture: amd64\nVersion: 1\n' "$package"
    printf 'Description: none\n\n'
    : >"$root/var/lib/dpkg/info/$package.list"
done >"$root/var/lib/dpkg/status"
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\n' >"$root/etc/group"
echo kernel >"$root/boot/vmlinuz-1"
echo initramfs >"$root/boot/initrd.img-1"
mkdir -p "$root/etc/apt"
printf 'deb http://m.test/debian stable%s main\n' '' -updates -security >"$root/etc/apt/sources.list"
"#;

/// Mounts the image, and does what the last argument says in it. Its disk and partitions have names that GRUB's tools
/// take for a disk's and not for a loop device's. `/boot/efi` is no FAT there, which not every kernel knows.
const INSIDE: &str = r#"
set -e
export PATH=$PATH:/usr/sbin:/sbin
loop=$(losetup --find --show "$1")
trap 'umount -R "$2" 2>/dev/null || :; umount -l /dev || :; partx -d "$loop" || :; losetup -d "$loop"' EXIT
partx -a "$loop"
nodes=$(cd /sys/block/${loop#/dev/} && for part in . loop*p?; do
    echo "mknod /dev/vdz$(cat $part/partition 2>/dev/null || :) b $(tr : ' ' <$part/dev)"
done)
mount -t tmpfs dev /dev
mknod -m 666 /dev/null c 1 3
eval "$nodes"
mount /dev/vdz1 "$2"
mount -t tmpfs esp "$2/boot/efi"
mount --bind /dev "$2/dev"
mount -t proc proc "$2/proc"
mount -t sysfs sys "$2/sys"
for package in "$3"/*.deb; do [ ! -e "$package" ] || cp "$package" "$2/"; done
cp "$5" "$2/geometry.so"
chroot "$2" /bin/sh -ec "export LD_PRELOAD=/geometry.so; $4"
sync
"#;

/// Has partitions of loop devices say where they begin, as those of disks do (ioctl HDIO_GETGEO, hdio.txt in Linux'
/// documentation): GRUB's tools ask them.
const GEOMETRY: &str = r#"
#include <dlfcn.h>
#include <linux/hdreg.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *data = va_arg(rest, void *);
    va_end(rest);
    int (*next)(int, unsigned long, ...) = dlsym((void *)-1l, "ioctl");
    struct hd_geometry *geometry = data;
    struct stat found;
    char path[80];
    if (request != HDIO_GETGEO || fstat(fd, &found))
        return next(fd, request, data);
    geometry->heads = 255, geometry->sectors = 63, geometry->cylinders = 50, geometry->start = 0;
    snprintf(path, sizeof path, "/sys/dev/block/%u:%u/start", major(found.st_rdev), minor(found.st_rdev));
    FILE *start = fopen(path, "r");
    if (start) {
        if (fscanf(start, "%lu", &geometry->start) != 1)
            return -1;
        fclose(start);
    }
    return 0;
}
"#;

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// A package with a newer version of what GRUB's package has: one text in one of its files is another.
fn newer(dir: &Path, package: &str, file: &str, (old, new): (&[u8], &[u8])) {
    assert_eq!(old.len(), new.len());
    let tree = dir.join(package);
    let mut bytes = fs::read(file).unwrap();
    let at = bytes.windows(old.len()).position(|window| window == old).unwrap_or_else(|| panic!("{file} has no text"));
    bytes[at..at + old.len()].copy_from_slice(new);
    let at = tree.join(file.trim_start_matches('/'));
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(&at, bytes).unwrap();
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    let control = format!(
        "Package: {package}\nVersion: 2\nArchitecture: amd64\nMaintainer: none <none@m.test>\nDescription: newer\n"
    );
    fs::write(tree.join("DEBIAN/control"), control).unwrap();
    run(Command::new("dpkg-deb").args(["-Zgzip", "--build"]).arg(&tree).arg(dir.join(format!("{package}.deb"))));
}

fn has(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

/// A project that was built, and its image.
struct Built {
    dir: tempfile::TempDir,
}

impl Built {
    /// By this stand-in for mmdebstrap(1), with these lines in its IMGBUILD.
    fn new(standin: &str, more: &str) -> Self {
        Self::with(standin, more, None)
    }

    /// The same, with `SOURCE_DATE_EPOCH`.
    fn with(standin: &str, more: &str, epoch: Option<&str>) -> Self {
        let built = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["web", "bin", "mnt", "debs", "none"] {
            fs::create_dir(built.path(name)).unwrap();
        }
        fs::write(built.path("bin/mmdebstrap"), standin).unwrap();
        fs::set_permissions(built.path("bin/mmdebstrap"), fs::Permissions::from_mode(0o755)).unwrap();
        let imgbuild = format!("target=debian\nimgname=web\nformat='raw 400M gpt ext4'\ncmdline='quiet a=1'\n{more}\n");
        fs::write(built.path("web/IMGBUILD"), imgbuild).unwrap();
        let mut build = Command::new(env!("CARGO_BIN_EXE_makeimg"));
        let programs = format!("{}:{}", built.path("bin").display(), std::env::var("PATH").unwrap());
        let (project, to) = (built.path("web"), built.dir.path());
        build.env_remove("SOURCE_DATE_EPOCH").envs(epoch.map(|epoch| ("SOURCE_DATE_EPOCH", epoch)));
        run(build.arg("build").arg("-C").arg(project).arg("-o").arg(to).env("PATH", programs));
        fs::write(built.path("geometry.c"), GEOMETRY).unwrap();
        let [from, to] = ["geometry.c", "geometry.so"].map(|name| built.path(name));
        run(Command::new("gcc").args(["-shared", "-fPIC", "-o"]).arg(to).arg(from));
        built
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file on the image's EFI system partition, as it was made.
    fn esp(&self, file: &str) -> Vec<u8> {
        let from = format!("{}@@2M", self.path("web.img").display());
        let output = Command::new("mcopy").args(["-i", &from, &format!("::/{file}"), "-"]).output().unwrap();
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Does what a script says in the image, beside the packages of a directory.
    fn inside(&self, debs: &str, script: &str) -> String {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", INSIDE, "sh"]).arg(self.path("web.img")).arg(self.path("mnt"));
        run(command.arg(self.path(debs)).arg(script).arg(self.path("geometry.so")))
    }
}

#[test]
fn updates_of_grub_reach_what_firmware_starts() {
    if !is_root() {
        return;
    }
    let built = Built::new(STANDIN, "");
    let (boot, welcome) = ((&b"Hard Disk"[..], &b"HARD DISK"[..]), (&b"Welcome to GRUB"[..], &b"WELCOME TO GRUB"[..]));
    newer(&built.path("debs"), "grub-pc-bin", "/usr/lib/grub/i386-pc/boot.img", boot);
    newer(&built.path("debs"), "grub-efi-amd64-bin", "/usr/lib/grub/x86_64-efi/kernel.img", welcome);
    let efi = built.esp("EFI/BOOT/BOOTX64.EFI");
    assert!(has(&efi, welcome.0) && !has(&efi, welcome.1));
    let first = || fs::read(built.path("web.img")).unwrap()[..512].to_vec();
    assert!(has(&first(), boot.0));

    // Nothing is done for other packages, nor in the middle of an update.
    let nothing = "dpkg --configure -a; [ ! -e /boot/efi/EFI ]; dpkg --unpack --force-depends /grub-pc-bin.deb; \
                   [ ! -e /boot/efi/EFI ]";
    built.inside("debs", nothing);
    assert!(has(&first(), boot.0));
    // A failure is told, and leaves what starts the machine.
    let failing = "mv /usr/bin/grub-mkimage /x; dpkg --configure -a 2>&1; mv /x /usr/bin/grub-mkimage";
    let said = built.inside("none", failing);
    assert!(
        said.contains("makeimg: GRUB has been updated, but could not be put where this machine starts from"),
        "{said}"
    );
    let said = built.inside(
        "debs",
        "dpkg -i --force-depends /grub-efi-amd64-bin.deb 2>&1; cp /boot/efi/EFI/BOOT/BOOTX64.EFI /root/",
    );
    assert!(!said.contains("makeimg:"), "{said}");
    assert!(has(&first(), boot.1), "the boot sector is of the old version: {said}");
    let check = "strings() { tr -c '[:print:]' '\\n' <\"$1\"; }\n\
                 strings /root/BOOTX64.EFI | grep 'WELCOME TO GRUB'\n\
                 strings /root/BOOTX64.EFI | grep search.fs_uuid\n\
                 cmp /usr/lib/grub/x86_64-efi/normal.mod /boot/grub/x86_64-efi/normal.mod\n\
                 cat /boot/grub/makeimg.version\n\
                 dpkg --configure -a; [ ! -e /boot/efi/EFI ]";
    let said = built.inside("none", check);
    assert!(said.contains("grub-pc-bin 2 installed") && said.contains("grub-efi-amd64-bin 2 installed"), "{said}");
}

/// GRUB's paths begin at the top of the file system, and the kernel is told which subvolume the root is.
#[test]
fn a_root_in_a_subvolume_is_found() {
    if !is_root() {
        return;
    }
    let lines = "format='raw 500M gpt btrfs'\nfilesystems='\n/ rest subvol=@\n/var subvol=@var\n'\n";
    let built = Built::new(STANDIN, lines);
    let image = built.path("web.img");
    let menu = run(Command::new("grub-fstest").arg(&image).args(["cat", "(loop0,gpt1)/@/boot/grub/grub.cfg"]));
    let linux = menu.lines().map(str::trim).find(|line| line.starts_with("linux")).unwrap();
    assert!(
        linux.contains("/@/boot/vmlinuz-1 root=UUID=") && linux.contains(" rootflags=subvol=@ quiet a=1"),
        "{linux}"
    );
    assert!(has(&built.esp("EFI/BOOT/BOOTX64.EFI"), b"set prefix=($root)/@/boot/grub"));
}

/// The same bytes, with all that GRUB and its scripts write.
#[test]
fn an_image_with_grub_is_the_same_each_time() {
    if !is_root() {
        return;
    }
    let images = [(); 2].map(|()| Built::with(STANDIN, "", Some("1700000000")));
    let [first, second] = [0, 1].map(|at| images[at].path("web.img"));
    run(Command::new("cmp").arg(&first).arg(&second));
    // It is whole, and GRUB's own reader finds the menu in it.
    let listed = run(Command::new("grub-fstest").arg(&first).args(["cat", "(loop0,gpt1)/boot/grub/grub.cfg"]));
    assert!(listed.contains("vmlinuz-1 root=UUID="), "{listed}");
    assert!(has(&images[0].esp("EFI/BOOT/BOOTX64.EFI"), b"search.fs_uuid"));
}

/// What is signed, with the names that Debian's packages give it. What firmware does with it, a machine of the lab's
/// shows (`reach`, the cell secure-boot.imgbuild).
const SHIM: &str = r#"
for package in shim-signed shim-helpers-amd64-signed grub-efi-amd64-signed; do
    printf 'Package: %s\nStatus: install ok installed\nMaintainer: none\nArchitecture: amd64\nVersion: 1\n' "$package"
    printf 'Description: none\n\n'
    : >"$root/var/lib/dpkg/info/$package.list"
done >>"$root/var/lib/dpkg/status"
mkdir -p "$root/usr/lib/shim" "$root/usr/lib/grub/x86_64-efi-signed"
echo shim 1 >"$root/usr/lib/shim/shimx64.efi.signed"
echo keys 1 >"$root/usr/lib/shim/mmx64.efi.signed"
echo grub 1 >"$root/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
"#;

#[test]
fn what_is_signed_starts_the_system_and_is_updated() {
    if !is_root() {
        return;
    }
    let built = Built::new(&format!("{STANDIN}{SHIM}"), "packages=shim-signed");
    let esp = |name: &str| String::from_utf8(built.esp(name)).unwrap();
    assert_eq!(esp("EFI/BOOT/BOOTX64.EFI"), "shim 1\n");
    assert_eq!(esp("EFI/BOOT/grubx64.efi") + &esp("EFI/BOOT/mmx64.efi"), "grub 1\nkeys 1\n");
    let menu = esp("EFI/debian/grub.cfg");
    assert!(menu.starts_with("search.fs_uuid ") && menu.ends_with("/grub\nconfigfile $prefix/grub.cfg\n"), "{menu}");

    // Of several packages each is of one version with the others only once all are there.
    let nothing = "dpkg --configure -a; [ ! -e /boot/efi/EFI ]\n\
                   sed -i '/^Package: shim-signed/,/^$/s/^Version: 1/Version: 2/' /var/lib/dpkg/status\n\
                   echo shim 2 >/usr/lib/shim/shimx64.efi.signed\n\
                   sed -i '/^Package: grub-efi-amd64-signed/,/^$/s/ installed$/ unpacked/' /var/lib/dpkg/status\n\
                   /usr/local/lib/makeimg/install-grub; [ ! -e /boot/efi/EFI ]";
    built.inside("none", nothing);
    let updated = "sed -i 's/ unpacked$/ installed/' /var/lib/dpkg/status\n\
                   dpkg --configure -a 2>&1\n\
                   cd /boot/efi/EFI/BOOT; ls; cat BOOTX64.EFI grubx64.efi mmx64.efi";
    let said = built.inside("none", updated);
    assert!(said.ends_with("BOOTX64.EFI\ngrubx64.efi\nmmx64.efi\nshim 2\ngrub 1\nkeys 1\n"), "{said}");
}
