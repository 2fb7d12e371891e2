//! How the workstation gets to the machine.

use crate::deployment::{Deployment, LONG, UP, expect, expect_end, is_log};
use crate::{Outcome, Scenario};
use lab::command::run_with_input;
use lab::impostor::Impostor;
use lab::machine::Boot;
use lab::machine::switch::{PREFIX, TAGGED};
use lab::{Context, Lab, Machine, Net, Result, Spec, bail, ssh};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "ways::through_a_jump_host", run: through_a_jump_host },
    Scenario { name: "ways::links_in_a_guest", run: links_in_a_guest },
    Scenario { name: "ways::through_a_bridge_on_a_bond", run: through_a_bridge_on_a_bond },
    Scenario { name: "ways::through_a_vlan_on_a_trunk", run: through_a_vlan_on_a_trunk },
];

/// Becomes `examples/hello` once it is told to.
const SCRIPT: &str = "#!/bin/sh\necho begun\nuntil [ -e /tmp/go ]; do sleep 1; done\nexec ./hello\n";

/// A jump host on this machine, which the user's ssh_config puts in front of the lab's machines.
pub struct Jump {
    server: Impostor,
    /// Where `ssh` is one that reads that ssh_config.
    path: String,
}

impl Jump {
    /// Puts one in front of this machine.
    pub fn before(lab: &Lab, web: &Deployment) -> Result<Self> {
        // The lab's other OpenSSH server lets the user in here, and through.
        let admits = fs::read_to_string(lab.key().with_extension("pub")).context("the lab's key")?;
        let server = Impostor::start(&web.machine.dir().join("jump"), &admits)?;
        let key = fs::read_to_string(web.machine.dir().join("jump/host_key.pub")).context("the jump host's key")?;
        let known = web.anemos.write("jump_known_hosts", &ssh::known_hosts_lines(server.address().port(), &key))?;
        let config = format!(
            "Host 127.0.0.1\n ProxyJump jump\nHost jump\n HostName 127.0.0.1\n Port {}\n User root\n IdentityFile {}\n \
             IdentitiesOnly yes\n UserKnownHostsFile {}\n",
            server.address().port(),
            lab.key().display(),
            known.display()
        );
        let config = web.anemos.write("ssh_config", &config)?;
        // OpenSSH finds the configuration by the account, not by $HOME.
        let wrapper = format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", config.display());
        let wrapper = web.anemos.write("bin/ssh", &wrapper)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).context("cannot make ssh executable")?;
        let own = web.anemos.dir().join("bin").display().to_string();
        let path = format!("{own}:{}", std::env::var("PATH").unwrap_or_default());
        Ok(Self { server, path })
    }

    /// Has a command of the workstation's go through it.
    pub fn lead(&self, command: &mut Command) {
        command.env("PATH", &self.path);
    }
}

/// The user's ssh_config puts a jump host in front of the machine. Old system, agent and new system are all reached
/// through it, and after the first `anemos` has died `attach` finds the way again from another directory.
fn through_a_jump_host(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec::new("jump"))?;
    let before = web.machine.boot_id()?;
    let jump = Jump::before(lab, &web)?;
    let through = |mut command: Command| {
        jump.lead(&mut command);
        command
    };

    web.describe(SCRIPT, "")?;
    web.with_hello("payload", SCRIPT)?;
    let asked = web.machine.link().counts().connections;
    let plan = through(web.anemos.command(["plan", "hosts.toml"]));
    let plan = web.anemos.start(plan)?.wait(LONG)?;
    expect(plan.stdout.contains(" through jump"), format!("the plan does not show the way: {}", plan.stdout))?;

    let up = through(web.anemos.command(UP));
    let mut running = web.anemos.start(up)?;
    running.wait_json("the payload", LONG, |line| is_log(line, "begun"))?;
    running.kill()?;
    let go = through(web.anemos.command(["shell", "web", "--", "touch /tmp/go"]));
    let go = web.anemos.start(go)?.wait(LONG)?;
    expect(go.code() == 0, format!("no shell: {go:?}"))?;
    let mut attach = through(web.anemos.command(["attach", "--json"]));
    attach.current_dir("/");
    let ended = web.anemos.start(attach)?.wait(2 * LONG)?;
    expect_end(&ended, "deployed", "Anemos hello")?;

    // Plan, old system, agent, shell, agent, new system: each time a login at the jump host, and nobody else knocked.
    let logins = jump.server.log()?.lines().filter(|line| line.contains("Accepted publickey")).count();
    let carried = web.machine.link().counts().connections - asked;
    expect(logins >= 6, format!("{logins} logins at the jump host"))?;
    expect(carried <= logins as u64, format!("{carried} connections, and {logins} logins at the jump host"))?;
    web.expect_hello(&before)?;
    Ok(Outcome::Passed)
}

