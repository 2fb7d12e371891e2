//! The lab itself: that its machines are what the other scenarios take them for.

use crate::{Outcome, Scenario};
use lab::archive::{Fault, Server};
use lab::impostor::Impostor;
use lab::link::Target;
use lab::machine::{Boot, DataDisk, Kernel, file_sha256};
use lab::{Context, Firmware, Lab, Machine, Net, Result, Spec, ssh};
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "machines::bios_snapshot", run: |lab| snapshot(lab, Firmware::Bios) },
    Scenario { name: "machines::uefi_snapshot", run: |lab| snapshot(lab, Firmware::Uefi) },
    Scenario { name: "machines::static_network", run: static_network },
    Scenario { name: "machines::panic_ends_the_machine", run: panic_ends },
    Scenario { name: "machines::second_disk", run: second_disk },
    Scenario { name: "machines::archive_and_its_faults", run: archive_faults },
    Scenario { name: "machines::line_can_be_cut_and_slowed", run: line },
    Scenario { name: "machines::link_down_and_reset", run: link_and_reset },
    Scenario { name: "machines::kexec_from_the_snapshot", run: kexec },
    Scenario { name: "machines::impostor_hears_what_it_is_told", run: impostor },
];

const BOOT: Duration = Duration::from_secs(240);

/// An error where something is not as it should be.
fn expect(holds: bool, what: impl Into<String>) -> Result<()> {
    if holds { Ok(()) } else { Err(lab::Error::new(what)) }
}

fn snapshot(lab: &Lab, firmware: Firmware) -> Result<Outcome> {
    let machine = Machine::start(lab, Spec { firmware, ..Spec::new(format!("snapshot-{firmware}")) })?;
    let begin = Instant::now();
    let facts = machine.ssh(
        "grep ^VERSION_CODENAME /etc/os-release; systemctl is-system-running; test -d /sys/firmware/efi && echo efi; \
         grep -c root=UUID /proc/cmdline; lsblk -no SERIAL /dev/vda; ip -4 route show default; date +%s; \
         test -e /run/dbus && echo dbus; true",
    )?;
    expect(begin.elapsed() < Duration::from_secs(30), "a command takes more than half a minute")?;
    for wanted in ["VERSION_CODENAME=bookworm", "running", "anemos-root", "default via 10.0.2.2 dev ens3"] {
        expect(facts.contains(wanted), format!("no {wanted:?} in\n{facts}"))?;
    }
    expect(facts.contains("\nefi\n") == (firmware == Firmware::Uefi), format!("the wrong firmware:\n{facts}"))?;
    expect(!facts.contains("dbus"), "a minimal Debian has no D-Bus")?;
    let now = std::time::UNIX_EPOCH.elapsed().context("the clock")?.as_secs();
    let theirs = facts.lines().filter_map(|line| line.parse::<u64>().ok()).find(|time| *time > 1_000_000_000);
    let theirs = theirs.ok_or_else(|| lab::Error::new("no time from the machine"))?;
    expect(now.abs_diff(theirs) < 60, format!("the machine's clock is {} s off", now.abs_diff(theirs)))?;
    // Another machine from the same snapshot sees nothing of this one.
    machine.ssh("touch /root/mark; sync")?;
    drop(machine);
    let other = Machine::start(lab, Spec { firmware, ..Spec::new(format!("snapshot-{firmware}")) })?;
    expect(other.ssh("ls /root")?.trim().is_empty(), "machines share a disk")?;
    Ok(Outcome::Passed)
}

