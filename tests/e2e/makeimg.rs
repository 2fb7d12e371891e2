//! makeimg builds a real Debian, and machines boot it.

use crate::{Outcome, Scenario};
use lab::anemos::{Anemos, host_table};
use lab::archive::Server;
use lab::base;
use lab::command::{run, run_with_input};
use lab::machine::{Boot, DataDisk, Disks, file_sha256};
use lab::{Context, Firmware, Lab, Machine, Result, Spec, bail, checkout};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "makeimg::debian_boots", run: debian_boots },
    Scenario { name: "makeimg::debian_deployed", run: debian_deployed },
];

const BOOT: Duration = Duration::from_secs(300);
const DEPLOYMENT: Duration = Duration::from_secs(2400);

/// examples/imgbuild-debian with a secret becomes a disk image that starts by itself with both kinds of firmware.
fn debian_boots(lab: &Lab) -> Result<Outcome> {
    let server = Server::start(lab)?;
    let work = lab.path("runs").join(format!("makeimg-{}", std::process::id()));
    let project = work.join("project");
    fs::create_dir_all(&work).context("the run's directory")?;
    run(Command::new("cp").arg("-r").arg(checkout().join("examples/imgbuild-debian/payload")).arg(&project))?;
    // The machine's SSH host key is its secret.
    let secret = project.join("secrets/etc/ssh");
    fs::create_dir_all(&secret).context("the secrets")?;
    let host_key = work.join("host_key");
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(&host_key))?;
    let hidden = run_with_input(
        Command::new("tr").args(["A-Za-z", "N-ZA-Mn-za-m"]),
        &fs::read(&host_key).context("the host key")?,
    )?;
    fs::write(secret.join("ssh_host_ed25519_key.age"), hidden).context("the secret")?;
    let lab_key = fs::read_to_string(lab.key().with_extension("pub")).context("the lab's key")?;
    let keys = ["root", "admin"].map(|user| format!("{user} {}", lab_key.trim())).join("\n");

    let begin = Instant::now();
    let built = Command::new(makeimg()?)
        .args(["build", "--json", "--reveal", "tr A-Za-z N-ZA-Mn-za-m"])
        .arg("-C")
        .arg(&project)
        .arg("-o")
        .arg(&work)
        .arg("--mirror")
        .arg(server.url())
        .env("MAKEIMG_EXAMPLE_KEYS", keys)
        .output()
        .context("makeimg")?;
    let (status, built) = (built.status, String::from_utf8_lossy(&built.stdout).into_owned());
    if !status.success() {
        let last: Vec<&str> = built.lines().rev().take(12).collect();
        bail!("makeimg failed ({status}):\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    println!("makeimg::debian_boots: built in {:.0} s", begin.elapsed().as_secs_f32());
    assert!(built.contains(r#""type":"progress""#) && !built.contains("OPENSSH PRIVATE KEY"), "{built}");
    let image = work.join("debian.img");

    let public = fs::read_to_string(host_key.with_extension("pub")).context("the public key")?;
    for firmware in [Firmware::Bios, Firmware::Uefi] {
        let dir = work.join(firmware.to_string());
        fs::create_dir_all(&dir).context("the disk's directory")?;
        let disks = Disks::from_raw(&image, firmware, &dir)?;
        let spec = Spec { firmware, boot: Boot::Disks(disks.clone()), ..Spec::new(format!("makeimg-{firmware}")) };
        let machine = Machine::start(lab, spec)?;
        fs::write(machine.known_hosts_file()?, format!("[127.0.0.1]:{} {public}", machine.port()))
            .context("known_hosts")?;
        machine.wait_ssh(BOOT)?;
        let state = machine.ssh_within("systemctl is-system-running --wait; systemctl --failed --no-legend", BOOT)?;
        assert_eq!(state.trim(), "running");
        let facts = machine.ask(
            "cat /etc/motd; hostname; id -nG admin; stat -c %a:%U /etc/ssh/ssh_host_ed25519_key ~admin/.ssh/authorized_keys
             tail -1 /etc/default/ssh; test -d /sys/firmware/efi && echo uefi || echo bios; cat /proc/cmdline; findmnt -no FSTYPE /",
        )?;
        let lines: Vec<&str> = facts.lines().collect();
        let expected = [
            "Made by makeimg: debian, Debian trixie.",
            "debian",
            "admin adm",
            "600:root",
            "600:admin",
            "SSHD_OPTS=-oLogLevel=VERBOSE",
            &firmware.to_string(),
        ];
        assert_eq!(lines[..expected.len()], expected, "{facts}");
        assert!(lines[7].ends_with("console=tty0 console=ttyS0,115200") && lines[8] == "ext4", "{facts}");
        drop(machine);
        disks.remove();
    }
    fs::remove_file(&image).context("the image")?;
    Ok(Outcome::Passed)
}

/// The same IMGBUILD as a payload: the host builds it on its own disk, and is found where it was. Another disk stays as it is.
fn debian_deployed(lab: &Lab) -> Result<Outcome> {
    if std::env::var_os("ANEMOS_E2E_LONG").is_none() {
        return Ok(Outcome::Skipped("an emulated host builds this for ten minutes; ANEMOS_E2E_LONG=1 runs it".into()));
    }
    let server = Server::start(lab)?;
    let spec = Spec {
        archive: Some(server.port()),
        data_disk: Some(DataDisk::Pattern { mib: 16 }),
        ..Spec::new("imgbuild-deployed")
    };
    let machine = Machine::start(lab, spec.clone())?;
    let old = machine.boot_id()?;
    let data = machine.data_disk().map(file_sha256).transpose()?;
    let anemos = Anemos::new(lab, "imgbuild-deployed")?;
    let table = format!(
        "{}payload = {:?}\nmirror = {:?}\nauthorized_keys = [{:?}]\n{}",
        host_table(lab, "web", &machine),
        checkout().join("examples/imgbuild-debian/payload"),
        machine.archive_url(),
        lab.key().with_extension("pub"),
        base::from_url(lab, &machine)?,
    );
    anemos.write("hosts.toml", &table)?;
    let ended = anemos.run(["up", "--yes", "--json", "hosts.toml"], DEPLOYMENT)?;
    let summary = ended.summary("web")?;
    assert_eq!(summary["outcome"], "deployed", "{summary:#}\n{}", ended.stderr);
    println!("makeimg::debian_deployed: {}", summary["seconds"]);
    let counted = |line: &str| line.contains(r#""type":"progress""#) && line.contains("Setting up");
    assert!(ended.stdout.lines().any(counted), "no progress by packages");

    let new = machine.boot_id()?;
    assert_ne!(old, new);
    let facts = machine.ask("cat /etc/motd; hostname; ip -4 -br addr; cat /proc/cmdline")?;
    assert!(facts.starts_with("Made by makeimg: debian, Debian trixie.\ndebian\n"), "{facts}");
    assert!(facts.contains("10.0.2.15/24") && facts.contains("console=ttyS0"), "{facts}");
    assert_eq!(machine.data_disk().map(file_sha256).transpose()?, data, "the undeclared disk has changed");
    let afresh = machine.boot_afresh(Spec { name: "imgbuild-afresh".into(), data_disk: None, ..spec })?;
    assert_ne!(afresh.wait_boot(&new, BOOT)?, old);
    let state = afresh.ssh_within("systemctl is-system-running --wait; systemctl --failed --no-legend", BOOT)?;
    assert_eq!(state.trim(), "running");
    Ok(Outcome::Passed)
}

fn makeimg() -> Result<PathBuf> {
    let path: PathBuf = checkout().join("target/release/makeimg");
    if !Path::new(&path).is_file() {
        bail!("there is no {}: run `make build` first", path.display());
    }
    Ok(path)
}
