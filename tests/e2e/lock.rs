//! `anemos base`: from a list of packages to an image, with the ordinary apt tooling.

use crate::{Outcome, Scenario};
use lab::anemos::Anemos;
use lab::archive::{Fault, Server};
use lab::{Context, Lab, Result};
use std::fs;
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[Scenario { name: "lock::lock_build_verify", run: lock_build_verify }];

const LIMIT: Duration = Duration::from_secs(300);

fn lock_build_verify(lab: &Lab) -> Result<Outcome> {
    let server = Server::start(lab)?;
    let url = server.url();
    let anemos = Anemos::new(lab, "lock")?;
    let run = |words: &[&str]| anemos.run([&["base"], words].concat(), LIMIT);
    anemos.write("base.toml", "suite = \"trixie\"\narch = \"amd64\"\ninstall = [\"dash\", \"coreutils\"]\n")?;

    let locked = run(&["lock", "--mirror", &url, "--output", "base.lock", "base.toml"])?;
    assert_eq!(locked.code(), 0, "{}", locked.stderr);
    let lock = fs::read_to_string(anemos.dir().join("base.lock")).context("base.lock")?;
    assert!(lock.contains("name = \"dash\"") && lock.contains("name = \"libc6\""), "{lock}");
    assert!(!lock.contains("127.0.0.1"), "a lock names no mirror:\n{lock}");

    let build = |to: &str| run(&["build", "--mirror", &url, "--output", to, "base.lock"]);
    for image in ["one.zst", "two.zst"] {
        let built = build(image)?;
        assert_eq!(built.code(), 0, "{}", built.stderr);
    }
    let image = fs::read(anemos.dir().join("one.zst")).context("the image")?;
    assert_eq!(image, fs::read(anemos.dir().join("two.zst")).context("the other image")?);
    assert_eq!(run(&["verify", "--lock", "base.lock", "one.zst"])?.code(), 0);

    // What isn't right is refused by name, and leaves no image behind.
    let mut wrong = image;
    let middle = wrong.len() / 2;
    wrong[middle] ^= 1;
    fs::write(anemos.dir().join("wrong.zst"), wrong).context("the wrong image")?;
    let refused = run(&["verify", "--lock", "base.lock", "wrong.zst"])?;
    assert_eq!(refused.code(), 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("wrong.zst"), "{}", refused.stderr);
    server.fault("/dash_", Fault::FlipByte(5000));
    let refused = build("three.zst")?;
    assert!(refused.code() != 0 && refused.stderr.contains("dash_"), "{}", refused.stderr);
    assert!(!anemos.dir().join("three.zst").exists());
    Ok(Outcome::Passed)
}
