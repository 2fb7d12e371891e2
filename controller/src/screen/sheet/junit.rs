//! JUnit's XML, as CI systems read it: the elements that the Ant task `junitreport` and its successors know.

use std::fmt::Write;

use super::{HostSheet, Sheet, escaped};

/// What stands before the name of the run, by which a document is known.
pub(super) const BEFORE_RUN: &str = "<testsuite name=\"anemos ";

/// The sheet as a document.
pub(super) fn render(sheet: &Sheet) -> String {
    let hosts = &sheet.hosts;
    let failed = |host: &&HostSheet| host.is_known() && !host.is_deployed();
    let total: f64 = hosts.iter().map(HostSheet::total).fold(0.0, f64::max);
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    // Writing to a String can't fail.
    let _ = writeln!(
        xml,
        "{BEFORE_RUN}{}\" tests=\"{}\" failures=\"{}\" errors=\"{}\" skipped=\"0\" time=\"{total:.3}\" \
         timestamp=\"{}\">",
        escaped(&sheet.run),
        hosts.len(),
        hosts.iter().filter(failed).count(),
        hosts.iter().filter(|host| !host.is_known()).count(),
        sheet.began()
    );
    let _ = writeln!(
        xml,
        "<properties><property name=\"hosts_file\" value=\"{}\"/></properties>",
        escaped(&sheet.hosts_file)
    );
    for host in hosts {
        let _ = writeln!(
            xml,
            "<testcase name=\"{}\" classname=\"anemos\" time=\"{:.3}\">",
            escaped(&host.name),
            host.total()
        );
        let element = match (host.is_known(), host.is_deployed()) {
            (true, true) => None,
            (true, false) => Some("failure"),
            (false, _) => Some("error"),
        };
        if let Some(element) = element {
            let (kind, reason) = (host.outcome(), escaped(&host.reason()));
            let _ = writeln!(xml, "<{element} type=\"{kind}\" message=\"{reason}\">{reason}</{element}>");
        }
        let _ = writeln!(xml, "<system-out>{}</system-out>\n</testcase>", escaped(&host.lines.join("\n")));
    }
    xml.push_str("</testsuite>\n</testsuites>\n");
    xml
}
