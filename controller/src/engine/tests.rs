//! The bootstrap script, under the shells that hosts have.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};

use anemos_proto::config::Finish;

use super::fleet::How;
use super::packing::{PACKINGS, Packing, StageBinary};
use super::root::Way;
use super::{End, became, root, script};
use crate::journal::samples;
use crate::report::{Ending, Summary};

/// What begins a command that may mount, and is root as far as it can tell: nothing for root, a user namespace for
/// others. None where the kernel lets others have none.
static NAMESPACE: LazyLock<Option<&[&str]>> = LazyLock::new(|| {
    let root: &[&str] = &["unshare", "--mount"];
    let other: &[&str] = &["unshare", "--mount", "--map-root-user"];
    let works = |command: &&&[&str]| {
        let mounted = Command::new(command[0])
            .args(&command[1..])
            .args(["mount", "-t", "tmpfs", "none", "/run"])
            .stderr(Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success())
    };
    [root, other].iter().find(works).copied()
});

/// Runs `$@` where the directories in which the stage may be put are empty and private, and lists what it leaves there
/// in the file `$0`. fish makes directories in the home directory, which therefore is another.
const PRIVATE: &str = "for dir in /mnt /var/lib /var/cache /root /run; do mount -t tmpfs none $dir || exit; done
eval \"$PREPARE\"
export HOME=/mnt; \"$@\"; status=$?; find /var/lib /root /run -mindepth 1 >\"$0\"; exit $status";

/// Whether the script can be run here. If not, it says so past libtest, which shows nothing of a test that passes.
fn can_run_the_script() -> bool {
    if NAMESPACE.is_none() {
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        let why = "it needs a mount namespace of its own, which only root may make here";
        let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
    }
    NAMESPACE.is_some()
}

/// The command that starts a stage for a user who is root.
fn bootstrap(stage: &StageBinary) -> String {
    root::command(&script::bootstrap(stage), &Way::Login)
}

/// Stands in for the stage: says how it was called, and what it reads.
const FAKE: &[u8] =
    b"#!/bin/sh\necho \"fake $*\"\ncat\ngrep -q \" $3 \" /proc/mounts && umount -l \"$3\"\nrm -rf \"$3\"\n";

fn there(path: &&str) -> bool {
    Path::new(path).exists()
}

fn shells() -> Vec<Vec<&'static str>> {
    let mut shells = vec![vec!["/bin/sh"]];
    shells.extend(["/bin/dash", "/bin/bash"].into_iter().filter(there).map(|path| vec![path]));
    if there(&"/bin/busybox") {
        shells.push(vec!["/bin/busybox", "sh"]);
    }
    shells
}

/// Shells that somebody may have for a login shell, as they are found on PATH.
fn login_shells() -> Vec<Vec<String>> {
    let path = std::env::var("PATH").unwrap();
    let found = |name: &str| path.split(':').map(|dir| format!("{dir}/{name}")).find(|path| there(&&**path));
    let others = ["fish", "tcsh", "csh", "zsh", "ksh", "mksh"].into_iter().filter_map(found).map(|path| vec![path]);
    shells().iter().map(|shell| shell.iter().map(|&word| word.to_owned()).collect()).chain(others).collect()
}

/// What a tool makes of its input.
fn filtered(command: &str, input: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // A tool that is not there, or does not like its input, reads none.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    output.status.success().then_some(output.stdout)
}

/// The stage as `deploy/build-remote.sh` packs it, from the commands that it has.
fn packed(arch: &'static str) -> StageBinary {
    let build = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/build-remote.sh")).unwrap();
    let options = build.lines().find_map(|line| line.strip_prefix("xz=\"")?.strip_suffix('"')).unwrap();
    let packed = |packing: &'static Packing| {
        let end = format!(" \"$built/anemos-stage\" >\"$out/stage.{}.new\"", packing.name);
        let command = build.lines().find_map(|line| line.strip_suffix(&*end)).unwrap().replace("$xz", options);
        let bytes: Arc<[u8]> = filtered(&command, FAKE).unwrap().into();
        (packing, bytes)
    };
    StageBinary::new(FAKE, PACKINGS.iter().map(packed).collect(), arch)
}

