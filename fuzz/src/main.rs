//! One executable for all targets: `FUZZ_TARGET` says which. tests/fuzz.sh builds and runs it.
//!
//! libFuzzer has the `main`. It is linked without a sanitizer, for which a stable compiler has no options; in place of
//! one, memory is counted here, integers are checked for overflow, and every panic is a crash.
#![no_main]

mod memory;

use std::process::exit;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

type Target = fn(&[u8]);

/// The targets of a crate, by name.
type Targets = &'static [(&'static str, Target)];

/// What works in memory.
const CRATES: [Targets; 8] = [
    anemos::fuzz::TARGETS,
    anemos_agent::fuzz::TARGETS,
    anemos_base::fuzz::TARGETS,
    anemos_deploy::fuzz::TARGETS,
    anemos_host::fuzz::TARGETS,
    anemos_netstate::fuzz::TARGETS,
    anemos_proto::fuzz::TARGETS,
    makeimg::fuzz::TARGETS,
];

/// What touches files.
const FILES: [Targets; 1] = [anemos_agent::fuzz::FILES];

static TARGET: OnceLock<Target> = OnceLock::new();

fn list(crates: &[Targets]) -> Vec<&'static str> {
    let mut names: Vec<&str> = crates.concat().into_iter().map(|(name, _)| name).collect();
    names.sort();
    names
}

/// The target that is asked for; the process ends if there is none.
fn choose() -> Target {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    if name == "--list" {
        for (kind, crates) in [("memory", &CRATES[..]), ("files", &FILES)] {
            list(crates).iter().for_each(|name| println!("{kind} {name}"));
        }
        exit(0);
    }
    let named = |crates: &[Targets]| crates.concat().into_iter().find(|(found, _)| *found == name);
    if let Some((_, target)) = named(&FILES) {
        // An archive that leads out of its directory must not find this machine. Others than root can do less harm.
        if rustix::process::geteuid().is_root() {
            let closed = std::env::current_dir().and_then(|dir| Ok(rustix::process::chroot(dir)?));
            closed.expect("root can confine itself to the working directory");
        }
        return target;
    }
    let Some((_, target)) = named(&CRATES) else {
        eprintln!("FUZZ_TARGET is one of {}", [list(&CRATES), list(&FILES)].concat().join(", "));
        exit(2);
    };
    target
}

fuzz_target!(
    init: {
        let _ = TARGET.set(choose());
    },
    |data: &[u8]| {
        let target = TARGET.get().expect("it was chosen at the beginning");
        memory::measured(|| target(data));
    }
);
