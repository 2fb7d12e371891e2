//! A plan as text, and the question whether it shall be done.

use std::io::{self, BufRead, Write};
use std::sync::Arc;

use anemos_proto::config::Finish;
use anemos_proto::stage::KernelSource;

use super::text::{Paint, bytes, fit, sanitise_str, width, wrap};
use crate::plan::{FirmwareKind, Plan, PlanContent, PlanDisk};

/// Plans as text, and the order in which the hosts go; lines that would be wider than `columns` go on below.
pub fn render(plans: &[Arc<Plan>], order: Option<&str>, paint: Paint, columns: Option<usize>) -> String {
    let mut texts: Vec<String> = plans.iter().map(|plan| host_text(plan, paint, columns)).collect();
    if let Some(order) = order {
        let mut rows = Rows::new(format!("{}\n", paint.bold("all hosts")), paint, columns);
        rows.row("order", &sanitise_str(order));
        texts.push(rows.text);
    }
    texts.join("\n")
}

/// Columns of the names on the left.
const LABEL: usize = 10;

/// Least columns for what is on the right of them.
const VALUE: usize = 30;

/// Lines with a label in front of the first.
struct Rows {
    text: String,
    paint: Paint,
    columns: usize,
}

impl Rows {
    fn new(text: String, paint: Paint, columns: Option<usize>) -> Self {
        let columns = columns.map_or(usize::MAX, |columns| columns.saturating_sub(LABEL + 3).max(VALUE));
        Self { text, paint, columns }
    }

    fn row(&mut self, label: &str, value: &str) {
        self.styled(label, value, str::to_owned);
    }

    fn warnings(&mut self, plan: &Plan) {
        let paint = self.paint;
        for warning in &plan.warnings {
            self.styled("", &format!("! {}", sanitise_str(warning)), |line| paint.yellow(line));
        }
    }

    fn refusals<'a>(&mut self, label: &str, refusals: impl Iterator<Item = &'a String>) {
        let paint = self.paint;
        for refusal in refusals {
            let mut label = label;
            for line in refusal.lines() {
                self.styled(label, &sanitise_str(line), |line| paint.red(line));
                label = "";
            }
        }
    }

    fn styled(&mut self, label: &str, value: &str, style: impl Fn(&str) -> String) {
        let indent = value.len() - value.trim_start().len();
        let mut label = label;
        for line in wrap(value, self.columns, indent + 2) {
            let line = format!("  {} {}", self.paint.dim(&fit(label, LABEL)), style(line.trim_end()));
            self.text.push_str(line.trim_end());
            self.text.push('\n');
            label = "";
        }
    }
}

fn host_text(plan: &Plan, paint: Paint, columns: Option<usize>) -> String {
    let mut rows = seen(plan, paint, columns);
    for disk in &plan.wipe {
        rows.styled("WIPED", &disk_text(disk), |line| paint.red(line));
        for (line, content) in contents_text(&disk.contents).iter().zip(&disk.contents) {
            rows.styled("", line, |line| if content.kept { paint.green(line) } else { line.to_owned() });
        }
    }
    if plan.wipe.is_empty() {
        rows.row("WIPED", "no disk");
    }
    for disk in &plan.untouched {
        rows.styled("read-only", &disk_text(disk), |line| paint.green(line));
    }
    rows.row("sent", &uploads_text(plan));
    rows.row("boots", &kernel_text(plan));
    let base = plan.base.to_string();
    // Plans of journals from before there were groups have none.
    let groups = if plan.groups.is_empty() { String::new() } else { format!("{}, ", plan.groups.join(" ")) };
    rows.row("base", &sanitise_str(&format!("{groups}{}…, {}", &base[..12], plan.base_source)));
    if let Some(proxy) = &plan.proxy {
        rows.row("proxy", &sanitise_str(proxy));
    }
    rows.row("payload", &sanitise_str(&plan.payload));
    rows.row(
        "finish",
        match plan.finish {
            Finish::Reboot => "reboot into the new system",
            Finish::Kexec => "kexec into the new system",
            Finish::PowerOff => "power off",
            Finish::Hold => "stay in RAM until told otherwise",
        },
    );
    rows.row(
        "check",
        &plan.check.as_deref().map_or_else(|| "that it answers as itself".into(), |c| format!("`{}`", sanitise_str(c))),
    );
    if plan.verify_key {
        rows.row("key", "this run's own key, too, opens root's account of the new system, until that is checked");
    }
    rows.warnings(plan);
    rows.refusals("REFUSED", plan.refusals.iter());
    rows.text
}

