//! `anemos serve --users`: who else may see, decide and deploy, by the socket and on the page.

#[path = "hostile/carried.rs"]
mod carried;
#[path = "hostile/daemon.rs"]
#[allow(dead_code, reason = "tests/serve.rs and tests/web.rs need more of it")]
mod daemon;
#[path = "hostile/host.rs"]
#[allow(dead_code, reason = "the hostile hosts need more of it")]
mod host;
#[path = "web/http.rs"]
#[allow(dead_code, reason = "tests/web.rs needs more of it")]
mod http;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use daemon::{Obedient, Workstation, ended, of_type};
use host::Host;
use http::Page;
use serde_json::{Value, json};

/// A user of every system, who has nothing: nobody in Debian.
const NOBODY: u32 = 65534;

/// Writes the file, and returns its directory and its path.
fn users(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("users.toml");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let shown = path.to_str().unwrap().to_owned();
    (dir, shown)
}

fn sha256(text: &str) -> String {
    data_encoding::HEXLOWER.encode(ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref())
}

/// One looks on, one decides, and one is let in and sees nothing. The journal has who it was.
#[tokio::test(flavor = "multi_thread")]
async fn on_the_page_each_token_may_what_the_file_says() {
    let script = Obedient::new(None);
    let host = Host::start(201, script).await;
    tokio::task::spawn_blocking(move || tokens(&host)).await.unwrap();
}

fn tokens(host: &Host) {
    let token = |name: &str| format!("the-token-of-{name}-which-is-long-enough");
    let table =
        |name: &str, rights: &str| format!("[tokens.{name}]\nsha256 = \"{}\"\n{rights}\n", sha256(&token(name)));
    let text = [
        "[groups]\nhere = [\"127.0.0.*\"]\n".to_owned(),
        table("looker", "see = [\"@here\"]"),
        table("decider", "decide = [\"@here\"]"),
        table("elsewhere", "see = [\"192.0.2.*\"]\ndecide = [\"192.0.2.*\"]"),
    ];
    let (_dir, file) = users(&text.concat());
    let workstation = Workstation::new(&[("web", host)], &["--web", "127.0.0.1:0", "--users", &file]);
    let owner = Page::of(&workstation);
    let of = |name: &str| Page { token: token(name), ..owner.clone() };
    let (looker, decider, elsewhere, nobody) = (of("looker"), of("decider"), of("elsewhere"), of("nobody"));
    let mut up = workstation.anemos(&["up", "--serve", "hosts.toml"]);
    let mut up = daemon::Terminal::start(&mut up);
    let all = decider.wait("/api/runs", |all| all["runs"][0]["state"] == "met");
    let run = all["runs"][0]["run"].as_str().unwrap().to_owned();
    let at = |what: &str| format!("/api/runs/{run}{what}");

    assert_eq!(nobody.get("/api/runs").status, 401);
    assert_eq!(looker.get("/api/runs").json()["runs"][0]["run"], *run);
    assert_eq!(elsewhere.get("/api/runs").json()["runs"], json!([]));
    assert_eq!(elsewhere.get("/api/hosts").json()["hosts"], json!([]));
    for path in ["", "/plan", "/events", "/hosts/web/events", "/hosts/web/log"] {
        let refused = elsewhere.get(&at(path));
        assert_eq!(refused.status, 400, "{path}: {refused:?}");
        assert!(refused.body.contains("elsewhere may not see"), "{path}: {refused:?}");
    }
    assert_eq!((looker.get("/metrics").status, owner.get("/metrics").status), (400, 200));

    let shown = looker.get(&at("/plan")).json();
    let approval = json!({ "approve": true, "typed": "yes", "plans": { "web": shown["plans"][0]["sha256"] } });
    for page in [&looker, &elsewhere] {
        for (what, body) in [("/decide", &approval), ("/wish", &json!({ "host": "web", "wish": "abort" }))] {
            let refused = page.post(&at(what), body);
            assert!(refused.status == 400 && refused.body.contains("may not decide about"), "{refused:?}");
        }
    }
    assert_eq!(host.boots(), 0);
    let decided = decider.post(&at("/decide"), &approval);
    assert_eq!(decided.status, 200, "{decided:?}");
    assert_eq!(ended(&mut up.child, &|| workstation.said()), 0);
    let told = workstation.told("web");
    let decisions: Vec<&Value> = of_type(&told, "decision");
    assert_eq!(decisions.len(), 1, "{told:?}");
    assert_eq!(decisions[0]["author"], "decider, by the page from 127.0.0.1");
}

/// Another user of this machine, as the kernel names them, gets what the file says, and without it nothing.
#[tokio::test(flavor = "multi_thread")]
async fn by_the_socket_each_user_may_what_the_file_says() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can be another user");
        return;
    }
    let host = Host::start(202, Obedient::new(None)).await;
    tokio::task::spawn_blocking(move || {
        for (file, part) in [
            (None, "you are user 65534"),
            (Some("[users.somebody]\nsee = [\"*\"]"), "you are user 65534"),
            (Some("[users.65534]\nsee = [\"*\"]\ndecide = [\"*\"]"), "may not deploy `web` (127.0.0.1)"),
            (Some("[users.65534]\ndeploy = [\"192.0.2.*\"]"), "may not deploy `web` (127.0.0.1)"),
            (Some("[users.65534]\ndeploy = [\"127.0.0.1\"]"), "another user's"),
        ] {
            let said = as_nobody(&host, file);
            assert!(said.contains(part), "{file:?}: {said}");
        }
        assert_eq!(host.boots(), 0);
    })
    .await
    .unwrap();
}

/// What `anemos up --serve` says to another user than the daemon's.
fn as_nobody(host: &Host, file: Option<&str>) -> String {
    let written = file.map(users);
    let options: Vec<&str> = written.iter().flat_map(|(_, file)| ["--users", file.as_str()]).collect();
    let mut workstation = Workstation::new(&[("web", host)], &[]);
    workstation.kill();
    let mode = |name: &str, mode: u32| {
        fs::set_permissions(workstation.path(name), Permissions::from_mode(mode)).unwrap();
    };
    // Its user can get there; whether they may is the daemon's to say.
    mode("", 0o711);
    mode("runtime", 0o711);
    mode("runtime/anemos", if file.is_some() { 0o750 } else { 0o700 });
    fs::copy(env!("CARGO_BIN_EXE_anemos"), workstation.path("anemos")).unwrap();
    fs::create_dir(workstation.path("theirs")).unwrap();
    std::os::unix::fs::chown(workstation.path("theirs"), Some(NOBODY), None).unwrap();
    workstation.start_with(&options);
    if file.is_none() {
        // As somebody's script might do.
        let open = |name: &str, mode: u32| {
            fs::set_permissions(workstation.path(name), Permissions::from_mode(mode)).unwrap();
        };
        open("runtime/anemos", 0o755);
        open("runtime/anemos/socket", 0o666);
    }
    let ours = workstation.anemos(&["up", "--serve", "--yes", "hosts.toml"]);
    let mut theirs = Command::new(workstation.path("anemos"));
    theirs.args(ours.get_args()).current_dir(workstation.dir.path());
    theirs.envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?))));
    theirs.env("XDG_STATE_HOME", workstation.path("theirs")).env("HOME", workstation.path("theirs"));
    // The group is that of the directory: this user is one of those for whom the socket is.
    let output = theirs.uid(NOBODY).gid(0).output().unwrap();
    assert!(!output.status.success());
    workstation.kill();
    String::from_utf8_lossy(&output.stderr).into_owned()
}
