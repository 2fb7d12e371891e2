//! A page that stands alone: a table of the hosts, and what happened to each.

use std::fmt::Write;

use super::{HostSheet, Sheet, duration, escaped};

/// How it looks: the reader's own font and colours, light or dark.
const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:16px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #8886;vertical-align:top}\
pre{overflow-x:auto;padding:.6rem;border:1px solid #8886;font-size:.85rem}\
.deployed{color:light-dark(#116329,#7ee787)}.untouched{color:light-dark(#7d4e00,#e3b341)}\
.held,.over{color:light-dark(#a40e26,#ff8182)}";

/// What stands before the name of the run, by which a page is known.
pub(super) const BEFORE_RUN: &str = "<title>Run ";

/// The sheet as a page.
pub(super) fn render(sheet: &Sheet) -> String {
    let run = escaped(&sheet.run);
    let counts: Vec<String> = ["deployed", "untouched", "held", "not over"]
        .into_iter()
        .filter_map(|word| Some(sheet.count(word)).filter(|&count| count > 0).map(|count| format!("{count} {word}")))
        .collect();
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n{BEFORE_RUN}{run}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>Run {run}</h1>\n\
         <p>{} of {}, begun {}: {}.</p>\n<table>\n<thead><tr><th scope=\"col\">Host</th><th scope=\"col\">Outcome</th>\
         <th scope=\"col\">Why</th><th scope=\"col\">Time</th></tr></thead>\n<tbody>\n",
        if sheet.hosts.len() == 1 { "1 host".to_owned() } else { format!("{} hosts", sheet.hosts.len()) },
        escaped(&sheet.hosts_file),
        escaped(&sheet.began()),
        counts.join(", "),
    );
    // Writing to a String can't fail.
    for host in &sheet.hosts {
        let name = escaped(&host.name);
        let _ = writeln!(
            page,
            "<tr><th scope=\"row\"><a href=\"#{name}\">{name}</a></th><td class=\"{}\">{}</td><td>{}</td>\
             <td>{}</td></tr>",
            class(host),
            host.outcome(),
            escaped(&host.reason()),
            duration(host.total())
        );
    }
    page.push_str("</tbody>\n</table>\n");
    for host in &sheet.hosts {
        section(&mut page, host);
    }
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn class(host: &HostSheet) -> &'static str {
    match host.outcome() {
        "not over" => "over",
        outcome => outcome,
    }
}

fn section(page: &mut String, host: &HostSheet) {
    let name = escaped(&host.name);
    let _ = writeln!(page, "<section id=\"{name}\">\n<h2>{name}</h2>\n<p>At {}.", escaped(&host.address));
    if !host.to_wipe.is_empty() {
        // That there was a plan says nothing of what came of it: it may have been refused.
        let untouched = if host.is_untouched() { " This run wrote to no disk." } else { "" };
        let _ = writeln!(page, "The plan was to wipe: {}.{untouched}", escaped(&host.to_wipe.join("; ")));
    }
    page.push_str("</p>\n");
    let phases = host.phases();
    if !phases.is_empty() {
        page.push_str(
            "<table>\n<thead><tr><th scope=\"col\">Phase</th><th scope=\"col\">Time</th></tr></thead>\n<tbody>\n",
        );
        for (phase, seconds) in phases {
            let _ = writeln!(page, "<tr><th scope=\"row\">{phase}</th><td>{}</td></tr>", duration(seconds));
        }
        page.push_str("</tbody>\n</table>\n");
    }
    let _ = writeln!(
        page,
        "<details><summary>What was told</summary>\n<pre tabindex=\"0\">{}</pre>\n</details>\n</section>",
        escaped(&host.lines.join("\n"))
    );
}
