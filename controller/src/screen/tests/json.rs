use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::samples::{Sink, event, every_report, log, plan, summary_of};
use crate::report::{Ending, Phase, Report, Summary, Update};
use crate::screen::json::report_line;
use crate::screen::status::{RunRow, StatusRow, run_json, status_json};
use crate::screen::{Screen, json};
use anemos_proto::event::{EventKind, Level};

/// Fields of all lines but the first: described once.
const COMMON: [&str; 4] = ["type", "time", "host", "number"];

/// Fields of all events: described once, under `event`.
const OF_EVENTS: [&str; 5] = ["speaker", "seq", "uptime_ms", "host_time", "kind"];

/// The names of all fields, with dots between the levels and `[]` after lists.
fn paths(value: &Value, prefix: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                paths(value, &path, into);
                if !value.is_object() && !matches!(value, Value::Array(items) if items.iter().any(Value::is_object)) {
                    into.insert(path);
                }
            }
        }
        Value::Array(items) => {
            for item in items.iter().filter(|item| item.is_object()) {
                paths(item, &format!("{prefix}[]"), into);
            }
        }
        _ => {}
    }
}

/// What the serializer writes: fields by type, and by `event kind`.
fn written() -> BTreeMap<String, BTreeSet<String>> {
    let sink = Sink::default();
    let mut screen = Screen::json(Box::new(sink.clone()), Some("20261123-093000-0a1b"), &["web1".into()]);
    for report in every_report() {
        screen.report(&report);
    }
    screen.finish();
    let status = StatusRow {
        host: "web1".into(),
        phase: Some(Phase::Build),
        state: "install".into(),
        outcome: Some(Ending::Held),
        reason: Some("deploy ended with 1".into()),
        last_event_seconds: Some(3.0),
    };
    let status = status_json("20261123-093000-0a1b", &status);
    let run = run_json(&RunRow {
        run: "20261123-093000-0a1b".into(),
        age_seconds: Some(60.0),
        endings: vec![None, Some(Ending::Deployed)],
        follower: Some("4711".into()),
        bytes: 12_345,
        hosts_file: "/x/hosts.toml".into(),
        unreadable: Some("it is damaged".into()),
    });
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let change = json::change_line("web1", Some("20261123-093000-0a1b"), 125);
    for line in sink.text().lines().chain([status.as_str(), run.as_str(), change.as_str()]) {
        let value: Value = serde_json::from_str(line).unwrap();
        let kind = value["type"].as_str().unwrap();
        let mut fields = BTreeSet::new();
        paths(&value, "", &mut fields);
        assert!(fields.remove("type"));
        if kind != "start" && kind != "run" {
            assert!(fields.remove("host"), "no host in {line}");
            assert!(kind == "status" || fields.remove("time"), "no time in {line}");
            // Not every line has one.
            fields.remove("number");
        }
        if kind == "event" {
            assert!(OF_EVENTS.iter().all(|name| fields.remove(*name)), "{line}");
            all.entry("event".into()).or_default().extend(OF_EVENTS.map(String::from));
            all.entry(format!("event {}", value["kind"].as_str().unwrap())).or_default().extend(fields);
        } else {
            all.entry(kind.into()).or_default().extend(fields);
        }
    }
    for fields in all.values_mut() {
        // An empty list of objects looks like a list of something else; another line has shown what is in it.
        let lists: Vec<String> =
            fields.iter().flat_map(|path| path.match_indices("[].").map(|(i, _)| path[..i].to_owned())).collect();
        fields.retain(|path| !lists.contains(path));
    }
    all
}

/// What the document describes.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let text = include_str!("../../../../docs/JSON.md");
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let (mut section, mut current) = (String::new(), None);
    let quoted = |text: &str| text.split('`').nth(1).map(str::to_owned);
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = quoted(title).unwrap_or_default();
            current = Some(section.clone()).filter(|name| !name.is_empty());
        } else if let Some(title) = line.strip_prefix("### ") {
            current = quoted(title).map(|kind| format!("{section} {kind}"));
            // A kind may have no fields.
            all.extend(current.clone().map(|kind| (kind, BTreeSet::new())));
        } else if line.starts_with("| `")
            && let Some(current) = &current
        {
            all.entry(current.clone()).or_default().insert(quoted(line).unwrap());
        }
    }
    all
}