/// What was seen of hosts that are only looked at: what would stop a deployment, whatever is deployed.
///
/// `unlisted`: the host is in no hosts.toml, so nobody has said which disk is meant.
pub fn checked(plans: &[Arc<Plan>], unlisted: bool, paint: Paint, columns: Option<usize>) -> String {
    let texts: Vec<String> = plans.iter().map(|plan| checked_text(plan, unlisted, paint, columns)).collect();
    texts.join("\n")
}

fn checked_text(plan: &Plan, unlisted: bool, paint: Paint, columns: Option<usize>) -> String {
    let mut rows = seen(plan, paint, columns);
    // Without a word on which disk is meant, all are the same.
    let wiped = plan.wipe.iter().filter(|_| !unlisted);
    wiped.for_each(|disk| rows.styled("its disk", &disk_text(disk), |line| paint.red(line)));
    let others = plan.untouched.iter().chain(plan.wipe.iter().filter(|_| unlisted));
    others.for_each(|disk| rows.row("disk", &disk_text(disk)));
    rows.row("boots", &kernel_text(plan));
    rows.row("base", &sanitise_str(&plan.base_source));
    if let Some(proxy) = &plan.proxy {
        rows.row("proxy", &sanitise_str(proxy));
    }
    rows.warnings(plan);
    // The first refusal of a plan is of its disk.
    let skipped = usize::from(unlisted && plan.wipe.is_empty());
    rows.refusals("STOPS IT", plan.refusals.iter().skip(skipped));
    if plan.refusals.len() <= skipped {
        rows.styled("fit", "nothing that was seen would stop a deployment", |line| paint.green(line));
    }
    rows.text
}

/// What a host is, and how it was reached.
fn seen(plan: &Plan, paint: Paint, columns: Option<usize>) -> Rows {
    let text = format!("{}  {}\n", paint.bold(&sanitise_str(&plan.host)), sanitise_str(&plan.address));
    let mut rows = Rows::new(text, paint, columns);
    if !plan.host_key.is_empty() {
        rows.row("host key", &sanitise_str(&plan.host_key));
    }
    if let (Some(becomes), Some((user, _))) = (plan.becomes, plan.address.rsplit_once('@')) {
        rows.row("as", &format!("{}, root by {becomes}", sanitise_str(user)));
    }
    let os = if plan.os.is_empty() { "an unknown system" } else { &plan.os };
    let called = if plan.hostname == plan.host { String::new() } else { format!("{}, ", sanitise_str(&plan.hostname)) };
    rows.row(
        "now",
        &format!(
            "{called}{}, {}, {}, {} of memory",
            sanitise_str(os),
            sanitise_str(&plan.arch),
            match plan.firmware {
                FirmwareKind::Bios => "BIOS",
                FirmwareKind::Uefi => "UEFI",
            },
            bytes(plan.memory_total)
        ),
    );
    if let Some(through) = &plan.through {
        rows.row("way in", &sanitise_str(through));
    }
    rows
}

fn kernel_text(plan: &Plan) -> String {
    let release = sanitise_str(&plan.kernel);
    let hang = if plan.hang_covered {
        "a watchdog resets the machine if it hangs early"
    } else {
        "if it hangs before its init, only a reset by hand helps"
    };
    let kernel = match (plan.kernel_source, release.as_str()) {
        (KernelSource::Host, _) => format!("Linux {release}, the host's own"),
        (KernelSource::Locked, "") => "Linux from base.lock".to_owned(),
        (KernelSource::Locked, _) => format!("Linux {release} from base.lock"),
    };
    format!("{kernel}; {hang}")
}

