use std::sync::Arc;

use anemos_proto::stage::KernelSource;

use super::samples::plan as approved;
use crate::plan::Plan;
use crate::screen::plan::{checked, confirm, render};
use crate::screen::text::{Paint, sanitise_str, width};

pub fn plan() -> Arc<Plan> {
    Arc::new(approved())
}

fn refused(why: &str) -> Arc<Plan> {
    Arc::new(Plan { refusals: vec![why.into()], ..approved() })
}

fn plain(plans: &[Arc<Plan>]) -> String {
    render(plans, None, Paint(false), None)
}

#[test]
fn text() {
    let expected = "\
web1  root@192.0.2.7:22
  host key   ssh-ed25519 SHA256:abc
  now        Debian GNU/Linux 12 (bookworm), x86_64, UEFI, 2.0 GiB of memory
  WIPED      /dev/vda  20.0 GiB  QEMU HARDDISK  serial SER-vda
               /dev/vda1  127 MiB   vfat         on /boot/efi
               /dev/vda2  19.0 GiB  ext4 “root”  on /
               /dev/vda3  512 MiB   swap         on [SWAP]
  read-only  /dev/vdb  2.0 TiB  QEMU HARDDISK  serial SER-vdb
  sent       949 KiB: agent 938 KiB, payload 11.7 KiB (already there: stage 723 KiB, base.lock 20.5 KiB)
  boots      Linux 6.1.0-28-cloud-amd64, the host's own; if it hangs before its init, only a reset by hand helps
  base       core disk, abababababab…, built on the host from distribution packages
  payload    examples/debian
  finish     reboot into the new system
  check      `systemctl is-system-running --wait`
";
    assert_eq!(plain(&[plan()]), expected);
}

#[test]
fn narrow_terminals_get_more_lines() {
    let plans = [refused("no disk is (serial `x`): name one of these\n  /dev/vda: 20 GB")];
    for columns in [60, 80, 100] {
        let text = render(&plans, None, Paint(true), Some(columns));
        let lines: Vec<String> = text.lines().map(sanitise_str).collect();
        assert!(lines.iter().all(|line| width(line) <= columns), "{columns}:\n{}", lines.join("\n"));
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&lines.join("\n")), words(&plain(&plans)), "{columns}");
    }
}

#[test]
fn several_hosts_are_apart() {
    assert_eq!(plain(&[plan(), plan()]).matches("\n\nweb1  ").count(), 1);
}

#[test]
fn the_order_is_said_once_and_asked_with() {
    let order = "first web1 alone, then 4 at a time; should one fail once it is told to boot, no other is told to";
    let text = render(&[refused("no disk"), plan(), plan()], Some(order), Paint(false), None);
    assert!(text.ends_with(&format!("\n\nall hosts\n  order      {order}\n")), "{text}");
    assert_eq!(text.matches(order).count(), 1);
    let (_, asked) = ask(&[plan(), plan()], Some(order), "no\n");
    assert!(asked.contains(&format!("\n  {order}\nEverything on these disks of 2 hosts")), "{asked}");
    assert!(!plain(&[plan()]).contains("order"));
}

#[test]
fn colours_change_nothing_but_colour() {
    let painted = render(&[plan()], None, Paint(true), None);
    assert!(painted.contains("\x1b[31m/dev/vda"));
    assert_eq!(painted.lines().map(|line| sanitise_str(line) + "\n").collect::<String>(), plain(&[plan()]));
}

#[test]
fn what_is_kept_is_said() {
    let mut kept = approved();
    kept.wipe[0].contents[1].kept = true;
    let text = plain(&[Arc::new(kept.clone())]);
    assert!(text.contains("/dev/vda2  19.0 GiB  ext4 “root”  on /          is kept\n"), "{text}");
    assert_eq!(text.matches("is kept").count(), 1);
    let (_, asked) = ask(&[Arc::new(kept)], None, "no\n");
    assert!(asked.contains("Everything on that disk, but for what is kept, will be lost."), "{asked}");
}

