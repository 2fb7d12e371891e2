//! Where a host's base image comes from, and that nothing but what the lock pins is ever booted.

use crate::deployment::{LONG, UP, copy_payload, expect, expect_end, is_event};
use crate::runs::files_with;
use crate::{Outcome, Scenario};
use lab::anemos::{Anemos, Finished, host_table};
use lab::archive::{Fault, Server};
use lab::proxy::Proxy;
use lab::{Context, Error, Lab, Machine, Result, Spec, base, checkout};
use std::fs;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "base::wrong_bytes", run: wrong_bytes },
    Scenario { name: "base::left_the_mirror", run: left_the_mirror },
    Scenario { name: "base::through_a_proxy", run: through_a_proxy },
];

/// The lock that ships.
fn shipped_lock() -> Result<String> {
    let path = checkout().join("base-initramfs/base.lock");
    fs::read_to_string(&path).context(format!("cannot read {}", path.display()))
}

/// A machine, what `anemos` finds it by, and the archive that it builds from.
struct Builder {
    server: Server,
    machine: Machine,
    anemos: Anemos,
    boot_id: String,
}

impl Builder {
    fn new(lab: &Lab, spec: Spec) -> Result<Self> {
        let server = Server::start(lab)?;
        let anemos = Anemos::new(lab, &spec.name)?;
        let machine = Machine::start(lab, Spec { archive: Some(server.port()), ..spec })?;
        anemos.payload("payload", "#!/bin/sh\nexit 1\n")?;
        let boot_id = machine.boot_id()?;
        Ok(Self { server, machine, anemos, boot_id })
    }

    fn up(&self, lab: &Lab, more: &str) -> Result<Finished> {
        let table = host_table(lab, "web", &self.machine);
        self.anemos.write("hosts.toml", &format!("{table}{more}\n"))?;
        self.anemos.run(UP, LONG)
    }

    /// `up` is refused before the boot, with a reason that has all of `words`, and leaves the host as it was.
    fn refused(&self, lab: &Lab, more: &str, words: &[&str]) -> Result<()> {
        let ended = self.up(lab, &format!("payload = \"payload\"\n{more}"))?;
        for word in words {
            expect_end(&ended, "untouched", word)?;
        }
        let left = self.machine.ssh(
            "cat /proc/sys/kernel/random/boot_id /sys/kernel/kexec_loaded; \
             ls -d /var/lib/anemos /root/.anemos /run/anemos /var/cache/anemos 2>/dev/null || true",
        )?;
        let expected = format!("{}\n0\n", self.boot_id);
        expect(left == expected, format!("the old system is not as it was: {left:?}, not {expected:?}"))
    }
}

/// What an apt says that knows the machine's archive of past versions.
fn apt_option(machine: &Machine) -> String {
    format!("Acquire::Snapshots::URI::Override::Origin::Debian \"{}\";\n", machine.snapshot_url())
}

