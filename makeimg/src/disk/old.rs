//! The partitions that a disk has already, and which of them are kept.

use std::path::Path;

use super::geometry::FIRST;
use crate::command::{Context, Tool};
use crate::problem::Problem;
use crate::volumes::{At, Volume};
use crate::words::Table;

/// A partition table, as `sfdisk --dump` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Old {
    /// Its kind.
    pub table: Table,
    /// Its own name: a UUID, or a number.
    pub id: String,
    /// Its partitions.
    pub parts: Vec<OldPart>,
}

/// A partition that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldPart {
    number: u32,
    /// Its first byte.
    start: u64,
    /// Bytes.
    size: u64,
    /// As a script for sfdisk has it, after the number.
    line: String,
}

/// A partition that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Which of the volumes it is.
    pub volume: usize,
    /// In the table.
    pub number: u32,
    /// Its first byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// As a script for sfdisk has it, after the number.
    pub line: String,
    /// Its file system's.
    pub uuid: String,
    /// What is in it, as blkid(8) names it.
    pub kind: String,
}

/// The table of a disk, if it has one.
///
/// # Errors
/// It can't be read, or is of a kind that can't keep anything.
pub fn read(context: &Context, device: &Path) -> Result<Option<Old>, Problem> {
    let dump = Tool::new("sfdisk").arg("--dump").arg(device).env("LC_ALL", "C").try_output(context)?;
    let dump = match dump {
        Ok(dump) => String::from_utf8_lossy(&dump).into_owned(),
        Err(ended) if ended.last.iter().any(|line| line.contains("does not contain a recognized partition table")) => {
            return Ok(None);
        }
        Err(ended) => return Err(ended.problem("sfdisk")),
    };
    let device = device.display().to_string();
    parse(&dump, &device).map(Some).ok_or_else(|| {
        let kind = dump.lines().find_map(|line| line.strip_prefix("label:")).map_or("?", str::trim);
        Problem::build(format!("nothing on {device} can be kept: its partition table is of the kind `{kind}`"))
    })
}

pub(crate) fn parse(dump: &str, device: &str) -> Option<Old> {
    let header = |name: &str| dump.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let table = match header("label:")? {
        "gpt" => Table::Gpt,
        "dos" => Table::Msdos,
        _ => return None,
    };
    let sector: u64 = header("sector-size:").and_then(|size| size.parse().ok()).unwrap_or(512);
    let part = |line: &str| {
        let (node, rest) = line.split_once(" : ")?;
        let number = node.strip_prefix(device)?.trim_start_matches('p').parse().ok()?;
        let field = |name: &str| -> Option<u64> {
            let value = rest.split(',').find_map(|field| field.trim().strip_prefix(name))?;
            value.trim().parse::<u64>().ok()?.checked_mul(sector)
        };
        let line = match table {
            Table::Gpt => rest.to_owned(),
            // Only the new root is bootable.
            Table::Msdos => rest.replace(", bootable", ""),
        };
        Some(OldPart { number, start: field("start=")?, size: field("size=")?, line })
    };
    Some(Old { table, id: header("label-id:")?.into(), parts: dump.lines().filter_map(part).collect() })
}

impl OldPart {
    /// It, as a volume that stays.
    pub(crate) fn kept(&self, volume: usize, uuid: String, kind: String) -> Kept {
        let Self { number, start, size, ref line } = *self;
        Kept { volume, number, start, size, line: line.clone(), uuid, kind }
    }
}

/// What blkid(8) sees there.
#[derive(Default)]
struct Content {
    label: Option<String>,
    uuid: String,
    kind: String,
    /// Why blkid(8) can't tell what is there.
    unclear: Option<String>,
}

fn look(context: &Context, device: &Path, part: &OldPart) -> Result<Content, Problem> {
    // By place: the kernel may not know of these partitions.
    let place = [format!("--offset={}", part.start), format!("--size={}", part.size)];
    let found = Tool::new("blkid").args(["--probe", "--output=export"]).args(place).arg(device).try_output(context)?;
    let found = match found {
        Ok(found) => found,
        // The status that means that nothing was found.
        Err(ended) if ended.status.code() == Some(2) => return Ok(Content::default()),
        Err(ended) => return Ok(Content { unclear: Some(ended.problem("blkid").what), ..Content::default() }),
    };
    let found = String::from_utf8_lossy(&found);
    let field = |name: &str| found.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    Ok(Content {
        label: field("LABEL="),
        uuid: field("UUID=").unwrap_or_default(),
        kind: field("TYPE=").unwrap_or_default(),
        unclear: None,
    })
}

