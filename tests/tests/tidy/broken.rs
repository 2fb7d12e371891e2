//! Made-up houses: each rule holds in one and is broken in the next.

use std::collections::{BTreeMap, BTreeSet};

use crate::house::{ARCHITECTURE, Crate, House};
use crate::modules::{Modules, circles};
use crate::source::tokens;

/// Files with their text, or with the files that they use.
type Pairs<'a> = &'a [(&'a str, &'a str)];

fn files(files: Pairs) -> House {
    let files = files.iter().map(|&(path, text)| (path.to_owned(), text.to_owned())).collect();
    House { files, ..House::default() }
}

fn crates(crates: &[(&str, &str, &[&str], &[&str])], architecture: &str) -> House {
    let owned = |names: &[&str]| -> Vec<String> { names.iter().map(|&name| name.to_owned()).collect() };
    let own = |&(folder, package, binaries, uses): &(&str, &str, &[&str], &[&str])| {
        let uses = BTreeSet::from_iter(owned(uses));
        (folder.to_owned(), Crate { package: package.to_owned(), binaries: owned(binaries), uses })
    };
    let documents = [(ARCHITECTURE.to_owned(), architecture.to_owned())].into();
    House { crates: crates.iter().map(own).collect(), documents, ..House::default() }
}

/// The arrows of a crate whose files are these, as `from > to`, without the folder and `.rs`.
fn arrows(text: Pairs) -> Vec<String> {
    let files: BTreeMap<String, &str> = text.iter().map(|&(path, text)| (format!("c/src/{path}.rs"), text)).collect();
    let root = format!("c/src/{}.rs", text[0].0);
    let modules = Modules::of(&root, &|path| files.get(path).map(|&text| text.to_owned()));
    let short = |path: &str| path["c/src/".len()..path.len() - ".rs".len()].to_owned();
    let arrows = modules.arrows();
    let each = arrows.iter().flat_map(|(from, to)| to.iter().map(move |to| (from, to)));
    each.map(|(from, to)| format!("{} > {}", short(from), short(to))).collect()
}

#[test]
fn code_is_told_from_the_rest() {
    let text = r##"
        // a /* b
        /* c /* d */ e */ #[doc = "f"] fn g<'h>(i: &'h str) { "j \" k"; 'l'; '\''; b'm'; r#"n " o"#; 1.5; p::q!(r#s) }
        #[cfg(test)] #[path = "t.rs"] mod t;
        #[cfg(test)] mod u { fn v() {} }
        #[cfg(test)] fn w(x: [u8; 2]) {}
        #![y] z
    "##;
    let code = tokens(text);
    let quotes = |token: &&String| !token.starts_with(['"', '\'']) && !token.contains(['"', '\'']);
    let plain: Vec<&str> = code.iter().filter(quotes).map(String::as_str).collect();
    let expected = "fn g < > ( i : & str ) { ; ; ; ; ; 1 . 5 ; p :: q ! ( r # s ) } z";
    assert_eq!(plain.join(" "), expected);
}

#[test]
fn paths_lead_to_files() {
    let cases: [(&str, Pairs, &[&str]); 8] = [
        (
            "from the root, from the parent, from itself",
            &[
                ("lib", "mod a; pub mod b; mod c { pub mod d; }"),
                ("a", "use crate::b::X;"),
                ("b", "fn f() { super::a::g(); }"),
                ("c/d", "use super::super::b;"),
            ],
            &["a > b", "b > a", "c/d > b"],
        ),
        (
            "in lists, under other names",
            &[
                ("lib", "mod a; mod b; mod c;"),
                ("a", "use crate::{b::{self as d, X}, c as e}; fn f() { e::g() }"),
                ("b", ""),
                ("c", ""),
            ],
            &["a > b", "a > c"],
        ),
        (
            "through a module that was brought in",
            &[
                ("lib", "mod a; mod b;"),
                ("a", "use crate::b; fn f() { b::c::g() }"),
                ("b/mod", "pub mod c;"),
                ("b/c", ""),
            ],
            &["a > b/c", "a > b/mod"],
        ),
        (
            "to where an item is made, not to who passes it on",
            &[("lib", "mod a; mod b;"), ("a", "use crate::b::X;"), ("b/mod", "mod c; pub use c::X;"), ("b/c", "")],
            &["a > b/c", "b/mod > b/c"],
        ),
        (
            "a child's use of its parent's items, and of what its parent brought in",
            &[
                ("lib", "mod a; mod d;"),
                ("a/mod", "mod b; mod c; use crate::d::Y; struct X;"),
                ("a/b", "use super::X;"),
                ("a/c", "use super::Y;"),
                ("d", ""),
            ],
            &["a/b > a/mod", "a/c > d", "a/mod > d"],
        ),
        (
            "other crates' items are nobody's",
            &[
                ("main", "mod a; mod io;"),
                ("a", "use std::io; use tokio::a::b; fn f() { io::stdin(); serde::c() }"),
                ("io", ""),
            ],
            &[],
        ),
        (
            "tests may use what they like, and so may comments",
            &[("lib", "mod a; mod b;"), ("a", "// crate::b::X\n#[cfg(test)] mod tests { use crate::b; }"), ("b", "")],
            &[],
        ),
        (
            "a module within a file is of that file",
            &[
                ("lib", "mod a; mod b;"),
                ("a", "mod inner { use super::super::b::X; fn f() { super::g() } } fn g() {}"),
                ("b", ""),
            ],
            &["a > b"],
        ),
    ];
    for (what, text, expected) in cases {
        assert_eq!(arrows(text), expected, "{what}");
    }
}

