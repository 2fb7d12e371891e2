//! The command, as it is where few files may be open, when its terminal hangs up, and when a password is asked for.

#[path = "hostile/carried.rs"]
mod carried;

use std::fmt::Write;
use std::fs::Permissions;
use std::io::{Read, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// More hosts than 256 files are enough for.
const HOSTS: u16 = 300;

/// A hosts.toml with a host on each of these ports of this machine, and what a plain build lacks.
fn prepared(ports: impl IntoIterator<Item = u16>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    std::fs::create_dir(dir.path().join("payload")).unwrap();
    write("payload/deploy", b"#!/bin/sh\n");
    std::fs::set_permissions(dir.path().join("payload/deploy"), Permissions::from_mode(0o755)).unwrap();
    let mut hosts = "[defaults]\npayload = \"payload\"\ndisk = \"/dev/vda\"\n".to_owned();
    for port in ports {
        write!(hosts, "[hosts.h{port}]\naddress = \"127.0.0.1\"\nport = {port}\n").unwrap();
    }
    write("hosts.toml", hosts.as_bytes());
    carried::write(dir.path());
    dir
}

/// Hosts that nobody answers for: hardly anybody listens on such ports.
fn many() -> TempDir {
    prepared(701..701 + HOSTS)
}

fn anemos(dir: &Path, first: &str, arguments: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{first} && exec \"$0\" {arguments} hosts.toml"));
    command.arg(env!("CARGO_BIN_EXE_anemos")).current_dir(dir);
    command.env("HOME", dir).env("XDG_STATE_HOME", dir.join("state")).env_remove("SSH_AUTH_SOCK");
    command.env("ANEMOS_STAGE", dir.join("stage")).env("ANEMOS_AGENT", dir.join("agent"));
    command.stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

#[test]
fn many_hosts_need_no_raised_limit_where_it_can_be_raised() {
    let dir = many();
    let output = anemos(dir.path(), "ulimit -Sn 256", "up --yes --parallel 16").output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(!said.contains("Too many open files"), "{said}");
}

#[test]
fn a_limit_that_is_too_low_is_told_before_anything_is_made() {
    let dir = many();
    let output = anemos(dir.path(), "ulimit -n 256", "up --yes --parallel 16").output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("300 hosts need 792 open files") && said.contains("`ulimit -n 792`"), "{said}");
    assert!(!dir.path().join("state").exists());
}

#[test]
fn a_terminal_that_hangs_up_is_as_ctrl_c() {
    // Takes connections and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = prepared([listener.local_addr().unwrap().port()]);
    let mut command = anemos(dir.path(), "true", "up --yes");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (_connection, _) = listener.accept().unwrap();
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = text(&output);
    assert_eq!((output.status.code(), output.status.signal()), (Some(130), None), "{said}");
    assert!(said.contains("stopped before anything was done"), "{said}");
}

/// What `anemos plan` says of hosts that nobody answers for, and with which status it ends.
fn planned(dir: &Path, at: &Path, arguments: &[&str], variable: Option<&str>) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_anemos"));
    command.arg("plan").args(arguments).current_dir(at).stdin(Stdio::null());
    command.env("HOME", dir).env("XDG_STATE_HOME", dir.join("state")).env_remove("SSH_AUTH_SOCK");
    command.env("ANEMOS_STAGE", dir.join("stage")).env("ANEMOS_AGENT", dir.join("agent"));
    command.env_remove("ANEMOS_HOSTS").envs(variable.map(|file| ("ANEMOS_HOSTS", file)));
    let output = command.output().unwrap();
    (output.status.code(), text(&output))
}