/// A PATH with the programs that the script needs, and of those that unpack only the ones named: as they are, or
/// busybox's.
fn path_with(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let on_path = |name: &str| {
        let path = std::env::var("PATH").unwrap();
        path.split(':').map(|dir| Path::new(dir).join(name)).find(|path| path.exists()).unwrap()
    };
    let needed =
        ["sh", "id", "uname", "mkdir", "chmod", "rm", "rmdir", "sha256sum", "cut", "cat", "stat", "head", "wc"];
    for name in needed.iter().chain(names) {
        let (name, real) = match name.strip_prefix("busybox:") {
            Some(applet) => (applet, on_path("busybox")),
            None => (*name, on_path(name)),
        };
        std::os::unix::fs::symlink(real, dir.path().join(name)).unwrap();
    }
    dir
}

/// Runs the script and feeds it `input`; returns what it wrote.
fn run(shell: &[impl AsRef<str>], command: &str, input: &[u8]) -> String {
    run_on(&std::env::var("PATH").unwrap(), shell, command, |_| Some(input))
}

/// Runs the script on a PATH; what it is fed is chosen by its first line. It leaves nothing behind.
fn run_on<'a>(
    path: &str,
    shell: &[impl AsRef<str>],
    command: &str,
    choose: impl FnOnce(&str) -> Option<&'a [u8]>,
) -> String {
    let (output, left) = run_prepared("", path, shell, command, choose);
    assert_eq!(left, "", "it left these, and said {output}");
    output
}

/// The same after something else was run. Returns what is left as well.
fn run_prepared<'a>(
    prepare: &str,
    path: &str,
    shell: &[impl AsRef<str>],
    command: &str,
    choose: impl FnOnce(&str) -> Option<&'a [u8]>,
) -> (String, String) {
    use std::io::{BufRead, Read};
    let namespace = NAMESPACE.unwrap();
    let left = tempfile::NamedTempFile::new().unwrap();
    let mut child = Command::new(namespace[0])
        .args(&namespace[1..])
        .args(["sh", "-c", PRIVATE])
        .arg(left.path())
        .env("PREPARE", prepare)
        // fish leaves files of its own there.
        .env("HOME", "/var/cache")
        .args(["env", &format!("PATH={path}")])
        .args(shell.iter().map(AsRef::as_ref))
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut output).unwrap();
    let mut stdin = child.stdin.take().unwrap();
    if let Some(input) = choose(&output) {
        stdin.write_all(input).unwrap();
    }
    drop(stdin);
    stdout.read_to_string(&mut output).unwrap();
    child.wait().unwrap();
    (output, std::fs::read_to_string(left.path()).unwrap())
}

fn bytes<'a>(stage: &'a StageBinary, name: &str) -> &'a [u8] {
    &stage.packed.iter().find(|(packing, _)| packing.name == name).unwrap().1
}

#[test]
fn the_stage_arrives_or_nothing_stays() {
    if !can_run_the_script() {
        return;
    }
    let stage = packed(std::env::consts::ARCH);
    let command = bootstrap(&stage);
    for shell in login_shells() {
        let mut wanted = String::new();
        let output = run_on(&std::env::var("PATH").unwrap(), &shell, &command, |first| {
            let said = script::marked(first).and_then(|said| said.strip_prefix("need ")).expect(first);
            let (how, identity) = said.split_once(' ').unwrap();
            assert!(identity.len() > 5, "{shell:?}: {first}");
            how.clone_into(&mut wanted);
            Some(bytes(&stage, how))
        });
        let called = output.lines().nth(1).unwrap_or_default();
        assert!(called.starts_with("fake serve --dir /"), "{shell:?}: {output}");

        let whole = bytes(&stage, &wanted);
        let mut damaged = whole.to_vec();
        damaged[whole.len() / 2] ^= 1;
        let output = run(&shell, &command, &damaged);
        assert!(output.contains("anemos: error the stage"), "{shell:?}: {output}");
        let output = run(&shell, &command, &whole[..10]);
        let said = format!("anemos: error the stage arrived damaged: 10 of {} bytes", whole.len());
        assert!(output.contains(&said), "{shell:?}: {output}");
    }
}

