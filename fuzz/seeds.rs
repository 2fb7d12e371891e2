//! Gives targets their seeds, and inputs near these, without libFuzzer: so that `cargo test` says which seed or target
//! is out of date.

use std::fmt;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

/// An input, shown as a string literal has it.
struct Input(Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// Inputs made of a seed: at some places bytes are replaced by others, perhaps by none.
fn near(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Input> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..4),
        Just(vec![0xff; 8]),
        Just(vec![0]),
        Just(b"\n".to_vec()),
        Just(b"../".to_vec()),
    ];
    let edits = proptest::collection::vec((any::<Index>(), 0_usize..9, bytes), 1..5);
    (proptest::sample::select(seeds), edits).prop_map(|(mut input, edits)| {
        for (at, length, bytes) in edits {
            let from = at.index(input.len() + 1);
            let to = (from + length).min(input.len());
            input.splice(from..to, bytes);
        }
        Input(input)
    })
}

/// The seeds of a target, sorted by name.
fn of(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name);
    let mut paths: Vec<_> = std::fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Runs the targets.
pub fn run(targets: &[(&str, super::Target)], cases: u32) {
    for (name, target) in targets {
        let seeds = of(name);
        assert!(!seeds.is_empty(), "fuzz/seeds/{name} is empty");
        for seed in &seeds {
            target(seed);
        }
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        let result = TestRunner::new(config).run(&near(seeds), |input| {
            target(&input.0);
            Ok::<(), TestCaseError>(())
        });
        result.unwrap_or_else(|error| panic!("target {name}: {error}"));
    }
}
