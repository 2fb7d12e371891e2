//! docs/HOSTS.md and examples/ are held against what is really read.

use super::*;

const HOSTS_MD: &str = include_str!("../../../../docs/HOSTS.md");

/// The blocks of that language.
fn blocks(language: &str) -> impl Iterator<Item = &'static str> {
    HOSTS_MD.split(language).skip(1).map(|rest| rest.split("```").next().unwrap())
}

#[test]
fn every_key_is_described_and_shown_and_no_other() {
    let described: Vec<&str> =
        HOSTS_MD.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect();
    let mut sorted = described.clone();
    sorted.sort_unstable();
    let mut keys = layer::KEYS.to_vec();
    keys.sort_unstable();
    assert_eq!(sorted, keys);
    for key in keys {
        let shown = blocks("```toml").any(|block| block.lines().any(|line| line.starts_with(&format!("{key} = "))));
        assert!(shown, "no example has {key}");
    }
}

#[test]
fn every_example_in_the_reference_is_right() {
    let mut count = 0;
    for block in blocks("```toml") {
        // Files that they name are there, and empty.
        let source = |_: &Path| Ok(String::new());
        let read = parse(block, Path::new("fleet/hosts.toml"), Some(Path::new("/home/me")), &source);
        read.unwrap_or_else(|errors| panic!("{}\n{block}", show(&errors)));
        count += 1;
    }
    assert_eq!(count, 10);
}

#[test]
fn the_error_in_the_reference_looks_like_that() {
    let text = "\n\n\n\n\n[hosts.web1]\ndsik = \"/dev/vda\"\npayload = \"p\"";
    let error = parse(text, Path::new("hosts.toml"), None, &nothing).unwrap_err().remove(0);
    assert_eq!(blocks("```text").next().unwrap().trim(), error.to_string());
}

#[test]
fn every_clock_is_described_with_its_default() {
    let mut defaults = Deadlines::default();
    for name in Deadlines::NAMES {
        let default = format_duration(*defaults.get_mut(name).unwrap());
        assert!(HOSTS_MD.contains(&format!("\n| `{name}` | `\"{default}\"` |")), "{name} {default}");
    }
}

#[test]
fn every_example_file_is_right() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let files = fs::read_dir(examples).unwrap().flatten().map(|example| example.path().join("hosts.toml"));
    let files: Vec<_> = files.filter(|file| file.is_file()).collect();
    assert!(files.len() >= 5, "{files:?}");
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        parse(&text, &file, Some(Path::new("/home/me")), &nothing).unwrap_or_else(|errors| panic!("{}", show(&errors)));
    }
}