fn static_network(lab: &Lab) -> Result<Outcome> {
    let server = Server::start(lab)?;
    let spec = Spec { net: Net::Static, archive: Some(server.port()), ..Spec::new("static") };
    let machine = Machine::start(lab, spec)?;
    let routes = machine.ssh("ip -4 route; ip -6 route; ip -br addr show ens3; command -v dhclient dhcpcd || true")?;
    for wanted in [
        "default via 203.0.113.1 dev ens3 onlink",
        "default via fe80::1 dev ens3 metric 1024 onlink",
        "198.51.100.10/32",
        "2001:db8:77::10/64",
    ] {
        expect(routes.contains(wanted), format!("no {wanted:?} in\n{routes}"))?;
    }
    expect(!routes.contains("dhc"), "there is a DHCP client")?;
    machine.ssh("ping -c1 -W5 2001:db8:77::1 && ping -c1 -W5 203.0.113.1")?;
    let release = format!("{}/dists/trixie/Release", machine.archive_url());
    machine.ssh(&format!("/usr/lib/apt/apt-helper download-file {release} /tmp/Release"))?;
    expect(machine.ssh("cat /tmp/Release")?.contains("Codename: trixie"), "the archive's Release is something else")?;
    Ok(Outcome::Passed)
}

fn panic_ends(lab: &Lab) -> Result<Outcome> {
    let machine = Machine::start(
        lab,
        Spec {
            boot: Boot::Image,
            // Without panic=, the machine would stand still for ever.
            kernel: Some(Kernel { command_line: "console=ttyS0 root=/dev/nonsense panic=0".into(), initrd: None }),
            ..Spec::new("panic")
        },
    )?;
    let cause = machine.wait_end(Duration::from_secs(120))?;
    expect(cause.contains("Kernel panic - not syncing"), format!("it ended otherwise: {cause}"))?;
    expect(machine.check().is_err(), "it is said to go on")?;
    let begin = Instant::now();
    let waited = machine.wait_ssh(Duration::from_secs(60));
    expect(waited.is_err_and(|error| error.to_string().contains("Kernel panic")), "the wait does not name the panic")?;
    expect(begin.elapsed() < Duration::from_secs(5), "the wait for a dead machine went on")?;
    Ok(Outcome::Passed)
}

fn second_disk(lab: &Lab) -> Result<Outcome> {
    let machine =
        Machine::start(lab, Spec { data_disk: Some(DataDisk::Pattern { mib: 64 }), ..Spec::new("two-disks") })?;
    let file = machine.data_disk().ok_or_else(|| lab::Error::new("no data disk"))?.to_owned();
    let before = file_sha256(&file)?;
    let there = machine.ssh("udevadm settle; lsblk -dnbo SERIAL,SIZE /dev/vdb; sha256sum < /dev/vdb")?;
    expect(there.contains("anemos-data") && there.contains("67108864"), format!("not the data disk: {there}"))?;
    expect(there.contains(&before), "the guest sees other bytes")?;
    machine.ssh("printf x | dd of=/dev/vdb bs=1 seek=4096 conv=notrunc,fsync status=none")?;
    expect(file_sha256(&file)? != before, "a written byte does not show")?;
    Ok(Outcome::Passed)
}

fn archive_faults(lab: &Lab) -> Result<Outcome> {
    let server = Server::start(lab)?;
    let machine = Machine::start(lab, Spec { archive: Some(server.port()), ..Spec::new("archive") })?;
    let path = "dists/trixie/main/binary-amd64/Packages.xz";
    let hash = file_sha256(&lab.path("archive/debian").join(path))?;
    let get = format!(
        "/usr/lib/apt/apt-helper -o Acquire::Retries=0 download-file {}/{path} /tmp/index SHA256:{hash}",
        machine.archive_url()
    );
    for fault in [Fault::NotFound, Fault::FlipByte(1000), Fault::Truncate(1000)] {
        server.fault(path, fault.clone());
        expect(machine.ssh(&format!("rm -f /tmp/index; {get}")).is_err(), format!("{fault:?} went unnoticed"))?;
        server.mend();
    }
    server.forget_requests();
    machine.ssh(&format!("rm -f /tmp/index; {get}"))?;
    expect(machine.ssh("sha256sum /tmp/index")?.contains(&hash), "other bytes than the archive's")?;
    let size = lab.path("archive/debian").join(path).metadata().context("the index")?.len();
    let log = server.requests();
    expect(log.len() == 1 && log[0].bytes == size && log[0].status == 200, format!("an odd log: {log:?}"))?;
    // Nothing but the lab can be reached.
    expect(
        machine.ssh_within("timeout 10 ping -c1 -W3 192.0.2.1", Duration::from_secs(60)).is_err(),
        "the machine talks to the world",
    )?;
    Ok(Outcome::Passed)
}

