//! Files that a hosts.toml includes, and files of variables.

use std::collections::BTreeMap;

use super::*;

const PLAIN: &str = "payload = \"p\"\ndisk = \"/dev/vda\"\n";

/// Reads the first of these files.
fn read(files: &[(&str, &str)]) -> Result<HostsFile, Vec<ConfigError>> {
    let known: BTreeMap<PathBuf, &str> = files.iter().map(|(path, text)| (PathBuf::from(path), *text)).collect();
    let source = |path: &Path| {
        let text = known.get(path).map(|text| (*text).to_owned());
        text.ok_or_else(|| std::io::ErrorKind::NotFound.into())
    };
    parse(files[0].1, Path::new(files[0].0), None, &source)
}

fn right(files: &[(&str, &str)]) -> Vec<Host> {
    read(files).unwrap_or_else(|errors| panic!("{}", show(&errors))).hosts
}

/// What is wrong, where, without the lines of the files.
fn wrong(files: &[(&str, &str)]) -> Vec<String> {
    let errors = read(files).unwrap_err();
    errors.iter().map(|error| format!("{}:{}: {}", error.file.display(), error.line, error.message)).collect()
}

#[test]
fn hosts_defaults_and_groups_come_from_several_files() {
    let hosts = right(&[
        (
            "fleet/hosts.toml",
            "include = [\"web/hosts.toml\", \"db.toml\"]\n[defaults]\npayload = \"p\"\ndisk = \"/dev/vda\"\n\
             vars = { a = 1, b = 1 }\nport = 22\n[groups]\nall = [\"*\"]\nmine = [\"@web\", \"last\"]\n[hosts.last]\n",
        ),
        (
            "fleet/web/hosts.toml",
            "include = [\"more.toml\"]\n[defaults]\npayload = \"own\"\nvars = { b = 2 }\n[groups]\nweb = [\"web*\"]\n\
             [hosts.web1]\nvars = { c = 3 }\n",
        ),
        ("fleet/web/more.toml", "[hosts.web2]\nport = 2222\n"),
        ("fleet/db.toml", "[hosts.db1]\n"),
    ]);
    let names: Vec<&str> = hosts.iter().map(|host| host.name.as_str()).collect();
    assert_eq!(names, ["web2", "web1", "db1", "last"], "those of an included file come first");
    let of = |name: &str| hosts.iter().find(|host| host.name == name).unwrap();
    // Paths start from the file that has them, defaults from the file that includes.
    assert_eq!(of("web2").payload, Path::new("fleet/web/own"));
    assert_eq!(of("db1").payload, Path::new("fleet/p"));
    let vars = |name: &str| of(name).vars.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
    assert_eq!((vars("web1").join(" ").as_str(), vars("db1").join(" ").as_str()), ("A=1 B=2 C=3", "A=1 B=1"));
    assert_eq!((of("web2").port, of("web1").port), (Some(2222), Some(22)));
    assert_eq!(of("web2").labels, ["all", "mine", "web"]);
    assert_eq!(of("last").labels, ["all", "mine"]);
}

