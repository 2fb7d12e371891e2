//! The images of the base, each from the first source that has it.

use std::fs::File;
use std::io::{self, BufReader, Write};

use anemos_base::{Archive, Fetcher, Group, Lock, Mirrors, Places, Proxies};
use anemos_host::Root;
use anemos_proto::event::{Level, Unit};
use anemos_proto::stage::{BaseSource, Proxy, StagePlan, StageReply};

use crate::blobs::Blobs;
use crate::compose::{self, Initramfs, Opened};
use crate::error::{Fault, Result};
use crate::facts::{self, CACHE};
use crate::memory;
use crate::report::{Report, Step};
use crate::wire::Output;

/// zstd level of an image that is built on the host. A low one, since the host waits for it, and the image only has to
/// fit into memory.
const LEVEL: i32 = 3;

/// What is needed to get the base.
pub struct Sources<'a> {
    /// The host's files.
    pub root: &'a Root,
    /// The plan, with the sources in the order in which they are tried.
    pub plan: &'a StagePlan,
    /// The lock, which names the images' SHA-256 and the packages that make them.
    pub lock: &'a Lock,
    /// Downloads.
    pub fetcher: &'a Fetcher,
    /// What the controller sends.
    pub blobs: &'a Blobs,
    /// Sends requests for further blobs.
    pub output: &'a Output,
    /// Reports steps and progress.
    pub report: &'a Report,
}

/// Archives to ask, in this order: the user's, then the host's own; the workstation's only if there is neither.
pub fn mirrors(root: &Root, plan: &StagePlan) -> Vec<String> {
    let mut mirrors: Vec<String> = plan.mirror.iter().cloned().collect();
    for mirror in facts::mirrors(root) {
        if !mirrors.contains(&mirror) {
            mirrors.push(mirror);
        }
    }
    if mirrors.is_empty() {
        mirrors.extend(plan.fallback_mirror.iter().cloned());
    }
    mirrors
}

/// The archives that packages of a lock are in.
pub fn archives(root: &Root, plan: &StagePlan) -> Mirrors {
    Mirrors::new(mirrors(root, plan), anemos_base::security_from_apt_sources(&root.at("/etc/apt")))
}

/// The HTTP proxies through which archives are reached.
pub fn proxies(root: &Root, plan: &StagePlan) -> Proxies {
    match &plan.proxy {
        Proxy::Own => facts::proxies(root),
        Proxy::Direct => Proxies::default().replaced(None),
        Proxy::At(url) => facts::proxies(root).replaced(Some(url)),
    }
}

/// The archive of past versions: the first that is known to the user's configuration, the lock, the host's apt, the
/// workstation, or the apt in the base image of an earlier deployment.
pub fn snapshot(root: &Root, plan: &StagePlan, lock: &Lock) -> Option<String> {
    plan.snapshot
        .clone()
        .or_else(|| lock.snapshot.clone())
        .or_else(anemos_base::snapshot_of_apt)
        .or_else(|| plan.fallback_snapshot.clone())
        .or_else(|| anemos_base::snapshot_of_images(&root.at(CACHE)))
}

impl<'a> Sources<'a> {
    /// Writes the images, compressed and verified, to the end of the initramfs. Gives the files of `/anemos` that they
    /// are, each with the group whose image it is.
    pub fn write(&self, initramfs: &mut Initramfs) -> Result<Vec<(String, &'a Group)>> {
        let step = self.report.step("base");
        let mut reasons = Vec::new();
        let mut missing: Vec<&Group> = self.lock.groups.iter().collect();
        let mut taking = Taking { initramfs, step: &step, total: None, what: "", open: None, taken: Vec::new() };
        for source in &self.plan.base {
            if *source == BaseSource::Cache && !missing.iter().any(|group| self.root.at(&cached(group)).exists()) {
                // No warning: the cache is empty at every first deployment.
                reasons.push(format!("{}: it has none", name(source)));
                continue;
            }
            let attempt = self.from(source, &mut missing, &mut taking);
            taking.discard().map_err(|error| Fault::new("writing the base", error))?;
            if missing.is_empty() {
                let taken = taking.taken.into_iter();
                let group = |name: &str| self.lock.groups.iter().find(|group| group.name == name);
                let taken = taken.filter_map(|(file, name)| Some((file, group(&name)?))).collect();
                step.finish();
                return Ok(taken);
            }
            let Err(why) = attempt else { continue };
            let text = format!("{}: {why}", name(source));
            if self.fetcher.is_cancelled() {
                break;
            }
            self.report.note(Level::Warning, format!("no base image from {text}"));
            reasons.push(text);
        }
        let why = if reasons.is_empty() { "no source was given".to_owned() } else { reasons.join("; ") };
        step.fail(why.clone());
        Err(Fault::new("getting the base image", why)
            .hint("name another `mirror`, or a `snapshot` archive, or serve the image with `base.urls`, or upload it"))
    }

