//! Puts stage, agent and base.lock into the executable, where there are any: `make build` names them.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("embedded.rs");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    println!("cargo::rerun-if-env-changed=ANEMOS_BUILD");
    let mut code = String::new();
    let mut packed = Vec::new();
    if let Some(stage) = named("ANEMOS_STAGE") {
        for name in ["x86.xz", "xz", "zst", "gz"] {
            let mut path = stage.clone();
            path.push(format!(".{name}"));
            packed.push(format!("({name:?}, include_bytes!({:?}))", found(Path::new(&path))));
        }
    }
    let packed = packed.join(", ");
    writeln!(
        code,
        "/// The stage, by how it is packed.\npub(super) const ANEMOS_STAGE: &[(&str, &[u8])] = &[{packed}];"
    )
    .expect("text can be written to memory");
    let agent = named("ANEMOS_AGENT");
    for (name, ending, what) in [
        ("ANEMOS_AGENT", ".patch", "The agent for scripts"),
        ("ANEMOS_AGENT_IMGBUILD", "-imgbuild.patch", "The agent for IMGBUILDs"),
    ] {
        let bytes = match &agent {
            Some(path) => {
                let mut path = path.clone();
                path.push(ending);
                format!("Some(include_bytes!({:?}))", found(Path::new(&path)))
            }
            None => "None".into(),
        };
        writeln!(code, "/// {what}, as a patch to the stage.\npub(super) const {name}: Option<&[u8]> = {bytes};")
            .expect("text can be written to memory");
    }
    let lock = manifest.join("../base-initramfs/base.lock");
    println!("cargo::rerun-if-changed={}", lock.display());
    let value = if lock.exists() { format!("Some(include_str!({:?}))", found(&lock)) } else { "None".into() };
    writeln!(code, "/// base.lock.\npub(super) const BASE_LOCK: Option<&str> = {value};")
        .expect("text can be written to memory");
    fs::write(out, code).expect("OUT_DIR can be written");
}

/// What the variable says, if anything.
fn named(variable: &str) -> Option<OsString> {
    println!("cargo::rerun-if-env-changed={variable}");
    env::var_os(variable).filter(|path| !path.is_empty())
}

/// The absolute path, for `include_bytes!`.
fn found(path: &Path) -> String {
    println!("cargo::rerun-if-changed={}", path.display());
    let absolute = path.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    absolute.into_os_string().into_string().expect("the checkout's path is text")
}
