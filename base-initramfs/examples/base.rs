//! Makes, builds and verifies base images without the controller, for work on this crate.
//!
//! `base lock LIST LOCK [MIRROR]`, `base build LOCK IMAGE LEVEL [MIRROR…]`, `base verify LOCK IMAGE`

use std::error::Error;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use anemos_base::{
    Archive, BaseList, DEBIAN_KEYRING, Fetcher, Limits, Lock, Progress, Resolve, Time, build, mirrors_from_apt_sources,
    resolve, verify,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let fetcher = Fetcher::new(Limits::default());
    let own = || mirrors_from_apt_sources(Path::new("/etc/apt"));
    let mut report = |progress: Progress<'_>| {
        eprint!("\r\x1b[K{}/{} {}", progress.done + 1, progress.total, progress.package);
    };
    match arguments.as_slice() {
        ["lock", list, lock, mirror @ ..] => {
            let mirror = mirror.first().map(ToString::to_string).or_else(|| own().into_iter().next());
            let how = Resolve { mirror: mirror.ok_or("no mirror")?, keyring: DEBIAN_KEYRING.into(), made: Time::now() };
            let list = BaseList::parse(list, &fs::read_to_string(list)?)?;
            let made = resolve(&list, &how, &fetcher, &mut report)?;
            fs::write(lock, made.to_text())?;
            eprintln!(
                "\n{} packages, {} to download, image {}",
                made.packages.len(),
                made.download_size(),
                made.image_size
            );
        }
        ["build", lock, image, level, mirrors @ ..] => {
            let lock = Lock::parse(lock, &fs::read_to_string(lock)?)?;
            let mirrors = if mirrors.is_empty() { own() } else { mirrors.iter().map(ToString::to_string).collect() };
            let archive = Archive::new(&fetcher, &lock, mirrors, None);
            let built = build(&lock, &archive, level.parse()?, File::create(image)?, &mut report)?;
            eprintln!("\n{built:?}");
        }
        ["verify", lock, image] => {
            let lock = Lock::parse(lock, &fs::read_to_string(lock)?)?;
            eprintln!("{:?}", verify(&lock, BufReader::new(File::open(image)?))?);
        }
        _ => return Err("base lock|build|verify …".into()),
    }
    Ok(())
}