#[test]
fn a_hosts_toml_is_found_and_hosts_are_selected() {
    let dir = prepared([701, 702, 711]);
    std::fs::create_dir(dir.path().join("away")).unwrap();
    let away = dir.path().join("away");
    // All that can be looked at are none, so each that is meant is named.
    for (at, arguments, variable, meant) in [
        (dir.path(), &[][..], None, &["h701", "h702", "h711"][..]),
        (dir.path(), &["h70*"], None, &["h701", "h702"]),
        (dir.path(), &["hosts.toml", "h711,h701"], None, &["h701", "h711"]),
        (dir.path(), &["--limit", "h7?1", "--exclude", "h711"], None, &["h701"]),
        (&away, &["h702"], Some("../hosts.toml"), &["h702"]),
        (&away, &["../hosts.toml", "h711"], Some("nosuch.toml"), &["h711"]),
    ] {
        let (status, said) = planned(dir.path(), at, arguments, variable);
        assert_eq!(status, Some(4), "{said}");
        for host in ["h701", "h702", "h711"] {
            assert_eq!(said.contains(host), meant.contains(&host), "{arguments:?} {host}: {said}");
        }
    }
    for (at, arguments, variable, expected) in [
        (dir.path(), &["h703"][..], None, "hosts.toml has no host `h703`; did you mean `h701`"),
        (dir.path(), &["--exclude", "h712"], None, "hosts.toml has no host `h712`; did you mean `h702` or `h711`"),
        (dir.path(), &["payload"], None, "hosts.toml has no host `payload`; it has h701, h702, h711"),
        (&away, &[], None, "can't read hosts.toml: No such file or directory (os error 2); $ANEMOS_HOSTS names no"),
        (
            &away,
            &[],
            Some("x.toml"),
            "can't read x.toml: No such file or directory (os error 2); $ANEMOS_HOSTS names it",
        ),
    ] {
        let (status, said) = planned(dir.path(), at, arguments, variable);
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn a_plan_that_is_taken_for_a_hosts_toml_is_told_from_one() {
    let dir = prepared([701]);
    std::fs::write(dir.path().join("web.plan"), "{\"anemos_plan\":1}").unwrap();
    for (file, says) in [
        ("web.plan", "web.plan is a plan that `anemos plan -o` wrote: `anemos up --plan web.plan` does it"),
        ("./web.plan", "./web.plan is a plan that `anemos plan -o` wrote: `anemos up --plan ./web.plan` does it"),
        // Any other file is one that may have been meant as a hosts.toml.
        ("payload/deploy", "payload/deploy"),
    ] {
        let (status, said) = planned(dir.path(), dir.path(), &[file], None);
        assert!(status == Some(2) && said.contains(says), "{file}: {said}");
        assert_eq!(said.contains("--plan"), file.contains("plan"), "{file}: {said}");
    }
}

#[test]
fn times_are_local_and_few_lines_are_said_to_who_wants_few() {
    // Takes connections, says that it is an SSH server, and ends them.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            // Whoever has gone meanwhile is told nothing.
            let _ = connection.and_then(|mut connection| connection.write_all(b"SSH-2.0-none\r\n"));
        }
    });
    let dir = prepared([port]);
    let host = format!("h{port}");
    let said = |zone: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anemos"));
        command.arg("plan").args(more).current_dir(dir.path()).stdin(Stdio::null()).env("TZ", zone);
        command.env("HOME", dir.path()).env("ANEMOS_STAGE", "stage").env("ANEMOS_AGENT", "agent");
        text(&command.output().unwrap())
    };
    let local = said("XST-5:30", &[]);
    assert!(local.contains(&format!("+05:30 {host} connect: connecting")) && !local.contains('\x1b'), "{local}");
    let utc = said("UTC0", &["--color", "always"]);
    assert!(utc.contains(&format!("Z {host} connect: ")), "{utc}");
    let quiet = said("UTC0", &["-q"]);
    assert!(quiet.lines().count() == 1 && quiet.contains("UNTOUCHED"), "{quiet}");
    let verbose = said("UTC0", &["-v"]);
    assert!(verbose.contains("DEBUG") && verbose.contains("handshake"), "{verbose}");
    assert!(!utc.contains("DEBUG"), "{utc}");
}

#[test]
fn what_is_wrong_is_said_without_any_host() {
    let dir = prepared([701, 702]);
    let validate = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anemos"));
        command.arg("validate").args(more).current_dir(dir.path()).env("HOME", dir.path());
        let output = command.output().unwrap();
        (output.status.code(), text(&output))
    };
    let (status, said) = validate(&[]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("hosts.toml: 2 hosts, and nothing wrong") && said.contains("payload: "), "{said}");
    let append = |text: &str| {
        let file = dir.path().join("hosts.toml");
        let old = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, old + text).unwrap();
    };
    append("needs = [\"nosuch\"]\n");
    let (status, said) = validate(&[]);
    let wrong = "host `h702`: what its payload needs: ";
    assert!(status == Some(2) && said.contains(wrong) && said.contains("nosuch"), "{said}");
    append("authorized_keys = [\"none.pub\"]\n");
    let (status, said) = validate(&[]);
    assert!(status == Some(2) && said.contains("no file none.pub"), "{said}");
    // What is wrong in what it names is said of all, and of those only that are meant.
    std::fs::write(dir.path().join("none.pub"), "no key\n").unwrap();
    std::fs::write(dir.path().join("empty.lock"), "").unwrap();
    std::fs::set_permissions(dir.path().join("payload/deploy"), Permissions::from_mode(0o644)).unwrap();
    let (status, said) = validate(&["--lock", "empty.lock"]);
    assert_eq!(status, Some(2), "{said}");
    for wrong in ["payload/deploy is not executable", "host `h702`: none.pub:1: ", "empty.lock"] {
        assert!(said.contains(wrong), "{wrong}: {said}");
    }
    let (_, said) = validate(&["h701"]);
    assert!(said.contains("is not executable") && !said.contains("h702"), "{said}");
}

