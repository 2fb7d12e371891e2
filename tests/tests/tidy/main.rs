//! The invariants of docs/ARCHITECTURE.md that can be read off the source. Each rule returns what breaks it, one line
//! each; that each can be broken is shown with made-up trees in `broken`.

mod broken;
mod house;
mod modules;
mod source;

use std::collections::BTreeSet;

use house::House;
use modules::{Modules, circles};
use source::{all_tokens, tokens};

/// Crates that must be usable without the rest: `proto` is what two programs of different builds agree on, and
/// `makeimg` is a program of its own.
const ALONE: [&str; 2] = ["makeimg", "proto"];

/// The three programs know of each other only what `proto` says. They meet over the network, and one that could call
/// another's functions would soon rely on being the same build.
const STRANGERS: [&str; 3] = ["agent", "controller", "deploy"];

/// Libraries that may be replaced one day, or that dictate how the code around them is written, and the only places
/// where they may appear.
const LIBRARIES: [(&str, &[&str]); 3] = [
    // An unread channel stalls its connection: whoever uses it must know such things.
    ("russh", &["agent/src/ssh/", "controller/src/ssh/"]),
    // Everything below the screens only reports, so that a terminal is not the only thing that can show it.
    ("indicatif", &["controller/src/screen/live.rs", "makeimg/src/screen.rs"]),
    // It has no maintainer, and it is positional: nothing but the wire's frames may depend on it.
    ("bincode", &["proto/src/codec.rs"]),
];

/// Rooms of the controller, and rooms that they must not look into. Screens and commands stand on `run`, `run` on
/// `engine`, `engine` on `plan`: so whatever drives a deployment without a terminal has all of it.
const FLOORS: [(&str, &[&str]); 12] = [
    ("plan", &["api", "cli", "commands", "engine", "run", "screen", "serve", "web"]),
    ("engine", &["api", "cli", "commands", "run", "screen", "serve", "web"]),
    ("run", &["api", "cli", "commands", "screen", "serve", "web"]),
    ("screen", &["api", "cli", "commands", "serve", "web"]),
    // What is said between a daemon and its clients, which both stand on.
    ("api", &["cli", "commands", "screen", "serve", "web"]),
    // A daemon has no terminal and no command line.
    ("serve", &["cli", "commands", "web"]),
    // The page is to the daemon what a client is.
    ("web", &["cli", "commands"]),
    // A journal is read by builds whose engine is another.
    ("journal", &["cli", "commands", "engine", "plan", "run", "screen"]),
    // These are of use without any deployment.
    ("config", &["cli", "commands", "engine", "journal", "plan", "run", "screen"]),
    ("known_hosts", &["cli", "commands", "engine", "journal", "plan", "run", "screen"]),
    ("payload", &["cli", "commands", "engine", "journal", "plan", "run", "screen"]),
    ("ssh", &["cli", "commands", "engine", "journal", "plan", "run", "screen"]),
];

/// Where the controller may print a line or end the process. Anywhere else it would tear a live screen apart, or end
/// a run that others look at.
const EDGE: [&str; 2] = ["controller/src/lib.rs", "controller/src/screen/"];

/// Modules for system calls that have no safe wrapper. Whoever checks the unsafe code of a program finds all of it in
/// one place, behind functions that are safe.
const UNSAFE: [&str; 5] = [
    "agent/src/sys.rs",
    "controller/src/arena.rs",
    "controller/src/ssh/sys.rs",
    "deploy/src/sys/",
    "host/src/kexec.rs",
];

/// How long a line may be: two files fit beside each other. rustfmt leaves comments and strings alone.
const COLUMNS: usize = 120;

/// The modules below a crate root.
fn modules(house: &House, root: &str) -> Modules {
    Modules::of(root, &|path| house.files.get(path).cloned())
}

/// The picture in the document is what the manifests say.
fn picture(house: &House) -> Vec<String> {
    let drawn = house.picture();
    let none = BTreeSet::new();
    let wrong = house.crates.iter().filter_map(|(folder, own)| {
        let drawn = drawn.get(folder).unwrap_or(&none);
        (*drawn != own.uses).then(|| format!("{folder} depends on {:?}, and the picture says {drawn:?}", own.uses))
    });
    wrong.collect()
}

