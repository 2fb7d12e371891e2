//! makeimg builds an Arch Linux out of the lab's repository, as an image and on a host's own disk, and machines boot
//! it.

use crate::makeimg::{Host, Project, assert_is_running};
use crate::{Outcome, Scenario};
use lab::{Context, Firmware, Lab, Machine, Result, arch, archive};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "makeimg::arch_boots", run: arch_boots },
    Scenario { name: "makeimg::arch_deployed", run: arch_deployed },
];

/// Making keys and an initramfs takes an emulated machine minutes.
const UPDATE: Duration = Duration::from_secs(900);
const BOOT: Duration = Duration::from_secs(300);

/// The servers of one state of the repository, for whoever sees the archive at `archive`.
fn servers(archive: &str, state: &str) -> String {
    format!("Server = {}/arch/{state}/$repo/os/$arch\n", archive.trim_end_matches("/debian"))
}

/// Has a project find the lab's repository, and trust it.
fn point(lab: &Lab, project: &Path, servers: &str) -> Result<()> {
    fs::write(project.join("mirrorlist"), servers).context("the project's servers")?;
    let keys = arch::repository(lab)?;
    lab::command::run(Command::new("cp").arg("-r").arg(keys).arg(project.join("keys")))?;
    Ok(())
}

const ABOUT: &str =
    "cat /etc/motd; hostname; id -nG admin; stat -c %a:%U /etc/ssh/ssh_host_ed25519_key ~admin/.ssh/authorized_keys
     readlink /etc/localtime; test -d /sys/firmware/efi && echo uefi || echo bios; cat /proc/cmdline
     findmnt -no FSTYPE /; uname -r; pacman -Q grub; cat /boot/grub/makeimg.version
     grep ^root: /etc/shadow | cut -d: -f2";

fn check(facts: &str, firmware: &str, kernel: &str, grub: &str) {
    let lines: Vec<&str> = facts.lines().collect();
    let expected = [
        "Made by makeimg: arch, Arch Linux.",
        "arch",
        "admin adm",
        "600:root",
        "600:admin",
        "/usr/share/zoneinfo/Etc/UTC",
        firmware,
    ];
    assert_eq!(lines[..expected.len()], expected, "{facts}");
    let cmdline = lines[7].strip_prefix("BOOT_IMAGE=/boot/vmlinuz-linux root=UUID=");
    assert!(
        cmdline.is_some_and(|words| words.ends_with(" ro console=tty0 console=ttyS0,115200 loglevel=3")),
        "{facts}"
    );
    assert_eq!(lines[8..], ["ext4", kernel, grub, grub, "*"], "{facts}");
}

/// examples/imgbuild-arch becomes a disk image that starts by itself with both kinds of firmware, also after an update
/// of its kernel and of GRUB, by its own pacman and with a keyring that it has made itself.
fn arch_boots(lab: &Lab) -> Result<Outcome> {
    let (older, newer) = archive::kernels(lab)?;
    let project = Project::new(lab, "arch", "imgbuild-arch")?;
    point(lab, &project.dir(), &servers(&project.archive(), "older"))?;
    let said = project.build("out", |_| {})?;
    assert!(said.contains(r#""type":"progress""#) && !said.contains("OPENSSH PRIVATE KEY"), "{said}");
    let running = project.boot(lab, &project.path("out/arch.img"), Firmware::Uefi)?;
    let machine = &running.machine;
    check(&machine.ask(ABOUT)?, "uefi", &older, "grub 1-1");
    update(machine)?;
    let old = machine.boot_id()?;
    // The reboot ends this connection, so its status means nothing.
    let _ = machine.ssh("systemctl reboot");
    machine.wait_boot(&old, 3 * BOOT)?;
    assert_is_running(machine)?;
    check(&machine.ask(ABOUT)?, "uefi", &newer, "grub 1-2");
    let updated = running.machine.into_disks()?;
    let image = project.path("updated.img");
    updated.to_raw(&image)?;
    updated.remove();
    running.disks.remove();
    let again = project.boot(lab, &image, Firmware::Bios)?;
    check(&again.machine.ask(ABOUT)?, "bios", &newer, "grub 1-2");
    again.end();
    Ok(Outcome::Passed)
}

/// Updates a system as its owner does.
fn update(machine: &Machine) -> Result<()> {
    let servers = servers(&machine.archive_url(), "newer");
    let script = format!(
        "set -e
         echo '{}' >/etc/pacman.d/mirrorlist
         mkdir -p /boot/efi
         mountpoint -q /boot/efi || mount /boot/efi
         touch -d 2000-01-01 /boot/efi/EFI/BOOT/BOOTX64.EFI
         pacman -Syu --noconfirm
         stat -c %y /boot/efi/EFI/BOOT/BOOTX64.EFI
         ls /boot",
        servers.trim()
    );
    let said = machine.ssh_within(&script, UPDATE)?;
    assert!(
        said.contains("Putting GRUB where this machine starts from") && said.contains("Making GRUB's menu"),
        "{said}"
    );
    assert!(!said.contains("\n2000-01-01") && !said.contains("error:") && !said.contains("makeimg: "), "{said}");
    Ok(())
}

/// The host builds it on its own disk, and is found where it was. Its pacman verifies packages with the host's keyring.
fn arch_deployed(lab: &Lab) -> Result<Outcome> {
    let host = Host::new(lab, "imgbuild-arch", "imgbuild-arch", None)?;
    let Host { machine, anemos, .. } = &host;
    point(lab, &anemos.dir().join("payload"), &servers(&machine.archive_url(), "newer"))?;
    let old = machine.boot_id()?;
    let kernel = archive::kernels(lab)?.1;
    let ended = host.up()?;
    let counted = |line: &str| line.contains(r#""type":"progress""#) && line.contains("installing openssh");
    assert!(ended.stdout.lines().any(counted), "no progress by packages");
    assert_ne!(machine.boot_id()?, old);
    let facts = machine.ask(
        "cat /etc/motd; hostname; ip -4 -br addr; cat /proc/cmdline; uname -r; cat /etc/pacman.d/mirrorlist
         systemctl is-enabled systemd-networkd sshd
         test -e /etc/systemd/system/makeimg-pacman-keyring.service || echo none",
    )?;
    assert!(facts.starts_with("Made by makeimg: arch, Arch Linux.\narch\n"), "{facts}");
    assert!(facts.contains("10.0.2.15/24") && facts.contains("console=ttyS0") && facts.contains(&kernel), "{facts}");
    assert!(
        facts.ends_with(&format!("{}enabled\nenabled\nnone\n", servers(&machine.archive_url(), "newer"))),
        "{facts}"
    );
    assert_is_running(machine)?;
    let said = machine.ssh_within("pacman -Sy --noconfirm lab-extra && cat /usr/share/lab-extra", UPDATE)?;
    assert!(said.ends_with("from extra\n"), "{said}");
    machine.ask("pacman-key --list-keys packages@example.net")?;
    Ok(Outcome::Passed)
}
