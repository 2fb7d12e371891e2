//! Reports, `--on-end`, and what `anemos runs` says.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;

use anemos_proto::event::Outcome;
use rustix::process::{Pid, Signal, kill_process};

use crate::desk::{Desk, Shared, Willing};
use crate::host::Host;

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_told_of_when_it_is_over() {
    let outcome = Outcome::Failed { reason: "<b>&".into(), written: true };
    let evil = b"</pre><script>alert(1)</script>\x1b[31m".to_vec();
    let failing = Shared(Arc::new(Willing { outcome, prints: evil, ..Willing::default() }));
    let (good, bad) = (Host::start(11, Shared::default()).await, Host::start(12, failing).await);
    let desk = Desk::new(&[("good", &good), ("bad", &bad)]);

    // A report that nobody can write is told before a host is met.
    let (status, said) = desk.run(&["up", "--yes", "--report", "run.pdf"]);
    assert!(status == 2 && said.contains("run.pdf: a report ends in .xml (JUnit) or .html"), "{said}");
    desk.write("pom.xml", "<project/>");
    for (path, says) in [
        ("nodir/run.xml", "nodir/run.xml: nothing can be written into its directory: No such file"),
        ("pom.xml", "pom.xml: there is a file that is no report; it is left as it is"),
    ] {
        let (status, said) = desk.run(&["up", "--yes", "--report", path]);
        assert!(status == 2 && said.contains(says), "{path}: {said}");
    }
    assert_eq!((good.boots(), desk.read("pom.xml").as_str()), (0, "<project/>"));

    let on_end =
        "cat > told; echo $ANEMOS_STATUS $ANEMOS_DEPLOYED $ANEMOS_HELD $ANEMOS_LEFT $ANEMOS_RUN > env; echo hi";
    // Where one of the reports is to go is gone by then.
    let report = ["--report", "gone/a.xml", "--report", "run.xml", "--report", "run.html", "--on-end", on_end];
    std::fs::create_dir(desk.path("gone")).unwrap();
    let path = desk.with_ssh("rm -rf gone");
    let output = desk.anemos(&[&["up", "--yes", "--json"][..], &report].concat()).env("PATH", path).output().unwrap();
    let said = crate::desk::text(&output);
    assert_eq!(output.status.code(), Some(4), "{said}");
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(lines.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{lines}");
    let env = desk.read("env");
    let words: Vec<&str> = env.split_whitespace().collect();
    assert_eq!(words[..4], ["4", "1", "1", "0"], "{env}");
    let again = format!("; `anemos report {} -o gone/a.xml` writes it from the journals", words[4]);
    assert!(said.contains("no report is written: gone/a.xml: ") && said.contains(&again), "{said}");
    let told: Vec<serde_json::Value> =
        desk.read("told").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut ends: Vec<_> = told.iter().map(|line| format!("{} {}", line["host"], line["outcome"])).collect();
    ends.sort();
    assert_eq!(ends, ["\"bad\" \"held\"", "\"good\" \"deployed\""]);

    let (xml, page) = (desk.read("run.xml"), desk.read("run.html"));
    assert!(xml.contains("tests=\"2\" failures=\"1\" errors=\"0\""), "{xml}");
    for (name, text) in [("xml", &xml), ("page", &page)] {
        assert!(text.contains("&lt;script&gt;alert(1)") && text.contains(words[4]), "{name}: {text}");
        assert!(!text.contains("<script") && !text.contains('\u{1b}'), "{name}: {text}");
    }
    // Somebody else's parser, too.
    let parse = "import sys, xml.etree.ElementTree as e, html.parser as h\n\
                 t = e.parse('run.xml').getroot()\nprint([c.get('name') for c in t.iter('testcase')])\n\
                 p = h.HTMLParser(); p.feed(open('run.html').read()); p.close()\n";
    let python = std::process::Command::new("python3").args(["-c", parse]).current_dir(desk.dir.path()).output();
    let python = python.expect("python3 (package python3) is needed by this test");
    assert_eq!(crate::desk::text(&python).trim(), "['good', 'bad']");

    // The same again, from the journals; and what the list says.
    let (status, said) = desk.run(&["report", "-o", "again.xml", "-o", "bad.html", "bad"]);
    assert_eq!(status, 0, "{said}");
    assert!(desk.read("again.xml").contains("tests=\"1\"") && desk.read("bad.html").contains("1 held"));
    assert_eq!(desk.run(&["report", "-o", "x"]).0, 2);
    let (status, said) = desk.run(&["report", "-o", "pom.xml"]);
    assert!(status == 2 && said.contains("pom.xml: there is a file that is no report"), "{said}");
    let (_, said) = desk.run(&["runs", "go*"]);
    assert!(said.contains(words[4]) && said.contains("1 held, 1 deployed"), "{said}");
    let (status, said) = desk.run(&["runs", "web"]);
    assert!(status == 2 && said.contains("the journal has no host `web`; it has bad, good\n"), "{said}");
    let (status, said) = desk.run(&["runs", "--json", "good", "bda"]);
    assert!(status == 2 && said.contains("has no host `bda`; did you mean `bad`?"), "{said}");
    assert!(!said.contains(words[4]), "{said}");
    let (status, said) = desk.run(&["runs", &words[4][words[4].len() - 4..]]);
    assert!(status == 2 && said.contains(&format!("; `anemos runs show {}` is about", words[4])), "{said}");
    let (status, said) = desk.run(&["runs", "show"]);
    assert!(status == 0 && said.contains("key          there, since a host may be in RAM"), "{said}");
    assert!(said.contains(&format!("run {}", words[4])) && said.contains("followed by  nobody"), "{said}");

    // Ctrl-C reaches a command that is being waited for, and what it waits for.
    let fifo = std::process::Command::new("mkfifo").arg(desk.path("pipe")).status();
    assert!(fifo.unwrap().success());
    let on_end = "exec 9> pipe; echo begun >&9; sleep 600; true";
    let mut attach = desk.anemos(&["attach", "good", "--on-end", on_end]);
    let attach = attach.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pipe = BufReader::new(File::open(desk.path("pipe")).unwrap());
    let mut told = String::new();
    pipe.read_line(&mut told).unwrap();
    assert_eq!(told, "begun\n");
    kill_process(Pid::from_child(&attach), Signal::INT).unwrap();
    assert_eq!(pipe.read_line(&mut told).unwrap(), 0, "somebody holds the pipe, and writes: {told}");
    let said = crate::desk::text(&attach.wait_with_output().unwrap());
    assert!(said.contains("--on-end: the command was ended, since"), "{said}");

    // A command that fails is told, and changes nothing.
    let (status, said) = desk.run(&["attach", "good", "--on-end", "exit 7"]);
    assert!(status == 0 && said.contains("--on-end: the command ended with exit status: 7"), "{said}");
}
