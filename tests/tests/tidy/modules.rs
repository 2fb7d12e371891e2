//! Which file of a crate uses which: modules, `use` declarations and paths, resolved as rustc does for what this
//! workspace writes. Not seen: what macros make, and methods, whose module no path names.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{bracketed, tokens};

/// Files, each with those whose items it names.
pub type Arrows<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// A module's place in its crate: empty for the crate's root.
type Place = Vec<String>;

/// What a module's own text says.
#[derive(Debug, Default)]
struct Module {
    file: String,
    /// Names that `use` brings in, and the path each stands for.
    names: BTreeMap<String, Vec<String>>,
    /// Every path in it: those of `use` declarations and those in the code.
    paths: Vec<Vec<String>>,
}

/// The modules below one crate root.
#[derive(Debug, Default)]
pub struct Modules(BTreeMap<Place, Module>);

impl Modules {
    /// Reads the modules that the file `root` declares, and those that they declare. `read` gives a file's text.
    pub fn of(root: &str, read: &impl Fn(&str) -> Option<String>) -> Self {
        let mut modules = Self::default();
        modules.file(&[], root, read);
        modules
    }

    fn file(&mut self, place: &[String], path: &str, read: &impl Fn(&str) -> Option<String>) {
        let text = read(path).unwrap_or_else(|| panic!("{path} can't be read"));
        let (folder, name) = path.rsplit_once('/').expect("a crate's files are in a folder");
        let children = match name {
            "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
            _ => path.trim_end_matches(".rs").to_owned(),
        };
        for (child, inside) in self.text(place, path, &tokens(&text)) {
            let below = inside.iter().fold(children.clone(), |folder, module| format!("{folder}/{module}"));
            let at = [format!("{below}/{child}.rs"), format!("{below}/{child}/mod.rs")];
            let found = at.iter().find(|path| read(path).is_some());
            let found = found.unwrap_or_else(|| panic!("{path} declares {child}, and neither of {at:?} is there"));
            self.file(&[place, &inside, &[child]].concat(), found, read);
        }
    }

    /// Reads a module's text; returns the modules with a file of their own that it declares, each with the modules
    /// inside this file in which it stands.
    fn text(&mut self, place: &[String], file: &str, tokens: &[String]) -> Vec<(String, Place)> {
        let mut declared = Vec::new();
        let mut module = Module { file: file.to_owned(), ..Module::default() };
        let mut at = 0;
        while at < tokens.len() {
            let rest = &tokens[at..];
            let word = |ahead: usize| rest.get(ahead).map_or("", String::as_str);
            match word(0) {
                "mod" if word(2) == ";" => {
                    declared.push((word(1).to_owned(), Vec::new()));
                    at += 3;
                }
                "mod" if word(2) == "{" => {
                    let length = bracketed(&rest[2..]);
                    let inner = &rest[3..=length];
                    let name = word(1).to_owned();
                    let below = self.text(&[place, std::slice::from_ref(&name)].concat(), file, inner);
                    let stands = |(child, inside): (String, Place)| (child, [vec![name.clone()], inside].concat());
                    declared.extend(below.into_iter().map(stands));
                    at += 2 + length;
                }
                "use" => {
                    let end = rest.iter().position(|token| token == ";").unwrap_or(rest.len());
                    for (name, path) in used(&rest[1..end]) {
                        module.paths.push(path.clone());
                        module.names.insert(name, path);
                    }
                    at += end + 1;
                }
                _ => {
                    let path = path(rest);
                    at += (2 * path.len()).saturating_sub(1).max(1);
                    if path.len() > 1 {
                        module.paths.push(path);
                    }
                }
            }
        }
        self.0.insert(place.to_vec(), module);
        declared
    }