/// What of netstate's tests needs a kernel with bonds, VLANs, VRFs and dummies, which not every machine has that tests
/// are run on. The lab's guests do.
fn links_in_a_guest(lab: &Lab) -> Result<Outcome> {
    let machine = Machine::start(lab, Spec::new("links"))?;
    // cargo builds all tests of the workspace into one directory.
    let own = std::env::current_exe().context("this executable")?;
    let beside = fs::read_dir(own.parent().unwrap_or(&own)).context("the tests' directory")?.flatten();
    let tests = beside.filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("namespace-") && !name.contains('.')
    });
    let newest = tests.max_by_key(|entry| entry.metadata().and_then(|entry| entry.modified()).ok());
    let Some(newest) = newest else {
        bail!("netstate's tests are not built: cargo test --workspace --no-run");
    };
    let bytes = fs::read(newest.path()).context(newest.path().display())?;
    run_with_input(machine.ssh_command().arg("cat >/root/links && chmod +x /root/links"), &bytes)?;
    let modules = "for module in bonding 8021q bridge vrf dummy veth; do modprobe $module || exit; done";
    let said = machine.ssh_within(&format!("{modules}; /root/links --ignored --test-threads 1 2>&1"), LONG)?;
    expect(said.contains("test result: ok. 4 passed"), format!("not all of netstate's tests: {said}"))?;
    Ok(Outcome::Passed)
}

/// Puts the card into a bond, the bond into a bridge that filters VLANs, and the addresses on the bridge, as on rented
/// metal with Proxmox; beside it a VLAN with a table and a rule of its own, one in a VRF, and an address of lo.
const TOWER: &str = "set -e
for module in bonding bridge 8021q vrf dummy; do modprobe $module; done
ip link add bond9 type bond mode active-backup miimon 100 updelay 200 num_grat_arp 3
ip link add br9 address $(cat /sys/class/net/ens3/address) type bridge forward_delay 300 vlan_filtering 1 priority 4096
ip addr flush dev ens3
ip link set ens3 down
ip link set ens3 master bond9
ip link set bond9 up
ip link set bond9 master br9
bridge vlan add dev bond9 vid 20-30
ip link set br9 up
ip addr add 198.51.100.10/32 dev br9
ip -6 addr add 2001:db8:77::10/64 dev br9 nodad
ip route add default via 203.0.113.1 dev br9 onlink
ip -6 route add default via fe80::1 dev br9 onlink
ip link add link bond9 name bond9.7 type vlan id 7 reorder_hdr off
ip link set bond9.7 up
ip addr add 10.7.0.5/24 dev bond9.7
ip route add default via 10.7.0.1 dev bond9.7 table 77
ip rule add priority 100 from 10.7.0.5 lookup 77
ip link add mgmt9 type vrf table 1009
ip link set mgmt9 up
ip link add link bond9 name bond9.8 type vlan id 8 protocol 802.1ad
ip link set bond9.8 master mgmt9
ip link set bond9.8 up
ip addr add 10.8.0.5/24 dev bond9.8
ip route add default via 10.8.0.1 dev bond9.8 table 1009
ip addr add 203.0.113.77/32 dev lo
touch /run/done";

/// What of it must be in RAM as it was. The card has another name there.
const AS_IT_WAS: &str = r"cd /sys/class/net
for file in bond9/bonding/mode bond9/bonding/miimon bond9/bonding/updelay bond9/bonding/num_grat_arp \
    br9/bridge/forward_delay br9/bridge/vlan_filtering br9/bridge/priority br9/address bond9/address br9/mtu
do
    echo $file $(cat $file)
done
for link in bond9.7 bond9.8 mgmt9; do
    ip -d -o link show dev $link | grep -oE 'vlan protocol [^ ]+ id [0-9]+ *(<[^>]*>)?|vrf table [0-9]+'
done
ls -d br9/brif/bond9 mgmt9/lower_bond9.8
bridge vlan show dev bond9
ip -o addr show scope global | awk '{ print $2, $4 }' | sort
for table in main 77 1009; do ip -4 route show default table $table | awk '{ print $3, $5 }'; done
ip rule show priority 100";

