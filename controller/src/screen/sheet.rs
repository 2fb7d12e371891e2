//! A run on one sheet, for those who were not there: as JUnit's XML for CI systems, or as a page of HTML.
//!
//! Both are made from the journals, and need nothing beside them. What a host said is data in either.

mod html;
mod junit;

use std::path::Path;

use anemos_proto::ids::RunId;

use super::plain::PlainLines;
use super::text::{bytes, duration, rfc3339, sanitise_str};
use crate::journal::{Digested, Told, not_known};
use crate::plan::Plan;
use crate::report::{Ending, Phase, PhaseSeconds, Report, Summary, Update};

/// In which form a sheet is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JUnit's XML: a test suite, with a test case for each host.
    Junit,
    /// A page, without scripts and without anything from elsewhere.
    Html,
}

impl Form {
    /// By the end of a file's name.
    pub fn of(path: &Path) -> Result<Self, String> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("xml") => Ok(Self::Junit),
            Some("html" | "htm") => Ok(Self::Html),
            _ => Err(format!("{}: a report ends in .xml (JUnit) or .html", path.display())),
        }
    }
}

/// Whether a file that begins so is a sheet of either form.
pub fn is_report(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head);
    [junit::BEFORE_RUN, html::BEFORE_RUN].iter().any(|before| {
        let after = head.split_once(before).map(|(_, after)| after);
        let run = after.and_then(|after| after.split(['"', '<']).next());
        run.is_some_and(|run| run.parse::<RunId>().is_ok())
    })
}

/// A run.
#[derive(Debug, Clone, PartialEq)]
pub struct Sheet {
    /// Its name.
    pub run: String,
    /// When it began: milliseconds since the Unix epoch.
    pub began_ms: u64,
    /// The hosts.toml that it came from.
    pub hosts_file: String,
    /// Its hosts.
    pub hosts: Vec<HostSheet>,
}

/// A host of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct HostSheet {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub address: String,
    /// How it ended, if it has, by its journal.
    pub end: Option<Summary>,
    /// Why its journal can't be believed, or not be read, if that is so. Then the host is held, whatever `end` says.
    pub doubt: Option<String>,
    /// The disks that were to be wiped, as its plan had them.
    pub to_wipe: Vec<String>,
    /// What was told of it, a line each, harmless for terminals.
    pub lines: Vec<String>,
}

impl HostSheet {
    /// A host of which the journal says this; what was told is all that it has beside.
    pub fn of(name: &str, address: String, journal: &Digested) -> Self {
        let mut lines = PlainLines::new(&[]);
        let mut sheet = Self {
            name: name.to_owned(),
            address,
            // Not the last summary that was told: the host may have been taken up again since.
            end: journal.summary.clone(),
            doubt: journal.damaged.clone(),
            to_wipe: Vec::new(),
            lines: Vec::new(),
        };
        for Told { number, wall_ms, update } in &journal.told {
            if let Update::Planned { plan, .. } = update {
                sheet.to_wipe = to_wipe(plan);
            }
            let report =
                Report { host: name.to_owned(), number: Some(*number), wall_ms: *wall_ms, update: update.clone() };
            sheet.lines.extend(
                lines.line(&report).into_iter().flat_map(|text| text.lines().map(sanitise_str).collect::<Vec<_>>()),
            );
        }
        sheet
    }

    /// A host whose journal can't be read, because …
    pub fn unreadable(name: &str, address: String, why: String) -> Self {
        Self { doubt: Some(why), ..Self::of(name, address, &Digested::default()) }
    }

    /// How it ended, if it has and that can be believed.
    fn believed(&self) -> Option<&Summary> {
        self.end.as_ref().filter(|_| self.doubt.is_none())
    }

