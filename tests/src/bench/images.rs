//! Building an image, beside the bootstrap tool alone: the same packages from the same archive, in the same minute.

use super::{Judged, median};
use crate::archive::Server;
use crate::command::tail;
use crate::{Context, Lab, Result, bail, checkout};
use makeimg::imgbuild;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// What makeimg adds to the packages of a disk image that GRUB starts.
const LOADERS: [&str; 3] = ["grub-pc-bin", "grub-efi-amd64-bin", "grub2-common"];

/// What is compared, and where.
struct Builds {
    server: Server,
    work: PathBuf,
    project: PathBuf,
    packages: String,
}

/// Measures, prints, and fails where a promise is not kept.
pub fn run(lab: &Lab, rounds: usize) -> Result<()> {
    if rounds == 0 {
        bail!("nothing can be measured in no rounds");
    }
    let project = checkout().join("examples/imgbuild-debian/payload");
    let Ok(imgbuild) = imgbuild::read(&project).result else {
        bail!("{} can't be read: `makeimg check` says why", project.display());
    };
    let mut packages = imgbuild.settings.packages;
    packages.extend(LOADERS.map(str::to_owned));
    let work = lab.path("runs").join(format!("bench-images-{}", std::process::id()));
    fs::create_dir_all(&work).context("the directory for images")?;
    let builds = Builds { server: Server::start(lab)?, work, project, packages: packages.join(",") };
    let measured = builds.measure(rounds);
    fs::remove_dir_all(&builds.work).context("the directory of images")?;
    measured
}

impl Builds {
    fn measure(&self, rounds: usize) -> Result<()> {
        let cache = self.work.join("cache");
        println!(
            "warm-up: mmdebstrap {:.1} s, makeimg that fills its cache {:.1} s",
            self.mmdebstrap()?,
            self.makeimg(Some(&cache))?
        );
        let (mut plain, mut cached) = (Vec::new(), Vec::new());
        for round in 1..=rounds {
            let alone = self.mmdebstrap()?;
            let (built, again) = (self.makeimg(None)?, self.makeimg(Some(&cache))?);
            println!("round {round}: mmdebstrap {alone:.1} s, makeimg {built:.1} s, with its cache {again:.1} s");
            plain.push(built / alone);
            cached.push(again / alone);
        }
        let mut judged = Judged::default();
        let mut judge = |what: &str, ratios: Vec<f64>, limit: f64| {
            let ratio = median(ratios);
            judged.judge(what, &format!("{ratio:.2}"), &limit.to_string(), ratio <= limit);
        };
        judge("a disk image, against mmdebstrap alone", plain, 1.05);
        judge("the same with a cache, against mmdebstrap alone", cached, 0.6);
        judged.end()
    }

    /// Seconds for the bootstrap alone, into a directory.
    fn mmdebstrap(&self) -> Result<f64> {
        let root = self.work.join("root");
        let url = self.server.url();
        let mut command = Command::new("mmdebstrap");
        command.args(["--mode=root", "--format=directory", "--variant=minbase", "--include"]).arg(&self.packages);
        command.arg("trixie").arg(&root);
        for (archive, suite) in [("", "trixie"), ("", "trixie-updates"), ("-security", "trixie-security")] {
            command.arg(format!("deb {url}{archive} {suite} main"));
        }
        let seconds = timed(&mut command)?;
        fs::remove_dir_all(&root).context("the system that was bootstrapped")?;
        Ok(seconds)
    }

    /// Seconds for the example's image.
    fn makeimg(&self, cache: Option<&Path>) -> Result<f64> {
        let out = self.work.join("out");
        fs::create_dir_all(&out).context("the directory for the image")?;
        let mut command = Command::new(checkout().join("target/release/makeimg"));
        command.args(["build", "--mirror", &self.server.url()]).arg("-C").arg(&self.project).arg("-o").arg(&out);
        if let Some(cache) = cache {
            command.arg(format!("--cache={}", cache.display()));
        }
        let seconds = timed(&mut command)?;
        fs::remove_dir_all(&out).context("the image")?;
        Ok(seconds)
    }
}

/// Seconds from a command's start to its end.
fn timed(command: &mut Command) -> Result<f64> {
    let begin = Instant::now();
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().context(format!("cannot run {name}: `make build` and `make tools`"))?;
    let seconds = begin.elapsed().as_secs_f64();
    if !output.status.success() {
        bail!("{name}: {}\n{}", output.status, tail(&String::from_utf8_lossy(&output.stderr), 12));
    }
    Ok(seconds)
}
