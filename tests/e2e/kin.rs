//! Debian's kin, by the mirror, suite, components and keyring that an IMGBUILD names: the real mmdebstrap with archives
//! that stand in for theirs.

use crate::{Outcome, Scenario};
use lab::archive::Server;
use lab::kin::{self, Kin};
use lab::{Context, Lab, Result, bail};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

pub const SCENARIOS: &[Scenario] = &[Scenario { name: "makeimg::kin_of_debian", run: kin_of_debian }];

const KIN: &[(Kin, &str)] = &[
    (
        Kin {
            origin: "Ubuntu",
            suites: &["noble", "noble-updates", "noble-security"],
            components: &["main", "universe"],
            apart: &["zstd"],
        },
        "noble noble-updates noble-security",
    ),
    (
        Kin {
            origin: "Devuan",
            suites: &["excalibur", "excalibur-updates", "excalibur-security"],
            components: &["main", "contrib"],
            apart: &["zstd"],
        },
        "excalibur excalibur-updates excalibur-security",
    ),
    (
        Kin { origin: "Kali", suites: &["kali-rolling"], components: &["main", "non-free-firmware"], apart: &["zstd"] },
        "kali-rolling",
    ),
];

/// Each is built from its archive alone, with a package of its second component, and has its suites, components and
/// keys for its updates. Keys of another archive are of no use.
fn kin_of_debian(lab: &Lab) -> Result<Outcome> {
    let work = lab.path("runs").join(format!("makeimg-kin-{}", std::process::id()));
    let mut keyrings = Vec::new();
    for (kin, suites) in KIN {
        let dir = work.join(kin.origin);
        let made = kin::make(lab, kin, &dir)?;
        let server = Server::over(&made.tree)?;
        let name = kin.origin.to_lowercase();
        let project = dir.join("project");
        fs::create_dir_all(&project).context("the project")?;
        fs::copy(&made.keyring, project.join(format!("{name}.gpg"))).context("the project's keyring")?;
        let imgbuild = format!(
            "imgname={name}\ntarget=debian\ndebian_suite={}\ndebian_variant=minbase\ndebian_components='{}'\n\
             debian_mirror={}\ndebian_keyring={name}.gpg\nformat=dir\npackages=zstd\n",
            kin.suites[0],
            kin.components.join(" "),
            server.url()
        );
        fs::write(project.join("IMGBUILD"), &imgbuild).context("the IMGBUILD")?;
        let built = build(&project, &dir)?;
        let said = String::from_utf8_lossy(&built.stderr).into_owned();
        if !built.status.success() {
            bail!("{}: {said}", kin.origin);
        }
        let root = dir.join(&name);
        let sources = fs::read_to_string(root.join("etc/apt/sources.list.d/debian.sources")).context("the sources")?;
        let expected = format!(
            "Types: deb\nURIs: {}\nSuites: {suites}\nComponents: {}\nSigned-By: /etc/apt/keyrings/{name}.gpg\n",
            server.url(),
            kin.components.join(" ")
        );
        assert_eq!(sources, expected, "{}", kin.origin);
        assert!(root.join("usr/bin/zstd").is_file() && !said.contains("SECURITY UPDATES"), "{}: {said}", kin.origin);
        let keys = |path: &Path| fs::read(path).context("a keyring");
        assert_eq!(keys(&root.join(format!("etc/apt/keyrings/{name}.gpg")))?, keys(&made.keyring)?);
        fs::remove_dir_all(&root).context("the system")?;
        if let Some(other) = keyrings.last() {
            fs::copy(other, project.join(format!("{name}.gpg"))).context("another keyring")?;
            let refused = build(&project, &dir)?;
            let said = String::from_utf8_lossy(&refused.stderr);
            assert!(!refused.status.success() && said.contains("NO_PUBKEY"), "{}: {said}", kin.origin);
        }
        keyrings.push(made.keyring);
    }
    fs::remove_dir_all(&work).context("what was made")?;
    Ok(Outcome::Passed)
}

fn build(project: &Path, into: &Path) -> Result<Output> {
    let makeimg = crate::makeimg::makeimg()?;
    Command::new(makeimg).arg("build").arg("-C").arg(project).arg("-o").arg(into).output().context("makeimg")
}
