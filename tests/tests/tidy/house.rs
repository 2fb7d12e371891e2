//! The workspace as it lies there: its crates, their files, and what docs/ARCHITECTURE.md says of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A crate of the workspace.
#[derive(Debug, Default)]
pub struct Crate {
    /// What Cargo calls it.
    pub package: String,
    /// Its executables, sorted.
    pub binaries: Vec<String>,
    /// The folders of the workspace's crates that it depends on, in whatever role.
    pub uses: BTreeSet<String>,
}

/// The workspace.
#[derive(Debug, Default)]
pub struct House {
    /// Crates by folder.
    pub crates: BTreeMap<String, Crate>,
    /// Rust files by path.
    pub files: BTreeMap<String, String>,
    /// Other files and folders below the crates' folders, by path.
    pub others: BTreeSet<String>,
    /// Documents by path.
    pub documents: BTreeMap<String, String>,
}

/// The document that the rules are held against.
pub const ARCHITECTURE: &str = "docs/ARCHITECTURE.md";

impl House {
    /// Reads the workspace at `root`.
    pub fn read(root: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        let workspace: toml::Table = read("Cargo.toml").parse().unwrap();
        let members = workspace["workspace"]["members"].as_array().unwrap().iter();
        let members: Vec<String> = members.map(|member| member.as_str().unwrap().to_owned()).collect();
        let manifests: Vec<toml::Table> =
            members.iter().map(|folder| read(&format!("{folder}/Cargo.toml")).parse().unwrap()).collect();
        let name = |table: &toml::Value| table["name"].as_str().unwrap().to_owned();
        let folder_of: BTreeMap<String, &String> =
            manifests.iter().zip(&members).map(|(manifest, folder)| (name(&manifest["package"]), folder)).collect();
        let mut house = Self::default();
        for folder in ["", "docs/", "tests/", "makeimg/"] {
            for entry in fs::read_dir(root.join(folder)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
                    house.documents.insert(format!("{folder}{name}"), read(&format!("{folder}{name}")));
                }
            }
        }
        for (manifest, folder) in manifests.iter().zip(&members) {
            let tables = ["dependencies", "dev-dependencies", "build-dependencies"].map(|kind| manifest.get(kind));
            let dependencies = tables.into_iter().flatten().flat_map(|table| table.as_table().unwrap().keys());
            let uses =
                dependencies.filter_map(|package| folder_of.get(package)).map(|&folder| folder.clone()).collect();
            let mut binaries: Vec<String> =
                manifest.get("bin").and_then(|bins| bins.as_array()).into_iter().flatten().map(name).collect();
            binaries.sort();
            assert!(
                !binaries.is_empty() || !root.join(folder).join("src/main.rs").exists(),
                "{folder}/Cargo.toml does not name its executable"
            );
            house.crates.insert(folder.clone(), Crate { package: name(&manifest["package"]), binaries, uses });
            house.below(root, folder);
        }
        house
    }

    /// Takes in the Rust files below `folder`.
    fn below(&mut self, root: &Path, folder: &str) {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = format!("{folder}/{name}");
            if entry.file_type().unwrap().is_dir() {
                // `target` is Cargo's, should somebody have built in this folder.
                if name != "target" {
                    self.below(root, &path);
                    self.others.insert(path);
                }
            } else if Path::new(&name).extension().is_some_and(|extension| extension == "rs") {
                self.files.insert(path, fs::read_to_string(entry.path()).unwrap());
            } else {
                self.others.insert(path);
            }
        }
    }

    /// Whether there is such a file or folder in a crate.
    pub fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.crates.contains_key(path) || self.files.contains_key(path) || self.others.contains(path)
    }

    fn architecture(&self) -> &str {
        self.documents.get(ARCHITECTURE).map_or("", String::as_str)
    }

    /// The roots of the crates' libraries and executables.
    pub fn roots(&self) -> impl Iterator<Item = &str> {
        let roots =
            self.crates.keys().flat_map(|folder| ["lib.rs", "main.rs"].map(|root| format!("{folder}/src/{root}")));
        roots.filter_map(|root| self.files.get_key_value(&root)).map(|(root, _)| root.as_str())
    }

    /// Every crate that `folder` depends on, also by way of others.
    pub fn reached(&self, folder: &str) -> BTreeSet<String> {
        let (mut seen, mut todo) = (BTreeSet::new(), vec![folder.to_owned()]);
        while let Some(folder) = todo.pop() {
            for next in self.crates.get(&folder).into_iter().flat_map(|own| &own.uses) {
                if seen.insert(next.clone()) {
                    todo.push(next.clone());
                }
            }
        }
        seen
    }

    /// The rows of the document's table of crates: folder, package, executables.
    pub fn table(&self) -> BTreeMap<String, (String, Vec<String>)> {
        let code = |cell: &str| -> Vec<String> {
            let mut names: Vec<String> = cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            names.sort();
            names
        };
        let rows = self.architecture().lines().skip_while(|line| !line.starts_with("| folder |")).skip(2);
        let rows = rows.take_while(|line| line.starts_with('|')).map(|line| line.split('|').map(str::trim));
        let row = |mut cells: std::iter::Skip<_>| -> Option<_> {
            let mut cell = || -> Option<&str> { cells.next() };
            let (folder, package, binaries) = (cell()?, cell()?, cell()?);
            let folder = folder.trim_matches('`').trim_end_matches('/').to_owned();
            (!package.is_empty()).then(|| (folder, (package.trim_matches('`').to_owned(), code(binaries))))
        };
        rows.filter_map(|cells| row(cells.skip(1))).collect()
    }

    /// The document's picture of who depends on whom: lines `a, b ──► c, d`.
    pub fn picture(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut picture = BTreeMap::<String, BTreeSet<String>>::new();
        let names = |list: &str| list.split(',').map(|name| name.trim().to_owned()).collect::<Vec<_>>();
        for (left, right) in self.architecture().lines().filter_map(|line| line.split_once("──►")) {
            let left = names(left);
            if left.iter().all(|folder| self.crates.contains_key(folder)) {
                for folder in left {
                    picture.entry(folder).or_default().extend(names(right));
                }
            }
        }
        picture
    }
}
