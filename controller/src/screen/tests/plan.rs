use anemos_proto::config::Finish;
use anemos_proto::host::{Firmware, HostFacts};
use anemos_proto::ids::Digest;
use anemos_proto::stage::KernelSource;

use super::samples::{disk, facts, partition};
use crate::payload::Keep;
use crate::screen::plan::{Choices, PlanView, Upload, confirm, render};
use crate::screen::text::Paint;

fn choices() -> Choices {
    let upload = |what: &str, bytes, cached| Upload { what: what.into(), bytes, cached };
    Choices {
        host: "web1".into(),
        address: "root@192.0.2.7:22".into(),
        disks: vec!["/dev/vda".into()],
        uploads: vec![
            upload("stage", 740_000, true),
            upload("agent", 960_000, false),
            upload("payload", 12_000, false),
            upload("base.lock", 21_000, true),
        ],
        kernel: KernelSource::Host,
        locked_kernel: Some("6.12.57+deb13-amd64".into()),
        base: Digest([0xab; 32]),
        base_source: "built on the host from its mirror".into(),
        payload: "examples/debian".into(),
        keeps: Vec::new(),
        finish: Finish::Reboot,
        check: Some("systemctl is-system-running --wait".into()),
    }
}

pub fn view() -> PlanView {
    PlanView::new(&facts(), choices()).with_host_key("ssh-ed25519 SHA256:abc".into())
}

fn with(change: impl FnOnce(&mut HostFacts)) -> PlanView {
    let mut facts = facts();
    change(&mut facts);
    PlanView::new(&facts, choices())
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
  boots      Linux 6.1.0-28-cloud-amd64, the host's own
  base       abababababab…, built on the host from its mirror
  payload    examples/debian
  finish     reboot into the new system
  check      `systemctl is-system-running --wait`
";
    assert_eq!(render(&[view()], Paint(false), None), expected);
}

#[test]
fn narrow_terminals_get_more_lines() {
    let refused = || view().with_refusals(vec!["no disk is (serial `x`): name one of these\n  /dev/vda: 20 GB".into()]);
    let wide = render(&[refused()], Paint(false), None);
    for columns in [60, 80, 100] {
        let text = render(&[refused()], Paint(true), Some(columns));
        let plain: Vec<String> = text.lines().map(crate::screen::text::sanitise_str).collect();
        assert!(
            plain.iter().all(|line| crate::screen::text::width(line) <= columns),
            "{columns}:\n{}",
            plain.join("\n")
        );
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&plain.join("\n")), words(&wide), "{columns}");
    }
}

#[test]
fn several_hosts_are_apart() {
    let text = render(&[view(), view()], Paint(false), None);
    assert_eq!(text.matches("\n\nweb1  ").count(), 1);
}

#[test]
fn the_order_is_said_once_and_asked_with() {
    let order = "first web1 alone, then 4 at a time; should one fail once it is told to boot, no other is told to";
    let ordered = || PlanView { order: Some(order.into()), ..view() };
    let refused = || view().with_refusals(vec!["no disk".into()]);
    let plans = [refused(), ordered(), ordered()];
    let text = render(&plans, Paint(false), None);
    assert!(text.ends_with(&format!("\n\nall hosts\n  order      {order}\n")), "{text}");
    assert_eq!(text.matches(order).count(), 1);
    let (_, asked) = ask(&plans[1..], "no\n");
    assert!(asked.contains(&format!("\n  {order}\nEverything on these disks of 2 hosts")), "{asked}");
    assert!(!render(&[view()], Paint(false), None).contains("order"));
}

#[test]
fn colours_change_nothing_but_colour() {
    let painted = render(&[view()], Paint(true), None);
    assert!(painted.contains("\x1b[31m/dev/vda"));
    let plain: String = painted.lines().map(|line| crate::screen::text::sanitise_str(line) + "\n").collect();
    assert_eq!(plain, render(&[view()], Paint(false), None));
}

#[test]
fn only_the_chosen_disk_is_wiped() {
    let view = view();
    let names = |disks: &[crate::screen::plan::PlanDisk]| disks.iter().map(|d| d.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&view.wipe), ["/dev/vda"]);
    assert_eq!(names(&view.untouched), ["/dev/vdb"]);
    assert_eq!(view.upload_bytes, 972_000);
    let both = PlanView::new(&facts(), Choices { disks: vec!["/dev/vdb".into(), "/dev/vda".into()], ..choices() });
    assert_eq!(names(&both.wipe), ["/dev/vdb", "/dev/vda"], "ANEMOS_DISK comes first");
    assert!(both.warnings.iter().any(|w| w.contains("/srv")), "{:?}", both.warnings);
}

