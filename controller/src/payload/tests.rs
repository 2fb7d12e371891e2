//! Payloads that are packed, and payloads that are refused.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;

const DEPLOY: &[u8] = b"#!/bin/sh\nset -eu\n";

fn write(path: &Path, contents: &[u8], mode: u32) {
    fs::write(path, contents).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A directory with nothing but a good `deploy`.
fn payload() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("deploy"), DEPLOY, 0o755);
    dir
}

/// What the user sees, with the directory's name replaced.
fn refusal(dir: &Path) -> String {
    pack(dir).unwrap_err().to_string().replace(&dir.display().to_string(), "DIR")
}

/// Name, type, mode, contents or target.
fn unpack(packed: &Packed) -> Vec<(String, tar::EntryType, u32, String)> {
    let mut archive = tar::Archive::new(zstd::Decoder::new(&packed.bytes[..]).unwrap());
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
        assert_eq!((header.username().unwrap(), header.groupname().unwrap()), (Some(""), Some("")));
        let (kind, mode) = (header.entry_type(), header.mode().unwrap());
        let name = entry.path().unwrap().display().to_string();
        let target = entry.link_name().unwrap().map(|target| target.display().to_string());
        let mut contents = String::new();
        entry.read_to_string(&mut contents).unwrap();
        (name, kind, mode, target.unwrap_or(contents))
    });
    entries.collect()
}

#[test]
fn everything_is_packed_in_order_and_made_plain() {
    let dir = payload();
    let root = dir.path();
    fs::create_dir_all(root.join("files/etc")).unwrap();
    fs::set_permissions(root.join("files"), fs::Permissions::from_mode(0o700)).unwrap();
    write(&root.join("files/etc/motd"), b"hello\n", 0o600);
    write(&root.join("files/run"), b"x", 0o775);
    write(&root.join("files-2"), b"", 0o664);
    write(&root.join(".hidden"), b"h", 0o644);
    symlink("/usr/share/zoneinfo/UTC", root.join("files/etc/localtime")).unwrap();
    symlink("../run", root.join("files/etc/run")).unwrap();
    fs::create_dir_all(root.join(".git/objects")).unwrap();
    write(&root.join("files/.git"), b"gitdir: elsewhere", 0o644);
    let long = "n".repeat(200);
    write(&root.join(&long), b"long", 0o644);

    let packed = pack(root).unwrap();
    let (dir_type, file, link) = (tar::EntryType::Directory, tar::EntryType::Regular, tar::EntryType::Symlink);
    let expected = [
        (".hidden", file, 0o644, "h"),
        ("deploy", file, 0o755, "#!/bin/sh\nset -eu\n"),
        ("files", dir_type, 0o755, ""),
        ("files-2", file, 0o644, ""),
        ("files/etc", dir_type, 0o755, ""),
        ("files/etc/localtime", link, 0o777, "/usr/share/zoneinfo/UTC"),
        ("files/etc/motd", file, 0o644, "hello\n"),
        ("files/etc/run", link, 0o777, "../run"),
        ("files/run", file, 0o755, "x"),
        (&long, file, 0o644, "long"),
    ]
    .map(|(name, kind, mode, contents)| (name.to_owned(), kind, mode, contents.to_owned()));
    // tar marks directories with a slash at the end, or not; the names are what counts.
    let mut unpacked = unpack(&packed);
    for (name, ..) in &mut unpacked {
        name.truncate(name.trim_end_matches('/').len());
    }
    assert_eq!(unpacked, expected);
    assert_eq!((packed.entries, packed.unpacked), (10, DEPLOY.len() as u64 + 6 + 1 + 1 + 4));
    assert_eq!(packed.warnings, [""; 0]);
}

#[test]
fn equal_contents_are_equal_bytes_whatever_else_differs() {
    let (one, two) = (payload(), payload());
    for (dir, names, mode, age) in [(&one, ["b", "a"], 0o644, 0), (&two, ["a", "b"], 0o600, 1_000_000)] {
        for name in names {
            write(&dir.path().join(name), name.as_bytes(), mode);
            let time = SystemTime::now() - Duration::from_secs(age);
            File::open(dir.path().join(name)).unwrap().set_modified(time).unwrap();
        }
    }
    let (first, second) = (pack(one.path()).unwrap(), pack(two.path()).unwrap());
    assert_eq!(first.bytes, second.bytes);
    assert_eq!(first.digest, second.digest);
    write(&two.path().join("a"), b"a", 0o744);
    assert_ne!(pack(two.path()).unwrap().digest, first.digest, "an x bit counts");
}

