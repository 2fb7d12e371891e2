//! Texts for the page: made harmless as they are for a terminal. What comes from a host may have escape sequences and
//! characters that reorder or hide text; a browser acts on the latter too.

use anemos_proto::event::{EventKind, Stream};
use serde_json::{Value, json};

use crate::report::{Report, Update};
use crate::screen::json::report_line;
use crate::screen::text::{log_line, rfc3339, sanitise_str};

/// A text of one line or more.
pub(super) fn text(text: &str) -> String {
    text.split('\n').map(sanitise_str).collect::<Vec<_>>().join("\n")
}

/// All texts in a value, but for names of fields, which are never a host's.
pub(super) fn value(mut value: Value) -> Value {
    clean(&mut value);
    value
}

fn clean(value: &mut Value) {
    match value {
        Value::String(said) => *said = text(said),
        Value::Array(values) => values.iter_mut().for_each(clean),
        Value::Object(fields) => fields.values_mut().for_each(clean),
        _ => {}
    }
}

/// A report as docs/JSON.md has it. A line of output always has a `text`.
pub(super) fn report(report: &Report) -> Value {
    if let Update::Event(speaker, event) = &report.update
        && let EventKind::Log { stream, line } = &event.kind
    {
        let name = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
            Stream::Kernel => "kernel",
        };
        return json!({
            "type": "event", "kind": "log", "host": text(&report.host), "speaker": speaker, "seq": event.seq,
            "stream": name, "text": log_line(*stream, line), "number": report.number, "time": rfc3339(report.wall_ms),
        });
    }
    // What was written as JSON can be read as such.
    value(serde_json::from_str(&report_line(report)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use anemos_proto::event::{Event, Level};

    use super::*;
    use crate::report::Speaker;

    #[test]
    fn what_a_host_says_is_text() {
        let event = |kind| {
            let update = Update::Event(Speaker::Agent, Event { seq: 1, uptime_ms: 0, wall_ms: 0, kind });
            report(&Report { host: "web".into(), number: Some(7), wall_ms: 0, update })
        };
        let nasty = "\x1b[31m<b>red</b>\x1b]0;title\x07 \u{202e}gnp.exe\u{200b}\x07";
        let log = event(EventKind::Log { stream: Stream::Stdout, line: [nasty.as_bytes(), b"\xff\r"].concat() });
        assert_eq!(log["text"], "<b>red</b> gnp.exe\u{fffd}");
        assert_eq!((&log["kind"], &log["number"]), (&"log".into(), &7.into()));
        assert_eq!(event(EventKind::Log { stream: Stream::Kernel, line: b"oops".to_vec() })["text"], "kernel: oops");
        let note = event(EventKind::Note { level: Level::Info, text: format!("{nasty}\nmore") });
        assert_eq!(note["text"], "<b>red</b> gnp.exe\nmore");
    }
}
