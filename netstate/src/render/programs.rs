//! What is written, read by the programs that it is written for.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::tests::{leased_host, static_host, tower};
use super::*;

/// A directory of a test's own, with what is written for a network.
struct Written(PathBuf);

impl Written {
    fn new(format: Format, name: &str, state: &NetworkState) -> Self {
        let root = std::env::temp_dir().join(format!("anemos-{}-{name}-{}", format.name(), std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        write_files(&root, &format.files(state)).unwrap();
        Self(root)
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A network of each sort: all static, all by itself, leased as somebody with a DUID, and one of everything that can be
/// made.
fn networks() -> [(&'static str, NetworkState); 4] {
    let mut known = leased_host();
    known.links[0].client_id = vec![0xff, 0, 0, 0, 1, 0, 3, 0, 1, 0x52, 0x54, 0, 0, 0, 7];
    [("static", static_host()), ("leased", leased_host()), ("known", known), ("tower", tower())]
}

/// Where a program is; the script that installs tools has its package.
fn program(places: &[&str]) -> PathBuf {
    let found = places.iter().map(PathBuf::from).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("this test needs {}: tests/install-tools.sh installs it", places[0]))
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    said.into_owned()
}

#[test]
fn ifupdown_reads_interfaces() {
    let ifup = program(&["/sbin/ifup", "/usr/sbin/ifup"]);
    for (name, state) in networks() {
        let written = Written::new(Format::Ifupdown, name, &state);
        let interfaces = written.0.join("etc/network/interfaces");
        let mut command = Command::new(&ifup);
        command.args(["--no-act", "--all", "--force", "--interfaces"]).arg(&interfaces);
        let said =
            run(command.arg("--state-dir").arg(written.0.join("state")).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"));
        assert!(!said.contains("ifup: ") && !said.contains(&*interfaces.to_string_lossy()), "{name}: {said}");
        // What it would do.
        let has = |words: &str| assert!(said.contains(words), "{words:?} in {name}: {said}");
        match name {
            "static" => has("via 203.0.113.1"),
            "tower" => {
                has("type bridge_slave priority 16 cost 100");
                has("nexthop via 10.4.0.9 dev backup weight 3");
            }
            _ => has("ip link set dev $IFACE mtu 1400"),
        }
    }
}

#[test]
fn netplan_generates_what_is_meant() {
    let generate = program(&["/usr/libexec/netplan/generate", "/lib/netplan/generate"]);
    for (name, state) in networks() {
        let written = Written::new(Format::Netplan, name, &state);
        let said = run(Command::new(&generate).arg("--root-dir").arg(&written.0));
        assert_eq!(said, "", "{name}");
        let made = |name: &str| written.0.join(format!("run/systemd/network/10-netplan-{name}.network")).exists();
        for plan in plan::plan(&state).iter().filter(|plan| netplan::has_words(plan.link)) {
            assert!(made(&plan.name), "{} of {name}", plan.name);
        }
        // What is added to a file is below its name.
        let added = written.0.join("etc/systemd/network");
        let added = fs::read_dir(added).into_iter().flatten().map(|entry| entry.unwrap().file_name());
        let added: Vec<String> = added.map(|file| file.to_string_lossy().into_owned()).collect();
        let of = |file: &String| made(file.strip_prefix("10-netplan-").unwrap().strip_suffix(".network.d").unwrap());
        assert!(added.iter().all(of), "{added:?}");
        assert_eq!(added.len(), usize::from(name == "known"));
    }
}

/// systemd-networkd itself, in a network namespace of its own: it says what it doesn't know, and goes on.
#[test]
fn systemd_networkd_knows_each_word() {
    let networkd = program(&["/lib/systemd/systemd-networkd", "/usr/lib/systemd/systemd-networkd"]);
    let own = Command::new("unshare").args(["--net", "--mount", "true"]).stderr(Stdio::null()).status();
    if !own.is_ok_and(|status| status.success()) {
        // Past libtest, which shows nothing of a test that passes.
        let why = "systemd-networkd needs a network namespace, and root";
        let _ = writeln!(io::stderr(), "skipped: systemd_networkd_knows_each_word: {why}");
        return;
    }
    for format in [Format::Networkd, Format::Netplan] {
        for (name, state) in networks() {
            let written = Written::new(format, name, &state);
            let mut wanted = vec!["99-wrong.network"];
            if format == Format::Netplan {
                let generate = program(&["/usr/libexec/netplan/generate", "/lib/netplan/generate"]);
                run(Command::new(generate).arg("--root-dir").arg(&written.0));
                wanted.clear();
            } else {
                let wrong = written.0.join("etc/systemd/network/99-wrong.network");
                fs::write(wrong, "[Match]\nName=none\n\n[Bridge]\nNobodyKnows=1\n").unwrap();
            }
            assert_eq!(
                complaints(&networkd, &written.0),
                wanted.into_iter().map(str::to_owned).collect(),
                "{format:?} {name}"
            );
        }
    }
}

/// The files of which it says something when it starts.
fn complaints(networkd: &Path, root: &Path) -> BTreeSet<String> {
    // It must not see this machine's network, bus, configuration or state.
    let script = "mount -t sysfs -o ro sysfs /sys && mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /etc/systemd && \
                  mkdir -p /run/systemd/network /etc/systemd/network && \
                  for of in run etc; do \
                      cp -r \"$1/$of/systemd/network/.\" /$of/systemd/network/ 2>/dev/null || true; \
                  done && exec \"$2\"";
    let mut child = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", script, "sh"])
        .args([root, networkd])
        .env("SYSTEMD_LOG_TARGET", "console")
        .env("SYSTEMD_LOG_LEVEL", "info")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut found = BTreeSet::new();
    let mut said = String::new();
    let mut has_begun = false;
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
        said = said + &line + "\n";
        let file = line.split_once("/systemd/network/").and_then(|(_, rest)| rest.split_once(':'));
        found.extend(file.map(|(file, _)| file.to_owned()));
        // It has read all by then.
        has_begun = line.contains("Enumeration completed");
        if has_begun {
            break;
        }
    }
    let _ = child.kill();
    child.wait().unwrap();
    assert!(has_begun, "{said}");
    // What netplan writes is its own.
    found.retain(|file| !file.starts_with("10-netplan-") || file.contains(".d/"));
    assert!(found.len() < 2, "{said}");
    found
}

/// NetworkManager's own reader drops what it doesn't know. Its package would start it, and it would take this machine's
/// network, so tests/install-tools.sh does not install it.
#[test]
#[ignore = "needs nmcli, whose package starts NetworkManager"]
fn network_manager_keeps_each_word() {
    // What is so by itself is not written again.
    let by_itself = ["stp=true", "path-cost=100"];
    for (name, state) in networks() {
        for (path, text) in Format::NetworkManager.files(&state) {
            let mut child = Command::new("nmcli")
                .args(["--offline", "connection", "modify", "connection.autoconnect", "yes"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{} of {name}", path.display());
            let plain = |line: &str| line.trim_end_matches(';').replace(", ", ",").replace("/32 table", " table");
            let kept: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(plain).collect();
            let written = text.lines().filter(|line| line.contains('=') && !line.starts_with('#'));
            let lost: Vec<&str> =
                written.filter(|line| !by_itself.contains(line) && !kept.contains(&plain(line))).collect();
            assert!(lost.is_empty(), "{} of {name}: {lost:?}", path.display());
        }
    }
}