#[test]
fn document_and_serializer_agree() {
    let (written, documented) = (written(), documented());
    let types = |all: &BTreeMap<String, BTreeSet<String>>| all.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(types(&written), types(&documented), "types written (left) and documented (right)");
    for (name, fields) in &written {
        assert_eq!(fields, &documented[name], "fields of `{name}` written (left) and documented (right)");
    }
}

#[test]
fn document_names_version_and_common_fields() {
    let text = include_str!("../../../../docs/JSON.md");
    assert!(text.contains(&format!("schema version {}", json::SCHEMA)));
    let intro = text.split("\n## `").next().unwrap();
    for name in COMMON {
        assert!(intro.contains(&format!("| `{name}`")), "{name}");
    }
}

#[test]
fn first_line_announces_schema_run_and_hosts() {
    let sink = Sink::default();
    Screen::json(Box::new(sink.clone()), Some("20261123-093000-0a1b"), &["a".into(), "b".into()]).finish();
    let first: Value = serde_json::from_str(sink.text().lines().next().unwrap()).unwrap();
    assert_eq!(first["type"], "start");
    assert_eq!(first["schema"], json::SCHEMA);
    assert_eq!(first["run"], "20261123-093000-0a1b");
    assert_eq!(first["hosts"], serde_json::json!(["a", "b"]));
}

#[test]
fn summary_is_flat_and_reads_back() {
    let summary = summary_of("web1", Ending::Deployed, "Debian GNU/Linux 13 (trixie)");
    let line =
        report_line(&super::samples::report("web1", 125, crate::report::Update::Summary(Box::new(summary.clone()))));
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["type"], "summary");
    assert_eq!(value["outcome"], "deployed");
    assert_eq!(value["time"], "2026-11-23T09:30:00.125Z");
    assert_eq!(value["seconds"]["reboot"], Value::Null);
    assert_eq!(serde_json::from_str::<Summary>(&line).unwrap(), summary);
}

#[test]
fn log_lines_are_text_or_base64() {
    let text: Value = serde_json::from_str(&report_line(&log("a", 0, "grün".as_bytes()))).unwrap();
    assert_eq!((&text["text"], text.get("base64")), (&Value::from("grün"), None));
    let bytes: Value = serde_json::from_str(&report_line(&log("a", 0, b"\xff\xfe"))).unwrap();
    assert_eq!((bytes.get("text"), &bytes["base64"]), (None, &Value::from("//4=")));
}

#[test]
fn what_the_journal_keeps_has_its_number() {
    let report = log("a", 0, b"x");
    let number = |report: &Report| serde_json::from_str::<Value>(&report_line(report)).unwrap().get("number").cloned();
    assert_eq!(number(&Report { number: Some(17), ..report.clone() }), Some(17.into()));
    assert_eq!(number(&report), None);
}

#[test]
fn lines_are_harmless_on_a_terminal_and_say_the_same() {
    let nasty = "\x1b[31m \u{9b}31m \u{202e}evil\u{2028} \u{e0041} \x7f \r\n \"";
    let line = report_line(&event("a", 0, EventKind::Note { level: Level::Info, text: nasty.into() }));
    assert!(!line.chars().any(|c| c.is_control() || crate::screen::text::is_invisible(c)), "{line:?}");
    let value: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value["text"], nasty);
}

#[test]
fn plan_has_type_host_number_and_time() {
    let update = Update::Planned { plan: Box::new(plan()), order: None };
    let report = Report { host: "web1".into(), number: Some(5), wall_ms: 0, update };
    let value: Value = serde_json::from_str(&report_line(&report)).unwrap();
    assert_eq!((&value["type"], &value["host"]), (&Value::from("plan"), &Value::from("web1")));
    assert_eq!((&value["time"], &value["order"]), (&Value::from("1970-01-01T00:00:00.000Z"), &Value::Null));
    assert_eq!(value["number"], 5);
}
