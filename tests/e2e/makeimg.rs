//! makeimg builds a real Debian, and machines boot it.

use crate::deployment::copy_payload;
use crate::{Outcome, Scenario};
use lab::anemos::{Anemos, Finished, host_table};
use lab::archive::{self, Server};
use lab::base;
use lab::command::{run, run_with_input, tail};
use lab::machine::{Boot, DataDisk, Disks, file_sha256};
use lab::{Context, Firmware, Lab, Machine, Result, Spec, bail, checkout, link, ssh};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "makeimg::debian_deployed", run: debian_deployed },
    Scenario { name: "makeimg::debian_boots", run: debian_boots },
    Scenario { name: "makeimg::debian_encrypted", run: debian_encrypted },
    Scenario { name: "makeimg::debian_other_disks", run: debian_other_disks },
    Scenario { name: "makeimg::debian_archives", run: debian_archives },
    Scenario { name: "makeimg::debian_deployed_again", run: debian_deployed_again },
];

const BOOT: Duration = Duration::from_secs(300);
/// Reading a suite's index takes an emulated machine most of a minute, and an initramfs two.
const UPDATE: Duration = Duration::from_secs(900);
const DEPLOYMENT: Duration = Duration::from_secs(2400);

/// An example with a secret, which is its machine's SSH host key.
pub struct Project {
    work: PathBuf,
    server: Server,
    /// As in known_hosts, without the host.
    host_key: String,
    /// For the example's IMGBUILD.
    keys: String,
}

impl Project {
    /// A copy of examples/EXAMPLE for the scenario NAME.
    pub fn new(lab: &Lab, name: &str, example: &str) -> Result<Self> {
        let server = Server::start(lab)?;
        let work = lab.path("runs").join(format!("makeimg-{name}-{}", std::process::id()));
        let project = work.join("project");
        fs::create_dir_all(&work).context("the run's directory")?;
        copy_payload(example, &project)?;
        let secret = project.join("secrets/etc/ssh");
        fs::create_dir_all(&secret).context("the secrets")?;
        let host_key = work.join("host_key");
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(&host_key))?;
        let hidden = run_with_input(
            Command::new("tr").args(["A-Za-z", "N-ZA-Mn-za-m"]),
            &fs::read(&host_key).context("the host key")?,
        )?;
        fs::write(secret.join("ssh_host_ed25519_key.age"), hidden).context("the secret")?;
        let host_key = fs::read_to_string(host_key.with_extension("pub")).context("the public key")?;
        let lab_key = fs::read_to_string(lab.key().with_extension("pub")).context("the lab's key")?;
        let keys = ["root", "admin"].map(|user| format!("{user} {}", lab_key.trim())).join("\n");
        Ok(Self { work, server, host_key, keys })
    }

    /// Its directory.
    pub fn dir(&self) -> PathBuf {
        self.path("project")
    }

    /// Something beside it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.work.join(name)
    }

    /// The archive's address for programs on this machine.
    pub fn archive(&self) -> String {
        self.server.url()
    }

    /// More lines for the IMGBUILD.
    fn add(&self, text: &str) -> Result<()> {
        let path = self.work.join("project/IMGBUILD");
        let imgbuild = fs::read_to_string(&path).context("the IMGBUILD")?;
        fs::write(&path, format!("{imgbuild}\n{text}\n")).context("the IMGBUILD")
    }

    /// With the older of the archive's kernels; returns both.
    fn with_older_kernel(&self, lab: &Lab) -> Result<(String, String)> {
        let (older, newer) = archive::kernels(lab)?;
        let path = self.work.join("project/IMGBUILD");
        let imgbuild = fs::read_to_string(&path).context("the IMGBUILD")?;
        let changed = imgbuild.replace("linux-image-cloud-amd64", &format!("linux-image-{older}"));
        assert_ne!(changed, imgbuild);
        fs::write(&path, changed).context("the IMGBUILD")?;
        Ok((older, newer))
    }

    /// Builds it into a directory below `work`; returns what it said. `change` may do something to the command.
    pub fn build(&self, output: &str, change: impl FnOnce(&mut Command)) -> Result<String> {
        let output = self.work.join(output);
        fs::create_dir_all(&output).context("the directory for the result")?;
        let mut command = Command::new(makeimg()?);
        command.args(["build", "--json", "--reveal", "tr A-Za-z N-ZA-Mn-za-m", "--mirror"]).arg(self.server.url());
        command.arg("-C").arg(self.work.join("project")).arg("-o").arg(output);
        command.env("MAKEIMG_EXAMPLE_KEYS", &self.keys);
        change(&mut command);
        let built = command.output().context("makeimg")?;
        let (status, said) = (built.status, String::from_utf8_lossy(&built.stdout).into_owned());
        if !status.success() {
            let last: Vec<&str> = said.lines().rev().take(12).collect();
            bail!("makeimg failed ({status}):\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        Ok(said)
    }

    /// Boots an image, and waits until all of its services are there.
    pub fn boot(&self, lab: &Lab, image: &Path, firmware: Firmware) -> Result<Running> {
        let dir = image.with_extension(firmware.to_string());
        fs::create_dir_all(&dir).context("the disk's directory")?;
        let disks = Disks::from_raw(image, firmware, &dir)?;
        let (boot, archive) = (Boot::Disks(disks.clone()), Some(self.server.port()));
        let spec = Spec { firmware, boot, archive, ..Spec::new(format!("makeimg-{firmware}")) };
        let machine = Machine::start(lab, spec)?;
        fs::write(machine.known_hosts_file()?, format!("[127.0.0.1]:{} {}", machine.port(), self.host_key))
            .context("known_hosts")?;
        machine.wait_ssh(BOOT)?;
        assert_is_running(&machine)?;
        Ok(Running { machine, disks })
    }
}

/// All services of a system that has just booted are there.
pub fn assert_is_running(machine: &Machine) -> Result<()> {
    let state = machine.ssh_within("systemctl is-system-running --wait; systemctl --failed --no-legend", BOOT)?;
    assert_eq!(state.trim(), "running");
    Ok(())
}

impl Drop for Project {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.work);
        }
    }
}

