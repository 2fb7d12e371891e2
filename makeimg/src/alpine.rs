//! Alpine Linux, by apk(8).

use std::fs;
use std::io;
use std::path::Path;

use crate::command::{Context, Tool};
use crate::inside::Inside;
use crate::problem::{Doing, Problem};
use crate::progress;

/// Packages that are installed without being named.
const BASE: &str = "alpine-base";

/// What the image may take from the building machine.
pub const HOSTCONF: [&str; 2] = ["keyring", "repositories"];

/// The directory in which the building machine has its repositories and keys.
const THEIRS: &str = "/etc/apk";

/// What OpenRC starts on every machine, by runlevel: no package turns anything on, and setup-alpine(8) does it
/// elsewhere (wiki.alpinelinux.org/wiki/Alpine_Linux_in_a_chroot). Whoever wants a network says so in `services`.
const RUNLEVELS: [(&str, &[&str]); 3] = [
    ("sysinit", &["devfs", "dmesg", "hwdrivers", "mdev"]),
    ("boot", &["bootmisc", "hostname", "hwclock", "modules", "swap", "sysctl", "syslog"]),
    ("shutdown", &["killprocs", "mount-ro", "savecache"]),
];

/// Installs Alpine into an empty directory. Packages come from where the project's file `repositories` says, and that
/// file is not copied into the image. The keys that packages are signed with are in the project's `keys`, and are
/// copied. What `hostconf` takes from the building machine is copied, too.
///
/// # Errors
/// There is no list of repositories, or what the tool said.
pub fn bootstrap(
    context: &Context,
    project: &Path,
    hostconf: &[String],
    packages: &[String],
    root: &Path,
) -> Result<(), Problem> {
    let theirs = |item: &str| hostconf.iter().any(|wanted| wanted == item);
    let image = Inside::open(root).doing(|| format!("opening {}", root.display()))?;
    let copy = |from: &Path, to: &str| {
        let put = fs::File::open(from).and_then(|file| image.write(Path::new(to), file, 0o644));
        put.doing(|| format!("copying {} into the image", from.display()))
    };
    let mut tool = Tool::new("apk").arg("--root").arg(root);
    let repositories = project.join("repositories");
    if repositories.exists() {
        tool = tool.arg("--repositories-file").arg(repositories);
    } else if theirs("repositories") {
        // apk looks for it in the root that it is given.
        copy(&Path::new(THEIRS).join("repositories"), "etc/apk/repositories")?;
    } else {
        return Err(Problem::new(&repositories, None, "can't be read: there is no such file")
            .hint("list the repositories' URLs there, one a line, or say hostconf=repositories on Alpine itself"));
    }
    let keys = theirs("keyring").then(|| Path::new(THEIRS).join("keys"));
    for keys in keys.into_iter().chain(Some(project.join("keys")).filter(|keys| keys.exists())) {
        let doing = || format!("reading {}", keys.display());
        for entry in fs::read_dir(&keys).doing(doing)? {
            let entry = entry.doing(doing)?;
            copy(&entry.path(), &format!("etc/apk/keys/{}", entry.file_name().to_string_lossy()))?;
        }
    }
    let tool = tool.args(["--initdb", "--no-cache", "--no-progress", "add", BASE]);
    let tool = tool.args(packages.iter().filter(|name| *name != BASE));
    progress::watch(context, "apk", tool, progress::counted, &["ERROR: "])?;
    runlevels(&image).doing(|| "having OpenRC start what every machine needs".into())
}

/// Adds services to runlevels as rc-update(8) does, but for those that there are not.
fn runlevels(image: &Inside) -> io::Result<()> {
    for (level, services) in RUNLEVELS {
        for service in services {
            let script = format!("etc/init.d/{service}");
            if image.exists(&script) {
                image.link(&Path::new("etc/runlevels").join(level).join(service), &Path::new("/").join(script))?;
            }
        }
    }
    Ok(())
}