/// A damaged package, half of one, none, and an image that is not the lock's: each is refused by name, and the machine
/// that all of it happens to is the same as before.
fn wrong_bytes(lab: &Lab) -> Result<Outcome> {
    let host = Builder::new(lab, Spec::new("wrong-bytes"))?;
    // Packages are unpacked in the order of their names, so one of the first ends each attempt early.
    for (fault, words) in [
        (Fault::FlipByte(100_000), ["/apt_", "SHA-256 is"]),
        (Fault::Truncate(100_000), ["/apt_", "truncated: 100000 of"]),
    ] {
        host.server.fault("/apt_", fault);
        host.refused(lab, "", &words)?;
        host.server.mend();
    }
    // A package has left the mirror. Neither the host's apt nor the workstation's knows where past versions are: the
    // error says so, and what to do.
    host.server.fault("/apt_", Fault::NotFound);
    host.refused(
        lab,
        "",
        &["/apt_", "not found", "; apt has left the mirror", "Name it with `snapshot` in hosts.toml"],
    )?;
    expect(!asked(&host.server, "/snapshot/"), "the snapshot archive was asked, which nobody named")?;
    // The workstation's apt knows a snapshot archive, but that one lacks the package too.
    host.anemos.tell_apt(&apt_option(&host.machine))?;
    host.refused(lab, "", &["/apt_", "not found", "/snapshot/20"])?;
    host.anemos.tell_apt("")?;
    host.server.mend();
    // The image of another lock, whole and undamaged, where that of this one should be.
    let groups = base::groups()?;
    let core = groups.iter().find(|group| group.name == "core").ok_or_else(|| Error::new("base.lock has no core"))?;
    let pinned = "0123456789abcdef".repeat(4);
    host.anemos.write("base.lock", &shipped_lock()?.replacen(&core.image, &pinned, 1))?;
    let images = base::ensure(lab)?;
    let file = |image: &str| format!("base-{image}.cpio.zst");
    let wrong = images.join(file(&pinned));
    fs::copy(images.join(file(&core.image)), &wrong).context(format!("cannot make {}", wrong.display()))?;
    let url = base::url(&host.machine)?;
    let source = format!("base = {{ urls = [{url:?}], lock = \"base.lock\" }}");
    let refused = host.refused(lab, &source, &[&file(&pinned), "SHA-256 is", &core.image]);
    fs::remove_file(&wrong).context(format!("cannot remove {}", wrong.display()))?;
    refused?;
    expect(!host.machine.serial().contains("Starting new kernel"), "something was booted")?;
    Ok(Outcome::Passed)
}

fn asked(server: &Server, part: &str) -> bool {
    server.requests().iter().any(|request| request.path.contains(part))
}

/// All packages of the base and the locked kernel have left the mirror. Each is found in the snapshot archive, which
/// the host's apt knows. They are built and booted on a host of 1 GiB. An IMGBUILD is built there by what came of them,
/// as far as the mirror has its packages: no further than their lists. A script payload becomes the new system then.
fn left_the_mirror(lab: &Lab) -> Result<Outcome> {
    let host = Builder::new(lab, Spec::new("left-the-mirror"))?;
    host.server.fault("/debian/pool/", Fault::NotFound);
    let archive = host.machine.archive_url();
    let option = apt_option(&host.machine);
    host.machine.ssh(&format!("cat >/etc/apt/apt.conf.d/90past <<'end'\n{option}end"))?;
    copy_payload("imgbuild-debian", &host.anemos.dir().join("imgbuild"))?;
    let lock = shipped_lock()?;
    let release = lock
        .lines()
        .find_map(|line| line.strip_prefix("release = "))
        .ok_or_else(|| Error::new("base.lock names no kernel"))?;
    let groups = base::groups()?;
    let usual: Vec<&String> = groups.iter().filter(|group| !group.on_demand).map(|group| &group.name).collect();
    let more = format!(
        "payload = \"imgbuild\"\nneeds = {usual:?}\nmirror = {archive:?}\nkernel = \"locked\"\n\
         authorized_keys = [{:?}]\ncheck = 'test \"$(uname -r)\" = {release}'\n",
        lab.key().with_extension("pub")
    );
    let ended = host.up(lab, &more)?;
    expect_end(&ended, "held", "the payload")?;
    let lines = ended.json();
    for step in ["package archives", "partitions and file systems", "bootstrap Debian trixie"] {
        let begun = |line: &serde_json::Value| is_event(line, "step-started") && line["name"] == step;
        expect(lines.iter().any(begun), format!("makeimg did not come to “{step}”"))?;
    }
    let hello = checkout().join("examples/hello/payload");
    let ended =
        host.anemos.run(["retry".as_ref(), "--json".as_ref(), "--payload".as_ref(), hello.as_os_str()], LONG)?;
    expect_end(&ended, "deployed", "")?;
    let requests = host.server.requests();
    let given: Vec<&str> = requests.iter().filter(|request| request.status == 200).map(|r| &*r.path).collect();
    let others: Vec<_> =
        given.iter().filter(|path| path.contains("/pool/") && !path.starts_with("/snapshot/")).collect();
    expect(others.is_empty(), format!("not from the snapshot archive: {others:?}"))?;
    let paths = lock.lines().filter_map(|line| line.split("path = \"").nth(1)?.split('"').next());
    let on_demand = groups.iter().filter(|group| group.on_demand).flat_map(|group| &group.packages);
    let on_demand: Vec<&str> = on_demand.map(|package| &*package.path).collect();
    let wanted: Vec<&str> = paths.filter(|path| !on_demand.contains(path)).collect();
    expect(!wanted.is_empty(), "base.lock has no packages")?;
    for path in wanted {
        let from_snapshot = given.iter().any(|given| given.strip_suffix(path).is_some_and(|at| at.ends_with('/')));
        expect(from_snapshot, format!("{path} did not come from the snapshot archive"))?;
    }
    Ok(Outcome::Passed)
}