/// A machine that runs what was built.
pub struct Running {
    pub machine: Machine,
    pub disks: Disks,
}

impl Running {
    /// Ends the machine, and removes its disks.
    pub fn end(self) {
        drop(self.machine);
        self.disks.remove();
    }
}

/// examples/imgbuild-debian becomes a disk image that starts by itself with both kinds of firmware, also after an
/// update of its kernel.
fn debian_boots(lab: &Lab) -> Result<Outcome> {
    let project = Project::new(lab, "boots", "imgbuild-debian")?;
    let (older, newer) = project.with_older_kernel(lab)?;
    let begin = Instant::now();
    let said = project.build("out", |_| {})?;
    println!("makeimg::debian_boots: built in {:.0} s", begin.elapsed().as_secs_f32());
    assert!(said.contains(r#""type":"progress""#) && !said.contains("OPENSSH PRIVATE KEY"), "{said}");
    let running = project.boot(lab, &project.work.join("out/debian.img"), Firmware::Uefi)?;
    check_system(&running.machine.ask(ABOUT)?, "uefi", &older);
    update_kernel(&running.machine, &format!("s#{}#{}#", project.server.url(), running.machine.archive_url()), &newer)?;
    check_system(&running.machine.ask(ABOUT)?, "uefi", &newer);
    let updated = running.machine.into_disks()?;
    let image = project.work.join("updated.img");
    updated.to_raw(&image)?;
    updated.remove();
    running.disks.remove();
    let sum = file_sha256(&image)?;
    check_system(&run_and_ask(lab, &project, &image, ABOUT, &[])?, "bios", &newer);
    assert_eq!(file_sha256(&image)?, sum, "`makeimg run` has written to the image");
    Ok(Outcome::Passed)
}

/// Updates a system as its owner does, from the sources that it has once `place` (for sed) names the archive as the
/// machine sees it, and reboots it: its menu is what the package's hooks make of it.
fn update_kernel(machine: &Machine, place: &str, newer: &str) -> Result<()> {
    let begin = Instant::now();
    let script = format!(
        "set -e
         sed -i '{place}' /etc/apt/sources.list.d/debian.sources
         # The lab's archive has neither translations nor everything that is recommended.
         apt-get -q -o Acquire::Languages=none --error-on=any update
         DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install linux-image-cloud-amd64
         test -e /boot/initrd.img-{newer}
         sync
         grep -E '^[[:space:]]*(linux|serial|terminal_)' /boot/grub/grub.cfg"
    );
    let said = machine.ssh_within(&script, UPDATE)?;
    println!("makeimg: a kernel was installed in {:.0} s", begin.elapsed().as_secs_f32());
    let menu: Vec<&str> = said.lines().map(str::trim).collect();
    let first = menu.iter().find(|line| line.starts_with("linux\t"));
    let starts = |line: &&&str| line.contains(&format!("/vmlinuz-{newer} root=UUID=")) && line.contains(" ro ");
    assert!(first.filter(starts).is_some_and(|line| line.contains("console=ttyS0")), "{said}");
    assert!(menu.iter().any(|line| line.starts_with("serial --unit=0")), "{said}");
    assert!(menu.contains(&"terminal_output serial console"), "{said}");
    let old = machine.boot_id()?;
    // The reboot ends this connection, so its status means nothing.
    let _ = machine.ssh("systemctl reboot");
    // An emulated UEFI firmware is silent for minutes after some resets.
    machine.wait_boot(&old, 3 * BOOT)?;
    assert_no_module_is_missed(&machine.serial());
    assert_is_running(machine)
}

/// GRUB has not complained that a file of its menu is missing.
fn assert_no_module_is_missed(serial: &str) {
    let said = |line: &&str| line.contains("error:") && line.contains("not found");
    assert_eq!(serial.lines().find(said), None);
}

const ABOUT: &str =
    "cat /etc/motd; hostname; id -nG admin; stat -c %a:%U /etc/ssh/ssh_host_ed25519_key ~admin/.ssh/authorized_keys
     tail -1 /etc/default/ssh; test -d /sys/firmware/efi && echo uefi || echo bios; cat /proc/cmdline
     findmnt -no FSTYPE /; uname -r; sed -n 's/^Suites: //p' /etc/apt/sources.list.d/debian.sources";

fn check_system(facts: &str, firmware: &str, kernel: &str) {
    let lines: Vec<&str> = facts.lines().collect();
    let expected = [
        "Made by makeimg: debian, Debian trixie.",
        "debian",
        "admin adm",
        "600:root",
        "600:admin",
        "SSHD_OPTS=-oLogLevel=VERBOSE",
        firmware,
    ];
    assert_eq!(lines[..expected.len()], expected, "{facts}");
    let cmdline = " ro console=tty0 console=ttyS0,115200";
    assert!(lines[7].starts_with("BOOT_IMAGE=") && lines[7].ends_with(cmdline), "{facts}");
    assert_eq!(lines[8..], ["ext4", kernel, "trixie trixie-updates", "trixie-security"], "{facts}");
}

/// The example on an encrypted root starts when its passphrase is typed on the serial console, and not before; swap is
/// opened by what the initramfs has.
fn debian_encrypted(lab: &Lab) -> Result<Outcome> {
    let project = Project::new(lab, "encrypted", "imgbuild-debian")?;
    project.add(
        "packages=\"$packages
            cryptsetup-initramfs\"
        filesystems='
            /boot  300M ext4
            /      ext4 luks=system
            swap   100M luks=swap key=initramfs
        '",
    )?;
    let keys = project.dir().join("luks");
    fs::create_dir_all(&keys).context("the passphrases")?;
    for (name, hidden) in [("system.age", "bcra frfnzr\n"), ("swap", "fjnc\n")] {
        fs::write(keys.join(name), hidden).context(name)?;
    }
    let begin = Instant::now();
    let said = project.build("out", |command| {
        command.arg("--verbose");
    })?;
    println!("makeimg::debian_encrypted: built in {:.0} s", begin.elapsed().as_secs_f32());
    assert!(!said.contains("open sesame"), "a passphrase is told");
    let image = project.path("out/debian.img");
    let question = "findmnt -no SOURCE,FSTYPE /; findmnt -no FSTYPE /boot
        lsblk -rno NAME,TYPE | grep crypt | sort; swapon --noheadings --show=NAME | xargs readlink -f | xargs basename
        lsblk -rno NAME | grep -q . && test \"$(stat -c %a /boot/initrd.img-*)\" = 600 && echo shut
        ls /etc/cryptsetup-keys.d; grep -c swap /etc/crypttab";
    let typed = ["Please unlock disk system", "wrong", "bad password", "", "Please unlock disk system", "open sesame"];
    let facts = run_and_ask(lab, &project, &image, question, &typed)?;
    let lines: Vec<&str> = facts.lines().collect();
    let expected = ["/dev/mapper/system ext4", "ext4", "swap crypt", "system crypt"];
    assert_eq!(lines[..expected.len()], expected, "{facts}");
    assert!(lines[4].starts_with("dm-") && lines[5..] == ["shut", "swap.key", "1"], "{facts}");
    Ok(Outcome::Passed)
}

/// Boots an image as the manual says, asks it, and has it switch itself off, which ends `makeimg run`. `typed` are what
/// it says on its console in turn, each with what is typed then.
fn run_and_ask(lab: &Lab, project: &Project, image: &Path, question: &str, typed: &[&str]) -> Result<String> {
    let port = link::free_port()?;
    let log = fs::File::create(project.work.join("serial.log")).context("the serial log")?;
    let mut command = Command::new(makeimg()?);
    command.args(["run", "--accel", "tcg", "--ssh", &port.to_string()]).arg(image);
    let stdin = if typed.is_empty() { Stdio::null() } else { Stdio::piped() };
    let mut qemu = command.stdin(stdin).stdout(log).spawn().context("makeimg run")?;
    let asked = (|| {
        let mut end = Instant::now() + BOOT;
        let mut seen = 0;
        for pair in typed.chunks(2) {
            let serial = || fs::read(project.work.join("serial.log")).unwrap_or_default();
            let at = loop {
                let bytes = serial();
                let text = String::from_utf8_lossy(&bytes[seen.min(bytes.len())..]).into_owned();
                if text.contains(pair[0]) {
                    break bytes.len();
                }
                if Instant::now() > end || qemu.try_wait().context("waiting for makeimg run")?.is_some() {
                    bail!("no {:?} on the console", pair[0]);
                }
                std::thread::sleep(Duration::from_millis(100));
            };
            if let (Some(keyboard), [_, word]) = (&mut qemu.stdin, pair)
                && !word.is_empty()
            {
                seen = at;
                writeln!(keyboard, "{word}").context("typing")?;
                // A key is derived, and an emulated machine takes its time for that.
                end = Instant::now() + BOOT;
            }
        }
        while let Err(error) = ssh::banner(([127, 0, 0, 1], port).into(), Duration::from_secs(5)) {
            if Instant::now() > end || qemu.try_wait().context("waiting for makeimg run")?.is_some() {
                return Err(error);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let known_hosts = project.work.join("known_hosts");
        fs::write(&known_hosts, ssh::known_hosts_lines(port, &project.host_key)).context("known_hosts")?;
        let ask = |question: &str| {
            let mut client = ssh::client(port, &lab.key(), &known_hosts);
            ssh::success("the new system", &ssh::output_within(client.arg(question), BOOT)?)
        };
        assert_eq!(ask("systemctl is-system-running --wait; systemctl --failed --no-legend")?.trim(), "running");
        let answer = ask(question)?;
        ask("systemctl poweroff")?;
        Ok(answer)
    })();
    if asked.is_err() {
        let _ = qemu.kill();
    }
    let status = qemu.wait().context("waiting for makeimg run")?;
    let serial = fs::read_to_string(project.work.join("serial.log")).unwrap_or_default();
    let asked = asked.map_err(|error| lab::Error::new(format!("{error}\n{}", tail(&serial, 10))))?;
    assert!(status.success() && serial.contains("debian login:"), "{status}: {}", tail(&serial, 10));
    assert_no_module_is_missed(&serial);
    Ok(asked)
}

/// Other partition tables, file systems, and more than one of them.
fn debian_other_disks(lab: &Lab) -> Result<Outcome> {
    let known = fs::read_to_string("/proc/filesystems").context("/proc/filesystems")?;
    if let Some(unknown) = ["btrfs", "xfs"].into_iter().find(|name| !known.contains(name)) {
        return Ok(Outcome::Skipped(format!("this machine's kernel has no {unknown}")));
    }
    let lines = "filesystems='\n/boot 300M ext4\nswap 64M\n/var/lib 600M ext4\n'";
    let disks = [
        ("raw 3G gpt xfs", lines, Firmware::Uefi, "/ xfs\n/boot ext4\n/var/lib ext4\n[SWAP]"),
        ("raw 2G msdos btrfs", "", Firmware::Bios, "/ btrfs"),
    ];
    for (format, more, firmware, mounted) in disks {
        let project = Project::new(lab, "disks", "imgbuild-debian")?;
        project.add(&format!("format='{format}'\n{more}"))?;
        project.build("out", |_| {})?;
        let running = project.boot(lab, &project.work.join("out/debian.img"), firmware)?;
        let facts = running.machine.ask(
            "findmnt -rno TARGET,FSTYPE --real -t ext4,xfs,btrfs | sort; \
             swapon --noheadings --show=NAME | sed 's/.*/[SWAP]/'",
        )?;
        assert_eq!(facts.trim(), mounted, "{format}");
        running.end();
    }
    Ok(Outcome::Passed)
}

/// The same project as a tarball, twice the same bytes, and as a directory, by debootstrap.
fn debian_archives(lab: &Lab) -> Result<Outcome> {
    let project = Project::new(lab, "archives", "imgbuild-debian")?;
    // The keys that the package makes are others each time, and this project brings one of its own.
    let others = "rm /etc/ssh/ssh_host_ecdsa_key /etc/ssh/ssh_host_rsa_key /etc/ssh/*.pub";
    project.add(&format!("provision() {{\n: >/etc/machine-id\napt-get clean\n{others}\n}}"))?;
    let epoch = |command: &mut Command| {
        command.args(["--format", "tar zst"]).env("SOURCE_DATE_EPOCH", "1700000000");
    };
    for output in ["one", "two"] {
        project.build(output, epoch)?;
    }
    let [one, two] = ["one", "two"].map(|output| project.work.join(output).join("debian.tar.zst"));
    let listed =
        |archive: &Path| run(Command::new("tar").args(["--list", "--verbose", "--full-time", "-f"]).arg(archive));
    if file_sha256(&one)? != file_sha256(&two)? {
        let (one, two) = (listed(&one)?, listed(&two)?);
        let (one, two) = (String::from_utf8_lossy(&one), String::from_utf8_lossy(&two));
        let differing = one.lines().zip(two.lines()).find(|(one, two)| one != two);
        bail!("two builds of the same differ, in their lists {differing:?}");
    }
    let names = run(Command::new("tar").args(["--list", "-f"]).arg(&one))?;
    let names = String::from_utf8_lossy(&names);
    assert!(names.contains("./etc/motd\n") && !names.contains("boot/grub/"), "a tarball is not what was described");

    let tools = without_mmdebstrap(&project.work.join("bin"))?;
    let said = project.build("three", |command| {
        command.args(["--format", "dir"]).env("PATH", &tools);
    })?;
    assert!(said.contains("I: Base system installed successfully."), "something else made it: {said}");
    let root = project.work.join("three/debian");
    let read = |name: &str| fs::read_to_string(root.join(name)).context(name);
    assert_eq!(read("etc/motd")?, "Made by makeimg: debian, Debian trixie.\n");
    assert_eq!(read("etc/hostname")?, "debian\n");
    assert!(read("etc/ssh/ssh_host_ed25519_key")?.contains("OPENSSH PRIVATE KEY"));
    assert!(root.join("etc/systemd/system/multi-user.target.wants/ssh.service").is_symlink());
    // The same system, with the security updates, whatever bootstrapped it.
    let sources = "etc/apt/sources.list.d/debian.sources";
    let archived = |name: &str| {
        let bytes =
            run(Command::new("tar").args(["--extract", "--to-stdout", "-f"]).arg(&one).arg(format!("./{name}")))?;
        Ok::<_, lab::Error>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let theirs = archived(sources)?;
    assert!(theirs.contains("Suites: trixie-security\n"), "{theirs}");
    assert_eq!(read(sources)?, theirs);
    let [theirs, ours] =
        [archived("var/lib/dpkg/status")?, read("var/lib/dpkg/status")?].map(|status| versions(&status));
    assert!(theirs.iter().any(|package| package.contains(&archive::kernels(lab).unwrap_or_default().1)), "{theirs:?}");
    assert_eq!(theirs, ours);
    let left = |dir: &str| fs::read_dir(root.join(dir)).map_or(0, |names| names.flatten().count());
    assert!(left("var/cache/apt/archives") <= 2 && left("var/lib/apt/lists") <= 3, "the bootstrap left its files");
    assert_eq!(read("etc/machine-id")?, "");
    Ok(Outcome::Passed)
}

/// Makes a directory of this machine's programs, but for mmdebstrap, to be all of PATH.
pub fn without_mmdebstrap(tools: &Path) -> Result<PathBuf> {
    fs::create_dir_all(tools).context("the directory of tools")?;
    for dir in ["/usr/bin", "/usr/sbin"] {
        for entry in fs::read_dir(dir).context(dir)?.flatten() {
            if entry.file_name() != "mmdebstrap" {
                // The first of a name counts, as it does on PATH.
                let _ = std::os::unix::fs::symlink(entry.path(), tools.join(entry.file_name()));
            }
        }
    }
    Ok(tools.to_owned())
}

/// Packages with their versions, of dpkg's list.
fn versions(status: &str) -> BTreeSet<String> {
    let field = |stanza: &str, name: &str| {
        stanza.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned)).unwrap_or_default()
    };
    status.split("\n\n").map(|stanza| field(stanza, "Package: ") + " " + &field(stanza, "Version: ")).collect()
}

/// A host, and the same IMGBUILD as its payload.
pub struct Host {
    pub machine: Machine,
    server: Server,
    pub anemos: Anemos,
}

/// What nobody gives to another partition, and what is in it.
const KEPT: &str = "part=$(blkid -t LABEL=data -o device); blkid -s UUID -s PARTUUID -o value $part; sha256sum <$part";

impl Host {
    /// A host for the scenario NAME whose payload is a copy of that of examples/EXAMPLE.
    pub fn new(lab: &Lab, name: &str, example: &str, data_disk: Option<DataDisk>) -> Result<Self> {
        let server = Server::start(lab)?;
        let spec = Spec { firmware: Firmware::Uefi, archive: Some(server.port()), data_disk, ..Spec::new(name) };
        let machine = Machine::start(lab, spec)?;
        let anemos = Anemos::new(lab, name)?;
        let payload = anemos.dir().join("payload");
        copy_payload(example, &payload)?;
        let table = format!(
            "{}payload = {payload:?}\nmirror = {:?}\nauthorized_keys = [{:?}]\n{}",
            host_table(lab, "web", &machine),
            machine.archive_url(),
            lab.key().with_extension("pub"),
            base::from_url(lab, &machine)?,
        );
        anemos.write("hosts.toml", &table)?;
        Ok(Self { machine, server, anemos })
    }

    fn change(&self, change: impl FnOnce(String) -> String) -> Result<()> {
        let path = self.anemos.dir().join("payload/IMGBUILD");
        let imgbuild = fs::read_to_string(&path).context("the IMGBUILD")?;
        fs::write(path, change(imgbuild)).context("the IMGBUILD")
    }

    /// Deploys it; gives what `anemos` printed.
    pub fn up(&self) -> Result<Finished> {
        let ended = self.anemos.run(["up", "--yes", "--json", "hosts.toml"], DEPLOYMENT)?;
        let summary = ended.summary("web")?;
        assert_eq!(summary["outcome"], "deployed", "{summary:#}\n{}", ended.stderr);
        println!("{}: deployed in {} s", self.machine.name(), summary["seconds"]);
        Ok(ended)
    }
}

/// The host builds it on its own disk, and is found where it was. Another disk and a partition that is kept stay as
/// they are.
fn debian_deployed(lab: &Lab) -> Result<Outcome> {
    let host = Host::new(lab, "imgbuild-deployed", "imgbuild-debian", Some(DataDisk::Pattern { mib: 16 }))?;
    let Host { machine, anemos, .. } = &host;
    let old = machine.boot_id()?;
    let data = machine.data_disk().map(file_sha256).transpose()?;
    let kept = machine.ask(KEPT)?;
    host.change(|imgbuild| format!("{imgbuild}\nfilesystems='none keep LABEL=date'\n"))?;
    let refused = anemos.run(["up", "--yes", "hosts.toml"], BOOT)?;
    assert!(refused.stdout.contains("no partition labelled “date”"), "{}", refused.stdout);
    assert_eq!(machine.boot_id()?, old, "refused, and yet it was booted");

    host.change(|imgbuild| imgbuild.replace("LABEL=date", "LABEL=data"))?;
    let ended = host.up()?;
    let counted = |line: &str| line.contains(r#""type":"progress""#) && line.contains("Setting up");
    assert!(ended.stdout.lines().any(counted), "no progress by packages");
    assert!(!ended.stdout.contains("NO SECURITY UPDATES"), "{}", ended.stdout);

    let new = machine.boot_id()?;
    assert_ne!(old, new);
    let facts = machine.ask(
        "cat /etc/motd; hostname; ip -4 -br addr; cat /proc/cmdline; uname -r
         cat /etc/apt/sources.list.d/debian.sources",
    )?;
    assert!(facts.starts_with("Made by makeimg: debian, Debian trixie.\ndebian\n"), "{facts}");
    assert!(facts.contains("10.0.2.15/24") && facts.contains("console=ttyS0"), "{facts}");
    assert!(facts.contains(&archive::kernels(lab)?.1), "it starts with an old kernel: {facts}");
    let url = machine.archive_url();
    let sources =
        [format!("{url}\nSuites: trixie trixie-updates\n"), format!("{url}-security\nSuites: trixie-security\n")];
    assert!(sources.iter().all(|source| facts.contains(source)), "{facts}");
    assert_eq!(machine.ask(KEPT)?, kept, "the partition that is kept has changed");
    assert_eq!(machine.data_disk().map(file_sha256).transpose()?, data, "the undeclared disk has changed");
    assert_is_running(machine)?;
    Ok(Outcome::Passed)
}

/// What was deployed is lived in: its kernel is updated, and it is deployed again, mostly from what it has kept, beside
/// a partition that is kept both times.
fn debian_deployed_again(lab: &Lab) -> Result<Outcome> {
    let (older, newer) = archive::kernels(lab)?;
    let host = Host::new(lab, "imgbuild-again", "imgbuild-debian", None)?;
    let Host { machine, server, .. } = &host;
    let kept = machine.ask(KEPT)?;
    host.change(|imgbuild| {
        let imgbuild = imgbuild.replace("linux-image-cloud-amd64", &format!("linux-image-{older}"));
        format!("{imgbuild}\nfilesystems='none keep LABEL=data'\n")
    })?;
    let words = |facts: &str| facts.split_once(" root=").map(|(_, words)| words.to_owned());
    for round in 1..=2 {
        server.forget_requests();
        let summary = host.up()?.summary("web")?;
        assert_eq!(machine.ask(KEPT)?, kept, "the partition that is kept has changed");
        assert_eq!(machine.ask("uname -r")?.trim(), older);
        let sent = summary["uploaded_bytes"].as_u64().unwrap_or(u64::MAX);
        let downloads = server.requests().iter().filter(|request| request.path.starts_with("/base/")).count();
        println!("makeimg::debian_deployed_again: {round}: {sent} bytes sent, the base downloaded {downloads} times");
        if round == 2 {
            assert!(sent <= 65_536 && downloads == 0, "the second deployment had nothing in its cache: {summary:#}");
            break;
        }
        let before = words(&machine.ask("cat /proc/cmdline")?);
        assert!(before.as_ref().is_some_and(|words| words.contains("console=ttyS0,115200")), "{before:?}");
        // Its sources name the archive as it sees it.
        update_kernel(machine, "", &newer)?;
        assert_eq!(machine.ask("uname -r")?.trim(), newer);
        assert_eq!(words(&machine.ask("cat /proc/cmdline")?), before, "the update has changed the kernel's words");
    }
    Ok(Outcome::Passed)
}

/// The executable.
pub fn makeimg() -> Result<PathBuf> {
    let path: PathBuf = checkout().join("target/release/makeimg");
    if !Path::new(&path).is_file() {
        bail!("there is no {}: run `make build` first", path.display());
    }
    Ok(path)
}