/// A place that somebody else has prepared is passed over, and what they led it to is left alone.
#[test]
fn a_place_that_is_not_roots_own_is_passed_over() {
    if !can_run_the_script() {
        return;
    }
    let stage = packed(std::env::consts::ARCH);
    let command = script::bootstrap(&stage);
    let mut prepared = vec![("mkdir /run/theirs; ln -s /run/theirs /var/lib/anemos", "/var/lib/anemos\n/run/theirs\n")];
    // In a namespace of one user there is no other.
    if rustix::process::geteuid().is_root() {
        prepared.push(("mkdir /var/lib/anemos; chown 65534 /var/lib/anemos", "/var/lib/anemos\n"));
    }
    for (prepare, stays) in prepared {
        let path = std::env::var("PATH").unwrap();
        let (output, left) = run_prepared(prepare, &path, &["/bin/sh"], &command, |first| {
            let said = script::marked(first).and_then(|said| said.strip_prefix("need ")).expect(first);
            Some(bytes(&stage, said.split_once(' ').unwrap().0))
        });
        assert!(output.contains("\nfake serve --dir /root/.anemos"), "{prepare}: {output}");
        assert_eq!(left, stays, "{prepare}");
    }
}

/// Each sample unpacks by the tool that it is a sample for, and the one with a filter does not by a tool without
/// filters.
#[test]
fn samples() {
    for Packing { name, unpack, sample } in &PACKINGS {
        let tried = |tool: &str| filtered(&format!("printf '{sample}' | {tool}{unpack}"), b"");
        assert_eq!(tried("").as_deref(), Some(&b"x"[..]), "{name}");
        if ["xz", "gz"].contains(name) {
            assert_eq!(tried("busybox ").as_deref(), Some(&b"x"[..]), "{name}");
        } else {
            assert_eq!(tried("busybox "), None, "{name}");
        }
        assert!(!sample.contains(['%', '!', '\'', '"', '$', '`']) && !sample.contains(r"\\"), "{name}: {sample}");
    }
}

/// The first of the stage's packings that a host can unpack is asked for, and unpacked.
#[test]
fn the_smallest_that_the_host_can_unpack() {
    if !can_run_the_script() {
        return;
    }
    let mut stage = packed(std::env::consts::ARCH);
    // So small a file is not packed as the stage is: in the stage's order.
    stage.packed.sort_by_key(|(packing, _)| PACKINGS.iter().position(|other| other == *packing));
    let command = bootstrap(&stage);
    for (tools, wanted) in [
        (&["xz", "zstd", "gzip"][..], "x86.xz"),
        (&["busybox:xz", "zstd", "gzip"], "xz"),
        (&["busybox:xz", "busybox:gzip"], "xz"),
        (&["zstd", "gzip"], "zst"),
        (&["gzip"], "gz"),
        (&["busybox:gzip"], "gz"),
    ] {
        let path = path_with(tools);
        let output = run_on(&path.path().display().to_string(), &["/bin/sh"], &command, |first| {
            assert!(first.starts_with(&format!("anemos: need {wanted} ")), "{tools:?}: {first}");
            Some(bytes(&stage, wanted))
        });
        assert!(output.contains("\nfake serve --dir /"), "{tools:?}: {output}");
    }
    let path = path_with(&[]);
    let output = run_on(&path.path().display().to_string(), &["/bin/sh"], &command, |_| None);
    assert!(output.contains("error the host has nothing that unpacks the stage; install one of"), "{output}");
}

/// The smallest comes first, whichever that is.
#[test]
fn packings_in_order() {
    let sized = |n: usize, name: &str| {
        let packing = PACKINGS.iter().find(|packing| packing.name == name).unwrap();
        (packing, Arc::from(vec![0; n]))
    };
    let stage =
        StageBinary::new(FAKE, vec![sized(3, "xz"), sized(9, "gz"), sized(2, "zst"), sized(1, "x86.xz")], "any");
    let order: Vec<&str> = stage.packed.iter().map(|(packing, _)| packing.name).collect();
    assert_eq!(order, ["x86.xz", "zst", "xz", "gz"]);
}

/// Whose programs can't be read any more, as on a disk that fails, is not taken for somebody who is not root.
#[test]
fn a_host_that_can_not_run_its_programs_says_so() {
    if !can_run_the_script() {
        return;
    }
    let path = path_with(&["gzip"]);
    std::fs::remove_file(path.path().join("id")).unwrap();
    std::fs::write(path.path().join("id"), "not executable").unwrap();
    let script = script::bootstrap(&packed(std::env::consts::ARCH));
    for way in [Way::Login, Way::Free(None)] {
        let output = run_on(path.path().to_str().unwrap(), &["/bin/sh"], &root::command(&script, &way), |_| None);
        assert!(output.contains("anemos: error the host can not say who is logged in: "), "{way:?}: {output}");
        assert!(output.contains("id: Permission denied") && !output.contains("not root"), "{way:?}: {output}");
    }
}