fn disk_text(disk: &PlanDisk) -> String {
    let mut parts = vec![sanitise_str(&disk.id.name), bytes(disk.id.size)];
    if !disk.model.is_empty() {
        parts.push(sanitise_str(disk.model.trim()));
    }
    parts.extend(disk.id.serial.as_deref().map(|serial| format!("serial {}", sanitise_str(serial.trim()))));
    if disk.contents.is_empty() {
        parts.push("(empty)".to_owned());
    }
    parts.join("  ")
}

fn contents_text(contents: &[PlanContent]) -> Vec<String> {
    let cells: Vec<[String; 5]> = contents
        .iter()
        .map(|content| {
            let label = content.label.as_deref().filter(|label| !label.is_empty());
            let kind = content.content.as_deref().unwrap_or("unknown");
            [
                sanitise_str(&content.name),
                bytes(content.size),
                sanitise_str(&label.map_or_else(|| kind.to_owned(), |label| format!("{kind} “{label}”"))),
                if content.mounts.is_empty() {
                    String::new()
                } else {
                    format!("on {}", sanitise_str(&content.mounts.join(", ")))
                },
                if content.kept { "is kept".to_owned() } else { String::new() },
            ]
        })
        .collect();
    let columns: [usize; 5] = std::array::from_fn(|i| cells.iter().map(|row| width(&row[i])).max().unwrap_or(0));
    cells
        .iter()
        .map(|row| {
            let row: Vec<String> = row.iter().zip(columns).map(|(cell, columns)| fit(cell, columns)).collect();
            format!("  {}", row.join("  ").trim_end())
        })
        .collect()
}

fn uploads_text(plan: &Plan) -> String {
    let list = |cached: bool| -> Vec<String> {
        let these = plan.uploads.iter().filter(|upload| upload.cached == cached);
        these.map(|upload| format!("{} {}", sanitise_str(&upload.what), bytes(upload.bytes))).collect()
    };
    let (sent, cached) = (list(false), list(true));
    let sent = if sent.is_empty() { String::new() } else { format!(": {}", sent.join(", ")) };
    let cached = if cached.is_empty() { String::new() } else { format!(" (already there: {})", cached.join(", ")) };
    format!("{}{sent}{cached}", bytes(plan.upload_bytes))
}

/// Shows which disks of which hosts will be wiped, and asks. Only a line that says `yes` is a yes.
pub fn confirm(
    plans: &[Arc<Plan>],
    order: Option<&str>,
    input: &mut impl BufRead,
    output: &mut impl Write,
    paint: Paint,
) -> io::Result<bool> {
    let names: Vec<String> = plans.iter().map(|plan| sanitise_str(&plan.host)).collect();
    let columns = names.iter().map(|name| width(name)).max().unwrap_or(0);
    for (plan, name) in plans.iter().zip(&names) {
        let disks: Vec<String> =
            plan.wipe.iter().map(|d| format!("{} ({})", sanitise_str(&d.id.name), bytes(d.id.size))).collect();
        let disks = if disks.is_empty() { "no disk".to_owned() } else { paint.red(&disks.join(", ")) };
        writeln!(output, "  {}  {disks}", paint.bold(&fit(name, columns)))?;
    }
    if let Some(order) = order {
        writeln!(output, "  {}", sanitise_str(order))?;
    }
    let what = match plans {
        [plan] if plan.wipe.len() == 1 => "Everything on that disk will be lost.".to_owned(),
        [_] => "Everything on these disks will be lost.".to_owned(),
        _ => format!("Everything on these disks of {} hosts will be lost.", plans.len()),
    };
    let keeps = plans.iter().flat_map(|plan| &plan.wipe).any(|disk| disk.contents.iter().any(|content| content.kept));
    let what = if keeps { what.replace(" will", ", but for what is kept, will") } else { what };
    write!(output, "{what} Type `yes` to go on: ")?;
    output.flush()?;
    let mut answer = String::new();
    input.read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}
