//! The base image, from the first source that has it.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use anemos_base::{Archive, Fetcher, Lock, Mirrors, Proxies};
use anemos_host::Root;
use anemos_proto::Digest;
use anemos_proto::event::{Level, Unit};
use anemos_proto::stage::{BaseSource, Proxy, StagePlan, StageReply};

use crate::blobs::Blobs;
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
    /// The lock, which names the image's SHA-256 and the packages that make it.
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

impl Sources<'_> {
    /// Writes the image, compressed and verified, to the end of `out`.
    pub fn write(&self, out: &mut File) -> Result<()> {
        let step = self.report.step("base");
        let start = out.stream_position().map_err(|error| Fault::new("writing the base", error))?;
        let mut reasons = Vec::new();
        for source in &self.plan.base {
            if *source == BaseSource::Cache && !self.root.at(&self.cached()).exists() {
                // No warning: the cache is empty at every first deployment.
                reasons.push(format!("{}: it has none", name(source)));
                continue;
            }
            let attempt = rewind(out, start).map_err(|error| error.to_string());
            match attempt.and_then(|()| self.from(source, out, start, &step)) {
                Ok(()) => {
                    step.finish();
                    return Ok(());
                }
                Err(why) => {
                    let text = format!("{}: {why}", name(source));
                    if self.fetcher.is_cancelled() {
                        break;
                    }
                    self.report.note(Level::Warning, format!("no base image from {text}"));
                    reasons.push(text);
                }
            }
        }
        let why = if reasons.is_empty() { "no source was given".to_owned() } else { reasons.join("; ") };
        step.fail(why.clone());
        Err(Fault::new("getting the base image", why)
            .hint("name another `mirror`, or a `snapshot` archive, or serve the image with `base.urls`, or upload it"))
    }

    /// Where the host keeps the image from an earlier deployment.
    fn cached(&self) -> String {
        format!("{CACHE}/base-{}.cpio.zst", Digest(*self.lock.image.as_bytes()))
    }

    fn from(&self, source: &BaseSource, out: &mut File, start: u64, step: &Step) -> std::result::Result<(), String> {
        let text = |error: anemos_base::Error| error.to_string();
        match source {
            BaseSource::Cache => {
                let path = self.cached();
                let file = File::open(self.root.at(&path)).map_err(|error| format!("{path}: {error}"))?;
                let length = file.metadata().map(|metadata| metadata.len()).ok();
                let copy = Counted { out, step, done: 0, total: length, what: "cache" };
                anemos_base::copy_verified(self.lock, file, copy).map_err(|error| format!("{path}: {error}"))?;
            }
            BaseSource::Urls(urls) => {
                let what = "download";
                let out = &*out;
                let mut begin = || {
                    rewind(out, start)?;
                    Ok(Counted { out, step, done: 0, total: None, what })
                };
                anemos_base::fetch_image(self.fetcher, self.lock, urls, &mut begin).map_err(text)?;
            }
            BaseSource::Build => {
                memory::of(self.root).builds(self.lock.image_size).map_err(|short| short.to_string())?;
                let mirrors = archives(self.root, self.plan);
                let archive =
                    Archive::new(self.fetcher, self.lock, mirrors, || snapshot(self.root, self.plan, self.lock));
                let mut tell = |progress: anemos_base::Progress<'_>| {
                    let total = Some(progress.total_bytes);
                    step.progress(progress.done_bytes, total, Unit::Bytes, Some(progress.package));
                };
                anemos_base::build(self.lock, &archive, LEVEL, out, &mut tell).map_err(text)?;
            }
            BaseSource::Upload(blob) => {
                // Asks for the image only now, since uploading it over the slow link is the last resort.
                let needed = self.blobs.announce(self.root, &[*blob]).map_err(|fault| fault.to_string())?;
                if !needed.is_empty() {
                    self.output.send(&StageReply::Need(needed));
                }
                let bytes = self.blobs.take(blob.digest);
                let copy = Counted { out, step, done: 0, total: Some(bytes.len() as u64), what: "upload" };
                anemos_base::copy_verified(self.lock, &bytes[..], copy).map_err(text)?;
            }
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

/// Cuts `out` off at `start` and writes on from there.
fn rewind(mut out: &File, start: u64) -> io::Result<()> {
    out.set_len(start)?;
    out.seek(SeekFrom::Start(start)).map(|_| ())
}

/// A file that reports how many bytes have been written to it.
struct Counted<'a> {
    out: &'a File,
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
