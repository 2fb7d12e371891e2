//! Hosts that let in a user who becomes root.

use crate::deployment::{Deployment, LONG, UP, expect, expect_end};
use crate::{Outcome, Scenario};
use lab::anemos::Running;
use lab::command::{program, run, run_with_input};
use lab::{Context, Lab, Result, Spec, bail};
use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[Scenario { name: "become::sudo_with_a_password", run: sudo_with_a_password }];

/// As clouds do: root's key is answered with a word, and another user has sudo; but here with a password.
const USERS: &str = r#"set -e
useradd -m -s /bin/bash admin
echo 'admin:two words' | chpasswd
install -d -m 700 -o admin -g admin /home/admin/.ssh
install -m 600 -o admin -g admin /root/.ssh/authorized_keys /home/admin/.ssh/
(umask 337; echo 'admin ALL=(ALL) ALL' >/etc/sudoers.d/admin)
{
    tr '\n' ' ' <<'END'
command="echo 'Please login as the user \"admin\" rather than the user \"root\".';echo;sleep 1;exit 142"
END
    cat /home/admin/.ssh/authorized_keys
} >/root/.ssh/authorized_keys"#;

/// Gives the machine this one's sudo, which is of the same Debian, if it has none: its archive has none.
pub fn give_sudo(deployment: &Deployment) -> Result<()> {
    if !deployment.machine.ssh("command -v sudo || echo none")?.contains("none") {
        return Ok(());
    }
    let list = "for file in $(dpkg -L sudo); do [ -d $file ] || echo $file; done";
    let pack = format!("{list} | tar -c --absolute-names --files-from -");
    let files = run(program("bash").args(["-o", "pipefail", "-c", &pack]))?;
    let mut ssh = deployment.machine.ssh_command();
    run_with_input(ssh.arg("tar -x -p --absolute-names -C / && sudo -n true"), &files).map(drop)
}

/// Root is turned away with the host's own words; a user becomes root by a password that is typed once. The new system
/// has no such user, and root is let in.
fn sudo_with_a_password(lab: &Lab) -> Result<Outcome> {
    let deployment = Deployment::new(lab, Spec::new("sudo"))?;
    let Deployment { machine, anemos, .. } = &deployment;
    let before = machine.boot_id()?;
    give_sudo(&deployment)?;
    machine.ssh(USERS)?;
    deployment.with_hello("payload", "#!/bin/sh\nexec ./hello\n")?;
    let deploy = fs::read_to_string(anemos.dir().join("payload/deploy")).context("the payload")?;
    let check = r#"check = "test $(id -u) = 0""#;
    deployment.describe(&deploy, check)?;
    let ended = anemos.run(UP, LONG)?;
    expect_end(&ended, "untouched", "Please login as the user \"admin\" rather than the user \"root\".")?;
    let summary = ended.summary("web")?.to_string();
    expect(summary.contains("write `user = \\\"admin\\\"` in hosts.toml"), format!("no advice in {summary}"))?;

    let table = fs::read_to_string(anemos.dir().join("hosts.toml")).context("hosts.toml")?;
    anemos.write("hosts.toml", &table.replace("user = \"root\"\n", "user = \"admin\"\n"))?;
    let ended = anemos.run(UP, LONG)?;
    expect_end(&ended, "untouched", "nothing makes it root without a password")?;
    anemos.write("hosts.toml", &table.replace("user = \"root\"\n", "user = \"admin\"\nbecome = \"sudo\"\n"))?;

    let (keyboard, mut typing) = std::io::pipe().context("a pipe")?;
    let mut terminal = anemos.on_terminal("exec \"$anemos\" up --yes --json hosts.toml");
    terminal.stdin(Stdio::from(keyboard));
    let running = anemos.start(terminal)?;
    let question = "Password of admin to become root by sudo on web: ";
    shows(&running, question)?;
    writeln!(typing, "not this").context("typing")?;
    shows(&running, &format!("That was not it on web. {question}"))?;
    writeln!(typing, "two words").context("typing")?;
    let ended = running.wait(LONG * 2)?;
    expect_end(&ended, "deployed", "")?;
    let plan = ended.json().into_iter().find(|line| line["type"] == "plan").unwrap_or_default();
    expect(plan["become"] == "sudo", format!("the plan does not say how: {plan}"))?;
    expect(!ended.stdout.contains("two words"), "the password was shown")?;
    deployment.expect_hello(&before)?;
    Ok(Outcome::Passed)
}

/// Waits until the terminal shows this.
fn shows(running: &Running, text: &str) -> Result<()> {
    let end = Instant::now() + LONG;
    while !running.stdout().contains(text) {
        if Instant::now() >= end {
            bail!("no {text:?} on the terminal:\n{}", running.stdout());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