#[test]
fn what_is_wrong_is_told_with_file_and_line() {
    let host = |name: &str| format!("[hosts.{name}]\naddress = \"{name}\"\n{PLAIN}");
    let cycle = [
        ("h.toml", &*format!("include = [\"a.toml\"]\n{}", host("h"))),
        ("a.toml", "include = [\n\"./b.toml\"]\n"),
        ("b.toml", "include = [\"h.toml\"]\n"),
    ];
    assert_eq!(
        wrong(&cycle),
        ["b.toml:1: h.toml includes itself: h.toml includes a.toml includes b.toml includes h.toml"]
    );
    // By whatever name.
    let cycle = [("x/h.toml", "include = [\"y/../../x/h.toml\"]\n")];
    assert_eq!(
        wrong(&cycle)[0],
        "x/h.toml:1: x/y/../../x/h.toml includes itself: x/h.toml includes x/y/../../x/h.toml"
    );
    let twice = [
        ("h.toml", "include = [\"a.toml\", \"b.toml\"]\n"),
        ("a.toml", "include = [\"b.toml\"]\n"),
        ("b.toml", &*host("b")),
    ];
    assert_eq!(wrong(&twice), ["a.toml:1: b.toml is included twice; first by h.toml"]);
    let missing = [("x/h.toml", "include = [\"a.toml\", 7]\n")];
    assert_eq!(
        wrong(&missing)[..2],
        ["x/h.toml:1: no file x/a.toml", "x/h.toml:1: `include` must be the path of a file, not an integer"]
    );
    let (one, other) = (format!("include = [\"a.toml\"]\n{}[groups]\nall = [\"*\"]\n", host("web")), host("web"));
    assert_eq!(
        wrong(&[("h.toml", &one), ("a.toml", &other)]),
        ["h.toml:2: host `web` is given twice: at a.toml:1 too"]
    );
    let other = format!("{}[groups]\nall = [\"*\"]\n", host("db"));
    assert_eq!(
        wrong(&[("h.toml", &one), ("a.toml", &other)]),
        ["h.toml:7: group `all` is given twice: at a.toml:6 too"]
    );
    // What is wrong in an included file is told there, and before what is wrong in others after it.
    let other = "[hosts.db]\ndsik = 1\n[hosts.db2]\nport = 0\n";
    let told = wrong(&[("h.toml", &format!("{one}\n[hosts.x]\nporr = 1\n")), ("a.toml", other)]);
    assert!(
        told[0].starts_with("h.toml:") && told.iter().any(|line| line.starts_with("a.toml:4: `port` must be")),
        "{told:?}"
    );
    assert_eq!(
        wrong(&[("h.toml", "include = [\"a.toml\"]\n"), ("a.toml", "")]),
        ["h.toml:1: no hosts: write a table [hosts.NAME] for each"]
    );
    assert!(wrong(&[("h.toml", "include = [\"a.toml\"]\n"), ("a.toml", "[hosts")])[0].starts_with("a.toml:1: "));
    // As many files as one likes do not go on for ever.
    let many: Vec<String> = (0..300).map(|number| format!("\"{number}.toml\"")).collect();
    let text = format!("include = [{}]\n", many.join(", "));
    let source = |_: &Path| Ok(String::new());
    let errors = parse(&text, Path::new("h.toml"), None, &source).unwrap_err();
    assert!(errors.iter().any(|error| error.message == "more than 256 files are too many"));
}

#[test]
fn variables_come_from_files_and_those_of_vars_count_before_them() {
    let hosts = right(&[
        (
            "f/h.toml",
            &*format!(
                "[defaults]\n{PLAIN}var_files = [\"all.toml\"]\nvars = {{ c = \"defaults\" }}\n[hosts.a]\n\
                 var_files = [\"vars/a.toml\", \"vars/b.toml\"]\nvars = {{ d = \"own\" }}\n"
            ),
        ),
        ("f/all.toml", "a = \"all\"\nb = \"all\"\nc = \"all\"\n"),
        ("f/vars/a.toml", "b = 2\nd = true\n"),
        ("f/vars/b.toml", "e = \"5\"\n"),
    ]);
    let vars: Vec<String> = hosts[0].vars.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(vars, ["A=all", "B=2", "C=defaults", "D=own", "E=5"]);
    let host = format!("[hosts.a]\n{PLAIN}var_files = [\"a.toml\", \"b.toml\"]\n");
    for (a, b, expected) in [
        ("x = 1\n", "y = 1\nX = 2\n", "b.toml:2: `X` is given in a.toml too"),
        ("x = 1\nx = 2\n", "", "a.toml:2: `x` is given twice"),
        ("x-y = 1\n", "", "a.toml:1: `x-y`: a variable's name is letters, digits and `_`"),
        ("x = 1.5\n", "", "a.toml:1: `x` must be a string, an integer or a boolean, not a float"),
        ("[x]\n", "", "a.toml:1: `x` is a table"),
        ("x = \n", "", "a.toml:1: "),
    ] {
        let told = wrong(&[("h.toml", &host), ("a.toml", a), ("b.toml", b)]);
        assert!(told.iter().any(|line| line.starts_with(expected)), "{expected}: {told:?}");
    }
    assert_eq!(wrong(&[("h.toml", &host), ("a.toml", "")]), ["h.toml:4: no file b.toml"]);
}