#[test]
fn the_bytes_are_those_of_last_time() {
    // The digest names the payload in the host's cache: another compressor or tar writer is a new name for everything.
    let dir = payload();
    write(&dir.path().join("data"), "some text, again and again; ".repeat(500).as_bytes(), 0o644);
    let packed = pack(dir.path()).unwrap();
    assert_eq!(packed.digest.to_string(), "69c9d49119da1d59140413339cd5287c1999145c6ae769c9295852648ebd4ab9");
    assert!(packed.bytes.len() < 400, "{}", packed.bytes.len());
}

#[test]
fn a_payload_needs_a_script_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    let deploy = dir.path().join("deploy");
    assert_eq!(
        refusal(dir.path()),
        "payload DIR has no file `deploy` and no IMGBUILD: put the script that builds the new system there, or the \
         description of it"
    );
    let imgbuild = dir.path().join("IMGBUILD");
    write(&imgbuild, b"\ntarget=debain\nformat='raw 8G dos'\n", 0o644);
    assert_eq!(
        refusal(dir.path()),
        "DIR/IMGBUILD:2: target: \"debain\" is no target; did you mean \"debian\"?\n\
         DIR/IMGBUILD:3: format: \"dos\" is no partition table; there are msdos, gpt"
    );
    write(&imgbuild, b"target=debian\nformat=custom\n", 0o644);
    let refused = pack(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("IMGBUILD:2: format: with `custom`, setup() makes the layout of the disk"), "{refused}");
    write(&imgbuild, b"target=alpine\n", 0o644);
    let refused = pack(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("IMGBUILD:1: target: a machine does not build `alpine` on its own disk"), "{refused}");
    write(&imgbuild, b"target=arch\n", 0o644);
    let refused = pack(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("/mirrorlist: there is no such file"), "{refused}");
    write(&imgbuild, b"target=debian\npakages=x\nfilesystems='\n/srv 1G keep\nnone keep LABEL=old\n'\n", 0o644);
    let keep = |label: &str, or_made| Keep { label: label.into(), or_made };
    let Checked { keeps, warnings, .. } = check_script(dir.path()).unwrap();
    assert_eq!(keeps, [keep("srv", true), keep("old", false)]);
    assert!(warnings.len() == 1 && warnings[0].contains("IMGBUILD:2: "), "{warnings:?}");
    fs::create_dir(&deploy).unwrap();
    assert_eq!(refusal(dir.path()), "DIR/deploy is not a file: it must be the script that builds the new system");
    fs::remove_dir(&deploy).unwrap();
    write(&deploy, DEPLOY, 0o644);
    assert_eq!(refusal(dir.path()), "DIR/deploy is not executable: chmod +x DIR/deploy");
    write(&deploy, b"echo hello\n", 0o755);
    assert_eq!(
        refusal(dir.path()),
        "DIR/deploy is neither a script with a first line such as #!/bin/sh nor a program: the kernel would not run it"
    );
    write(&deploy, b"#!/bin/sh\r\necho hello\r\n", 0o755);
    assert_eq!(
        refusal(dir.path()),
        "DIR/deploy ends its first line with a carriage return: the host would look for an interpreter of that name; \
         save it with Unix line ends"
    );
    write(&deploy, b"\x7fELF...", 0o755);
    assert!(pack(dir.path()).is_ok());
    fs::remove_file(&deploy).unwrap();
    write(&dir.path().join("real"), DEPLOY, 0o755);
    symlink("real", &deploy).unwrap();
    assert!(pack(dir.path()).is_ok(), "a link within the payload is as good");

    assert_eq!(refusal(&dir.path().join("real")), "payload DIR is not a directory");
    assert_eq!(refusal(&dir.path().join("nothing")), "payload DIR is not a directory");
}

