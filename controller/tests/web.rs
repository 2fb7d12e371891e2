//! `anemos serve --web`: the real command by plain HTTP, with SSH servers that play the hosts. tests/browser.rs has
//! a browser look at it.

#[path = "hostile/carried.rs"]
mod carried;
#[path = "hostile/daemon.rs"]
#[allow(dead_code, reason = "tests/serve.rs needs more of it")]
mod daemon;
#[path = "hostile/host.rs"]
#[allow(dead_code, reason = "the hostile hosts need more of it")]
mod host;
#[path = "web/http.rs"]
mod http;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use daemon::{LONG, Obedient, Terminal, Workstation, ended, of_type};
use host::Host;
use http::{Event, Page};
use serde_json::{Value, json};

const WEB: [&str; 2] = ["--web", "127.0.0.1:0"];

/// What a hostile payload prints.
const NASTY: &[u8] = b"\x1b[31m<script>alert(1)</script>\x1b]0;title\x07 \xe2\x80\xaegnp.exe \xff";

/// That as a terminal's screen shows it.
const SHOWN: &str = "<script>alert(1)</script> gnp.exe \u{fffd}";

/// Every request without the token, for another name, or from another page is refused, and changes nothing.
#[test]
fn only_its_own_page_with_the_token_is_answered() {
    let workstation = Workstation::new(&[], &WEB);
    let page = Page::of(&workstation);
    let token = workstation.path("state/anemos/web-token");
    assert_eq!(fs::metadata(token).unwrap().mode() & 0o7777, 0o600);
    assert!(!workstation.said().contains(&page.token), "others may read where a daemon writes");

    for path in ["/", "/app.js", "/style.css", "/api/runs", "/nothing"] {
        let reply = page.get(path);
        let policy = &reply.headers["content-security-policy"];
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{path}: {policy}");
        for (name, value) in
            [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer"), ("x-frame-options", "DENY")]
        {
            assert_eq!(reply.headers[name], value, "{path}");
        }
        assert!(!reply.body.contains(&page.token), "{path}");
    }
    let html = page.ask("GET", "/", &[], "");
    assert_eq!((html.status, html.headers["content-type"].as_str()), (200, "text/html; charset=utf-8"));
    // What the policy would keep from being run or drawn is not even there.
    assert!(!html.body.contains("<style") && !html.body.contains("style=") && !html.body.contains("onclick"));
    // All that the page loads is there, and nothing else is.
    let mut todo: Vec<String> = vec!["/".into()];
    let mut seen = BTreeSet::new();
    while let Some(path) = todo.pop() {
        let reply = page.ask("GET", &path, &[], "");
        assert_eq!(reply.status, 200, "{path}");
        for (before, after) in [("src=\"", '"'), ("href=\"/", '"'), ("from './", '\'')] {
            for found in reply.body.split(before).skip(1).filter_map(|rest| rest.split(after).next()) {
                let found = format!("/{}", found.trim_start_matches('/'));
                if seen.insert(found.clone()) && !found.contains('#') {
                    todo.push(found);
                }
            }
        }
    }
    assert!(seen.contains("/style.css") && seen.contains("/state.js") && seen.contains("/icon.svg"), "{seen:?}");

    let bearer = page.bearer();
    let right = ("Authorization", bearer.as_str());
    let elsewhere = format!("http://{}", page.address.replace("127.0.0.1", "127.0.0.2"));
    let own = format!("http://{}", page.address);
    let json = ("Content-Type", "application/json");
    for (method, path, headers, expected) in [
        ("GET", "/api/runs", vec![right], 200),
        ("GET", "/api/runs", vec![right, ("Origin", &own)], 200),
        ("GET", "/api/runs", vec![right, ("Host", "localhost:7")], 200),
        ("GET", "/api/runs", vec![], 401),
        ("GET", "/metrics", vec![], 401),
        ("GET", "/api/nothing", vec![], 401),
        ("GET", "/api/runs", vec![("Authorization", "Bearer x")], 401),
        ("GET", "/api/runs", vec![("Cookie", &bearer)], 401),
        ("GET", "/api/runs", vec![right, ("Host", "evil.example")], 421),
        ("GET", "/", vec![("Host", "evil.example")], 421),
        ("GET", "/api/runs", vec![right, ("Origin", &elsewhere)], 403),
        ("GET", "/api/runs", vec![right, ("Origin", "null")], 403),
        ("GET", "/api/runs", vec![right, ("Sec-Fetch-Site", "cross-site")], 403),
        ("POST", "/api/runs/x/decide", vec![right], 415),
        ("POST", "/api/runs/x/decide", vec![json], 401),
        ("POST", "/api/runs/x/decide", vec![right, json, ("Origin", &elsewhere)], 403),
        ("POST", "/api/runs/20260101-000000-0000/decide", vec![right, json], 400),
        ("DELETE", "/api/runs", vec![right], 405),
        ("POST", "/", vec![right], 405),
        ("GET", "/../Cargo.toml", vec![right], 404),
        ("GET", "/api/runs/..%2f..%2fx", vec![right], 400),
        ("GET", "/api/runs/%ff", vec![right], 400),
        ("GET", "/api/runs/20260101-000000-0000/events", vec![right], 400),
    ] {
        let body = if method == "POST" { "{\"approve\":false}" } else { "" };
        let reply = page.ask(method, path, &headers, body);
        assert_eq!(reply.status, expected, "{method} {path} {headers:?}: {reply:?}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(64 << 10));
    assert_eq!(page.raw(&long).status, 431);
    let long = page.ask("POST", "/api/runs/x/decide", &[right, json], &format!("{{\"x\":\"{}\"}}", "x".repeat(70_000)));
    assert_eq!(long.status, 400);
    // Whoever does not ask for anything is hung up on.
    let mut silent = page.connect();
    silent.write_all(b"GET / HTTP/1.1\r\nHost: loc").unwrap();
    let began = Instant::now();
    silent.read_to_end(&mut Vec::new()).unwrap();
    assert!(began.elapsed() < LONG / 2, "{:?}", began.elapsed());
}

#[test]
fn what_others_can_reach_is_served_by_tls_only() {
    let workstation = Workstation::new(&[], &[]);
    let refused = |arguments: &[&str]| {
        let mut serve = workstation.anemos(&["serve"]);
        // Not in the place of the daemon that is there.
        serve.args(arguments).env("XDG_RUNTIME_DIR", workstation.path("elsewhere"));
        let output = serve.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = refused(&["--web", "0.0.0.0:0"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--web-cert") && said.contains("can be reached from other machines"), "{said}");
    for lacking in [&["--web", "--web-cert", "x"][..], &["--web-cert", "x", "--web-key", "x"]] {
        assert_eq!(refused(lacking).0, Some(2), "{lacking:?}");
    }
    let (code, said) = refused(&["--web", "127.0.0.1:0", "--web-cert", "payload/deploy", "--web-key", "key"]);
    assert!(code == Some(2) && said.contains("payload/deploy"), "{said}");
}

#[test]
fn by_tls_the_certificate_says_who_it_is() {
    use std::net::TcpStream;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["anemos.example".into()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    fs::write(&certificate, cert.pem()).unwrap();
    fs::write(&key, signing_key.serialize_pem()).unwrap();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let workstation = Workstation::new(&[], &["--web", "127.0.0.1:0", "--web-cert", certificate, "--web-key", key]);
    let page = Page::of(&workstation);
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let ask = |origin: &str| {
        let name = ServerName::try_from("anemos.example").unwrap();
        let client = ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut stream = StreamOwned::new(client, TcpStream::connect(&page.address).unwrap());
        let bearer = page.bearer();
        let request = format!(
            "GET /api/runs HTTP/1.1\r\nHost: anemos.example\r\nOrigin: {origin}\r\nAuthorization: {bearer}\r\n\
             Connection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        http::read(&mut BufReader::new(stream)).status
    };
    assert_eq!(ask("https://anemos.example"), 200);
    assert_eq!(ask("http://anemos.example"), 403);
    // Nothing is said without TLS.
    let mut plain = page.connect();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said);
    assert!(!said.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&said));
}

/// The lines of the events of a stream.
fn lines(events: &[Event]) -> Vec<Value> {
    let told = events.iter().filter(|event| event.name == "told");
    told.flat_map(|event| event.data.as_array().unwrap().clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_decided_and_watched_on_the_page() {
    let script = Obedient::printing(Some("build"), &[NASTY]);
    let host = Host::start(91, script.clone()).await;
    tokio::task::spawn_blocking(move || watched(&script, &host)).await.unwrap();
}

fn watched(script: &Obedient, host: &Host) {
    let mut workstation = Workstation::new(&[("web1", host)], &WEB);
    let page = Page::of(&workstation);
    assert_eq!(page.get("/api/runs").json(), json!({ "runs": [], "more": false }));
    let mut terminal = Terminal::start(&mut workstation.anemos(&["up", "--serve", "hosts.toml"]));
    let all = page.wait("/api/runs", |all| all["runs"][0]["state"] == "met");
    let run = all["runs"][0]["run"].as_str().unwrap().to_owned();
    let at = |what: &str| format!("/api/runs/{run}/{what}");
    assert_eq!(all["runs"][0]["going"], 1);
    assert_eq!(page.get("/api/hosts").json()["hosts"][0]["host"], "web1");
    let one = page.get(&format!("/api/runs/{run}")).json();
    assert_eq!((&one["state"], &one["hosts"][0]["host"]), (&"met".into(), &"web1".into()));

    // Nothing happens without the words, or with another plan.
    let plans = page.get(&at("plan")).json();
    let shown = &plans["plans"][0];
    assert_eq!((&shown["able"], &shown["plan"]["wipe"][0]["name"]), (&true.into(), &"/dev/vda".into()));
    let looked = json!({ "web1": shown["sha256"] });
    for (approval, why) in [
        (json!({ "approve": true, "plans": looked }), "typed"),
        (json!({ "approve": true, "typed": "y", "plans": looked }), "typed"),
        (json!({ "approve": true, "typed": "yes", "plans": {} }), "not among those"),
        (json!({ "approve": true, "typed": "yes", "plans": { "web1": "00" } }), "is not the plan"),
        (json!({ "approve": true, "typed": "yes", "plans": looked, "more": 1 }), "unknown field"),
    ] {
        let refused = page.post(&at("decide"), &approval);
        assert_eq!(refused.status, 400, "{approval}: {refused:?}");
        assert!(refused.json()["error"]["message"].as_str().unwrap().contains(why), "{approval}: {refused:?}");
    }
    assert_eq!(host.boots(), 0);

    let first = page.events(&at("events"), None);
    let decided = page.post(&at("decide"), &json!({ "approve": true, "typed": "yes", "plans": looked }));
    assert_eq!(decided.status, 200, "{decided:?}");
    assert_eq!(page.post(&at("decide"), &json!({ "approve": false })).status, 409);
    // The question in the terminal is answered by that, too.
    script.wait("build");
    let until = Instant::now() + LONG;
    while !terminal.said().contains("by the page from 127.0.0.1") {
        assert!(Instant::now() < until, "{}", terminal.said());
        std::thread::sleep(Duration::from_millis(50));
    }

    // The page is closed in the middle, and opened again.
    let is_building = |event: &Event| {
        event.name == "told" && event.data.as_array().unwrap().iter().any(|line| line["phase"] == "build")
    };
    let mut before = Vec::new();
    for event in first {
        let last = is_building(&event);
        before.push(event);
        if last {
            break;
        }
    }
    let id = before.iter().rev().find_map(|event| event.id.clone()).unwrap();
    let output = page.events(&at("hosts/web1/events"), None);
    let again = page.events(&at("events"), Some(&id));
    // Until it says how far it is, which stands in no journal.
    let mut heard = Vec::new();
    for event in output {
        let last = event.name == "progress";
        heard.push(event);
        if last {
            break;
        }
    }
    let half = &heard.last().unwrap().data[0];
    assert_eq!((&half["done"], &half["total"], &half["what"]), (&60.into(), &120.into(), &"unpacking libc6".into()));
    let heard = lines(&heard);
    let texts: Vec<_> = heard.iter().filter(|line| line["kind"] == "log").map(|line| &line["text"]).collect();
    assert_eq!(texts, ["hello from the payload", SHOWN]);
    for wrong in ["x", "1.2", ""] {
        let headers = [("Authorization", &*page.bearer()), ("Last-Event-ID", wrong)];
        assert_eq!(page.ask("GET", &at("events"), &headers, "").status, 400, "{wrong}");
    }
    assert_metrics(&page.get("/metrics"), &["anemos_runs{state=\"decided\"} 1", "anemos_hosts{phase=\"build\"} 1"]);

    script.release();
    let after: Vec<Event> = again.collect();
    assert_eq!(after.last().unwrap().name, "end");
    let told = [lines(&before), lines(&after)].concat();
    let numbers: Vec<u64> = told.iter().map(|line| line["number"].as_u64().unwrap()).collect();
    // Once each, and all that a journal has but facts and lines of output.
    let kept: Vec<u64> = workstation
        .told("web1")
        .iter()
        .filter(|line| line["type"] != "facts" && line["kind"] != "log")
        .map(|line| line["number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, kept);
    assert_eq!(of_type(&told, "summary")[0]["outcome"], "deployed");
    let decision = of_type(&told, "decision")[0];
    assert!(decision["author"].as_str().unwrap().ends_with(", by the page from 127.0.0.1"), "{decision}");
    let code = ended(&mut terminal.child, &|| workstation.said());
    assert_eq!(code, 0, "{}", terminal.said());

    let log = page.get(&at("hosts/web1/log"));
    assert_eq!(log.body, format!("hello from the payload\n{SHOWN}\n"));
    assert_eq!(log.headers["content-disposition"], "attachment");
    assert_eq!(page.get(&at("hosts/web2/log")).status, 400);
    page.wait("/api/runs", |all| all["runs"][0]["state"] == "over" && all["runs"][0]["deployed"] == 1);
    let counted = ["anemos_hosts_ended_total{outcome=\"deployed\"} 1", "anemos_phase_seconds_count{phase=\"build\"} 1"];
    let until = Instant::now() + LONG;
    while !page.get("/metrics").body.contains(counted[0]) {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_metrics(&page.get("/metrics"), &counted);
    // Whoever comes late hears all of it, and that no more comes; the token is the same after a restart.
    workstation.kill();
    workstation.start();
    let again = Page::of(&workstation);
    assert_eq!(again.token, page.token);
    let late: Vec<Event> = again.events(&at("events"), None).collect();
    assert_eq!(lines(&late).len(), kept.len());
    assert_eq!(again.get(&at("plan")).status, 409);
    let wish = json!({ "host": "web1", "wish": "abort" });
    assert_eq!(again.post(&at("wish"), &wish).status, 409);
}

/// What answers is OpenMetrics, and has these lines.
fn assert_metrics(reply: &http::Reply, expected: &[&str]) {
    assert_eq!(reply.headers["content-type"], "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = reply.body.strip_suffix("# EOF\n").expect("it has an end");
    let (mut families, mut current) = (BTreeSet::new(), (String::new(), String::new()));
    for line in text.lines() {
        if let Some(head) = line.strip_prefix("# ") {
            let words: Vec<&str> = head.splitn(3, ' ').collect();
            if words[0] == "TYPE" {
                assert!(families.insert(words[1].to_owned()), "{line} is there twice");
                current = (words[1].to_owned(), words[2].to_owned());
            }
            assert!(["TYPE", "UNIT", "HELP"].contains(&words[0]) && words[1] == current.0, "{line}");
            assert!(words[0] != "UNIT" || current.0.ends_with(&format!("_{}", words[2])), "{line}");
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap();
        let name = sample.split('{').next().unwrap();
        let endings: &[&str] = match current.1.as_str() {
            "gauge" => &[""],
            "counter" => &["_total"],
            "summary" => &["_sum", "_count"],
            "info" => &["_info"],
            other => panic!("{other}"),
        };
        assert!(endings.iter().any(|ending| name == format!("{}{ending}", current.0)), "{line} of {current:?}");
    }
    let document = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/WEB.md")).unwrap();
    let named = document.lines().filter_map(|line| line.strip_prefix("| `anemos_")?.split('`').next());
    let named: BTreeSet<String> = named.map(|name| format!("anemos_{name}")).collect();
    assert_eq!(named, families, "docs/WEB.md has other names");
    for line in expected {
        assert!(text.lines().any(|found| found == *line), "{line} is not in {text}");
    }
}

/// Whoever takes nothing holds up neither the deployment nor others, and only so many look on at once.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_slowly_holds_nothing_up() {
    let long = [b'x'; 200];
    let lines: Vec<&[u8]> = vec![&long; 30_000];
    let script = Obedient::printing(Some("build"), &lines);
    let host = Host::start(92, script.clone()).await;
    tokio::task::spawn_blocking(move || slow(&script, &host)).await.unwrap();
}

fn slow(script: &Obedient, host: &Host) {
    let workstation = Workstation::new(&[("web1", host)], &WEB);
    let page = Page::of(&workstation);
    let mut up = workstation.up();
    script.wait("build");
    let run = workstation.run().file_name().unwrap().to_str().unwrap().to_owned();
    let at = |what: &str| format!("/api/runs/{run}/{what}");
    // A wish reaches the host by the name of who made it.
    let wish = page.post(&at("wish"), &json!({ "host": "web1", "wish": "finish", "finish": "hold" }));
    assert_eq!(wish.json()["answers"][0]["host"], "web1", "{wish:?}");
    for wrong in [
        json!({ "host": "web1", "wish": "abort", "finish": "hold" }),
        json!({ "host": "web1", "wish": "finish" }),
        json!({ "host": "web1", "wish": "wipe" }),
    ] {
        assert_eq!(page.post(&at("wish"), &wrong).status, 400, "{wrong}");
    }
    page.wait(&format!("/api/runs/{run}"), |one| one["hosts"][0]["phase"] == "build");

    let ask = |path: &str| {
        let mut stream = page.connect();
        let bearer = page.bearer();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: {bearer}\r\n\r\n", page.address);
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    // Of each only the head is read: then the place is taken.
    let mut held: Vec<_> = (0..32).map(|_| ask(&at("hosts/web1/events"))).collect();
    for stream in &mut held {
        let mut byte = [0; 12];
        stream.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"HTTP/1.1 200");
    }
    let full = page.ask("GET", &at("events"), &[("Authorization", &page.bearer())], "");
    assert_eq!(full.status, 409, "{full:?}");
    drop(held);
    let until = Instant::now() + LONG;
    while page.ask("GET", &at("hosts/web1/log"), &[("Authorization", &page.bearer())], "").status != 200 {
        assert!(Instant::now() < until, "no place is given back");
        std::thread::sleep(Duration::from_millis(50));
    }
    let _idle = [ask(&at("hosts/web1/log")), ask(&at("hosts/web1/events")), ask(&at("events"))];
    script.release();
    let code = ended(&mut up, &|| workstation.said());
    assert_eq!(code, 0, "{}", workstation.up_said());
    let log = page.get(&at("hosts/web1/log"));
    assert_eq!(log.body.lines().count(), 30_001);
    // Of the output only the newest lines are shown, and how many are not.
    let events: Vec<Event> = page.events(&at("hosts/web1/events"), None).collect();
    let told = lines(&events);
    let printed = told.iter().filter(|line| line["kind"] == "log").count() as u64;
    let left_out: u64 = of_type(&told, "left-out").iter().map(|line| line["lines"].as_u64().unwrap()).sum();
    assert_eq!((printed, printed + left_out), (1000, 30_001));
    let wished = of_type(&told, "wish")[0];
    assert!(wished["author"].as_str().unwrap().ends_with(", by the page from 127.0.0.1"), "{wished}");
}