    /// Takes from a source what it has of the images that are missing.
    fn from(
        &self,
        source: &BaseSource,
        missing: &mut Vec<&Group>,
        taking: &mut Taking<'_>,
    ) -> std::result::Result<(), String> {
        let text = |error: anemos_base::Error| error.to_string();
        match source {
            BaseSource::Cache => self.cache(missing, taking),
            BaseSource::Urls(urls) => {
                taking.source("download", None);
                let (directories, files): (Vec<&String>, Vec<&String>) =
                    urls.iter().partition(|url| url.ends_with('/'));
                while let Some(group) = missing.first().filter(|_| !directories.is_empty()) {
                    let urls: Vec<String> =
                        directories.iter().map(|directory| format!("{directory}{}", group.file_name())).collect();
                    match anemos_base::fetch_image(self.fetcher, group, &urls, &mut || taking.counted()) {
                        Ok(_) => taking.keep(group).map_err(|error| error.to_string())?,
                        Err(error) if files.is_empty() => return Err(text(error)),
                        Err(_) => break,
                    }
                    missing.remove(0);
                }
                let files: Vec<String> = files.into_iter().cloned().collect();
                if missing.is_empty() {
                    return Ok(());
                }
                anemos_base::fetch_images(self.fetcher, missing, &files, taking).map_err(text)
            }
            BaseSource::Build => self.build(missing, taking),
            BaseSource::Upload(blob) => {
                // Asks for the images only now, since uploading them over the slow link is the last resort.
                let needed = self.blobs.announce(self.root, &[*blob]).map_err(|fault| fault.to_string())?;
                if !needed.is_empty() {
                    self.output.send(&StageReply::Need(needed));
                }
                let bytes = self.blobs.take(blob.digest);
                taking.source("upload", Some(bytes.len() as u64));
                anemos_base::copy_images(missing, &bytes[..], taking).map_err(text)
            }
        }
    }

    fn cache(&self, missing: &mut Vec<&Group>, taking: &mut Taking<'_>) -> std::result::Result<(), String> {
        let mut problems = Vec::new();
        let mut still = Vec::new();
        for group in missing.drain(..) {
            let path = cached(group);
            let Ok(file) = File::open(self.root.at(&path)) else {
                still.push(group);
                continue;
            };
            taking.source("cache", file.metadata().map(|metadata| metadata.len()).ok());
            let copied = taking.begin().map_err(|error| error.to_string()).and_then(|copy| {
                anemos_base::copy_verified(group, BufReader::new(file), copy).map_err(|error| error.to_string())
            });
            match copied.and_then(|_| taking.keep(group).map_err(|error| error.to_string())) {
                Ok(()) => {}
                Err(why) => {
                    problems.push(format!("{path}: {why}"));
                    still.push(group);
                }
            }
        }
        *missing = still;
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }

    fn build(&self, missing: &mut Vec<&Group>, taking: &mut Taking<'_>) -> std::result::Result<(), String> {
        let sum = |size: fn(&Group) -> u64| missing.iter().map(|group| size(group)).fold(0, u64::saturating_add);
        memory::of(self.root).builds(sum(|group| group.image_size)).map_err(|short| short.to_string())?;
        let total = Some(sum(Group::download_size));
        let mirrors = archives(self.root, self.plan);
        let archive = Archive::new(self.fetcher, self.lock, mirrors, || snapshot(self.root, self.plan, self.lock));
        let mut done = 0;
        while let Some(group) = missing.first() {
            let step = taking.step;
            let mut tell = |progress: anemos_base::Progress<'_>| {
                step.progress(done + progress.done_bytes, total, Unit::Bytes, Some(progress.package));
            };
            let place = taking.place().map_err(|error| error.to_string())?;
            anemos_base::build(self.lock, group, &archive, LEVEL, place, &mut tell)
                .map_err(|error| error.to_string())?;
            taking.keep(group).map_err(|error| error.to_string())?;
            done += group.download_size();
            missing.remove(0);
        }
        Ok(())
    }
}

/// Where the host keeps a group's image from an earlier deployment.
fn cached(group: &Group) -> String {
    format!("{CACHE}/{}", group.file_name())
}

/// Puts images into the initramfs, and reports how much of them has come.
struct Taking<'a> {
    initramfs: &'a mut Initramfs,
    step: &'a Step,
    what: &'static str,
    total: Option<u64>,
    /// What is being written.
    open: Option<Opened>,
    /// The names of what was written: of the file, and of the group.
    taken: Vec<(String, String)>,
}

impl<'a> Taking<'a> {
    /// Says where the next images come from, and how many bytes there are, if that is known.
    fn source(&mut self, what: &'static str, total: Option<u64>) {
        (self.what, self.total) = (what, total);
    }

    /// Cuts off what was not kept.
    fn discard(&mut self) -> io::Result<()> {
        self.open.take().map_or(Ok(()), |open| self.initramfs.undo(&open))
    }

    /// An empty place for the next image.
    fn place(&mut self) -> io::Result<&File> {
        self.discard()?;
        let path = format!("anemos/{}", compose::base_name(self.taken.len()));
        self.open = Some(self.initramfs.open(&path).map_err(io::Error::other)?);
        Ok(self.initramfs.file())
    }

    /// The same, as a file of its own that writes to the same place and reports how much.
    fn counted(&mut self) -> io::Result<Counted<'a>> {
        let (step, total, what) = (self.step, self.total, self.what);
        Ok(Counted { out: self.place()?.try_clone()?, step, done: 0, total, what })
    }
}

impl Places for Taking<'_> {
    fn begin(&mut self) -> io::Result<Box<dyn Write + '_>> {
        Ok(Box::new(self.counted()?))
    }

    fn keep(&mut self, group: &Group) -> io::Result<()> {
        if let Some(open) = self.open.take() {
            self.initramfs.close(&open).map_err(io::Error::other)?;
            self.taken.push((compose::base_name(self.taken.len()), group.name.clone()));
        }
        Ok(())
    }
}

fn name(source: &BaseSource) -> &'static str {
    match source {
        BaseSource::Cache => "the host's cache",
        BaseSource::Urls(_) => "its URLs",
        BaseSource::Build => "distribution packages",
        BaseSource::Upload(_) => "the workstation",
    }
}

/// A file that reports how many bytes have been written to it.
struct Counted<'a> {
    out: File,
    step: &'a Step,
    done: u64,
    total: Option<u64>,
    what: &'static str,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.done += written as u64;
        self.step.progress(self.done, self.total, Unit::Bytes, Some(self.what));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
