//! Where past versions of Debian's packages are kept: apt and base images know, and no file of ours names an archive.
//!
//! Since 2.7 apt has the addresses built in, and options that override them (apt.conf(5), `Acquire::Snapshots::URI`).
//! What comes from there is pinned, so nobody has to vouch for the answer.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use crate::apt_config;
use crate::apt_sources::without_credentials;

/// What the snapshot archive's address has in place of the time.
pub const SNAPSHOT_ID: &str = "@SNAPSHOTID@";

/// Options that name the archive of Debian's main packages, in the order in which apt itself heeds them.
const OPTIONS: [&str; 4] = [
    "Acquire::Snapshots::URI::Override::Label::Debian",
    "Acquire::Snapshots::URI::Override::Origin::Debian",
    "Acquire::Snapshots::URI::Label::Debian",
    "Acquire::Snapshots::URI::Origin::Debian",
];

/// What the end of the address of Debian's main archive looks like in a program that knows it.
const END: &[u8] = b"/debian/@SNAPSHOTID@/";

/// No address is longer.
const LONGEST: usize = 256;

/// The address that this machine's apt has, with [`SNAPSHOT_ID`] in it; `None` if there is no apt, or one that knows
/// none.
pub fn snapshot_of_apt() -> Option<String> {
    of_apt(apt_config::apt_config())
}

fn of_apt(apt_config: Command) -> Option<String> {
    apt_config::values(apt_config, OPTIONS).into_iter().flatten().find_map(|value| address(&value))
}

/// The address that the apt in one of the base images in a cache has: files called `base-….cpio.zst` in `directory`.
pub fn snapshot_of_images(directory: &Path) -> Option<String> {
    std::fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name();
        let name = name.to_str()?;
        (name.starts_with("base-") && name.ends_with(".cpio.zst")).then_some(())?;
        in_image(zstd::stream::read::Decoder::new(File::open(entry.path()).ok()?).ok()?)
    })
}

/// Whether this is the address of a snapshot archive, as a lock may name one: without a password.
pub fn is_template(text: &str) -> bool {
    address(text).as_deref() == Some(text)
}

fn address(text: &str) -> Option<String> {
    let usable = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
    (usable && text.contains(SNAPSHOT_ID)).then(|| without_credentials(text))
}

/// Looks through an image, whose files are in it as they are, for the address as apt's library has it: text that ends
/// with a zero byte.
pub(crate) fn in_image(mut image: impl Read) -> Option<String> {
    let mut window = Vec::new();
    loop {
        let read = image.by_ref().take(128 << 10).read_to_end(&mut window).ok()?;
        for at in ends(&window) {
            let start = window[..at].iter().rposition(|byte| !byte.is_ascii_graphic()).map_or(0, |before| before + 1);
            let text = std::str::from_utf8(&window[start..at + END.len()]).ok();
            // An example in a configuration file is quoted, and has no zero byte after it.
            let whole = window.get(at + END.len()) == Some(&0);
            if let Some(found) = text.filter(|_| whole).and_then(address) {
                return Some(found);
            }
        }
        if read == 0 {
            return None;
        }
        // What began here may end in the next piece.
        window.drain(..window.len().saturating_sub(LONGEST));
    }
}

/// Where the end of an address begins.
fn ends(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.windows(END.len()).enumerate().filter(|(_, window)| *window == END).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_images() {
        let padding = vec![7; (128 << 10) - 20];
        let known = b"\0https://past.example/archive/debian/@SNAPSHOTID@/\0Acquire::Snapshots::URI::Origin::Debian\0";
        let others =
            b"\0https://past.example/@PATH@/@SNAPSHOTID@/\0https://past.example/debian-security/@SNAPSHOTID@/\0\
            // Origin::Debian \"https://no.example/debian/@SNAPSHOTID@/\";\n\0ftp://no.example/debian/@SNAPSHOTID@/\0";
        let want = Some("https://past.example/archive/debian/@SNAPSHOTID@/".to_owned());
        // At the border of two pieces too.
        for before in (0..80).map(|more| [&padding[..], &vec![7; more]].concat()) {
            assert_eq!(in_image(&[&before[..], others, known].concat()[..]), want);
        }
        assert_eq!(in_image(&known[..]), want);
        assert_eq!(in_image(&others[..]), None);
        assert_eq!(in_image(&b""[..]), None);
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(snapshot_of_images(cache.path()), None);
        std::fs::write(cache.path().join("blob-1"), zstd::encode_all(&known[..], 1).unwrap()).unwrap();
        std::fs::write(cache.path().join("base-0.cpio.zst"), b"damaged").unwrap();
        assert_eq!(snapshot_of_images(cache.path()), None);
        std::fs::write(cache.path().join("base-1.cpio.zst"), zstd::encode_all(&known[..], 1).unwrap()).unwrap();
        assert_eq!(snapshot_of_images(cache.path()), want);
        assert_eq!(snapshot_of_images(&cache.path().join("none")), None);
    }

    /// Any apt gives back what it is told; one since 2.7 knows something by itself, which this clears.
    #[test]
    fn options_of_apt() {
        if !Path::new("/usr/bin/apt-config").exists() {
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let told = |text: &str| {
            std::fs::write(file.path(), format!("#clear Acquire::Snapshots::URI;\n{text}")).unwrap();
            let mut command = Command::new("apt-config");
            command.env("APT_CONFIG", file.path());
            of_apt(command)
        };
        let option = |name: &str, value: &str| format!("Acquire::Snapshots::URI::{name} \"{value}\";\n");
        assert_eq!(told(""), None);
        let own = option("Origin::Debian", "https://own.example/@SNAPSHOTID@/");
        assert_eq!(told(&own).as_deref(), Some("https://own.example/@SNAPSHOTID@/"));
        // apt takes its options' names in any case.
        let other = option("Override::Origin::debian", "http://other.example/@SNAPSHOTID@/");
        assert_eq!(told(&(own.clone() + &other)).as_deref(), Some("http://other.example/@SNAPSHOTID@/"));
        // Switched off, as apt has it, and one for another origin.
        assert_eq!(told(&option("Origin::Debian", "no")), None);
        assert_eq!(told(&option("Origin::Other", "http://other.example/@SNAPSHOTID@/")), None);
        assert_eq!(of_apt(Command::new("/nonexistent/apt-config")), None);
    }

    #[test]
    fn what_is_an_address() {
        assert_eq!(address("http://a/@SNAPSHOTID@/").as_deref(), Some("http://a/@SNAPSHOTID@/"));
        assert_eq!(address("http://u:secret@a/@SNAPSHOTID@/").as_deref(), Some("http://a/@SNAPSHOTID@/"));
        assert!(is_template("http://a/@SNAPSHOTID@/") && !is_template("http://u:secret@a/@SNAPSHOTID@/"));
        for text in ["", "no", "http://a/", "ftp://a/@SNAPSHOTID@/"] {
            assert_eq!(address(text), None);
            assert!(!is_template(text));
        }
    }
}
