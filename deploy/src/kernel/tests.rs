use std::os::unix::fs::{FileExt, symlink};

use proptest::prelude::*;
use tempfile::TempDir;

pub(crate) use super::image::tests::bzimage;
use super::image::tests::{pe, with_stub};
use super::*;

/// Packs with gzip.
pub(crate) fn gz(plain: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(plain, flate2::Compression::best()).read_to_end(&mut packed).unwrap();
    packed
}

/// Packs as kernels are told to pack modules with xz: CRC32, and a dictionary of 2 MiB.
pub(crate) fn xz(plain: &[u8]) -> Vec<u8> {
    use liblzma::stream::{Check, Filters, LzmaOptions, Stream};
    let mut options = LzmaOptions::new_preset(6).unwrap();
    options.dict_size(2 << 20);
    let mut filters = Filters::new();
    filters.lzma2(&options);
    let stream = Stream::new_stream_encoder(&filters, Check::Crc32).unwrap();
    let mut packed = Vec::new();
    liblzma::read::XzEncoder::new_stream(plain, stream).read_to_end(&mut packed).unwrap();
    packed
}

/// Packs with zstd.
pub(crate) fn zst(plain: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(plain, 19).unwrap()
}

/// A host with these files.
fn host(files: &[(&str, Vec<u8>)]) -> (TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::new(dir.path());
    for (path, bytes) in files {
        put(&root, path, bytes);
    }
    (dir, root)
}