/// A payload names groups of the base itself, hosts.toml names others in place of those, and an IMGBUILD has its own on
/// top.
#[test]
fn what_a_payload_needs() {
    let dir = payload();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let needs = || pack(dir.path()).unwrap().needs;
    let of_host = words(&["volumes"]);
    assert!(!pack(dir.path()).unwrap().is_imgbuild);
    assert_eq!(needs(), Needs::default());
    assert_eq!(needs().with(None), None);
    assert_eq!(needs().with(Some(&of_host)), Some(of_host.clone()));
    let file = dir.path().join("needs");
    write(&file, b"# what is used\n\n  grub # for BIOS\ndisk\ngrub\n", 0o644);
    assert_eq!(needs().with(None), Some(words(&["disk", "grub"])));
    assert_eq!(needs().with(Some(&of_host)), Some(of_host.clone()));
    assert_eq!(needs().with(Some(&Vec::new())), Some(Vec::new()));
    write(&file, b"disk\nlvm2 mdadm\n", 0o644);
    assert_eq!(
        refusal(dir.path()),
        "DIR/needs:2: `lvm2 mdadm` is no name of a group of the base: those are of a-z, 0-9 and -"
    );

    fs::remove_file(dir.path().join("deploy")).unwrap();
    fs::remove_file(&file).unwrap();
    let imgbuild = |text: &str| write(&dir.path().join("IMGBUILD"), text.as_bytes(), 0o644);
    imgbuild("target=debian\n");
    assert!(pack(dir.path()).unwrap().is_imgbuild);
    assert_eq!(needs().with(None), Some(words(&["debian", "disk", "tools"])));
    assert_eq!(needs().with(Some(&of_host)), Some(words(&["debian", "disk", "tools", "volumes"])));
    assert!(pack(dir.path()).unwrap().is_unsigned);
    for more in ["packages='vim\nshim-signed'", "packages=shim-signed=1.2", "bootloader=none"] {
        imgbuild(&format!("target=debian\n{more}\n"));
        assert!(!pack(dir.path()).unwrap().is_unsigned, "{more}");
    }
    for format in ["format='raw 8G gpt btrfs'", "filesystems='\n/ 4G\n/srv rest xfs\n'"] {
        imgbuild(&format!("target=debian\n{format}\n"));
        assert_eq!(needs().with(None), Some(words(&["debian", "disk", "filesystems", "tools"])), "{format}");
    }
    let encrypted = "packages=cryptsetup-initramfs\nfilesystems='\n/boot 1G\n/ luks=system\n'";
    imgbuild(&format!("target=debian\n{encrypted}\n"));
    assert!(refusal(dir.path()).contains("the project has no file luks/system"), "{}", refusal(dir.path()));
    fs::create_dir(dir.path().join("luks")).unwrap();
    write(&dir.path().join("luks/system.age"), b"hidden", 0o644);
    assert_eq!(needs().with(None), Some(words(&["debian", "disk", "tools", "volumes"])));
    let arch = |text: &str| {
        write(&dir.path().join("mirrorlist"), b"Server = file:///here\n", 0o644);
        imgbuild(&format!("target=arch\n{text}"));
        needs().with(None).unwrap()
    };
    assert_eq!(arch(""), words(&["arch", "disk", "tools"]));
    // What runs in RAM may call anything.
    let lock = include_str!("../../../base-initramfs/base.lock");
    let lock = anemos_base::Lock::parse("base.lock", lock).unwrap();
    let all = lock.narrowed(Some(&arch("cleanup() { :; }\n"))).unwrap().groups.len();
    assert_eq!(all, lock.groups.len());
    imgbuild("target=debian\nsetup() { :; }\n");
    assert_eq!(needs().with(None), None);
}

#[test]
fn what_a_host_could_not_have_is_refused() {
    let dir = payload();
    let path = dir.path().join("sock");
    let _socket = UnixListener::bind(&path).unwrap();
    assert_eq!(refusal(dir.path()), "DIR/sock is a socket: a payload has only files, directories and symbolic links");
    fs::remove_file(&path).unwrap();

    fs::create_dir(dir.path().join("sub")).unwrap();
    let link = dir.path().join("sub/link");
    for (target, refused) in
        [("../../etc/passwd", true), ("..", false), ("../x/../../y", true), ("a/../../deploy", false)]
    {
        symlink(target, &link).unwrap();
        if refused {
            assert_eq!(
                refusal(dir.path()),
                format!(
                    "DIR/sub/link is a link to {target}, outside of the payload: it would lead nowhere on the host; \
                     copy what it means into the payload"
                )
            );
        } else {
            assert!(pack(dir.path()).is_ok(), "{target}");
        }
        fs::remove_file(&link).unwrap();
    }

    let status = std::process::Command::new("mkfifo").arg(dir.path().join("pipe")).status().unwrap();
    assert!(status.success());
    assert_eq!(
        refusal(dir.path()),
        "DIR/pipe is a named pipe: a payload has only files, directories and symbolic links"
    );
}

