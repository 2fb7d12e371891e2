//! How the workstation gets to the machine.

use crate::deployment::{Deployment, LONG, UP, expect, expect_end, is_log};
use crate::{Outcome, Scenario};
use lab::impostor::Impostor;
use lab::{Context, Lab, Result, Spec, ssh};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

pub const SCENARIOS: &[Scenario] = &[Scenario { name: "ways::through_a_jump_host", run: through_a_jump_host }];

/// Becomes `examples/hello` once it is told to.
const SCRIPT: &str = "#!/bin/sh\necho begun\nuntil [ -e /tmp/go ]; do sleep 1; done\nexec ./hello\n";

/// The user's ssh_config puts a jump host in front of the machine. Old system, agent and new system are all reached
/// through it, and after the first `anemos` has died `attach` finds the way again from another directory.
fn through_a_jump_host(lab: &Lab) -> Result<Outcome> {
    let web = Deployment::new(lab, Spec::new("jump"))?;
    let before = web.machine.boot_id()?;
    // The lab's other OpenSSH server lets the user in here, and through.
    let admits = fs::read_to_string(lab.key().with_extension("pub")).context("the lab's key")?;
    let jump = Impostor::start(&web.machine.dir().join("jump"), &admits)?;
    let key = fs::read_to_string(web.machine.dir().join("jump/host_key.pub")).context("the jump host's key")?;
    let known = web.anemos.write("jump_known_hosts", &ssh::known_hosts_lines(jump.address().port(), &key))?;
    let config = format!(
        "Host 127.0.0.1\n ProxyJump jump\nHost jump\n HostName 127.0.0.1\n Port {}\n User root\n IdentityFile {}\n \
         IdentitiesOnly yes\n UserKnownHostsFile {}\n",
        jump.address().port(),
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
    let through = |mut command: Command| {
        command.env("PATH", &path);
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
    let logins = jump.log()?.lines().filter(|line| line.contains("Accepted publickey")).count();
    let carried = web.machine.link().counts().connections - asked;
    expect(logins >= 6, format!("{logins} logins at the jump host"))?;
    expect(carried <= logins as u64, format!("{carried} connections, and {logins} logins at the jump host"))?;
    web.expect_hello(&before)?;
    Ok(Outcome::Passed)
}