    /// How it ended, in a word.
    fn outcome(&self) -> &'static str {
        match self.believed().map(|end| end.outcome) {
            None if self.doubt.is_some() => "held",
            Some(Ending::Deployed) => "deployed",
            Some(Ending::Untouched) => "untouched",
            Some(Ending::Held) => "held",
            None => "not over",
        }
    }

    /// Whether how it ended is known.
    fn is_known(&self) -> bool {
        self.believed().is_some()
    }

    fn is_deployed(&self) -> bool {
        self.believed().is_some_and(|end| end.outcome == Ending::Deployed)
    }

    fn is_untouched(&self) -> bool {
        self.believed().is_some_and(|end| end.outcome == Ending::Untouched)
    }

    /// Why it ended so.
    fn reason(&self) -> String {
        let ended = || self.end.as_ref().map_or("it is not over, as far as the journal tells", |end| &end.reason);
        sanitise_str(&self.doubt.as_deref().map_or_else(|| ended().to_owned(), not_known))
    }

    /// The phases that were reached, with their seconds.
    fn phases(&self) -> Vec<(Phase, f64)> {
        let Some(end) = self.believed() else { return Vec::new() };
        let PhaseSeconds { connect, probe, upload, stage, boot, build, reboot, verify } = end.seconds;
        let seconds = [connect, probe, upload, stage, boot, build, reboot, verify];
        Phase::ALL.into_iter().zip(seconds).filter_map(|(phase, seconds)| Some((phase, seconds?))).collect()
    }

    fn total(&self) -> f64 {
        self.believed().map_or(0.0, |end| end.total_seconds)
    }
}

/// The disks that a plan wipes.
fn to_wipe(plan: &Plan) -> Vec<String> {
    let disk = |disk: &crate::plan::PlanDisk| {
        let serial = disk.id.serial.as_deref().map_or_else(String::new, |serial| format!(", serial {serial}"));
        sanitise_str(&format!("{} ({}, {}{serial})", disk.id.name, disk.model, bytes(disk.id.size)))
    };
    plan.wipe.iter().map(disk).collect()
}

impl Sheet {
    /// The sheet in that form.
    pub fn render(&self, form: Form) -> String {
        match form {
            Form::Junit => junit::render(self),
            Form::Html => html::render(self),
        }
    }

    fn count(&self, outcome: &str) -> usize {
        self.hosts.iter().filter(|host| host.outcome() == outcome).count()
    }

    /// When it began, in UTC.
    fn began(&self) -> String {
        rfc3339(self.began_ms)
    }
}