#[test]
fn a_payload_too_large_is_refused_before_it_is_read() {
    let dir = payload();
    let file = File::create(dir.path().join("image.raw")).unwrap();
    // The file is sparse: it takes no room, and no time unless somebody reads it.
    file.set_len(MAX_SIZE + (10 << 20)).unwrap();
    assert_eq!(
        refusal(dir.path()),
        "payload DIR is larger than 256 MiB, and it must fit into the host's memory: let `deploy` download the large \
         parts; the largest here is image.raw (266 MiB)"
    );
}

#[test]
fn a_payload_that_takes_long_to_send_is_a_warning() {
    let dir = payload();
    // Noise, so that it stays large: a counter through SHA-256.
    let noise: Vec<u8> =
        (0_u32..180_000).flat_map(|n| digest::digest(&digest::SHA256, &n.to_be_bytes()).as_ref().to_vec()).collect();
    write(&dir.path().join("noise"), &noise, 0o644);
    let warnings = pack(dir.path()).unwrap().warnings.join("\n").replace(&dir.path().display().to_string(), "DIR");
    assert_eq!(warnings, "payload DIR is 5 MiB when packed, all of which goes over this machine's link to each host");
}

/// A secret may have another name there, and so may the payload.
#[test]
fn secrets_are_not_in_it_by_any_name() {
    let (dir, outside) = (payload(), tempfile::tempdir().unwrap());
    let at = |name: &str| outside.path().join(name);
    write(&at("apart"), b"secret", 0o600);
    fs::write(dir.path().join("key"), "secret").unwrap();
    symlink(dir.path(), at("way")).unwrap();
    symlink(dir.path().join("key"), at("link")).unwrap();
    fs::hard_link(dir.path().join("key"), at("other"))
        .unwrap_or_else(|_| symlink(dir.path().join("key"), at("other")).unwrap());
    let packed = pack(&at("way")).unwrap();
    let apart = |name: &str| packed.files.keep_apart(dir.path(), [at("apart"), at(name)].iter());
    for name in ["way/key", "link", "other"] {
        let error = apart(name).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{} is secret, but a file of the payload", at(name).display())), "{error}");
    }
    apart("gone").unwrap();
}

#[test]
fn a_file_that_can_t_be_read_is_named() {
    let dir = payload();
    let entry = Entry { name: "gone".into(), kind: Kind::File { size: 3, executable: false } };
    let append_entry = |entry: &Entry| append(&mut tar::Builder::new(Cursor::new(Vec::new())), dir.path(), entry);
    let error = append_entry(&entry).unwrap_err();
    let gone = dir.path().join("gone").display().to_string();
    assert_eq!(error.to_string(), format!("can't read {gone}: No such file or directory (os error 2)"));
    for contents in ["ab", "abcd"] {
        write(&dir.path().join("gone"), contents.as_bytes(), 0o644);
        let error = append_entry(&entry).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{} changed while it was packed: try again", dir.path().join("gone").display())
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_packed_unpacks_to_the_same(
        files in prop::collection::btree_map("[a-c]{1,2}/[a-zé -]{1,9}", "[ -~\n]{0,40}", 0..6)
    ) {
        let dir = payload();
        let mut expected: BTreeMap<String, String> = files;
        for (name, contents) in &expected {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            write(&path, contents.as_bytes(), 0o644);
        }
        expected.insert("deploy".into(), String::from_utf8(DEPLOY.to_vec()).unwrap());
        let unpacked = unpack(&pack(dir.path()).unwrap());
        let files = unpacked.into_iter().filter(|(_, kind, _, _)| kind.is_file());
        prop_assert_eq!(files.map(|(name, _, _, contents)| (name, contents)).collect::<BTreeMap<_, _>>(), expected);
    }
}