/// As on a system that is read-only and whose /run may hold no programs, which is how initramfs-tools mounts it.
#[test]
fn where_no_place_holds_the_stage_memory_does() {
    if !can_run_the_script() {
        return;
    }
    let stage = packed(std::env::consts::ARCH);
    let command = bootstrap(&stage);
    let prepare = "for d in /var/lib /root /run; do mount -t tmpfs -o noexec none $d; done";
    for shell in shells() {
        for damaged in [false, true] {
            let path = std::env::var("PATH").unwrap();
            let (output, left) = run_prepared(prepare, &path, &shell, &command, |first| {
                let said = script::marked(first).and_then(|said| said.strip_prefix("need ")).expect(first);
                let whole = bytes(&stage, said.split_once(' ').unwrap().0);
                Some(if damaged { &whole[..10] } else { whole })
            });
            let said = if damaged { "error the stage arrived damaged" } else { "\nfake serve --dir /run/anemos" };
            assert!(output.contains(said), "{shell:?}: {output}");
            // mount(8) leaves a directory of its own.
            assert!(!left.contains("anemos"), "{shell:?}: {left}: {output}");
        }
    }
}

#[test]
fn why_no_place_holds_the_stage_is_told() {
    if !can_run_the_script() {
        return;
    }
    let command = bootstrap(&packed(std::env::consts::ARCH));
    let prepare = "mount -t tmpfs -o ro none /var/lib; mount -t tmpfs -o noexec none /root; ln -s /nowhere /run/anemos";
    let (output, _) = run_prepared(prepare, &std::env::var("PATH").unwrap(), &["/bin/sh"], &command, |_| None);
    let first = output.lines().next().unwrap_or_default();
    assert!(first.contains("can be written and hold programs:"), "{output}");
    for why in ["/var/lib/anemos", "Read-only file system;", "Permission denied;", "/run/anemos is a link;"] {
        assert!(first.contains(why), "{why}: {output}");
    }
}

#[test]
fn another_architecture_is_refused() {
    if !can_run_the_script() {
        return;
    }
    let command = bootstrap(&packed("s390x"));
    let output = run(&["/bin/sh"], &command, &[]);
    assert!(output.contains("anemos: error this anemos carries a stage for s390x"), "{output}");
}

#[test]
fn a_system_tells_what_it_is() {
    if !can_run_the_script() {
        return;
    }
    for shell in login_shells() {
        let output = run(&shell, &script::look(), &[]);
        let said: Vec<&str> = output.lines().filter_map(script::marked).collect();
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        assert_eq!(said[0], format!("boot {}", boot_id.trim()), "{shell:?}");
        assert!(said[1].starts_with("root ") && said[2].starts_with("os "), "{shell:?}: {output}");
    }
}

/// What of an end counts against the payload.
#[test]
fn a_host_that_ends_as_it_was_told_proves_the_payload() {
    let end =
        |outcome, reason: &str| End::Over(Box::new(Summary { reason: reason.into(), ..samples::summary(outcome) }));
    let failed = |text: &str| How::Failed(text.into());
    let cases = [
        (end(Ending::Deployed, "Debian"), Finish::Reboot, true, How::Proved),
        (end(Ending::Held, "as told"), Finish::Hold, true, How::Proved),
        (end(Ending::Held, "off"), Finish::PowerOff, true, How::Proved),
        (end(Ending::Held, "exit 1; look around"), Finish::Hold, false, failed("ended held: exit 1")),
        (end(Ending::Held, "nothing answers"), Finish::Reboot, true, failed("ended held: nothing answers")),
        (end(Ending::Untouched, "exit 3\nmore"), Finish::PowerOff, false, failed("ended untouched: exit 3")),
        (End::Detached, Finish::Reboot, false, How::Left),
    ];
    for (end, finish, succeeded, expected) in cases {
        assert_eq!(became(&end, finish, succeeded), expected, "{end:?} {finish:?}");
    }
}