/// The crates of [`ALONE`] depend on none of ours, those of [`STRANGERS`] not on each other.
fn dependencies(house: &House) -> Vec<String> {
    let mut wrong = Vec::new();
    for folder in house.crates.keys() {
        for other in house.reached(folder) {
            let strangers = STRANGERS.contains(&&**folder) && STRANGERS.contains(&&*other);
            if strangers || ALONE.contains(&&**folder) {
                wrong.push(format!("{folder} must not depend on {other}"));
            }
        }
    }
    wrong
}

/// The table of crates says what Cargo calls them and their executables.
fn table(house: &House) -> Vec<String> {
    let named = |package: &str, binaries: &[String]| match binaries {
        [] => package.to_owned(),
        binaries => format!("{package} with {}", binaries.join(", ")),
    };
    let mut told = house.table();
    let mut wrong = Vec::new();
    for (folder, own) in &house.crates {
        let real = named(&own.package, &own.binaries);
        let row = told.remove(folder).map_or("nothing".to_owned(), |(package, binaries)| named(&package, &binaries));
        if row != real {
            wrong.push(format!("{folder} is {real}, and the table says {row}"));
        }
    }
    wrong.extend(told.keys().map(|folder| format!("{folder} is in the table and is no crate")));
    wrong
}

/// Whether the code has this word.
fn says(text: &str, word: &str) -> bool {
    // Most files don't have it even in a comment, and need no closer look.
    text.contains(word) && all_tokens(text).iter().any(|token| token == word)
}

/// Code below `src` names a library of [`LIBRARIES`] only where it belongs.
fn libraries(house: &House) -> Vec<String> {
    let mut wrong = Vec::new();
    for (library, rooms) in LIBRARIES {
        for (path, text) in house.files.iter().filter(|(path, _)| path.contains("/src/")) {
            if !rooms.iter().any(|room| path.starts_with(room)) && says(text, library) {
                wrong.push(format!("{path} names {library}, which belongs in {}", rooms.join(", ")));
            }
        }
    }
    wrong
}

/// The controller prints lines and ends the process only at its [`EDGE`].
fn edge(house: &House) -> Vec<String> {
    let mut wrong = Vec::new();
    let inside = house.files.iter().filter(|(path, _)| path.starts_with("controller/src/"));
    for (path, text) in inside.filter(|(path, _)| !EDGE.iter().any(|edge| path.starts_with(edge)) && !is_test(path)) {
        let code = tokens(text);
        for (what, said) in [(&["process", "::", "exit"][..], "process::exit"), (&["eprintln", "!"], "eprintln!")] {
            if code.windows(what.len()).any(|window| window == what) {
                wrong.push(format!("{path}: {said} belongs in {}", EDGE.join(", ")));
            }
        }
    }
    wrong
}

/// Whether a file below `src` is only compiled for tests, as its name says.
fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.ends_with("/tests.rs") || path.ends_with("_tests.rs")
}

/// The controller's rooms look down only: see [`FLOORS`].
fn floors(house: &House) -> Vec<String> {
    let mut wrong = Vec::new();
    let within = |path: &str, room: &str| {
        let rest = path.strip_prefix("controller/src/").and_then(|path| path.strip_prefix(room));
        rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    };
    for root in house.roots().filter(|root| root.starts_with("controller/")) {
        let modules = modules(house, root);
        let arrows = modules.arrows();
        for (room, others) in FLOORS {
            for (from, to) in arrows.iter().flat_map(|(&from, to)| to.iter().map(move |&to| (from, to))) {
                if within(from, room) && others.iter().any(|other| within(to, other)) {
                    wrong.push(format!("{from} uses {to}"));
                }
            }
        }
    }
    wrong
}

/// No files use each other in a circle: each can be read, tested and moved with only what is below it.
fn no_circles(house: &House) -> Vec<String> {
    let circles = |root: &str| circles(&modules(house, root).arrows());
    house.roots().flat_map(circles).map(|circle| circle.join(" – ")).collect()
}

/// No line is longer than [`COLUMNS`].
fn columns(house: &House) -> Vec<String> {
    let long = |(path, text): (&String, &String)| -> Vec<String> {
        let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.chars().count()));
        lines.filter(|&(_, length)| length > COLUMNS).map(|(at, length)| format!("{path}:{at} has {length}")).collect()
    };
    house.files.iter().flat_map(long).collect()
}

