//! What hosts say, shown.

use std::sync::Arc;

use anemos_proto::agent::{AgentReply, Leaving};
use anemos_proto::codec::{self, FrameReader};
use anemos_proto::config::Finish;
use anemos_proto::event::Level;
use anemos_proto::host::HostFacts;
use anemos_proto::ids::{BlobRef, Digest};
use anemos_proto::stage::{BaseSource, KernelSource, Proxy};

use super::frame::{View, frame};
use super::plain::PlainLines;
use super::state::Hosts;
use super::text::{self, Paint, width};
use super::{json, plan, status};
use crate::config::DiskSelector;
use crate::journal::{Digested, Record};
use crate::payload;
use crate::plan::{Choices, Upload, judge};
use crate::report::{Report, Speaker, Update};

/// Nothing in it moves a cursor, changes a colour, or hides. A text of several lines may have newlines.
fn harmless(text: &str, lines: bool) {
    let bad = text.chars().find(|c| (c.is_control() && !(lines && *c == '\n')) || text::is_invisible(*c));
    assert_eq!(bad, None, "{text:?}");
}

/// A line of JSON, as a program and a terminal may get it.
fn json(line: &str) {
    harmless(line, false);
    serde_json::from_str::<serde_json::Value>(line).expect("it is JSON");
}

/// A line of output, made harmless, and cut to columns.
pub fn line(data: &[u8]) {
    let clean = text::sanitise(data);
    harmless(&clean, false);
    assert!(clean.len() <= 8 * data.len());
    assert_eq!(text::sanitise_str(&clean), clean, "what is harmless stays");
    for columns in [0, 1, 2, 7, 80] {
        assert!(width(&text::clip(&clean, columns)) <= columns);
        assert_eq!(width(&text::fit(&clean, columns)), columns);
        assert!(width(&text::right(&clean, columns)) >= columns);
    }
    let wrapped = text::wrap(&clean, 20, 2);
    let joined: String = wrapped.iter().enumerate().map(|(at, line)| if at == 0 { line } else { &line[2..] }).collect();
    assert_eq!(joined, clean);
    text::base64(data);
}

/// What an agent says, in frames, as every screen shows it.
pub fn replies(data: &[u8]) {
    let mut frames = FrameReader::new();
    frames.push(data);
    let mut updates = Vec::new();
    while let Ok(Some(reply)) = frames.next_frame::<AgentReply>() {
        updates.push(match reply {
            AgentReply::Event(event) => Update::Event(Speaker::Agent, event),
            AgentReply::Progress(progress) => Update::Progress(Speaker::Agent, progress),
            AgentReply::Attached { boot_id, .. } => Update::Message(Level::Warning, boot_id),
            AgentReply::Accepted => Update::LinkBack,
            AgentReply::Refused(why) => Update::Answered { wish: 1, refused: Some(why) },
            AgentReply::Leaving(Leaving::OldSystem(why)) => Update::LinkLost(why),
            AgentReply::Leaving(Leaving::Finish(finish)) => Update::Message(Level::Error, format!("{finish:?}")),
        });
    }
    show(updates);
}

fn show(updates: Vec<Update>) {
    let mut plain = PlainLines::new(&[]);
    let mut hosts = Hosts::new(&[]);
    let mut records = Vec::new();
    let mut now = 0;
    for update in updates {
        now += 7000;
        let report = Report { host: "web\x1b[1m".into(), number: Some(now), wall_ms: now, update };
        if let Some(line) = plain.line(&report) {
            harmless(&line, false);
        }
        json(&json::report_line(&report));
        hosts.get(&report.host).apply(&report);
        for (columns, rows) in [(80, 24), (9, 2)] {
            let lines = frame(hosts.all(), now, View { columns, rows, paint: Paint(false), unicode: true });
            assert!(lines.len() < rows.max(2));
            for line in &lines {
                harmless(line, false);
                assert!(columns < 80 || width(line) <= columns, "{line:?}");
            }
        }
        records.push(Record::Told { wall_ms: now, update: report.update });
    }
    let digested = Digested::of(records);
    let row = status::StatusRow::of("web", &digested, now);
    json(&status::status_json("run", &row));
    harmless(&status::status("run", &[row], Paint(false)), true);
}

/// What a stage says of its host: the plan that is made of it, shown and approved.
pub fn facts(data: &[u8]) {
    let Ok(facts) = codec::from_bytes::<HostFacts>(data) else { return };
    let blob = BlobRef { digest: Digest([1; 32]), size: 1000 };
    let disks = match facts.disks.first() {
        Some(disk) => vec![DiskSelector::Path(disk.id.name.clone())],
        None => vec![DiskSelector::Match {
            serial: Some("S".into()),
            model: None,
            wwid: None,
            min_size: Some(1),
            max_size: None,
        }],
    };
    let choices = Choices {
        host: "web".into(),
        address: "root@192.0.2.7:22".into(),
        becomes: None,
        host_key: "ssh-ed25519 SHA256:x".into(),
        system: String::new(),
        disks,
        stage: Upload { what: "stage".into(), bytes: 1, cached: false },
        blobs: vec![("agent", blob)],
        kernel: KernelSource::Host,
        locked_kernel: Some("6.1".into()),
        base: Digest([2; 32]),
        groups: vec!["core".into()],
        images: vec![Digest([2; 32])],
        base_size: 166 << 20,
        sources: vec![BaseSource::Cache, BaseSource::Build],
        has_mirror: false,
        has_snapshot: false,
        proxy: Proxy::Own,
        payload: "payload".into(),
        keeps: vec![payload::Keep { label: "data".into(), or_made: true }],
        is_unsigned: false,
        finish: Finish::Reboot,
        check: None,
        verify_key: false,
    };
    let plan = Arc::new(judge(&facts, choices));
    assert!(plan.refusals.is_empty() || plan.refused().is_some());
    for columns in [None, Some(40)] {
        harmless(&plan::render(std::slice::from_ref(&plan), Some("alone"), Paint(false), columns), true);
    }
    let planned = Update::Planned { plan: Box::new((*plan).clone()), order: None };
    show(vec![Update::Facts(Box::new(facts)), planned]);
}