const PASSWORD: &str = "open-sesame";

/// Archives are reached through an HTTP proxy only, which the host's apt knows, with its password. The stage and the
/// payload go through it, and nobody shows the password.
fn through_a_proxy(lab: &Lab) -> Result<Outcome> {
    let server = Server::start(lab)?;
    let anemos = Anemos::new(lab, "proxy")?;
    let proxy = Proxy::start("me", PASSWORD)?;
    // What the machine sees in the archive's place is the proxy, and the archive is where only that one reaches it.
    let machine = Machine::start(lab, Spec { archive: Some(proxy.port()), ..Spec::new("proxy") })?;
    let before = machine.boot_id()?;
    let [seen, reached] = [machine.archive_url(), server.url()].map(|url| url.trim_end_matches("/debian").to_owned());
    let known = seen.replace("http://", &format!("http://me:{PASSWORD}@"));
    // Programs ask no proxy for what is on their own loopback, unless they are told of others that are excepted.
    machine.ssh(&format!(
        "echo 'Acquire::http::Proxy \"{known}\";' >/etc/apt/apt.conf.d/90proxy\n\
         echo no_proxy=.invalid >>/etc/environment"
    ))?;
    base::ensure(lab)?;
    let image = base::url(&machine)?.replace(&seen, &reached);
    anemos.payload(
        "payload",
        "#!/bin/sh\nset -e\n\
         /usr/lib/apt/apt-helper download-file \"$ANEMOS_MIRROR/dists/trixie/Release\" /tmp/release\n\
         anemos-agent note \"got $(head -n 1 /tmp/release)\"\nexit 1\n",
    )?;
    let table = host_table(lab, "web", &machine);
    let mirror = server.url();
    let table = format!("{table}payload = \"payload\"\nmirror = {mirror:?}\nbase = {{ urls = [{image:?}] }}\n");
    // An address that hosts.toml names counts instead, and this one lets nobody through without a password.
    anemos.write("hosts.toml", &format!("{table}proxy = {seen:?}\n"))?;
    expect_end(&anemos.run(UP, LONG)?, "untouched", "407")?;
    // Nor is there a way without one.
    anemos.write("hosts.toml", &format!("{table}proxy = \"none\"\n"))?;
    expect_end(&anemos.run(UP, LONG)?, "untouched", "no address had it")?;
    expect(machine.boot_id()? == before, "the host was booted")?;
    anemos.write("hosts.toml", &table)?;
    let ended = anemos.run(UP, LONG)?;
    expect_end(&ended, "untouched", "the payload exited with status 1")?;
    let lines = ended.json();
    let plan = lines.iter().find(|line| line["type"] == "plan").ok_or_else(|| Error::new("there was no plan"))?;
    expect(plan["proxy"] == seen.as_str(), format!("another proxy is planned: {plan}"))?;
    let got = |line: &serde_json::Value| {
        is_event(line, "note") && line["text"].as_str().is_some_and(|t| t.starts_with("got "))
    };
    expect(lines.iter().any(got), "the payload got nothing through the proxy")?;
    for part in ["/base/", "/dists/trixie/Release"] {
        expect(asked(&server, part), format!("nobody asked for {part}"))?;
    }
    let shown = files_with(anemos.dir(), PASSWORD)?;
    expect(shown.is_empty(), format!("the proxy's password is in {shown:?}"))?;
    Ok(Outcome::Passed)
}
