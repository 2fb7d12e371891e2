//! What examples/ci has for other tools, as far as it runs without them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::desk::{Desk, Shared, text};
use crate::host::Host;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/ci")
}

/// What the Ansible module does, without Ansible around it.
fn module(desk: &Desk, parameters: &Value, check_mode: bool) -> Value {
    let script = "import json, sys\nsys.dont_write_bytecode = True\nsys.path.insert(0, sys.argv[1])\nimport anemos\n\
                  print(json.dumps(anemos.run(json.loads(sys.argv[2]), sys.argv[3] == 'check')))\n";
    let like = desk.anemos(&[]);
    let mut command = Command::new("python3");
    command.args(["-c", script]).arg(examples().join("ansible/library")).arg(parameters.to_string());
    command.arg(if check_mode { "check" } else { "do" }).current_dir(desk.dir.path());
    command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().expect("python3 (package python3) is needed by this test");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&output)))
}

/// What the module is told, where it is not the usual.
fn parameters(more: Value) -> Value {
    let mut all = json!({
        "hosts_file": "hosts.toml", "hosts": [], "plan": null, "force": false, "report": [],
        "update_known_hosts": true, "executable": env!("CARGO_BIN_EXE_anemos"),
    });
    let Value::Object(more) = more else { panic!("{more} is no object") };
    all.as_object_mut().unwrap().extend(more);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ansible_module_deploys_what_is_to_be_changed() {
    let host = Host::start(21, Shared::default()).await;
    let desk = Desk::new(&[("web", &host)]);
    host.has_own_key(121);
    let said = module(&desk, &parameters(json!({})), true);
    assert_eq!(
        (&said["changed"], &said["failed"], &said["plans"][0]["host"]),
        (&json!(true), &json!(false), &json!("web"))
    );
    assert_eq!(host.boots(), 0, "it was only looked at");
    let said = module(&desk, &parameters(json!({"report": ["run.xml"]})), false);
    assert_eq!((&said["changed"], &said["summaries"][0]["outcome"]), (&json!(true), &json!("deployed")), "{said}");
    assert!(desk.path("run.xml").exists());
    let said = module(&desk, &parameters(json!({})), false);
    assert_eq!((&said["changed"], &said["failed"]), (&json!(false), &json!(false)), "{said}");
    assert_eq!(host.boots(), 1);
    let said = module(&desk, &parameters(json!({"hosts": ["db"]})), false);
    assert!(said["failed"] == json!(true) && said["msg"].as_str().unwrap().contains("has no host `db`"), "{said}");
}

/// A host that is as it should be is not wiped because another one isn't.
#[tokio::test(flavor = "multi_thread")]
async fn an_ansible_module_leaves_hosts_alone_that_are_as_they_should_be() {
    let (web, db) = (Host::start(23, Shared::default()).await, Host::start(24, Shared::default()).await);
    let desk = Desk::new(&[("web", &web), ("db", &db)]);
    let (status, said) = desk.run(&["up", "--yes", "web"]);
    assert_eq!((status, web.boots(), db.boots()), (0, 1, 0), "{said}");
    let looked = module(&desk, &parameters(json!({})), true);
    assert_eq!((&looked["changed"], &looked["changed_hosts"]), (&json!(true), &json!(["db"])), "{looked}");
    let said = module(&desk, &parameters(json!({})), false);
    assert_eq!((&said["failed"], &said["changed_hosts"]), (&json!(false), &json!(["db"])), "{said}");
    let ended: Vec<&Value> = said["summaries"].as_array().unwrap().iter().map(|end| &end["host"]).collect();
    assert_eq!((ended, web.boots(), db.boots()), (vec![&json!("db")], 1, 1), "{said}");
    let looked = module(&desk, &parameters(json!({})), true);
    assert_eq!((&looked["changed"], &looked["changed_hosts"]), (&json!(false), &json!([])), "{looked}");
    let looked = module(&desk, &parameters(json!({"force": true})), true);
    assert_eq!((&looked["changed"], &looked["changed_hosts"]), (&json!(true), &json!(["web", "db"])), "{looked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ansible_module_says_what_is_wrong_with_the_command() {
    let host = Host::start(25, Shared::default()).await;
    let desk = Desk::new(&[("web", &host)]);
    let says = |executable: &str| {
        let said = module(&desk, &parameters(json!({"executable": executable})), false);
        assert_eq!((&said["failed"], &said["changed"]), (&json!(true), &json!(false)), "{said}");
        said["msg"].as_str().unwrap().to_owned()
    };
    let said = says("./nosuch");
    assert!(said.contains("./nosuch can't be run: ") && said.contains("No such file"), "{said}");
    for (script, expected) in [
        ("echo Segmentation fault; echo bad luck >&2; exit 7", "ended with 7, and wrote what is no line of its JSON"),
        ("echo '[1]'", "wrote what is no line of its JSON: [1]"),
        ("exit 5", "does not say which hosts would be changed"),
    ] {
        desk.write("other", &format!("#!/bin/sh\n{script}\n"));
        fs::set_permissions(desk.path("other"), fs::Permissions::from_mode(0o755)).unwrap();
        let said = says("./other");
        assert!(said.contains(expected), "{script}: {said}");
    }
    // `up` that ends well, and says of no host how.
    let quiet = "case $1 in plan) echo '{\"type\":\"change\",\"host\":\"web\",\"changed\":true}'; exit 5; esac";
    desk.write("other", &format!("#!/bin/sh\n{quiet}\n"));
    let said = says("./other");
    assert!(said.contains("does not say how any host ended"), "{said}");
    assert_eq!(host.boots(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_for_terraform_deploys_once() {
    let host = Host::start(22, Shared::default()).await;
    let desk = Desk::new(&[("web", &host)]);
    host.has_own_key(122);
    let script = |host: &str| {
        let like = desk.anemos(&[]);
        let mut command = Command::new(examples().join("terraform/anemos.sh"));
        command.args(["./hosts.toml", host]).current_dir(desk.dir.path()).env("ANEMOS", env!("CARGO_BIN_EXE_anemos"));
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().unwrap();
        (output.status.code().unwrap(), text(&output))
    };
    let (status, said) = script("web");
    assert!(status == 0 && said.contains("\"outcome\":\"deployed\""), "{said}");
    let (status, said) = script("web");
    assert!(status == 0 && said.contains("web: nothing to do"), "{said}");
    let (status, said) = script("db");
    assert!(status == 1 && said.contains("anemos plan ./hosts.toml db says why"), "{said}");
    assert_eq!(host.boots(), 1);
}

/// What a step of the workflow runs, without its indentation.
fn step(id: &str) -> String {
    let text = fs::read_to_string(examples().join("github/deploy.yml")).unwrap();
    let (_, step) = text.split_once(&format!("- id: {id}\n")).expect("it has that step");
    let (_, script) = step.split_once("run: |\n").expect("it runs a script");
    let indented = script.lines().take_while(|line| line.starts_with("          "));
    indented.map(|line| line[10..].to_owned() + "\n").collect()
}

/// A change makes the plan of a push wait for somebody. At night nobody is waited for: the job says it by failing.
#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_says_each_night_what_is_still_to_be_deployed() {
    let (web, db) = (Host::start(26, Shared::default()).await, Host::start(27, Shared::default()).await);
    let desk = Desk::new(&[("web", &web), ("db", &db)]);
    std::os::unix::fs::symlink(".", desk.path("fleet")).unwrap();
    let bin = Path::new(env!("CARGO_BIN_EXE_anemos")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let script = step("plan");
    let run = |event: &str| {
        let like = desk.anemos(&[]);
        // As the runner does.
        let mut command = Command::new("bash");
        command.args(["-e", "-c", &script]).current_dir(desk.dir.path());
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PATH", &path).env("GITHUB_EVENT_NAME", event).env("GITHUB_OUTPUT", desk.path("output"));
        let _ = fs::remove_file(desk.path("output"));
        let output = command.output().unwrap();
        (output.status.code().unwrap(), desk.read("output"), text(&output))
    };
    assert_eq!(desk.run(&["up", "--yes", "web"]).0, 0);
    let (status, said, all) = run("push");
    assert_eq!((status, said.as_str()), (0, "change=yes\n"), "{all}");
    assert_eq!(run("schedule").0, 5);
    let (status, said) = desk.run(&["up", "--plan", "fleet.plan", "fleet/hosts.toml"]);
    assert_eq!((status, web.boots(), db.boots()), (0, 1, 1), "{said}");
    for event in ["push", "schedule"] {
        let (status, said, all) = run(event);
        assert_eq!((status, said.as_str()), (0, "change=no\n"), "{event}: {all}");
    }
}

/// Every word of `anemos` in the workflow and the Terraform file is one that it knows.
#[test]
fn what_other_tools_call_is_there() {
    let mut called = 0;
    for file in ["github/deploy.yml", "terraform/anemos.sh"] {
        let text = std::fs::read_to_string(examples().join(file)).unwrap();
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let lines = lines.map(|line| line.replace("\"$anemos\"", "anemos").replace("\"$1\" \"$2\"", "h.toml web"));
        for words in lines.filter_map(|line| line.split_once("anemos ").map(|(_, words)| words.to_owned())) {
            let words: Vec<&str> = words.split(['>', '|']).next().unwrap().split_whitespace().collect();
            let known = Command::new(env!("CARGO_BIN_EXE_anemos")).args([&words[..1], &["--help"]].concat()).output();
            let help = text_of(&known.unwrap().stdout);
            // Else the next plan fails, if a payload makes a system with keys of its own.
            assert!(words[0] != "up" || words.contains(&"--update-known-hosts"), "{file}: {words:?}");
            for option in words.iter().filter(|word| word.starts_with("--")) {
                assert!(help.contains(option), "{file}: {words:?}: {help}");
                called += 1;
            }
        }
    }
    assert!(called >= 6, "{called}");
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