#[test]
fn circles_are_found() {
    let cases: [(&str, Pairs, &[&[&str]]); 5] = [
        ("a path has none", &[("a", "b"), ("b", "c"), ("c", "")], &[]),
        ("two", &[("a", "b"), ("b", "a")], &[&["a", "b"]]),
        ("three, and one beside", &[("a", "b"), ("b", "c d"), ("c", "a"), ("d", "")], &[&["a", "b", "c"]]),
        ("a parent puts its children together", &[("p/mod", "p/a p/b"), ("p/a", "p/mod"), ("p/b", "p/a")], &[]),
        (
            "a child's way out and back by its parent",
            &[("p/mod", "q"), ("p/a", "p/mod"), ("q", "p/a")],
            &[&["p/a", "p/mod", "q"]],
        ),
    ];
    for (what, arrows, expected) in cases {
        let path = |name: &str| format!("c/src/{name}.rs");
        let owned: Vec<(String, Vec<String>)> =
            arrows.iter().map(|&(from, to)| (path(from), to.split_whitespace().map(path).collect())).collect();
        let arrows = owned.iter().map(|(from, to)| (from.as_str(), to.iter().map(String::as_str).collect())).collect();
        let expected: Vec<Vec<String>> =
            expected.iter().map(|circle| circle.iter().map(|&name| path(name)).collect()).collect();
        assert_eq!(circles(&arrows), expected, "{what}");
    }
}

/// A rule says nothing of the first house, and this of the second.
fn breaks(rule: fn(&House) -> Vec<String>, holds: &House, broken: &House, says: &[&str]) {
    assert_eq!(rule(holds), Vec::<String>::new());
    assert_eq!(rule(broken), says);
}