/// Text as XML and HTML have it, in an element or in an attribute between double quotes. What neither can have is
/// replaced.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            // XML 1.0, "Characters".
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::journal::Record;
    use crate::journal::samples::{ended, summary};

    /// A host that says what would be markup.
    fn sheet() -> Sheet {
        let evil = "</failure><script>alert(1)</script>]]>&\u{1b}[31m\"'";
        let host = |name: &str, end: Option<Ending>| HostSheet {
            name: name.into(),
            address: "192.0.2.1 port 22".into(),
            end: end.map(|end| Summary { host: name.into(), reason: evil.into(), ..summary(end) }),
            doubt: None,
            to_wipe: vec![format!("/dev/vda {evil}")],
            lines: vec![format!("line {evil}")],
        };
        Sheet {
            run: "20261123-093000-0a1b".into(),
            began_ms: 1_795_000_000_000,
            hosts_file: "/x/<hosts>.toml".into(),
            hosts: vec![
                host("web1", Some(Ending::Deployed)),
                host("web2", Some(Ending::Held)),
                host("db1", Some(Ending::Untouched)),
                host("db2", None),
            ],
        }
    }

    #[test]
    fn a_page_has_nothing_of_a_host_s_but_text() {
        let page = sheet().render(Form::Html);
        assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains("<script"), "{page}");
        assert!(!page.contains('\u{1b}') && !page.contains("http://") && !page.contains("https://"), "{page}");
        assert!(page.contains("default-src 'none'") && page.contains("1 deployed"), "{page}");
        for host in ["web1", "web2", "db1", "db2"] {
            assert!(page.contains(&format!("id=\"{host}\"")), "{page}");
        }
    }

    #[test]
    fn every_host_is_a_test_case() {
        let xml = sheet().render(Form::Junit);
        assert!(xml.contains("tests=\"4\" failures=\"2\" errors=\"1\""), "{xml}");
        assert!(xml.contains("<failure type=\"held\" message=\"&lt;/failure&gt;&lt;script&gt;"), "{xml}");
        assert_eq!((xml.matches("<testcase ").count(), xml.matches("<error ").count()), (4, 1));
        assert!(!xml.contains("<script") && !xml.contains('\u{1b}') && !xml.contains("]]>"), "{xml}");
    }

    /// Whatever a journal says that is damaged or can't be read, as `anemos status` has it.
    #[test]
    fn from_a_journal_in_doubt_nothing_is_concluded() {
        for end in [Some(Ending::Deployed), Some(Ending::Untouched), Some(Ending::Held), None] {
            let mut sheet = sheet();
            sheet.hosts.truncate(1);
            sheet.hosts[0].end = end.map(summary);
            sheet.hosts[0].doubt = Some("the journal is damaged at byte 485".into());
            let why = "whether a disk was written is not known: the journal is damaged at byte 485";
            let xml = sheet.render(Form::Junit);
            assert!(xml.contains("failures=\"0\" errors=\"1\""), "{end:?}: {xml}");
            assert!(xml.contains(&format!("<error type=\"held\" message=\"{why}\">")), "{end:?}: {xml}");
            let page = sheet.render(Form::Html);
            assert!(page.contains(": 1 held.</p>") && page.contains("<td class=\"held\">held</td>"), "{end:?}: {page}");
            assert!(page.contains(&format!("<td>{why}</td>")), "{end:?}: {page}");
            for text in [xml, page] {
                assert!(!text.contains("so it went") && !text.contains("deployed</td>"), "{end:?}: {text}");
            }
        }
        let gone = HostSheet::unreadable("web1", "192.0.2.1 port 22".into(), "no such file".into());
        assert_eq!((gone.outcome(), gone.is_known()), ("held", false));
    }

    /// A plan is told before it is approved, and also where it is not.
    #[test]
    fn a_page_calls_nothing_wiped_that_only_was_to_be() {
        let page = sheet().render(Form::Html);
        let section = |host: &str| {
            let from = page.find(&format!("<section id=\"{host}\">")).unwrap();
            page[from..].split_once("</section>").unwrap().0.to_owned()
        };
        for host in ["web1", "web2", "db1", "db2"] {
            let section = section(host);
            assert!(section.contains("The plan was to wipe: /dev/vda ") && !section.contains("Wiped"), "{section}");
            let untouched = section.contains("This run wrote to no disk.");
            assert_eq!(untouched, host == "db1", "{section}");
        }
    }

    #[test]
    fn a_host_that_was_taken_up_again_is_not_over() {
        let records = vec![ended("web1", Ending::Held), Record::Reopened { wall_ms: 3 }];
        let sheet = HostSheet::of("web1", "192.0.2.1 port 22".into(), &Digested::of(records));
        assert_eq!(sheet.outcome(), "not over");
        let sheet = HostSheet::of("web1", String::new(), &Digested::of(vec![ended("web1", Ending::Held)]));
        assert_eq!((sheet.outcome(), sheet.lines.len()), ("held", 1));
    }

    #[test]
    fn the_end_of_the_name_is_the_form() {
        for (name, form) in [("a.xml", Some(Form::Junit)), ("a.b.html", Some(Form::Html)), ("a.pdf", None), ("a", None)]
        {
            assert_eq!(Form::of(Path::new(name)).ok(), form, "{name}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_said_ends_no_element(text in any::<String>()) {
            let escaped = escaped(&text);
            let special = ['<', '>', '"', '\'', '\u{0}', '\u{1b}', '\u{ffff}'];
            prop_assert!(!escaped.contains(special));
        }
    }
}