/// The machine is reached through a bridge on a bond. The plan shows it; in RAM all of it is as it was; and the
/// payload, which looks at it and writes nothing, leaves the old system.
fn through_a_bridge_on_a_bond(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec { net: Net::Static, ..Spec::new("bridge-on-bond") })?;
    // The connection may not outlive the change, which must not end with it.
    web.machine.ssh(&format!(
        "cat >/root/tower <<'END'\n{TOWER}\nEND\nsetsid sh /root/tower >/root/tower.log 2>&1 </dev/null &"
    ))?;
    let done = "i=0; until [ -e /run/done ] || [ $i = 60 ]; do i=$((i + 1)); sleep 1; done; test -e /run/done";
    web.machine.ask(&format!("{done} || {{ cat /root/tower.log; false; }}"))?;
    let before = web.machine.boot_id()?;
    let was = web.machine.ask(AS_IT_WAS)?;

    let look = format!("cat >/tmp/was <<'END'\n{}\nEND\n({AS_IT_WAS}) >/tmp/is", was.trim());
    let deploy = format!(
        "#!/bin/sh\n{look}\n[ \"$(cat /tmp/was)\" = \"$(cat /tmp/is)\" ] && echo the same || cat /tmp/is\nexit 1\n"
    );
    web.describe(&deploy, "")?;
    let plan = web.anemos.run(["plan", "hosts.toml"], LONG)?;
    let way = "br9 (bridge of bond9 of ens3)";
    expect(plan.stdout.contains(way), format!("the plan does not show the way in: {}", plan.stdout))?;
    let ended = web.anemos.run(UP, LONG)?;
    let said: Vec<String> =
        ended.json().iter().filter(|line| is_log(line, "")).map(|line| line["text"].to_string()).collect();
    expect(said.iter().any(|line| line.contains("the same")), format!("was\n{was}\nand is {said:#?}"))?;
    expect_end(&ended, "untouched", "")?;
    web.expect_old(&before)?;
    Ok(Outcome::Passed)
}

/// What the machine's administrator has written and started: both cards are a bond that does LACP with the switch, and
/// the address is leased in a VLAN on it, where a router advertises another.
fn interfaces() -> String {
    let [first, second] = [lab::machine::net::GUEST_DEVICE, lab::machine::net::SECOND_DEVICE];
    let vlan = lab::machine::switch::VLAN;
    format!(
        "auto lo
iface lo inet loopback

auto bond0
iface bond0 inet manual
    pre-up modprobe -a bonding 8021q
    pre-up ip link add bond0 address $(cat /sys/class/net/{first}/address) type bond mode 802.3ad
    pre-up ip link set bond0 type bond miimon 100 lacp_rate fast
    pre-up for card in {first} {second}; do ip link set $card down && ip link set $card master bond0 || exit; done
    up ip link set bond0 up

auto bond0.{vlan}
iface bond0.{vlan} inet dhcp
iface bond0.{vlan} inet6 auto
"
    )
}

/// What of the trunk must be in RAM as it was. The cards have other names there. At last: that the switch takes both
/// cards for one, and that the VLAN's router is known.
const TRUNK: &str = r"cd /sys/class/net
for file in bond0/bonding/mode bond0/bonding/lacp_rate bond0/bonding/miimon bond0/address bond0.7/address; do
    echo $file $(cat $file)
done
ip -d -o link show dev bond0.7 | grep -oE 'vlan protocol [^ ]+ id [0-9]+'
ip -o addr show scope global | awk '{ print $2, $4 }' | sort
ip -4 route show default | awk '{ print $3, $5 }'
i=0
until [ $(cat bond0/bonding/ad_num_ports) = 2 ] && ip -6 route show default | grep -q ' dev bond0.7 '; do
    i=$((i + 1)); [ $i -lt 60 ] || break; sleep 1
done
echo $(cat bond0/bonding/ad_num_ports) cards of one switch
ip -6 route show default | grep -o ' dev bond0.7 proto ra'";

/// The machine is reached through a VLAN on a bond of two cards, which a real switch takes for one by LACP, at an
/// address that is leased. In RAM all of it is as it was, and the new system answers at the same address.
fn through_a_vlan_on_a_trunk(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec { net: Net::Trunk, boot: Boot::Image, ..Spec::new("vlan-on-trunk") })?;
    web.machine.wait_ssh(LONG)?;
    let change = format!(
        "mkdir /run/change || exit 0\ncp /etc/network/interfaces /run/before\n\
         cat >/etc/network/interfaces <<'END'\n{}END\n\
         setsid sh -c 'ifdown -i /run/before ens3; ifup --all' >/dev/console 2>&1 </dev/null &",
        interfaces()
    );
    web.machine.ask(&change)?;
    web.machine.lead_to(TAGGED[1].into())?;
    web.machine.wait_ssh(LONG)?;
    let before = web.machine.boot_id()?;
    let was = web.machine.ask(TRUNK)?;
    for part in ["2 cards of one switch", " dev bond0.7 proto ra", PREFIX] {
        expect(was.contains(part), format!("no {part:?} in what the machine says before: {was}"))?;
    }

    let look = format!("cat >/tmp/was <<'END'\n{}\nEND\n({TRUNK}) >/tmp/is", was.trim());
    let script = format!(
        "#!/bin/sh\n{look}\n[ \"$(cat /tmp/was)\" = \"$(cat /tmp/is)\" ] && exec ./hello\ncat /tmp/is\nexit 1\n"
    );
    web.describe("", "")?;
    web.with_hello("payload", &script)?;
    let ended = web.anemos.run(UP, LONG)?;
    let said: Vec<String> =
        ended.json().iter().filter(|line| is_log(line, "")).map(|line| line["text"].to_string()).collect();
    expect_end(&ended, "deployed", "Anemos hello").context(format!("was\n{was}\nand is {said:#?}"))?;
    web.expect_hello(&before)?;
    Ok(Outcome::Passed)
}