#[test]
fn what_crates_may_depend_on() {
    let built = |stage: &[&str], drawn: &str| {
        let all: [(&str, &str, &[&str], &[&str]); 4] = [
            ("agent", "", &[], &["proto"]),
            ("deploy", "", &[], stage),
            ("lib", "", &[], &["agent"]),
            ("proto", "", &[], &[]),
        ];
        crates(&all, drawn)
    };
    let drawn = "stage ──ssh──► agent\n agent, deploy ──► proto\nlib ──► agent";
    breaks(
        crate::picture,
        &built(&["proto"], drawn),
        &built(&["lib"], drawn),
        &[r#"deploy depends on {"lib"}, and the picture says {"proto"}"#],
    );
    breaks(crate::dependencies, &built(&["proto"], ""), &built(&["lib"], ""), &["deploy must not depend on agent"]);
    let alone = crates(&[("proto", "", &[], &["lib"]), ("lib", "", &[], &[])], "");
    assert_eq!(crate::dependencies(&alone), ["proto must not depend on lib"]);
}

#[test]
fn what_crates_are_called() {
    let head = "| folder | package | executables | what |\n|---|---|---|---|\n";
    let row = "| `deploy/` | `anemos-deploy` | `anemos-stage` | the stage |\n| `examples/` | | | |\n";
    let named = |package: &str, text: &str| crates(&[("deploy", package, &["anemos-stage"], &[])], text);
    let right = format!("{head}{row}");
    let more = format!("{head}{row}| `gone/` | `gone` | | |\n");
    breaks(
        crate::table,
        &named("anemos-deploy", &right),
        &named("anemos-stage", &more),
        &[
            "deploy is anemos-stage with anemos-stage, and the table says anemos-deploy with anemos-stage",
            "gone is in the table and is no crate",
        ],
    );
}

#[test]
fn what_belongs_where() {
    breaks(
        crate::libraries,
        &files(&[
            ("agent/src/ssh/mod.rs", "use russh::X;"),
            ("agent/src/a.rs", "// russh"),
            ("agent/tests/b.rs", "use russh::X;"),
        ]),
        &files(&[("agent/src/a.rs", "use russh::X;")]),
        &["agent/src/a.rs names russh, which belongs in agent/src/ssh/, controller/src/ssh/"],
    );
    breaks(
        crate::edge,
        &files(&[
            ("controller/src/lib.rs", "fn main() { eprintln!(); std::process::exit(1) }"),
            ("controller/src/a.rs", "#[cfg(test)] mod tests { fn f() { eprintln!() } }"),
            ("controller/src/a/tests.rs", "fn f() { eprintln!() }"),
            ("agent/src/a.rs", "fn f() { eprintln!() }"),
        ]),
        &files(&[("controller/src/run/mod.rs", "fn f() { eprintln!(); std::process::exit(1) }")]),
        &[
            "controller/src/run/mod.rs: process::exit belongs in controller/src/lib.rs, controller/src/screen/",
            "controller/src/run/mod.rs: eprintln! belongs in controller/src/lib.rs, controller/src/screen/",
        ],
    );
    breaks(
        crate::unsafe_code,
        &files(&[("agent/src/sys.rs", "unsafe {}"), ("deploy/src/sys/c.rs", "unsafe {}"), ("a/src/d.rs", "// unsafe")]),
        &files(&[("a/src/d.rs", "unsafe {}")]),
        &["a/src/d.rs has unsafe code"],
    );
    let long = "ü".repeat(120);
    breaks(
        crate::columns,
        &files(&[("a/tests/b.rs", &long)]),
        &files(&[("a/tests/b.rs", &format!("\n// {long}"))]),
        &["a/tests/b.rs:2 has 123"],
    );
}

#[test]
fn what_documents_name() {
    let told = |text: &str| {
        let mut house = crates(&[("agent", "", &[], &[])], text);
        house.files.insert("agent/src/a.rs".into(), String::new());
        house.others.insert("agent/src".into());
        house
    };
    let good = "`agent/src/a.rs`, `agent/src/`, `agent/`, `agent/src/*.rs`, `/etc/b`, `b/c.rs`, `agent`";
    breaks(
        crate::names_in_documents,
        &told(good),
        &told("`agent/src/b.rs`"),
        &["docs/ARCHITECTURE.md names agent/src/b.rs, which is not there"],
    );
}

#[test]
fn what_is_promised() {
    let told = |last: &str| {
        let mut house = files(&[
            ("a/src/b.rs", "#[test]\nfn it_holds() {}\n\nfn helper() {}\n\n#[tokio::test]\nasync fn it_waits() {}"),
            ("tests/e2e/c.rs", "name: \"c::it_boots\""),
        ]);
        let text = format!("| a | test |\n|---|---|\n| x | {last} |\n\n| a | b |\n|---|---|\n| c | `d` |\n");
        house.documents.insert("docs/SECURITY.md".into(), text);
        house
    };
    for (bad, said) in [
        ("`helper`", "docs/SECURITY.md names the test helper, which is not there"),
        ("`it_waits`, `c::it_falls`", "docs/SECURITY.md names the test c::it_falls, which is not there"),
        ("it_holds", "docs/SECURITY.md names no test for: x"),
    ] {
        breaks(crate::promises_have_tests, &told("`it_holds`, `it_waits`, `c::it_boots`"), &told(bad), &[said]);
    }
    breaks(
        crate::promises_have_tests,
        &told("no test: why"),
        &told("no test"),
        &["docs/SECURITY.md names no test for: x"],
    );
}

#[test]
fn who_looks_where_in_the_controller() {
    let built = |run: &'static str, engine: &'static str| {
        let mut house = files(&[
            ("controller/src/lib.rs", "mod engine; mod run; mod runs; mod screen;"),
            ("controller/src/engine/mod.rs", engine),
            ("controller/src/run/mod.rs", run),
            ("controller/src/runs.rs", "use crate::screen::X;"),
            ("controller/src/screen.rs", "use crate::run::X;"),
        ]);
        house.crates.insert("controller".into(), Crate::default());
        house
    };
    let good = built("use crate::engine::X;", "");
    breaks(
        crate::floors,
        &good,
        &built("use crate::screen::X;", "fn f() { crate::run::g() }"),
        &[
            "controller/src/engine/mod.rs uses controller/src/run/mod.rs",
            "controller/src/run/mod.rs uses controller/src/screen.rs",
        ],
    );
    breaks(
        crate::no_circles,
        &good,
        &built("use crate::engine::X;", "use crate::run::X;"),
        &["controller/src/engine/mod.rs – controller/src/run/mod.rs"],
    );
}
