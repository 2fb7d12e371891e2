//! Stand-ins for archives of Debian's kin: packages of the lab's archive, under another distribution's name, suites and
//! components, signed by a key of their own.

use crate::archive;
use crate::command::run;
use crate::machine::file_sha256;
use crate::{Context, Lab, Result, bail};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An archive to be made.
#[derive(Debug, Clone, Copy)]
pub struct Kin {
    /// As in its Release file.
    pub origin: &'static str,
    /// The suites; the first has the packages.
    pub suites: &'static [&'static str],
    /// The components; the first has most packages.
    pub components: &'static [&'static str],
    /// Packages that the last component has.
    pub apart: &'static [&'static str],
}

/// Where it is, and who signs it.
#[derive(Debug, Clone)]
pub struct Made {
    /// For [`archive::Server::over`].
    pub tree: PathBuf,
    /// The file with its keys.
    pub keyring: PathBuf,
}

/// Makes it below `dir`, which must not be there.
pub fn make(lab: &Lab, kin: &Kin, dir: &Path) -> Result<Made> {
    archive::fill_if_missing(lab)?;
    let ours = lab.path("archive/debian");
    let index = ours.join("dists/trixie/main/binary-amd64/Packages.xz");
    let index = run(Command::new("xz").arg("-dc").arg(&index))?;
    let mut indexes: BTreeMap<&str, String> = BTreeMap::new();
    for stanza in String::from_utf8_lossy(&index).split_terminator("\n\n") {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        if !ours.join(field("Filename: ")).is_file() {
            continue;
        }
        let is_apart = kin.apart.contains(&field("Package: "));
        let component = if is_apart { kin.components.last() } else { kin.components.first() };
        let Some(component) = component else { bail!("{} has no components", kin.origin) };
        let text = indexes.entry(component).or_default();
        text.push_str(stanza);
        text.push_str("\n\n");
    }
    let tree = dir.join("debian");
    fs::create_dir_all(&tree).context(format!("cannot make {}", tree.display()))?;
    symlink(ours.join("pool"), tree.join("pool")).context("cannot show the archive's packages")?;
    let keys = dir.join("gnupg");
    run(Command::new("mkdir").args(["-m", "700"]).arg(&keys))?;
    let user = format!("{}@example.net", kin.origin);
    gpg(&keys, &["--passphrase", "", "--quick-generate-key", &user, "ed25519"])?;
    let keyring = dir.join(format!("{}.gpg", kin.origin.to_lowercase()));
    fs::write(&keyring, gpg(&keys, &["--export", &user])?).context("cannot write the keyring")?;
    for (number, suite) in kin.suites.iter().enumerate() {
        let place = tree.join("dists").join(suite);
        let mut sums = String::new();
        for component in kin.components {
            let name = format!("{component}/binary-amd64/Packages");
            let file = place.join(&name);
            let text = indexes.get(component).filter(|_| number == 0).map_or("", String::as_str);
            fs::create_dir_all(file.parent().expect("a file in a tree has a parent"))
                .context("an index's directory")?;
            fs::write(&file, text).context(format!("cannot write {}", file.display()))?;
            let _ = writeln!(sums, " {} {} {name}", file_sha256(&file)?, text.len());
        }
        let date = run(Command::new("date").args(["-u", "-R"]))?;
        let release = format!(
            "Origin: {origin}\nLabel: {origin}\nSuite: {suite}\nCodename: {suite}\nDate: {}\nArchitectures: amd64\n\
             Components: {}\nSHA256:\n{sums}",
            String::from_utf8_lossy(&date).trim().replace("+0000", "UTC"),
            kin.components.join(" "),
            origin = kin.origin,
        );
        let file = place.join("Release");
        fs::write(&file, release).context(format!("cannot write {}", file.display()))?;
        let file = file.display().to_string();
        fs::write(place.join("InRelease"), gpg(&keys, &["--clearsign", "-o", "-", &file])?).context("InRelease")?;
    }
    Ok(Made { tree, keyring })
}

/// Runs gpg(1); what it starts ends with it.
fn gpg(keys: &Path, args: &[&str]) -> Result<Vec<u8>> {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "gpg", "--batch", "--quiet", "--homedir"]).arg(keys);
    run(command.args(args))
}