#[test]
fn a_host_in_no_hosts_toml_is_looked_at() {
    let dir = prepared([]);
    std::fs::remove_file(dir.path().join("hosts.toml")).unwrap();
    let (status, said) = {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anemos"));
        command.args(["doctor", "--ssh", "root@127.0.0.1:701"]).current_dir(dir.path()).stdin(Stdio::null());
        command.env("HOME", dir.path()).env("XDG_STATE_HOME", dir.path().join("state"));
        command.env("ANEMOS_STAGE", "stage").env("ANEMOS_AGENT", "agent").env_remove("SSH_AUTH_SOCK");
        let output = command.output().unwrap();
        (output.status.code(), text(&output))
    };
    assert_eq!(status, Some(4), "{said}");
    assert!(said.contains("127.0.0.1") && said.contains("onnection refused"), "{said}");
    assert!(!dir.path().join("state").exists(), "a look leaves nothing behind");
}

/// bash, with what `anemos completions bash` prints, says what a word may go on as.
#[test]
fn bash_completes_commands_and_options() {
    let script = r#"
        source /dev/stdin <<< "$("$0" completions bash)" || exit
        complete -p anemos || exit
        completed() {
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
            _anemos anemos "${@: -1}" "${@: -2:1}"
            echo "${COMPREPLY[@]}"
        }
        completed anemos st
        completed anemos logs --fo
        completed anemos runs pr
        completed anemos plan --color ne
    "#;
    let output = Command::new("bash").args(["-c", script, env!("CARGO_BIN_EXE_anemos")]).output().unwrap();
    let said = text(&output);
    let lines: Vec<&str> = said.lines().skip(1).map(str::trim).collect();
    assert_eq!(lines, ["status", "--follow", "prune", "never"], "{said}");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let output = Command::new(env!("CARGO_BIN_EXE_anemos")).args(["completions", shell]).output().unwrap();
        assert!(output.status.success() && text(&output).contains("max-failures"), "{shell}");
    }
}

/// OpenSSH's server, with a password for root.
struct Server(Child);

/// A password that nobody knows, and `open sesame`, as crypt(3) has it.
const UNKNOWN: &str = "$6$anemostests$none";
const SESAME: &str = "$6$anemos$KORDDda/wy9Y4di8AYYZCnZbjS51UqaaE69Oop11CdVDLyE9G6e85KFG7lmzN2BmbaJGd.z2QSSrTRBqVWWXH.";

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    fn start(dir: &Path, port: u16, password: &str) -> Self {
        let at = dir.display();
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join("key")).status();
        assert!(made.unwrap().success());
        std::fs::create_dir(dir.join("etc")).unwrap();
        std::fs::write(dir.join("etc/shadow"), format!("root:{password}:19000:0:99999:7:::\n")).unwrap();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nPidFile none\nHostKey {at}/key\nUsePAM no\nPermitRootLogin yes\n\
             PasswordAuthentication yes\nKbdInteractiveAuthentication no\nStrictModes no\n"
        );
        std::fs::write(dir.join("config"), config).unwrap();
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sshd.sh"));
        command.args(["-D", "-E"]).arg(dir.join("log")).arg("-f").arg(dir.join("config"));
        let server = Self(command.env("SERVER_ETC", dir.join("etc")).stderr(Stdio::null()).spawn().unwrap());
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        server
    }
}