    /// Every file, with the files whose items it names. Declaring a module is not naming its items.
    pub fn arrows(&self) -> Arrows<'_> {
        let mut arrows = Arrows::new();
        for (place, module) in &self.0 {
            let used = module.paths.iter().filter_map(|path| self.resolve(place, path, 0));
            let others = used.map(|place| self.0[&place].file.as_str()).filter(|&file| file != module.file);
            arrows.entry(&module.file).or_default().extend(others);
        }
        arrows
    }

    /// The module that a path leads to: that of the item, however often its name is passed on. None if it leads out of
    /// the crate.
    fn resolve(&self, from: &[String], path: &[String], hops: usize) -> Option<Place> {
        let mut rest = path;
        let mut place = from.to_vec();
        match path.first()?.as_str() {
            "crate" => (place, rest) = (Vec::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {}
            first => {
                let known = self.0[from].names.contains_key(first) || self.is_module(from, first);
                if !known {
                    return None;
                }
            }
        }
        while let Some(name) = rest.first() {
            if name == "super" {
                place.pop()?;
            } else if self.is_module(&place, name) {
                place.push(name.clone());
            } else {
                let passed_on = self.0[&place].names.get(name);
                return match passed_on {
                    // `use name::…` of another crate's may have the same name as itself.
                    Some(path) if hops < 16 => {
                        let further = [&path[..], &rest[1..]].concat();
                        self.resolve(&place, &further, hops + 1)
                    }
                    _ => Some(place),
                };
            }
            rest = &rest[1..];
        }
        Some(place)
    }

    fn is_module(&self, place: &[String], name: &str) -> bool {
        self.0.contains_key(&[place, &[name.to_owned()]].concat())
    }
}

/// The path at the beginning: `a::b::c`, or the one word that is there.
fn path(tokens: &[String]) -> Vec<String> {
    let mut path = vec![tokens[0].clone()];
    if !is_name(&tokens[0]) {
        return path;
    }
    while let [colons, name, ..] = &tokens[2 * path.len() - 1..] {
        if colons != "::" || !is_name(name) {
            break;
        }
        path.push(name.clone());
    }
    path
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_') && !token.contains(['"', '\''])
}

/// The names that a `use` declaration brings in, each with its path. A `*` brings in what nobody can tell here, so it
/// has a name that is none.
fn used(tree: &[String]) -> Vec<(String, Vec<String>)> {
    let mut prefix = Vec::new();
    let mut at = 0;
    while at < tree.len() {
        match tree[at].as_str() {
            "::" => at += 1,
            "{" => {
                let inner = &tree[at + 1..at + bracketed(&tree[at..]) - 1];
                let mut all = Vec::new();
                let mut start = 0;
                for end in commas(inner) {
                    all.extend(used(&inner[start..end]));
                    start = end + 1;
                }
                let with_prefix = |(name, path): (String, Vec<String>)| {
                    let own = name == "self" && path == ["self"];
                    let path = if own { prefix.clone() } else { [prefix.clone(), path].concat() };
                    (if own { prefix.last().cloned().unwrap_or_default() } else { name }, path)
                };
                return all.into_iter().map(with_prefix).collect();
            }
            "as" => return vec![(tree[at + 1].clone(), without_self(prefix))],
            "*" => return vec![("*".to_owned(), prefix)],
            name => {
                prefix.push(name.to_owned());
                at += 1;
            }
        }
    }
    prefix.last().cloned().map(|name| (name, prefix)).into_iter().collect()
}

/// `a::self as b` is `a as b`.
fn without_self(mut path: Vec<String>) -> Vec<String> {
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    path
}

/// Where the list's items end.
fn commas(list: &[String]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    while at < list.len() {
        match list[at].as_str() {
            "," => {
                ends.push(at);
                at += 1;
            }
            "{" => at += bracketed(&list[at..]),
            _ => at += 1,
        }
    }
    ends.push(list.len());
    ends
}

/// The circles: files that use each other, directly or by way of others. Each is sorted.
///
/// A module and those below it are one room: that the module uses what its own children make is no arrow here, since
/// it is there to put them together. That a child uses what its parent defines is one.
pub fn circles(arrows: &Arrows) -> Vec<Vec<String>> {
    let up = |from: &str, to: &str| {
        let own = matches!(from.rsplit('/').next(), Some("lib.rs" | "main.rs" | "mod.rs"));
        let children =
            if own { from.rsplit_once('/').map_or("", |(folder, _)| folder) } else { from.trim_end_matches(".rs") };
        to.strip_prefix(children).is_none_or(|rest| !rest.starts_with('/'))
    };
    let reached = |from: &str| {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![from]);
        while let Some(file) = todo.pop() {
            for &next in arrows.get(file).into_iter().flatten() {
                if up(file, next) && seen.insert(next) {
                    todo.push(next);
                }
            }
        }
        seen
    };
    let all: BTreeMap<&str, BTreeSet<&str>> = arrows.keys().map(|&file| (file, reached(file))).collect();
    let circle = |(file, from_here): (&&str, &BTreeSet<&str>)| -> Vec<String> {
        let back = from_here.iter().filter(|&&other| all[other].contains(file));
        back.map(|&other| other.to_owned()).collect()
    };
    let circles: BTreeSet<Vec<String>> = all.iter().map(circle).filter(|circle| !circle.is_empty()).collect();
    circles.into_iter().collect()
}
