//! What the daemon amounts to, in numbers, for a monitoring system:
//! https://prometheus.io/docs/specs/om/open_metrics_spec/ . docs/WEB.md has the names.

use std::fmt::Write;

use super::glances::Seen;
use crate::embed::BUILD;
use crate::report::Phase;
use crate::serve::Tally;

/// The form that [`render`] writes.
pub(super) const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A value of a label.
fn quoted(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

/// Writes the head of a family of metrics.
fn family(out: &mut String, name: &str, kind: &str, unit: Option<&str>, help: &str) {
    // Memory takes all that is written to it.
    let _ = writeln!(out, "# TYPE {name} {kind}");
    if let Some(unit) = unit {
        let _ = writeln!(out, "# UNIT {name} {unit}");
    }
    let _ = writeln!(out, "# HELP {name} {help}");
}

/// All metrics. `going` are the daemon's runs that are not over, with their states.
pub(super) fn render(going: &[(Seen, &'static str)], tally: &Tally) -> String {
    let mut out = String::new();
    family(&mut out, "anemos_build", "info", None, "The daemon that answers.");
    let _ = writeln!(out, "anemos_build_info{{build=\"{}\"}} 1", quoted(BUILD));

    family(&mut out, "anemos_runs", "gauge", None, "Runs that the daemon has, by what they wait for.");
    for wanted in ["meeting", "met", "decided"] {
        let count = going.iter().filter(|(_, state)| *state == wanted).count();
        let _ = writeln!(out, "anemos_runs{{state=\"{wanted}\"}} {count}");
    }

    let hosts = || going.iter().flat_map(|(seen, _)| &seen.hosts);
    family(&mut out, "anemos_hosts", "gauge", None, "Hosts of these runs that have no end yet, by phase.");
    let phases = std::iter::once(None).chain(Phase::ALL.into_iter().map(Some));
    for wanted in phases {
        let count = hosts().filter(|glance| glance.row.outcome.is_none() && glance.row.phase == wanted).count();
        let _ = writeln!(out, "anemos_hosts{{phase=\"{}\"}} {count}", wanted.map_or("none", Phase::name));
    }

    family(&mut out, "anemos_hosts_held", "gauge", None, "Hosts of these runs that wait for a person.");
    let held = hosts().filter(|glance| glance.row.outcome == Some(crate::report::Ending::Held)).count();
    let _ = writeln!(out, "anemos_hosts_held {held}");

    for (name, help, of) in [
        ("anemos_going_sent_bytes", "Bytes sent by SSH to the hosts of these runs.", 0),
        ("anemos_going_received_bytes", "Bytes received by SSH from the hosts of these runs.", 1),
    ] {
        family(&mut out, name, "gauge", Some("bytes"), help);
        let sum: u64 = hosts().map(|glance| [glance.counted.0, glance.counted.1][of]).sum();
        let _ = writeln!(out, "{name} {sum}");
    }

    let since = "of runs that were over since the daemon was started";
    family(&mut out, "anemos_hosts_ended", "counter", None, &format!("Hosts {since}, by outcome."));
    for (ending, count) in Tally::ENDINGS.iter().zip(tally.ends) {
        let _ = writeln!(out, "anemos_hosts_ended_total{{outcome=\"{ending}\"}} {count}");
    }
    for (name, what, count) in
        [("anemos_sent_bytes", "sent", tally.sent), ("anemos_received_bytes", "received", tally.received)]
    {
        family(&mut out, name, "counter", Some("bytes"), &format!("Bytes {what} by SSH for hosts {since}."));
        let _ = writeln!(out, "{name}_total {count}");
    }
    let help = format!("How long phases took for hosts {since}.");
    family(&mut out, "anemos_phase_seconds", "summary", Some("seconds"), &help);
    for (phase, (sum, count)) in Phase::ALL.into_iter().zip(tally.phases) {
        let _ = writeln!(out, "anemos_phase_seconds_sum{{phase=\"{phase}\"}} {sum}");
        let _ = writeln!(out, "anemos_phase_seconds_count{{phase=\"{phase}\"}} {count}");
    }
    out += "# EOF\n";
    out
}