/// Runs `anemos plan` on a terminal, at which this is typed whenever that is asked. Returns how it ended, what it said,
/// and how often it was typed. `PATH` begins with `path`.
fn typing(dir: &Path, question: &str, path: &str) -> (ExitStatus, String, usize) {
    let plan = format!("{} plan hosts.toml", env!("CARGO_BIN_EXE_anemos"));
    let mut command = Command::new("script");
    command.args(["-qefc", &plan, "/dev/null"]).current_dir(dir);
    command.env("HOME", dir).env("XDG_STATE_HOME", dir.join("state")).env_remove("SSH_AUTH_SOCK");
    command.env("ANEMOS_STAGE", dir.join("stage")).env("ANEMOS_AGENT", dir.join("agent"));
    command.env("XDG_RUNTIME_DIR", dir.join("run"));
    command.env("PATH", format!("{path}{}", std::env::var("PATH").unwrap()));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let mut screen = child.stdout.take().unwrap();
    let (mut said, mut typed) = (String::new(), 0);
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = screen.read(&mut bytes) {
        said.push_str(&String::from_utf8_lossy(&bytes[..count]));
        if said.matches(question).count() > typed {
            typed += 1;
            keyboard.write_all(b"open sesame\n").unwrap();
        }
    }
    (child.wait().unwrap(), said, typed)
}

#[test]
fn a_password_is_asked_for_on_the_terminal_and_not_shown() {
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: a server that checks passwords needs root");
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dir = prepared([port]);
    let _server = Server::start(dir.path(), port, UNKNOWN);
    let key = std::fs::read_to_string(dir.path().join("key.pub")).unwrap();
    std::fs::write(dir.path().join("known_hosts"), format!("[127.0.0.1]:{port} {key}")).unwrap();
    let hosts = std::fs::read_to_string(dir.path().join("hosts.toml")).unwrap();
    std::fs::write(dir.path().join("hosts.toml"), format!("{hosts}user = \"root\"\nknown_hosts = \"known_hosts\"\n"))
        .unwrap();

    let (status, said, typed) = typing(dir.path(), "Password of root@127.0.0.1: ", "");
    assert!(!status.success() && typed == 3, "{status} {said}");
    assert!(said.contains("password (refused)") && !said.contains("sesame"), "{said}");
}

#[test]
fn what_a_jump_host_wants_is_asked_for_on_the_terminal_and_once() {
    if !rustix::process::getuid().is_root() {
        eprintln!("skipped: a server that checks passwords needs root");
        return;
    }
    // Nobody is there but the jump host.
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (hosts, port) = ([free(), free(), free()], free());
    let dir = prepared(hosts);
    let (jump, run) = (dir.path().join("jump"), dir.path().join("run"));
    for made in [&jump, &run, &dir.path().join("bin")] {
        std::fs::create_dir(made).unwrap();
    }
    let _server = Server::start(&jump, port, SESAME);
    let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    let toml = std::fs::read_to_string(dir.path().join("hosts.toml")).unwrap();
    write("hosts.toml", toml.replace("[defaults]\n", "[defaults]\nproxy_jump = \"one\"\n"));
    write("known", format!("one {}", std::fs::read_to_string(jump.join("key.pub")).unwrap()));
    let config = dir.path().join("ssh_config");
    let known = dir.path().join("known");
    write(
        "ssh_config",
        format!(
            "Host one\nHostName 127.0.0.1\nPort {port}\nUser root\nHostKeyAlias one\nUserKnownHostsFile {}\n\
             GlobalKnownHostsFile none\nIdentityFile none\nIdentityAgent none\n",
            known.display()
        ),
    );
    let path = std::env::var("PATH").unwrap();
    let ssh = path.split(':').map(|dir| Path::new(dir).join("ssh")).find(|ssh| ssh.exists()).unwrap();
    write("bin/ssh", format!("#!/bin/sh\nexec {} -F {} \"$@\"\n", ssh.display(), config.display()));
    std::fs::set_permissions(dir.path().join("bin/ssh"), Permissions::from_mode(0o755)).unwrap();
    let bin = format!("{}:", dir.path().join("bin").display());

    let (_, said, typed) = typing(dir.path(), "Through one: root@one's password: ", &bin);
    assert!(typed == 1 && !said.contains("sesame"), "{said}");
    assert!(said.matches("the jump host has no connection to it").count() >= hosts.len(), "{said}");
    // What the connection was shared by goes with it, however this process ends.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while std::fs::read_dir(&run).unwrap().next().is_some() {
        assert!(std::time::Instant::now() < until, "something is left of it");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }

    let mut without = anemos(dir.path(), "true", "plan");
    without.env("PATH", format!("{bin}{path}"));
    let mut alone = Command::new("setsid");
    alone.arg("-w").arg(without.get_program()).args(without.get_args()).current_dir(dir.path()).stdin(Stdio::null());
    alone.envs(without.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let said = text(&alone.output().unwrap());
    let why = "the jump host did not let us in: root@127.0.0.1: Permission denied (publickey,password)";
    assert!(said.contains(why) && said.contains("start anemos on a terminal"), "{said}");
}