/// Finds what `volumes` say is kept. What is not there, but has a size, will be made.
///
/// # Errors
/// It isn't there and has no size, there are two, or it can't be kept.
pub fn find(context: &Context, device: &Path, old: Option<&Old>, volumes: &[Volume]) -> Result<Vec<Kept>, Problem> {
    let parts = old.map_or(&[][..], |old| &old.parts);
    let mut seen: Vec<(&OldPart, Content)> = Vec::new();
    for part in parts {
        seen.push((part, look(context, device, part)?));
    }
    let mut kept = Vec::new();
    for (volume, wanted) in volumes.iter().enumerate().filter(|(_, volume)| volume.keep) {
        let problem = |what: String| Problem::build(format!("filesystems: {}: {what}", wanted.name()));
        let label = &wanted.label;
        let mut found = seen.iter().filter(|(_, content)| content.label.as_ref() == Some(label));
        let Some((part, content)) = found.next() else {
            if let Some((part, why)) = seen.iter().find_map(|(part, content)| Some((part, content.unclear.as_ref()?))) {
                let what =
                    format!("what partition {} of {} holds can't be told ({why})", part.number, device.display());
                return Err(
                    problem(what).hint("wipefs shows the signatures on it, and removes what does not belong there")
                );
            }
            if wanted.size.is_some() {
                continue;
            }
            let labels: Vec<&str> = seen.iter().filter_map(|(_, content)| content.label.as_deref()).collect();
            let labels = if labels.is_empty() { "none".into() } else { labels.join(", ") };
            let hint = format!("labels on it are: {labels}; with a size, the partition is made where it is not there");
            return Err(problem(format!("{} has no partition labelled {label:?} to keep", device.display())).hint(hint));
        };
        if let Some((other, _)) = found.next() {
            let both = format!("partitions {} and {} of {}", part.number, other.number, device.display());
            return Err(problem(format!("{both} are both labelled {label:?}")).hint("give one of them another label"));
        }
        if part.start < FIRST {
            let what = format!(
                "partition {} of {} begins in the first MiB, which boot loaders need",
                part.number,
                device.display()
            );
            return Err(problem(what));
        }
        if old.is_some_and(|old| old.table == Table::Msdos) && part.number > 4 {
            return Err(problem(format!(
                "partition {} of {} is a logical one, which can't be kept",
                part.number,
                device.display()
            )));
        }
        if matches!(wanted.at, At::Path(_)) && !is_mountable(&content.kind) {
            let hint = format!("`none keep LABEL={label}` keeps it and does not mount it");
            return Err(problem(format!("{label:?} is {}, which can't be mounted", content.kind)).hint(hint));
        }
        kept.push(part.kept(volume, content.uuid.clone(), content.kind.clone()));
    }
    Ok(kept)
}

fn is_mountable(kind: &str) -> bool {
    !kind.ends_with("_member") && !matches!(kind, "" | "crypto_LUKS" | "swap")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dumps() {
        let gpt = "label: gpt\nlabel-id: 0A-1\ndevice: /dev/nvme0n1\nunit: sectors\nfirst-lba: 34\n\
                   sector-size: 4096\n\n\
                   /dev/nvme0n1p2 : start=        2048, size=      131072, type=C12A, uuid=7D-1, name=\"a, b\"\n";
        let old = parse(gpt, "/dev/nvme0n1").unwrap();
        assert_eq!((old.table, &*old.id), (Table::Gpt, "0A-1"));
        let part = &old.parts[0];
        assert_eq!((part.number, part.start, part.size), (2, 2048 * 4096, 131_072 * 4096));
        assert_eq!(part.line, "start=        2048, size=      131072, type=C12A, uuid=7D-1, name=\"a, b\"");
        let dos =
            "label: dos\nlabel-id: 0x1234\nunit: sectors\n\n/dev/sda1 : start= 2048, size= 20480, type=83, bootable\n";
        let old = parse(dos, "/dev/sda").unwrap();
        assert_eq!((old.parts[0].number, &*old.parts[0].line), (1, "start= 2048, size= 20480, type=83"));
        assert_eq!(parse("label: sun\nlabel-id: 0\n", "/dev/sda"), None);
    }
}