/// Unsafe code stands in the modules of [`UNSAFE`] only.
fn unsafe_code(house: &House) -> Vec<String> {
    let elsewhere = |path: &str| !UNSAFE.iter().any(|module| path.starts_with(module));
    let wrong = house.files.iter().filter(|(path, text)| elsewhere(path) && says(text, "unsafe"));
    wrong.map(|(path, _)| format!("{path} has unsafe code")).collect()
}

/// Documents name files and folders that exist: a name that is out of date sends its reader nowhere.
fn names_in_documents(house: &House) -> Vec<String> {
    let mut wrong = Vec::new();
    for (document, text) in &house.documents {
        for name in text.split('`').skip(1).step_by(2) {
            let inside = name.split_once('/').is_some_and(|(folder, _)| house.crates.contains_key(folder));
            if inside && !name.contains(['*', '…', ' ', '\n', '<']) && !house.has(name) {
                wrong.push(format!("{document} names {name}, which is not there"));
            }
        }
    }
    wrong
}

/// The documents in which each promise names the test that shows it.
const PROMISES: [&str; 2] = ["docs/SECURITY.md", "docs/REACH.md"];

/// Whether some file has a test of this name: a function with an attribute that makes it one, or an end-to-end
/// scenario.
fn is_tested(house: &House, name: &str) -> bool {
    if let Some((group, cell)) = name.split_once("::") {
        // A fault is a row of the matrix, which tries it in many phases.
        let named = format!("name: \"{}\"", if group == "faults" { cell } else { name });
        let mut below = house.files.iter().filter(|(path, _)| path.starts_with("tests/e2e/"));
        return below.any(|(_, text)| text.contains(&named));
    }
    let function = format!("fn {name}(");
    house.files.values().any(|text| {
        text.match_indices(&function).any(|(at, _)| {
            // Its attributes, and those alone, stand between it and what is before it.
            let before = text[..at].rsplit(['}', ';']).next().unwrap_or_default();
            before.contains("#[test]") || before.contains("#[tokio::test")
        })
    })
}

/// In the tables of [`PROMISES`] whose last column is `test`, that names tests that exist, or says `no test` and why.
fn promises_have_tests(house: &House) -> Vec<String> {
    let mut wrong = Vec::new();
    for document in PROMISES {
        let mut within = false;
        for line in house.documents.get(document).map_or("", String::as_str).lines() {
            let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
            let last = cells.last().copied().unwrap_or_default();
            if !line.starts_with('|') {
                within = false;
            } else if last == "test" {
                within = true;
            } else if within && !last.starts_with("---") {
                let names: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
                let unknown = names.iter().filter(|name| !is_tested(house, name));
                wrong.extend(unknown.map(|name| format!("{document} names the test {name}, which is not there")));
                if names.is_empty() && !last.starts_with("no test: ") {
                    wrong.push(format!("{document} names no test for: {}", cells[0]));
                }
            }
        }
    }
    wrong
}

/// Gives what breaks it, a line each.
type Rule = fn(&House) -> Vec<String>;

/// The rules, by what they say.
const RULES: [(&str, Rule); 11] = [
    ("the dependency picture is what the manifests say", picture),
    ("crates depend only on those below them", dependencies),
    ("the table of crates has Cargo's names", table),
    ("libraries appear where they belong", libraries),
    ("the controller speaks and ends at its edge", edge),
    ("the controller's rooms look down only", floors),
    ("no files use each other in a circle", no_circles),
    ("no line is too long", columns),
    ("unsafe code stands in the modules for it", unsafe_code),
    ("documents name what exists", names_in_documents),
    ("what SECURITY.md and REACH.md promise has a test", promises_have_tests),
];

#[test]
fn the_house_is_as_the_document_says() {
    let house = House::read(lab::checkout().as_path());
    assert!(house.files.len() > 100 && house.roots().count() > 8, "{:?}", house.files.keys());
    let breaks =
        |(says, rule): (&str, Rule)| rule(&house).into_iter().map(move |wrong| format!("{says}: {wrong}")).collect();
    let broken: Vec<Vec<String>> = RULES.into_iter().map(breaks).collect();
    let broken = broken.concat();
    assert!(broken.is_empty(), "docs/ARCHITECTURE.md, or tests/tests/tidy, has the reasons: {broken:#?}");
}
