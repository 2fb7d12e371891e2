//! Whole deployments of what the project ships, seen from outside.

use crate::{Outcome, Scenario};
use lab::anemos::{Anemos, Finished, host_table};
use lab::archive::Server;
use lab::{Firmware, Lab, Machine, Net, Result, Spec, base, checkout};
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "deploy::debian_bios", run: |lab| debian(lab, Firmware::Bios) },
    Scenario { name: "deploy::debian_uefi", run: |lab| debian(lab, Firmware::Uefi) },
    Scenario { name: "deploy::hello_static_twice", run: hello_static_twice },
];

/// Debian is bootstrapped by an emulated processor that another machine may be using too.
const DEPLOYMENT: Duration = Duration::from_secs(2400);
const BOOT: Duration = Duration::from_secs(300);

/// What a system says about itself.
const WHO: &str = ". /etc/os-release; echo \"$ID $VERSION_ID\"";

fn hosts_toml(lab: &Lab, machine: &Machine, example: &str, more: &str) -> String {
    format!(
        "{}payload = {:?}\nmirror = {:?}\nauthorized_keys = [{:?}]\ncheck = \"test -s /etc/os-release\"\n{more}",
        host_table(lab, "web", machine),
        checkout().join("examples").join(example).join("payload"),
        machine.archive_url(),
        lab.key().with_extension("pub"),
    )
}

fn up(anemos: &Anemos) -> Result<Finished> {
    let ended = anemos.run(["up", "--yes", "--json", "hosts.toml"], DEPLOYMENT)?;
    let summary = ended.summary("web")?;
    assert_eq!(summary["outcome"], "deployed", "{summary:#}\n{}", ended.stderr);
    assert_eq!(ended.code(), 0);
    Ok(ended)
}

/// Debian 12 becomes the Debian 13 that it built itself, keeps its name among machines, and its disk starts any
/// machine.
fn debian(lab: &Lab, firmware: Firmware) -> Result<Outcome> {
    let server = Server::start(lab)?;
    let spec = Spec { firmware, archive: Some(server.port()), ..Spec::new(format!("debian-{firmware}")) };
    let machine = Machine::start(lab, spec.clone())?;
    let old = machine.boot_id()?;
    assert_eq!(machine.ssh(WHO)?.trim(), "debian 12");
    let anemos = Anemos::new(lab, &format!("debian-{firmware}"))?;
    let source = base::from_url(lab, &machine)?;
    anemos.write("hosts.toml", &hosts_toml(lab, &machine, "debian", &source))?;
    up(&anemos)?;

    let new = machine.boot_id()?;
    assert_ne!(old, new);
    assert_eq!(machine.ask(WHO)?.trim(), "debian 13");
    let afresh = machine.boot_afresh(Spec { name: format!("debian-{firmware}-afresh"), ..spec })?;
    // The client knows the keys that the old system had, and no others.
    assert_ne!(afresh.wait_boot(&new, BOOT)?, old);
    assert_eq!(afresh.ask(WHO)?.trim(), "debian 13");
    let state = afresh.ssh_within("systemctl is-system-running --wait; systemctl --failed --no-legend", BOOT)?;
    assert_eq!(state.trim(), "running");
    let facts = afresh.ask(
        "hostname; ip -4 -br addr; ip -4 route show default; test -d /sys/firmware/efi && echo efi || echo bios",
    )?;
    assert!(
        facts.starts_with("web\n") && facts.contains("10.0.2.15/24") && facts.contains("default via 10.0.2.2"),
        "{facts}"
    );
    assert!(facts.trim_end().ends_with(if firmware == Firmware::Uefi { "efi" } else { "bios" }), "{facts}");
    Ok(Outcome::Passed)
}

/// A host without a DHCP server, whose routers are outside its prefixes; the first deployment is small, and the next
/// tiny.
fn hello_static_twice(lab: &Lab) -> Result<Outcome> {
    // Not the name: this payload has nobody who would rename the card.
    const NETWORK: &str = "ip -o -4 addr show scope global | awk '{ print $4 }'
        ip -o -6 addr show scope global | awk '{ print $4 }'
        ip -4 route show default | awk '{ print $3, $NF }'; ip -6 route show default | awk '{ print $3, /onlink/ }'";
    let server = Server::start(lab)?;
    let spec = Spec { net: Net::Static, archive: Some(server.port()), ..Spec::new("hello-static") };
    let machine = Machine::start(lab, spec)?;
    let network = machine.ssh(NETWORK)?;
    assert!(network.contains("203.0.113.1 onlink") && network.contains("fe80::1 1"), "{network}");
    let anemos = Anemos::new(lab, "hello-static")?;
    let more = format!("{}vars = {{ GREETING = \"first\" }}\n", base::from_url(lab, &machine)?);
    anemos.write("hosts.toml", &hosts_toml(lab, &machine, "hello", &more))?;

    let mut boots = vec![machine.boot_id()?];
    // One for each group that the payload needs, of the first deployment.
    let downloads = || server.requests().iter().filter(|request| request.path.starts_with("/base/")).count();
    let mut downloaded = Vec::new();
    for (greeting, budget) in [("first", 1_805_000), ("second", 65_536)] {
        let more = more.replace("first", greeting);
        anemos.write("hosts.toml", &hosts_toml(lab, &machine, "hello", &more))?;
        let before = machine.link().counts();
        let summary = up(&anemos)?.summary("web")?;
        let line = machine.link().counts();
        let sent = summary["uploaded_bytes"].as_u64().unwrap_or_default();
        eprintln!("deploy::hello_static_twice: {greeting}: {sent} bytes sent, {} received", summary["received_bytes"]);
        assert!(sent <= budget, "{sent} bytes were sent: {summary:#}");
        // The line counts the same bytes, and those of connections that the machine never answered.
        assert!(line.sent - before.sent >= sent && line.sent - before.sent < sent + 10_000, "{before:?} {line:?}");
        let boot = machine.boot_id()?;
        assert!(!boots.contains(&boot));
        boots.push(boot);
        assert_eq!(machine.ask("cat /etc/motd")?.trim(), greeting);
        assert_eq!(machine.ask(NETWORK)?, network);
        downloaded.push(downloads());
    }
    assert!(downloaded[0] > 0, "no image was downloaded");
    assert_eq!(downloaded[1], downloaded[0], "the second deployment had its base in the cache");

    // Through its gateway; the system has little more than a shell.
    let release = "HEAD /debian/dists/trixie/Release HTTP/1.0\\r\\n\\r\\n";
    let said = machine.ask(&format!("exec 3<>/dev/tcp/203.0.113.1/80; printf '{release}' >&3; head -n 1 <&3"))?;
    assert!(said.contains(" 200 "), "{said}");
    Ok(Outcome::Passed)
}