#[test]
fn what_boots_is_told() {
    let locked = |kernel: &str| Plan { kernel: kernel.into(), kernel_source: KernelSource::Locked, ..approved() };
    let covered = plain(&[Arc::new(Plan { hang_covered: true, ..approved() })]);
    assert!(covered.contains("the host's own; a watchdog resets the machine if it hangs early\n"), "{covered}");
    let text = plain(&[Arc::new(locked("6.12.57+deb13-amd64")), Arc::new(locked(""))]);
    assert!(text.contains("Linux 6.12.57+deb13-amd64 from base.lock; "), "{text}");
    assert!(text.contains("Linux from base.lock; "), "{text}");
}

#[test]
fn remote_text_is_harmless() {
    let mut evil = approved();
    evil.os = "\x1b[2Jevil".into();
    evil.wipe[0].model = "\x1b]0;x\x07disk".into();
    evil.untouched[0].id.name = "/dev/vd\nc".into();
    evil.refusals = vec!["\u{202e}no".into()];
    let text = plain(&[Arc::new(evil)]);
    assert!(text.contains("  REFUSED    no\n"), "{text}");
    assert!(!text.lines().any(|line| line.chars().any(char::is_control)), "{text:?}");
}

fn ask(plans: &[Arc<Plan>], order: Option<&str>, answer: &str) -> (bool, String) {
    let mut shown = Vec::new();
    let yes = confirm(plans, order, &mut answer.as_bytes(), &mut shown, Paint(false)).unwrap();
    (yes, String::from_utf8(shown).unwrap())
}

#[test]
fn only_yes_is_yes() {
    for (answer, yes) in [
        ("yes\n", true),
        ("yes", true),
        (" yes \r\n", true),
        ("y\n", false),
        ("YES\n", false),
        ("", false),
        ("\n", false),
    ] {
        assert_eq!(ask(&[plan()], None, answer).0, yes, "{answer:?}");
    }
}

#[test]
fn question_names_hosts_and_disks() {
    let other = Arc::new(Plan { host: "database-3".into(), ..approved() });
    let none = Arc::new(Plan { host: "db".into(), wipe: Vec::new(), ..approved() });
    assert_eq!(
        ask(&[plan(), other, none], None, "no\n").1,
        "  web1        /dev/vda (20.0 GiB)\n  database-3  /dev/vda (20.0 GiB)\n  db          no disk\n\
         Everything on these disks of 3 hosts will be lost. Type `yes` to go on: "
    );
}

#[test]
fn what_would_stop_a_deployment_is_told_from_what_is_not_said_yet() {
    let shown = |plan: Plan, unlisted: bool| checked(&[Arc::new(plan)], unlisted, Paint(false), None);
    let fit = shown(approved(), false);
    assert!(fit.contains("  its disk   /dev/vda") && fit.contains("  fit        nothing that was seen"), "{fit}");
    for absent in ["WIPED", "payload", "sent", "finish"] {
        assert!(!fit.contains(absent), "{absent}: {fit}");
    }
    let unclear = "2 disks are (at least 1 B): say more\n  /dev/vda\n  /dev/vdb";
    let why = vec![unclear.to_owned(), "no kexec \x1b[2J".to_owned()];
    let unclear = Plan { wipe: Vec::new(), refusals: why.clone(), ..approved() };
    let text = shown(unclear.clone(), true);
    assert!(text.contains("  STOPS IT   no kexec") && !text.contains("say more") && !text.contains('\x1b'), "{text}");
    assert!(shown(unclear, false).contains("say more"));
    let only_disk = Plan { wipe: Vec::new(), refusals: why[..1].to_vec(), ..approved() };
    assert!(shown(only_disk.clone(), true).contains("nothing that was seen would stop a deployment"));
    assert!(!shown(only_disk, false).contains("nothing that was seen"));
}
