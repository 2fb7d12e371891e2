//! `anemos serve`: the real command, killed and started again in each phase, against SSH servers that play the hosts.

#[path = "hostile/carried.rs"]
mod carried;
#[path = "hostile/daemon.rs"]
#[allow(dead_code, reason = "tests/web.rs needs more of it")]
mod daemon;
#[path = "hostile/host.rs"]
#[allow(dead_code, reason = "the hostile hosts need more of it")]
mod host;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use daemon::{LONG, Obedient, Workstation, ended, of_type};
use host::{Boot, Host};
use serde_json::Value;

/// The phases in which a host can be made to wait.
const PHASES: [&str; 5] = ["probe", "stage", "boot", "build", "verify"];

/// Whatever the host was about when the daemon was killed, it is told to boot once, its payload begins once, and all
/// that was told is told once.
#[tokio::test(flavor = "multi_thread")]
async fn killed_in_each_phase_nothing_is_lost_or_done_twice() {
    for (number, phase) in (1..).zip(PHASES) {
        let script = Obedient::new(Some(phase));
        let host = Host::start(number, script.clone()).await;
        let host_there = Arc::clone(&host);
        tokio::task::spawn_blocking(move || killed_in(phase, &script, &host_there)).await.unwrap();
    }
}

fn killed_in(phase: &'static str, script: &Obedient, host: &Host) {
    let mut workstation = Workstation::new(&[("web", host)], &[]);
    let mut up = workstation.up();
    script.wait(phase);
    workstation.kill();
    // What is to be done is written down now, and all that the daemon said.
    assert!(workstation.run().join("order/order.json").exists());
    workstation.assert_secret_nowhere();
    if phase == "probe" {
        // Nobody has decided, and whoever would have is told so.
        let code = ended(&mut up, &|| workstation.up_said());
        assert_eq!(code, 1, "{}", workstation.up_said());
        assert!(workstation.up_said().contains("the connection to the daemon was lost"), "{}", workstation.up_said());
    }
    workstation.start();
    script.release();
    if phase == "probe" {
        let until = Instant::now() + LONG;
        while workstation.status()["web"]["outcome"].is_null() {
            assert!(Instant::now() < until, "it does not end: {}", workstation.said());
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(workstation.status()["web"]["outcome"], "untouched", "{phase}: {:?}", workstation.status());
        assert_eq!(host.boots(), 0);
        up.wait().unwrap();
        return;
    }
    if phase == "stage" {
        // It waits for its secret, which nobody but the user can read again.
        let until = Instant::now() + LONG;
        while !fs::read_to_string(workstation.path("up.out")).unwrap().contains("waits for its secrets") {
            assert!(Instant::now() < until, "it does not ask: {} {}", workstation.said(), workstation.up_said());
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(host.boots(), 0);
        let mut attach = workstation.anemos(&["attach"]);
        let mut attach = attach.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        assert_eq!(ended(&mut attach, &|| workstation.said()), 0);
    }
    let so_far = || format!("{} {} {:?}", workstation.said(), workstation.up_said(), workstation.status());
    let code = ended(&mut up, &so_far);
    let said = format!("{phase}: {} {}", workstation.said(), workstation.up_said());
    assert_eq!(code, 0, "{said}");
    assert_eq!(host.boots(), 1, "{said}");
    assert_eq!(script.0.begun.load(Ordering::Relaxed), 1, "{said}");
    assert_eq!(script.0.secret.lock().unwrap().as_deref(), Some(&b"the secret of web"[..]), "{said}");
    let told = workstation.told("web");
    assert!(!format!("{told:?}").contains("the secret of web"), "{said}");
    assert_eq!(of_type(&told, "decision").len(), 1, "{said}");
    assert_eq!(of_type(&told, "summary").len(), 1, "{said}");
    assert_eq!(of_type(&told, "summary")[0]["outcome"], "deployed", "{said}");
    let hello = |line: &&Value| line["text"] == "hello from the payload";
    assert_eq!(told.iter().filter(hello).count(), 1, "{said}");
    let numbers: Vec<u64> = told.iter().filter_map(|line| line["number"].as_u64()).collect();
    assert_eq!(numbers, (1..=told.len() as u64).collect::<Vec<_>>(), "{said}");
    workstation.assert_secret_nowhere();
    // Neither key nor order stays.
    let run = workstation.run();
    let until = Instant::now() + LONG;
    while run.join("order").exists() || run.join("keys/run").exists() {
        assert!(Instant::now() < until, "{said}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Hosts of the run that has few slots.
const QUEUED: u16 = 50;

/// Its slots.
const SLOTS: usize = 8;

/// Hosts that are deployed before the daemon is killed for the second time.
const FIRST: usize = 20;

/// Where those after them stand then.
const THEN: [&str; SLOTS] = ["stage", "boot", "build", "verify", "stage", "boot", "build", "verify"];

/// Fifty hosts wait for eight slots, and the daemon is killed and started again: while the first eight build, and when
/// twenty are deployed and eight others are in four phases. Each is deployed once, and never do more than eight go.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_wait_for_their_turn_outlast_the_daemon() {
    let mut hosts = Vec::new();
    for number in 1..=QUEUED {
        let at = match usize::from(number) {
            ..=FIRST => Some("build"),
            after => THEN.get(after - FIRST - 1).copied(),
        };
        let script = Obedient::new(at);
        hosts.push((format!("h{number:02}"), Host::start(number, script.clone()).await, script));
    }
    tokio::task::spawn_blocking(move || queue(&hosts)).await.unwrap();
}

fn queue(hosts: &[(String, Arc<Host>, Obedient)]) {
    let named: Vec<(&str, &Host)> = hosts.iter().map(|(name, host, _)| (name.as_str(), &**host)).collect();
    let mut workstation = Workstation::new(&named, &[]);
    let mut up = workstation.up_with(&["--no-canary", "--parallel", &SLOTS.to_string()]);
    let booted = || hosts.iter().filter(|(_, host, _)| host.boots() > 0).count();
    let new = || hosts.iter().filter(|(_, host, _)| host.boot() == Boot::New).count();
    let wait = |workstation: &Workstation, what: &str, is_so: &dyn Fn() -> bool| {
        let until = Instant::now() + LONG;
        while !is_so() {
            // Those that are booted are counted first: a host that ends meanwhile is one less, not one more.
            let (booted, new) = (booted(), new());
            assert!(booted.saturating_sub(new) <= SLOTS, "{booted} were told to boot, and {new} have ended");
            let said = || format!("{} {}", workstation.said(), workstation.up_said());
            assert!(Instant::now() < until, "not so: {what}; {booted} booted, {new} ended; {}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let stand = |hosts: &[(String, Arc<Host>, Obedient)], phases: [&str; SLOTS]| {
        hosts.iter().zip(phases).all(|((.., script), phase)| *script.0.reached.borrow() == Some(phase))
    };
    // Those that wait for their turn want their secrets first, which only the user can read again.
    let attach = |workstation: &Workstation| {
        let mut attach = workstation.anemos(&["attach"]);
        attach.stdout(Stdio::null()).stderr(File::create(workstation.path("attach.err")).unwrap()).spawn().unwrap()
    };
    let given = |workstation: &Workstation| {
        let said = fs::read_to_string(workstation.path("attach.err")).unwrap();
        said.matches("gets the secrets").count()
    };

    wait(&workstation, "the first build", &|| stand(hosts, ["build"; SLOTS]));
    workstation.kill();
    assert_eq!(booted(), SLOTS);
    workstation.start();
    let mut attached = attach(&workstation);
    wait(&workstation, "the secrets are given", &|| given(&workstation) == hosts.len() - SLOTS);
    hosts[..FIRST].iter().for_each(|(.., script)| script.release());
    let count = |phase: &str| THEN.iter().filter(|then| **then == phase).count();
    let ready = || stand(&hosts[FIRST..], THEN) && new() == FIRST + count("verify");
    wait(&workstation, "twenty are deployed, and others under way", &ready);
    workstation.kill();
    // It looks on until the end, but whoever it gave the secrets to is gone.
    attached.kill().unwrap();
    attached.wait().unwrap();
    let told_to_boot = FIRST + SLOTS - count("stage");
    assert_eq!(booted(), told_to_boot);
    workstation.start();
    let mut attached = attach(&workstation);
    hosts[FIRST..].iter().for_each(|(.., script)| script.release());
    wait(&workstation, "all end", &|| new() == hosts.len());
    let said = || format!("{} {}", workstation.said(), workstation.up_said());
    assert_eq!((ended(&mut attached, &said), ended(&mut up, &said)), (0, 0), "{}", said());
    assert_eq!(given(&workstation), hosts.len() - told_to_boot, "{}", said());

    let all = fs::read_to_string(workstation.path("up.out")).unwrap();
    let all: Vec<Value> = all.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (name, host, script) in hosts {
        assert_eq!((host.boots(), script.0.begun.load(Ordering::Relaxed)), (1, 1), "{name}: {}", said());
        let secret = format!("the secret of {name}");
        assert_eq!(script.0.secret.lock().unwrap().as_deref(), Some(secret.as_bytes()), "{name}: {}", said());
        let is_its = |line: &&Value| line["host"] == **name && line["number"].is_u64();
        let told: Vec<Value> = all.iter().filter(is_its).cloned().collect();
        assert_eq!(of_type(&told, "decision").len(), 1, "{told:?}");
        let summaries = of_type(&told, "summary");
        assert!(summaries.len() == 1 && summaries[0]["outcome"] == "deployed", "{summaries:?}");
        let numbers: Vec<u64> = told.iter().filter_map(|line| line["number"].as_u64()).collect();
        assert_eq!(numbers, (1..=told.len() as u64).collect::<Vec<_>>(), "{name}");
    }
}

/// As systemd does it: the socket is there before the daemon, which takes it over and leaves it.
#[test]
fn a_socket_that_somebody_else_listens_on() {
    let mut workstation = Workstation::new(&[], &[]);
    workstation.kill();
    let path = workstation.path("runtime/anemos/socket");
    fs::remove_file(&path).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" serve";
    let like = workstation.anemos(&[]);
    let mut daemon = Command::new("sh");
    daemon.args(["-c", script]).arg(like.get_program()).current_dir(workstation.dir.path());
    daemon.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
    daemon.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener))).stdout(Stdio::null()).stderr(Stdio::null());
    workstation.daemon = Some(daemon.spawn().unwrap());
    let mut talk = Conversation::begin(&workstation);
    let welcome = talk.ask(&serde_json::json!({"number": 1, "type": "hello", "api": 1}), b"");
    assert_eq!(welcome[0]["process"], workstation.daemon.as_ref().unwrap().id());
    workstation.kill();
    assert!(path.exists());
}

/// A conversation with the daemon.
struct Conversation {
    lines: BufReader<UnixStream>,
}

impl Conversation {
    fn begin(workstation: &Workstation) -> Self {
        let stream = UnixStream::connect(workstation.path("runtime/anemos/socket")).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        Self { lines: BufReader::new(stream) }
    }

    fn say(&mut self, bytes: &[u8]) {
        self.lines.get_mut().write_all(bytes).unwrap();
    }

    /// What comes next; null at the end.
    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        if line.is_empty() { Value::Null } else { serde_json::from_str(&line).unwrap() }
    }

    /// Says it, and hears all that answers it.
    fn ask(&mut self, request: &Value, more: &[u8]) -> Vec<Value> {
        self.say(&[request.to_string().as_bytes(), b"\n", more].concat());
        let mut heard = Vec::new();
        loop {
            let said = self.hear();
            assert!(!said.is_null(), "it hung up at {request}");
            if said["re"] != request["number"] {
                continue;
            }
            let goes_on = said["type"] == "line";
            heard.push(said);
            if !goes_on {
                return heard;
            }
        }
    }
}

/// Every message in docs/API.md is said to a daemon, in the order of the document, and answered by what stands there.
#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_what_is_said() {
    let script = Obedient::new(Some("build"));
    let host = Host::start(77, script.clone()).await;
    tokio::task::spawn_blocking(move || document(&script, &host)).await.unwrap();
}

fn document(script: &Obedient, host: &Host) {
    let workstation = Workstation::new(&[("web1", host)], &[]);
    // What `anemos` would submit is in the run's order.
    let mut up = workstation.up();
    script.wait("build");
    let order: Value = serde_json::from_slice(&fs::read(workstation.run().join("order/order.json")).unwrap()).unwrap();
    let blobs: Vec<PathBuf> =
        fs::read_dir(workstation.run().join("order")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let blobs: Vec<Vec<u8>> =
        blobs.iter().filter(|path| path.extension().is_none()).map(|path| fs::read(path).unwrap()).collect();
    // Whoever looks on would go on with it in the daemon's place.
    up.kill().unwrap();
    up.wait().unwrap();
    let mut first = Conversation::begin(&workstation);
    first.ask(&serde_json::json!({"number": 1, "type": "hello", "api": 1}), b"");
    let first_run = workstation.run().file_name().unwrap().to_str().unwrap().to_owned();
    first.ask(&serde_json::json!({"number": 2, "type": "stop", "run": first_run}), b"");
    let until = Instant::now() + LONG;
    while workstation.run().join("order").exists() {
        assert!(Instant::now() < until, "it is not left: {}", workstation.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    host.turn_into(Boot::Old);
    script.0.events.lock().unwrap().clear();
    script.0.reached.send_replace(None);

    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/API.md")).unwrap();
    let mut talk = Conversation::begin(&workstation);
    let (mut run, mut sha256, mut said) = (String::new(), String::new(), 0);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    for (at, line) in lines.iter().enumerate() {
        let Some(request) = line.strip_prefix("→ ") else { continue };
        let request = request.replace("RUN", &run).replace("SHA256", &sha256);
        let mut request: Value = serde_json::from_str(&request).unwrap();
        let kind = request["type"].as_str().unwrap().to_owned();
        let mut more = Vec::new();
        match kind.as_str() {
            "blob" => more = b"hello\n".to_vec(),
            "submit" => {
                for (number, blob) in (1000..).zip(&blobs) {
                    let digest = ring::digest::digest(&ring::digest::SHA256, blob);
                    let digest = data_encoding::HEXLOWER.encode(digest.as_ref());
                    let announced =
                        serde_json::json!({"number": number, "type": "blob", "sha256": digest, "size": blob.len()});
                    assert_eq!(talk.ask(&announced, blob)[0]["type"], "done");
                }
                request["hosts"] = order["hosts"].clone();
                request["secrets"] = serde_json::json!({"web1": {"files": {"token": "aHVudGVyMg=="}}});
            }
            // Once it is told to boot, it can be aborted, and subscribers hear of the end.
            "subscribe" => script.wait("build"),
            _ => {}
        }
        if kind == "subscribe" {
            talk.say((request.to_string() + "\n").as_bytes());
            let heard = talk.hear();
            let expected: Value = serde_json::from_str(lines[at + 1].strip_prefix("← ").unwrap()).unwrap();
            let fields = |value: &Value| value["line"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
            assert_eq!(fields(&heard), fields(&expected));
            assert!(heard["re"] == request["number"] && heard["line"]["number"] == 1, "{heard}");
            said += 1;
            continue;
        }
        let heard = talk.ask(&request, &more);
        let answers = lines[at + 1..].iter().map_while(|line| line.strip_prefix("← "));
        let answers: Vec<Value> = answers.map(|line| serde_json::from_str(line).unwrap()).collect();
        let (last, expected) = (heard.last().unwrap(), answers.last().unwrap());
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!((&last["type"], keys(last)), (&expected["type"], keys(expected)), "{request} was answered {last}");
        match kind.as_str() {
            "submit" => last["run"].as_str().unwrap().clone_into(&mut run),
            "plan" => {
                assert_eq!(last["plans"][0]["plan"]["host"], "web1", "{last}");
                last["plans"][0]["sha256"].as_str().unwrap().clone_into(&mut sha256);
                // Another plan is not decided about, and the right one is not spoilt by that.
                let wrong = |plans: Value, number: u64| {
                    serde_json::json!({
                        "number": number, "type": "decide", "run": run, "approve": true, "plans": plans,
                    })
                };
                for (number, plans) in (2000..).zip([
                    serde_json::json!({}),
                    serde_json::json!({"web1": "00"}),
                    serde_json::json!({"web1": sha256, "web2": sha256}),
                ]) {
                    let refused = talk.ask(&wrong(plans, number), b"");
                    assert_eq!((&refused[0]["type"], &refused[0]["reason"]), (&"error".into(), &"input".into()));
                }
            }
            _ => {}
        }
        said += 1;
    }
    assert_eq!(said, 14, "not every message of the document was said");
    let secret = |path: &PathBuf| fs::read(path).unwrap().windows(7).any(|window| window == b"hunter2");
    assert!(!secret(&workstation.run().join("order/order.json")));

    // What is no request is answered, and changes nothing.
    for (line, re) in [("{}", Value::Null), (r#"{"number":7,"type":"wipe"}"#, 7.into()), ("\"", Value::Null)] {
        talk.say(format!("{line}\n").as_bytes());
        let mut heard = talk.hear();
        while heard["type"] == "line" || heard["type"] == "end" {
            heard = talk.hear();
        }
        assert_eq!((&heard["re"], &heard["type"], &heard["reason"]), (&re, &"error".into(), &"input".into()), "{line}");
    }
    for first in [r#"{"number":1,"type":"list"}"#, r#"{"number":1,"type":"hello","api":99}"#] {
        let mut talk = Conversation::begin(&workstation);
        talk.say(format!("{first}\n").as_bytes());
        assert_eq!(talk.hear()["type"], "error", "{first}");
        assert!(talk.hear().is_null(), "it goes on after {first}");
    }
}

/// Who leaves a run to the daemon still gets what was wanted at the end, as far as it has come.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_left_is_told_of() {
    let script = Obedient::new(Some("build"));
    let host = Host::start(9, script.clone()).await;
    tokio::task::spawn_blocking(move || {
        let workstation = Workstation::new(&[("web", &host)], &[]);
        let on_end = "echo $ANEMOS_STATUS $ANEMOS_DEPLOYED $ANEMOS_LEFT $ANEMOS_RUN > left";
        let arguments = ["up", "--serve", "--yes", "--report", "left.xml", "--on-end", on_end];
        let log = fs::File::create(workstation.path("left.out")).unwrap();
        let mut up = workstation.anemos(&arguments);
        let mut up = up.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        script.wait("build");
        rustix::process::kill_process(rustix::process::Pid::from_child(&up), rustix::process::Signal::INT).unwrap();
        let said = || fs::read_to_string(workstation.path("left.out")).unwrap();
        assert_eq!(ended(&mut up, &said), 130, "{}", said());
        let left = fs::read_to_string(workstation.path("left")).unwrap_or_else(|error| panic!("{error}: {}", said()));
        let run = left.trim().strip_prefix("130 0 1 ").unwrap_or_else(|| panic!("{left}"));
        assert!(said().contains(&format!("run {run} goes on in the daemon")), "{}", said());
        let xml = fs::read_to_string(workstation.path("left.xml")).unwrap();
        assert!(xml.contains("errors=\"1\"") && xml.contains("<error type=\"not over\""), "{xml}");
        script.release();
    })
    .await
    .unwrap();
}
