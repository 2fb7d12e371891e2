//! `notices NAME...`: prints the licences of all crates that these packages of the workspace are linked with, and the
//! notices that come with them, for deploy/dist.sh. Standard input is what `cargo metadata` prints.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// As far as it is read here (cargo-metadata(1)).
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    /// `None` for a package of the workspace.
    source: Option<String>,
    manifest_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

/// `None` for what is linked with it, else `dev` or `build`.
#[derive(Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

/// Files with notices in a crate's directory, and one below, where crates have sources of others.
fn notices(dir: &Path) -> std::io::Result<BTreeSet<PathBuf>> {
    let begins = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
    let mut found = BTreeSet::new();
    let mut dirs = vec![(dir.to_owned(), true)];
    while let Some((dir, is_crate)) = dirs.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().to_uppercase();
            let is_source = path.extension().is_some_and(|extension| extension == "rs");
            if entry.file_type()?.is_dir() {
                if is_crate {
                    dirs.push((path, false));
                }
            } else if begins.iter().any(|begin| name.starts_with(begin)) && !is_source {
                found.insert(path);
            }
        }
    }
    Ok(found)
}

fn main() -> Result<(), Box<dyn Error>> {
    let metadata: Metadata = serde_json::from_reader(std::io::stdin().lock())?;
    let packages: BTreeMap<&str, &Package> = metadata.packages.iter().map(|package| (&*package.id, package)).collect();
    let nodes: BTreeMap<&str, &Node> = metadata.resolve.nodes.iter().map(|node| (&*node.id, node)).collect();
    let mut next = Vec::new();
    for name in std::env::args().skip(1) {
        let ours = metadata.packages.iter().find(|package| package.name == name && package.source.is_none());
        next.push(&*ours.ok_or_else(|| format!("the workspace has no package {name}"))?.id);
    }
    let mut linked = BTreeSet::new();
    while let Some(id) = next.pop() {
        if linked.insert(id) {
            let deps = nodes.get(id).into_iter().flat_map(|node| &node.deps);
            next.extend(deps.filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind.is_none())).map(|dep| &*dep.pkg));
        }
    }
    let mut others: Vec<&&Package> = linked.iter().filter_map(|id| packages.get(id)).collect();
    others.retain(|package| package.source.is_some());
    others.sort_by_key(|package| (&package.name, &package.version));
    // Most have the same few texts.
    let mut texts: Vec<String> = Vec::new();
    println!();
    for package in others {
        let license = package.license.as_deref().ok_or_else(|| format!("{} names no licence", package.name))?;
        let dir = package.manifest_path.parent().unwrap_or(Path::new("."));
        let mut numbers = Vec::new();
        for file in notices(dir)? {
            let text = String::from_utf8_lossy(&fs::read(&file)?).trim().replace('\r', "");
            let known = texts.iter().position(|known| *known == text);
            numbers.push(known.unwrap_or(texts.len()) + 1);
            if known.is_none() {
                texts.push(text);
            }
        }
        println!("{} {} ({license}) {numbers:?}", package.name, package.version);
    }
    for (number, text) in texts.iter().enumerate() {
        println!("\n\n[{}]\n\n{text}", number + 1);
    }
    Ok(())
}
