//! The files that a hosts.toml is made of: itself, and those that it includes.

use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::table::{PathKind, Reader, entries};

/// Reads a file that another one names.
pub(super) type Source<'a> = dyn Fn(&Path) -> io::Result<String> + 'a;

/// The key that names other files.
pub(super) const INCLUDE: &str = "include";

/// More files than these are a mistake.
const MOST: usize = 256;

/// One file.
pub(super) struct Text {
    pub path: PathBuf,
    pub text: String,
    /// Where it is named: the place of the file that does, in the list.
    pub named_by: Option<usize>,
}

/// The file and those that it includes, and those that they include, each after the one that names it; and what is
/// wrong with that.
pub(super) fn gather(
    path: &Path,
    text: &str,
    home: Option<&Path>,
    source: &Source<'_>,
) -> (Vec<Text>, Vec<ConfigError>) {
    let mut files = vec![Text { path: path.to_owned(), text: text.to_owned(), named_by: None }];
    let mut errors = Vec::new();
    let mut at = 0;
    while at < files.len() {
        let (file, text) = (files[at].path.clone(), files[at].text.clone());
        let mut reader = Reader { file: &file, text: &text, home, source, errors: Vec::new(), paths: Vec::new() };
        let (root, _) = DeTable::parse_recoverable(&text);
        let includes = entries(root.get_ref()).into_iter().filter(|(key, _)| key.get_ref() == INCLUDE);
        let included: Vec<_> =
            includes.filter_map(|(_, value)| reader.list(INCLUDE, value, "a list of files")).flatten().collect();
        for value in included {
            let Some(included) = reader.path(INCLUDE, value, PathKind::File) else { continue };
            // It is looked at right here.
            reader.paths.clear();
            let included: PathBuf = included.strip_prefix(".").map(Path::to_owned).unwrap_or(included);
            let shown = included.display();
            if let Some(way) = way_to(&files, at, &included) {
                reader.error(value.span(), format!("{shown} includes itself: {way}"));
            } else if let Some(twice) = files.iter().find(|other| is_same(&other.path, &included)) {
                let by = twice.named_by.map_or(Path::new(""), |by| &files[by].path);
                reader.error(value.span(), format!("{shown} is included twice; first by {}", by.display()));
            } else if files.len() >= MOST {
                reader.error(value.span(), format!("more than {MOST} files are too many"));
            } else {
                match source(&included) {
                    Ok(text) => files.push(Text { path: included, text, named_by: Some(at) }),
                    Err(error) => reader.error(value.span(), unread(&included, &error)),
                }
            }
        }
        errors.append(&mut reader.errors);
        at += 1;
    }
    (files, errors)
}

/// Whether both are the same file by their names. Where links make one file of two names, [`MOST`] ends a circle.
fn is_same(one: &Path, other: &Path) -> bool {
    straight(one) == straight(other)
}

/// The path without what leads nowhere: `.`, and a directory with `..` after it.
pub(super) fn straight(path: &Path) -> PathBuf {
    let mut straight = PathBuf::new();
    for part in path.components() {
        let within = matches!(straight.components().next_back(), Some(Component::Normal(_)));
        match part {
            Component::CurDir => {}
            Component::ParentDir if within => {
                straight.pop();
            }
            part => straight.push(part),
        }
    }
    straight
}

/// Why a file can't be read.
pub(super) fn unread(path: &Path, error: &io::Error) -> String {
    let shown = path.display();
    match error.kind() {
        ErrorKind::NotFound => format!("no file {shown}"),
        ErrorKind::InvalidData => format!("{shown} is not UTF-8 text"),
        _ => format!("can't read {shown}: {error}"),
    }
}

/// How `included`, named by the file at `by`, leads back to itself; `None` if it does not.
fn way_to(files: &[Text], by: usize, included: &Path) -> Option<String> {
    let mut way = vec![included];
    let mut next = Some(by);
    while let Some(at) = next {
        way.push(&files[at].path);
        if is_same(&files[at].path, included) {
            let names: Vec<String> = way.iter().rev().map(|path| path.display().to_string()).collect();
            return Some(names.join(" includes "));
        }
        next = files[at].named_by;
    }
    None
}

/// The variables of a file that `var_files` names: a table of names and values, and nothing else.
pub(super) fn variables<T>(
    reader: &mut Reader<'_>,
    path: &Path,
    text: &str,
    read: impl FnOnce(&mut Reader<'_>, &[super::table::Entry<'_, '_>]) -> T,
) -> T {
    let mut inner =
        Reader { file: path, text, home: reader.home, source: reader.source, errors: Vec::new(), paths: Vec::new() };
    let (root, wrong) = DeTable::parse_recoverable(text);
    for error in wrong {
        let span = error.span().unwrap_or(0..0);
        let message = match text.get(span.clone()) {
            Some(key) if error.message() == "duplicate key" => format!("`{key}` is given twice"),
            _ => error.message().to_owned(),
        };
        inner.error(span, message);
    }
    let tables = entries(root.get_ref());
    let tables = tables.iter().filter(|(_, value)| matches!(value.get_ref(), DeValue::Table(_)));
    for (key, _) in tables {
        let name = key.get_ref();
        inner.advise(key.span(), format!("`{name}` is a table"), "a file of variables has NAME = VALUE, and no tables");
    }
    let found = read(&mut inner, &entries(root.get_ref()));
    reader.errors.append(&mut inner.errors);
    found
}