fn line(lab: &Lab) -> Result<Outcome> {
    let machine = Machine::start(lab, Spec::new("line"))?;
    let before = machine.link().counts();
    machine.ssh("head -c 1000000 /dev/zero")?;
    let received = machine.link().counts().received - before.received;
    expect((1_000_000..1_100_000).contains(&received), format!("{received} bytes counted for a million"))?;
    machine.link().throttle(Some(50_000));
    let begin = Instant::now();
    machine.ssh("head -c 200000 /dev/zero")?;
    expect(begin.elapsed() > Duration::from_secs(3), "200 kB at 50 kB/s came too soon")?;
    machine.link().throttle(None);
    std::thread::scope(|scope| -> Result<()> {
        let marked = machine.link().counts().connections;
        let long = scope.spawn(|| machine.ssh("echo begun; exec sleep 600"));
        while machine.link().counts().connections == marked {
            std::thread::sleep(Duration::from_millis(20));
        }
        machine.link().cut();
        let ended = long.join().map_err(|_| lab::Error::new("the thread with ssh died"))?;
        expect(ended.is_err(), "a cut connection went on")
    })?;
    Ok(Outcome::Passed)
}

fn kexec(lab: &Lab) -> Result<Outcome> {
    let seconds = lab::bench::bare_kexec(lab)?;
    eprintln!("bare kexec to the first connection: {seconds:.2} s");
    Ok(Outcome::Passed)
}

fn impostor(lab: &Lab) -> Result<Outcome> {
    let machine = Machine::start(lab, Spec::new("impostor"))?;
    let key = std::fs::read_to_string(lab.key().with_extension("pub")).context("the lab's key")?;
    let impostor = Impostor::start(&machine.dir().join("impostor"), &key)?;
    let honest = machine.link().target();
    machine.link().redirect(Target::Here(impostor.address()));
    expect(machine.ssh("true").is_err(), "the impostor was believed")?;
    expect(impostor.connections() == 1, "the impostor was not asked")?;
    impostor.assert_told_nothing()?;
    // A client that does not check the host key tells the impostor everything.
    let known_hosts = machine.dir().join("fooled");
    let host_key =
        std::fs::read_to_string(machine.dir().join("impostor/host_key.pub")).context("the impostor's key")?;
    std::fs::write(&known_hosts, ssh::known_hosts_lines(machine.port(), &host_key)).context("known_hosts")?;
    let mut fooled = ssh::client(machine.port(), &lab.key(), &known_hosts);
    let output = ssh::output_within(fooled.arg("true"), Duration::from_secs(30))?;
    expect(output.status.success(), format!("no real server: {}\n{}", output.status, impostor.log()?))?;
    expect(impostor.assert_told_nothing().is_err(), "the impostor noticed nothing")?;
    machine.link().redirect(honest);
    expect(machine.ssh("hostname")?.trim() == "lab-dhcp", "not led back")?;
    Ok(Outcome::Passed)
}

fn link_and_reset(lab: &Lab) -> Result<Outcome> {
    let machine = Machine::start(lab, Spec::new("reset"))?;
    let before = machine.boot_id()?;
    machine.set_link(false)?;
    let here = ([127, 0, 0, 1], machine.port()).into();
    expect(ssh::banner(here, Duration::from_secs(3)).is_err(), "it answers without a cable")?;
    machine.set_link(true)?;
    machine.wait_ssh(Duration::from_secs(30))?;
    expect(machine.boot_id()? == before, "pulling the cable rebooted it")?;
    machine.reset()?;
    // A kernel says this first, and this machine's serial line has not seen one start.
    machine.wait_serial("Linux version ", BOOT)?;
    Ok(Outcome::Passed)
}