#[test]
fn warnings() {
    assert_eq!(view().warnings, Vec::<String>::new());
    let has = |view: PlanView, word: &str| {
        assert!(view.warnings.iter().any(|w| w.contains(word)), "{word}: {:?}", view.warnings);
    };
    has(with(|f| f.memory_total = 480 << 20), "480 MiB of memory");
    has(with(|f| f.firmware = Firmware::Uefi { secure_boot: true }), "Secure Boot");
    has(with(|f| f.kexec.lockdown = "integrity".into()), "lockdown is `integrity`");
    has(with(|f| f.kernel_image = None), "locked kernel boots instead");
    has(with(|f| f.disks[0].partitions[1].mounts = vec!["/home".into()]), "/dev/vda2 is mounted on /home");
    has(with(|f| f.disks[0].partitions.push(partition("vda4", 1, "LVM2_member", &[]))), "part of something larger");
    has(with(|f| f.disks[0].removable = true), "removable");
    has(with(|f| f.disks[0].read_only = true), "read-only");
}

#[test]
fn what_is_kept_is_said() {
    let keep = |label: &str, or_made| Keep { label: label.into(), or_made };
    let view = |keeps: Vec<Keep>| {
        let mut facts = facts();
        facts.disks[0].partitions[1].mounts = vec!["/home".into()];
        PlanView::new(&facts, Choices { keeps, ..choices() })
    };
    let kept = view(vec![keep("root", false)]);
    assert_eq!((&kept.warnings, &kept.refusals), (&vec![], &vec![]));
    let text = render(std::slice::from_ref(&kept), Paint(false), None);
    assert!(text.contains("/dev/vda2  19.0 GiB  ext4 “root”  on /home      is kept\n"), "{text}");
    assert_eq!(text.matches("is kept").count(), 1);
    let made = view(vec![keep("srv", true)]);
    assert!(made.warnings.iter().any(|w| w.contains("no partition labelled “srv” to keep: it is made")));
    assert!(made.warnings.iter().any(|w| w.contains("/home: what is there will be lost")), "{:?}", made.warnings);
    assert!(view(vec![keep("srv", false)]).refusals[0].starts_with("/dev/vda has no partition labelled “srv”"));
    let mut facts = facts();
    facts.disks[0].partitions[0].label = Some("root".into());
    let twice = PlanView::new(&facts, Choices { keeps: vec![keep("root", true)], ..choices() });
    assert!(twice.refusals[0].starts_with("/dev/vda1 and /dev/vda2 are both labelled"), "{:?}", twice.refusals);
}

#[test]
fn refusals() {
    assert_eq!(view().refusals, Vec::<String>::new());
    let disabled = with(|f| f.kexec.disabled = true);
    assert!(disabled.refusals[0].contains("kexec_load_disabled"), "{:?}", disabled.refusals);
    let bridge = with(|f| f.lost_ways = vec!["br0 (bridge)".into()]);
    assert!(bridge.refusals[0].contains("reached through br0 (bridge)"), "{:?}", bridge.refusals);
    let none = with(|f| (f.kexec.file_load, f.kexec.load) = (false, false));
    let both = none.with_refusals(vec!["no disk".into()]).refusals;
    assert!(both[0] == "no disk" && both[1].contains("no kexec"), "{both:?}");
}

#[test]
fn without_a_kernel_image_the_locked_one_boots() {
    let view = with(|f| f.kernel_image = None);
    assert_eq!((view.kernel.as_str(), view.kernel_source), ("6.12.57+deb13-amd64", "locked"));
    assert!(render(&[view], Paint(false), None).contains("Linux 6.12.57+deb13-amd64 from base.lock"));
}

#[test]
fn remote_text_is_harmless() {
    let view = with(|f| {
        f.os = "\x1b[2Jevil".into();
        f.disks[0].model = "\x1b]0;x\x07disk".into();
        f.disks.push(disk("vd\nc", 1));
    });
    let text = render(&[view.with_refusals(vec!["\u{202e}no".into()])], Paint(false), None);
    assert!(text.contains("  REFUSED    no\n"), "{text}");
    assert!(!text.lines().any(|line| line.chars().any(char::is_control)), "{text:?}");
}

fn ask(plans: &[PlanView], answer: &str) -> (bool, String) {
    let mut shown = Vec::new();
    let yes = confirm(plans, &mut answer.as_bytes(), &mut shown, Paint(false)).unwrap();
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
        assert_eq!(ask(&[view()], answer).0, yes, "{answer:?}");
    }
}

#[test]
fn question_names_hosts_and_disks() {
    let other = PlanView { host: "database-3".into(), ..view() };
    let none = PlanView { host: "db".into(), wipe: Vec::new(), ..view() };
    assert_eq!(
        ask(&[view(), other, none], "no\n").1,
        "  web1        /dev/vda (20.0 GiB)\n  database-3  /dev/vda (20.0 GiB)\n  db          no disk\nEverything on these \
         disks of 3 hosts will be lost. Type `yes` to go on: "
    );
}