/// Writes a file as long as kernels are, with these first bytes.
fn put(root: &Root, path: &str, bytes: &[u8]) {
    let path = root.at(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = File::create(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.set_len((bytes.len() as u64).max(2 * LEAST)).unwrap();
}

fn link(root: &Root, target: &str, link: &str) {
    std::fs::create_dir_all(root.at(link).parent().unwrap()).unwrap();
    symlink(target, root.at(link)).unwrap();
}

fn text(root: &Root, path: &str, text: &str) {
    std::fs::create_dir_all(root.at(path).parent().unwrap()).unwrap();
    std::fs::write(root.at(path), text).unwrap();
}

/// A kernel of this release, as distributions write its version.
fn kernel(release: &str) -> Vec<u8> {
    bzimage(format!("{release} (builder@example) #1 SMP PREEMPT_DYNAMIC").as_bytes())
}

/// A unified kernel image as ukify lays it out, with kernels of these releases.
fn uki(releases: &[&str]) -> Vec<u8> {
    let kernels: Vec<Vec<u8>> = releases.iter().map(|release| with_stub(kernel(release))).collect();
    let mut sections: Vec<(&[u8; 8], &[u8])> =
        vec![(b".text\0\0\0", &[0xcc; 700]), (b".osrel\0\0", b"ID=x\n"), (b".initrd\0", &[0x28; 3000])];
    sections.extend(kernels.iter().map(|kernel| (b".linux\0\0", &kernel[..])));
    pe(&sections)
}

const ID: &str = "4098b3f648d74c13b1f04ccfba7798e8";

/// A distribution: what it is called, its kernel's release, the files and links that it has, and where its kernel is
/// found. Every one also has kernels of other releases, and files that are none.
type Distribution = (&'static str, &'static str, fn(&Root, &str), &'static str);

const DISTRIBUTIONS: &[Distribution] = &[
    (
        "Debian 12",
        "6.1.0-13-cloud-amd64",
        |root, release| {
            put(root, &format!("/boot/vmlinuz-{release}"), &kernel(release));
            link(root, &format!("boot/vmlinuz-{release}"), "/vmlinuz");
        },
        "/boot/vmlinuz-6.1.0-13-cloud-amd64",
    ),
    (
        "Fedora 41",
        "6.11.4-301.fc41.x86_64",
        |root, release| {
            put(root, &format!("/usr/lib/modules/{release}/vmlinuz"), &with_stub(kernel(release)));
            link(root, "usr/lib", "/lib");
        },
        "/usr/lib/modules/6.11.4-301.fc41.x86_64/vmlinuz",
    ),
    (
        "Fedora CoreOS",
        "6.11.3-300.fc41.x86_64",
        |root, release| {
            put(root, &format!("/boot/ostree/fedora-coreos-9d1c{ID}/vmlinuz-{release}"), &kernel(release));
            link(root, ".", "/boot/boot");
        },
        "/boot/ostree/fedora-coreos-9d1c4098b3f648d74c13b1f04ccfba7798e8/vmlinuz-6.11.3-300.fc41.x86_64",
    ),
    (
        "Endless OS",
        "6.5.0-10-generic",
        |root, release| put(root, &format!("/usr/lib/ostree-boot/vmlinuz-{release}-9d1c{ID}"), &kernel(release)),
        "/usr/lib/ostree-boot/vmlinuz-6.5.0-10-generic-9d1c4098b3f648d74c13b1f04ccfba7798e8",
    ),
    (
        "openSUSE Leap",
        "6.4.0-150600.21-default",
        |root, release| {
            put(root, &format!("/usr/lib/modules/{release}/vmlinuz"), &kernel(release));
            link(root, &format!("../usr/lib/modules/{release}/vmlinuz"), &format!("/boot/vmlinuz-{release}"));
            link(root, &format!("vmlinuz-{release}"), "/boot/vmlinuz");
        },
        "/boot/vmlinuz-6.4.0-150600.21-default",
    ),
    (
        "Alpine, a virtual machine",
        "6.6.58-0-virt",
        |root, release| put(root, "/boot/vmlinuz-virt", &kernel(release)),
        "/boot/vmlinuz-virt",
    ),
    (
        "Alpine, diskless",
        "6.6.58-0-lts",
        |root, release| put(root, "/media/usb/boot/vmlinuz-lts", &with_stub(kernel(release))),
        "/media/usb/boot/vmlinuz-lts",
    ),
    (
        "Debian, live",
        "6.12.41+deb13-amd64",
        |root, release| put(root, &format!("/run/live/medium/live/vmlinuz-{release}"), &kernel(release)),
        "/run/live/medium/live/vmlinuz-6.12.41+deb13-amd64",
    ),
    (
        "Alpine, hardware",
        "6.6.58-0-lts",
        |root, release| put(root, "/boot/vmlinuz-lts", &with_stub(kernel(release))),
        "/boot/vmlinuz-lts",
    ),
    (
        "Arch",
        "6.11.5-arch1-1",
        |root, release| put(root, "/boot/vmlinuz-linux", &with_stub(kernel(release))),
        "/boot/vmlinuz-linux",
    ),
    (
        "Arch with a UKI",
        "6.11.5-arch1-1",
        |root, release| put(root, "/efi/EFI/Linux/arch-linux.efi", &uki(&[release])),
        "/efi/EFI/Linux/arch-linux.efi (its kernel)",
    ),
    (
        "systemd's kernel-install, on the EFI partition",
        "6.11.5-arch1-1",
        |root, release| put(root, &format!("/efi/{ID}/{release}/linux"), &with_stub(kernel(release))),
        "/efi/4098b3f648d74c13b1f04ccfba7798e8/6.11.5-arch1-1/linux",
    ),
    (
        "systemd's kernel-install, on a partition of its own",
        "6.11.4-301.fc41.x86_64",
        |root, release| put(root, &format!("/boot/{ID}/{release}/linux"), &with_stub(kernel(release))),
        "/boot/4098b3f648d74c13b1f04ccfba7798e8/6.11.4-301.fc41.x86_64/linux",
    ),
    (
        "systemd's kernel-install, /boot/efi",
        "6.11.4-301.fc41.x86_64",
        |root, release| put(root, &format!("/boot/efi/{ID}/{release}/linux"), &with_stub(kernel(release))),
        "/boot/efi/4098b3f648d74c13b1f04ccfba7798e8/6.11.4-301.fc41.x86_64/linux",
    ),
    (
        "kernel-install's UKI, /boot",
        "6.12.0-55.el10.x86_64",
        |root, release| put(root, &format!("/boot/EFI/Linux/{ID}-{release}.efi"), &uki(&[release])),
        "/boot/EFI/Linux/4098b3f648d74c13b1f04ccfba7798e8-6.12.0-55.el10.x86_64.efi (its kernel)",
    ),
    (
        "CentOS Stream with kernel-uki-virt",
        "5.14.0-522.el9.x86_64",
        |root, release| {
            put(root, &format!("/boot/efi/EFI/Linux/{ID}-{release}.efi"), &uki(&["5.14.0-1.el9.x86_64", release]));
        },
        "/boot/efi/EFI/Linux/4098b3f648d74c13b1f04ccfba7798e8-5.14.0-522.el9.x86_64.efi (its kernel)",
    ),
    (
        "NixOS",
        "6.6.60",
        |root, release| {
            put(root, "/nix/store/8ni4-linux-6.6.60/bzImage", &with_stub(kernel(release)));
            link(root, "/nix/store/x1v9-nixos-system-web1-24.05", "/run/booted-system");
            link(root, "/nix/store/8ni4-linux-6.6.60/bzImage", "/nix/store/x1v9-nixos-system-web1-24.05/kernel");
        },
        "/run/booted-system/kernel",
    ),
    (
        "NixOS, with its boot loader only",
        "6.6.60",
        |root, release| put(root, "/boot/kernels/8ni4-linux-6.6.60-bzImage", &kernel(release)),
        "/boot/kernels/8ni4-linux-6.6.60-bzImage",
    ),
    (
        "Guix",
        "6.11.5",
        |root, release| {
            put(root, "/gnu/store/4x2q-linux-libre-6.11.5/bzImage", &kernel(release));
            link(root, "/gnu/store/7p0s-system", "/run/booted-system");
            link(root, "/gnu/store/4x2q-linux-libre-6.11.5", "/gnu/store/7p0s-system/kernel");
        },
        "/run/booted-system/kernel/bzImage",
    ),
    (
        "Gentoo",
        "6.6.52-gentoo-x86_64",
        |root, release| put(root, &format!("/boot/kernel-{release}"), &with_stub(kernel(release))),
        "/boot/kernel-6.6.52-gentoo-x86_64",
    ),
    (
        "Slackware",
        "5.15.19",
        |root, release| {
            put(root, "/boot/vmlinuz-generic-5.15.19", &kernel(release));
            link(root, "vmlinuz-generic-5.15.19", "/boot/vmlinuz");
        },
        "/boot/vmlinuz",
    ),
    (
        "Flatcar",
        "6.6.54-flatcar",
        |root, release| {
            put(root, "/boot/flatcar/vmlinuz-a", &with_stub(kernel(release)));
            put(root, "/boot/flatcar/vmlinuz-b", &with_stub(kernel("6.6.48-flatcar")));
        },
        "/boot/flatcar/vmlinuz-a",
    ),
    (
        "a link to another place",
        "6.1.0",
        |root, release| {
            put(root, "/mnt/boot/custom", &kernel(release));
            link(root, "mnt/boot", "/boot");
        },
        "/boot/custom",
    ),
];

#[test]
fn wherever_distributions_keep_it() {
    for (distribution, release, lay_out, expected) in DISTRIBUTIONS {
        let (_dir, root) = host(&[("/efi/EFI/BOOT/BOOTX64.EFI", pe(&[(b".text\0\0\0", &[0xcc; 900])]))]);
        lay_out(&root, release);
        for (path, bytes) in [
            ("/boot/aaa-older", kernel("4.19.0")),
            ("/boot/config", b"CONFIG_64BIT=y\n".to_vec()),
            ("/boot/efi/EFI/Linux/aaa.efi", uki(&["6.0.1", "6.0.2"])),
            ("/boot/initramfs", b"070701".to_vec()),
            ("/boot/memtest", with_stub(vec![0; 0x1000])),
        ] {
            put(&root, path, &bytes);
        }
        text(&root, "/boot/grub/x86_64-efi/normal.mod", "\x7fELF");
        let found = find(&root, release).unwrap_or_else(|error| panic!("{distribution}: {error}"));
        assert_eq!(found.name, *expected, "{distribution}");
        let (bytes, file) = found.read().unwrap();
        assert_eq!(version(&bytes).as_deref(), Ok(*release), "{distribution}");
        // The kernel reads the file by itself, and from its beginning.
        let mut same = vec![0; bytes.len()];
        file.read_exact_at(&mut same, 0).unwrap();
        assert!(same == bytes && file.metadata().unwrap().len() == bytes.len() as u64, "{distribution}");
    }
}

#[test]
fn of_a_uki_only_its_kernel_is_used() {
    let (_dir, root) = host(&[("/efi/EFI/Linux/x.efi", uki(&["6.8.1", "6.8.2"]))]);
    let (bytes, _) = find(&root, "6.8.2").unwrap().read().unwrap();
    assert!(bytes == with_stub(kernel("6.8.2")));
    // One that is cut off.
    let file = File::options().write(true).open(root.at("/efi/EFI/Linux/x.efi")).unwrap();
    file.set_len(uki(&["6.8.1"]).len() as u64 + 100).unwrap();
    find(&root, "6.8.2").unwrap_err();
}

#[test]
fn an_error_names_what_there_is() {
    let (_dir, root) = host(&[]);
    let error = find(&root, "1.2").unwrap_err().to_string();
    let places = "/usr/lib/modules/1.2, /run/booted-system, /boot, /efi, /usr/lib/ostree-boot";
    assert!(error.contains(&format!("finding the image of kernel 1.2: there is no kernel image in {places} (mount")));
    for number in 0..40 {
        put(&root, &format!("/boot/vmlinuz-{number:02}"), &kernel(&format!("3.{number}")));
    }
    put(&root, "/boot/vmlinuz-1.2", b"\x7fELF");
    text(&root, "/usr/lib/modules/1.2/vmlinuz", "");
    link(&root, "vmlinuz-00", "/boot/a-link");
    let error = find(&root, "1.2").unwrap_err().to_string();
    let said = "/boot/vmlinuz-1.2: it is no x86 kernel image (bzImage); /usr/lib/modules/1.2/vmlinuz: it is no x86 \
                kernel image (bzImage); /boot/a-link: it is kernel 3.0; /boot/vmlinuz-01: it is kernel 3.1; \
                /boot/vmlinuz-02: it is kernel 3.2; /boot/vmlinuz-03: it is kernel 3.3; 36 more (";
    assert!(error.contains(said) && error.len() < 1000, "{error}");
}

/// What would take for ever, or leads nowhere.
#[test]
fn what_is_no_file_is_passed_over() {
    let (_dir, root) = host(&[("/boot/z", kernel("1.2"))]);
    let fifo = rustix::fs::FileType::Fifo;
    for path in ["/boot/fifo", "/boot/vmlinuz-1.2"] {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, root.at(path), fifo, mode, 0).unwrap();
    }
    for (target, path) in [("loop", "loop"), ("nothing", "gone"), ("/dev/zero", "zero"), ("..", "up")] {
        link(&root, target, &format!("/boot/{path}"));
    }
    assert_eq!(find(&root, "1.2").unwrap().name, "/boot/z");
}

#[test]
fn a_search_has_an_end() {
    let deep = "/boot/1/2/3/4/5/vmlinuz";
    let (_dir, root) = host(&[(deep, kernel("1.2"))]);
    find(&root, "1.2").unwrap_err();
    std::fs::rename(root.at("/boot/1/2/3/4/5"), root.at("/boot/1/2/3/5")).unwrap();
    find(&root, "1.2").unwrap();
    let look = |left| {
        let mut search = Search { root: &root, release: "1.2", left, seen: Vec::new(), others: Vec::new() };
        search.directory("/boot", DEPTH).is_some()
    };
    // 1, 1/2, 1/2/3, 1/2/3/4 (which is empty), 1/2/3/5 and the kernel.
    assert!(look(6) && !look(5));
}

/// What Debian 12's kernel has (shortened).
const CONFIG: &str = "#\n# Linux/x86 6.1.0 Kernel Configuration\n#\nCONFIG_64BIT=y\nCONFIG_CGROUPS=y\n\
    CONFIG_CGROUP_BPF=y\nCONFIG_BPF_SYSCALL=y\nCONFIG_BLK_DEV_INITRD=y\nCONFIG_SECCOMP_FILTER=y\nCONFIG_DEVTMPFS=y\n\
    CONFIG_TMPFS=y\nCONFIG_TMPFS_XATTR=y\n# CONFIG_RD_LZO is not set\nCONFIG_IKCONFIG=m\n";

#[test]
fn what_a_configuration_lacks() {
    assert_eq!(not_in(CONFIG), Vec::<String>::new());
    for (from, to, lacks) in [
        ("CONFIG_CGROUP_BPF=y", "# CONFIG_CGROUP_BPF is not set", &["CONFIG_CGROUP_BPF"][..]),
        ("CONFIG_TMPFS=y", "", &["CONFIG_TMPFS"]),
        ("CONFIG_BLK_DEV_INITRD=y\nCONFIG_SECCOMP_FILTER=y", "", &["CONFIG_BLK_DEV_INITRD", "CONFIG_SECCOMP_FILTER"]),
        // It is of another machine, or no configuration.
        ("CONFIG_64BIT=y\nCONFIG_CGROUPS=y", "", &[]),
    ] {
        assert_eq!(not_in(&CONFIG.replace(from, to)), lacks, "{from}");
    }
    assert_eq!(not_in(""), Vec::<String>::new());
}

#[test]
fn what_the_running_kernel_lacks() {
    let (_dir, root) = host(&[]);
    let old = "the device filters of Linux 4.15";
    for (release, lacking) in [
        ("4.14.336-257.562.amzn2.x86_64", &[old][..]),
        ("3.10.0-1160.el7.x86_64", &[old]),
        ("4.15.0-213-generic", &[]),
        ("4.18.0-553.el8_10.x86_64", &[]),
        ("6.12", &[]),
        ("5-custom", &[]),
        ("custom", &[]),
    ] {
        assert_eq!(lacks(&root, release), lacking, "{release}");
    }
    // The kernel's own word counts before its package's, and a text that is no configuration for nothing.
    text(&root, "/usr/lib/modules/6.1/config", &CONFIG.replace("CONFIG_TMPFS=y\n", ""));
    text(&root, "/usr/lib/modules/6.1/modules.dep", "");
    assert_eq!(lacks(&root, "6.1"), ["CONFIG_TMPFS"]);
    text(&root, "/boot/config-6.1", &CONFIG.replace("CONFIG_DEVTMPFS=y\n", ""));
    assert_eq!(lacks(&root, "6.1"), ["CONFIG_DEVTMPFS"]);
    let own = CONFIG.replace("CONFIG_CGROUP_BPF=y", "# CONFIG_CGROUP_BPF is not set");
    std::fs::create_dir_all(root.at("/proc")).unwrap();
    std::fs::write(root.at("/proc/config.gz"), gz(own.as_bytes())).unwrap();
    assert_eq!(lacks(&root, "6.1"), ["CONFIG_CGROUP_BPF"]);
    let error = check(&root, "6.1").unwrap_err().to_string();
    assert!(error.contains("the host's kernel 6.1 lacks CONFIG_CGROUP_BPF"), "{error}");
    std::fs::write(root.at("/proc/config.gz"), "nonsense").unwrap();
    assert_eq!(lacks(&root, "6.1"), ["CONFIG_DEVTMPFS"]);
    text(&root, "/boot/config-6.1", "nonsense");
    check(&root, "6.1").unwrap();
}

#[test]
fn without_its_modules() {
    let (_dir, root) = host(&[]);
    text(&root, "/proc/modules", "virtio_net 1 0 - Live 0x0\n");
    assert_eq!(lacks(&root, "6.1"), ["its modules (/lib/modules/6.1)"]);
    text(&root, "/usr/lib/modules/6.1/modules.dep.bin", "");
    assert_eq!(lacks(&root, "6.1"), ["/usr/lib/modules/6.1/modules.dep, which depmod makes"]);
    text(&root, "/proc/modules", "");
    assert_eq!(lacks(&root, "6.1"), Vec::<String>::new(), "it uses none");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is in /boot, one that is found is of the release.
    #[test]
    fn nothing_else_is_found(at in 0..0x1000_usize, byte in 0..=255_u8, size in 0..0x4000_usize) {
        for mut image in [kernel("6.1.2"), uki(&["6.1.2"])] {
            image[at] = byte;
            image.truncate(size);
            let (_dir, root) = host(&[("/boot/x", image)]);
            if let Ok(found) = find(&root, "6.1.2") {
                let (bytes, _) = found.read().unwrap();
                prop_assert_eq!(version(&bytes), Ok("6.1.2".to_owned()));
            }
        }
    }
}
