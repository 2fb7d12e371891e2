//! `filesystems`: which file systems a disk has, how large they are, and which of those that it had are kept.

use serde::{Deserialize, Serialize};

use crate::words::{Filesystem, size};

/// Where a file system belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum At {
    /// A mount point, absolute and without `.` and `..`.
    Path(String),
    /// It is swap space.
    Swap,
    /// Nowhere: only its partition is there.
    Nowhere,
}

/// How large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Size {
    /// Bytes.
    Bytes(u64),
    /// What the others leave.
    Rest,
}

/// A line of `filesystems`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Where it belongs.
    pub at: At,
    /// How large it is made. Without a size it is never made.
    pub size: Option<Size>,
    /// The kind of file system that is made; without one, that of `format`.
    pub filesystem: Option<Filesystem>,
    /// Whether a partition of this label that the disk has is kept as it is.
    pub keep: bool,
    /// Its label.
    pub label: String,
}

impl Volume {
    /// All of a disk, or all that the others leave.
    pub fn root() -> Self {
        let at = At::Path("/".into());
        Self { at, size: Some(Size::Rest), filesystem: None, keep: false, label: "root".into() }
    }

    /// Its mount point, if it has one.
    pub fn path(&self) -> Option<&str> {
        match &self.at {
            At::Path(path) => Some(path),
            At::Swap | At::Nowhere => None,
        }
    }

    /// As the IMGBUILD has it in its first word.
    pub fn name(&self) -> &str {
        match &self.at {
            At::Path(path) => path,
            At::Swap => "swap",
            At::Nowhere => "none",
        }
    }

    /// A line: `MOUNTPOINT [SIZE] [FILESYSTEM] [keep] [LABEL=…]`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let at = at(words.next().unwrap_or_default())?;
        let mut volume = Self { at, size: None, filesystem: None, keep: false, label: String::new() };
        for word in words {
            volume.word(word)?;
        }
        volume.complete()
    }

    fn word(&mut self, word: &str) -> Result<(), String> {
        let is_new = if word == "keep" {
            !std::mem::replace(&mut self.keep, true)
        } else if word == "rest" {
            self.size.replace(Size::Rest).is_none()
        } else if let Some(label) = word.strip_prefix("LABEL=") {
            if label.is_empty() || !label.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c)) {
                return Err(format!("{label:?} is no label"));
            }
            std::mem::replace(&mut self.label, label.to_owned()).is_empty()
        } else if let Some(filesystem) = Filesystem::from_word(word) {
            self.filesystem.replace(filesystem).is_none()
        } else if word.starts_with(|c: char| c.is_ascii_digit()) {
            let bytes = size(word).map_err(|(what, _)| what)?;
            self.size.replace(Size::Bytes(bytes)).is_none()
        } else {
            return Err(format!("{word:?} is no size, no file system and not `keep`"));
        };
        if is_new { Ok(()) } else { Err(format!("{word:?} is too much after what stands before it")) }
    }

    fn complete(mut self) -> Result<Self, String> {
        let (name, what) = (self.name().to_owned(), |what: &str| Err(what.to_owned()));
        match &self.at {
            At::Path(path) if path == "/" => {
                if self.keep {
                    return what("/ is what is built, so it can't be kept");
                }
                self.size.get_or_insert(Size::Rest);
            }
            At::Path(path) if path == "/boot/efi" => {
                return what("/boot/efi is made where GRUB starts the system, and is not named here");
            }
            At::Path(path) if path == "/boot" && self.keep => {
                return what("/boot belongs to what is built, so it can't be kept");
            }
            At::Swap if self.keep => return what("nothing in swap is worth keeping"),
            At::Swap if self.filesystem.is_some() => return what("swap has no file system"),
            At::Nowhere if !self.keep || self.size.is_some() => {
                return what("`none` is for what is kept and not mounted: none keep LABEL=…");
            }
            At::Nowhere if self.label.is_empty() => return what("what is kept and not mounted needs its LABEL=…"),
            At::Path(_) | At::Swap | At::Nowhere => {}
        }
        if self.size.is_none() {
            if !self.keep {
                return Err(format!("how large is {name}?"));
            }
            if self.filesystem.is_some() {
                return what("a file system that is only kept has the type that it has");
            }
        }
        if self.label.is_empty() {
            self.label = match &self.at {
                At::Path(path) if path == "/" => "root".into(),
                _ => name.trim_matches('/').replace('/', "-"),
            };
        }
        // XFS takes the shortest labels (mkfs.xfs(8)). With one that fits there, the file system's type can be changed.
        if self.size.is_some() && self.label.len() > 12 {
            return Err(format!("the label {:?} is longer than 12 characters: say another with LABEL=…", self.label));
        }
        Ok(self)
    }
}

fn at(word: &str) -> Result<At, String> {
    match word {
        "swap" => return Ok(At::Swap),
        "none" => return Ok(At::Nowhere),
        "/" => return Ok(At::Path(word.into())),
        _ => {}
    }
    let good = |part: &str| {
        !matches!(part, "" | "." | "..") && part.chars().all(|c| c.is_ascii_alphanumeric() || "._+@-".contains(c))
    };
    match word.strip_prefix('/') {
        Some(rest) if rest.split('/').all(good) => Ok(At::Path(word.to_owned())),
        _ => Err(format!("{word:?} is no mount point")),
    }
}

/// Checks the lines against each other and puts them into an order in which they can be mounted. The root is added if
/// it is not among them.
///
/// # Errors
/// The first line, from 0 in `volumes`, that does not go with those before it, and why.
pub fn together(mut volumes: Vec<Volume>) -> Result<Vec<Volume>, (usize, String)> {
    for (index, volume) in volumes.iter().enumerate() {
        let before = &volumes[..index];
        if volume.path().is_some() && before.iter().any(|other| other.at == volume.at) {
            return Err((index, format!("{} is there twice", volume.name())));
        }
        if before.iter().any(|other| other.label == volume.label) {
            return Err((index, format!("the label {:?} is there twice: say another with LABEL=…", volume.label)));
        }
        if volume.label.eq_ignore_ascii_case("EFI") {
            return Err((index, "the label \"EFI\" is the EFI system partition's: say another with LABEL=…".into()));
        }
        let is_rest = |volume: &Volume| volume.size == Some(Size::Rest);
        if is_rest(volume)
            && let Some(other) = before.iter().find(|other| is_rest(other))
        {
            return Err((index, format!("{} and {} can't both have the rest", other.name(), volume.name())));
        }
    }
    if !volumes.iter().any(|volume| volume.path() == Some("/")) {
        if let Some(index) = volumes.iter().position(|volume| volume.size == Some(Size::Rest)) {
            return Err((index, "where / is not named, it has the rest".into()));
        }
        if let Some(index) = volumes.iter().position(|volume| volume.label == "root") {
            return Err((index, "the label \"root\" is that of /: say another with LABEL=…".into()));
        }
        volumes.push(Volume::root());
    }
    volumes.sort_by_key(|volume| volume.path().map_or(usize::MAX, depth));
    Ok(volumes)
}

fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, size: Option<Size>, filesystem: Option<Filesystem>, keep: bool, label: &str) -> Volume {
        Volume { at: at(name).unwrap(), size, filesystem, keep, label: label.into() }
    }

    #[test]
    fn lines() {
        let four = Some(Size::Bytes(4 << 30));
        let xfs = Some(Filesystem::Xfs);
        for (line, expected) in [
            ("/ rest", volume("/", Some(Size::Rest), None, false, "root")),
            ("/", volume("/", Some(Size::Rest), None, false, "root")),
            ("/var 4G xfs", volume("/var", four, xfs, false, "var")),
            ("/srv/www xfs 4G keep", volume("/srv/www", four, xfs, true, "srv-www")),
            ("/home keep LABEL=old-home", volume("/home", None, None, true, "old-home")),
            ("swap 4G", volume("swap", four, None, false, "swap")),
            ("none keep LABEL=a-very-long-one", volume("none", None, None, true, "a-very-long-one")),
        ] {
            assert_eq!(Volume::parse(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn lines_that_are_wrong() {
        for (line, what) in [
            ("srv 4G", "\"srv\" is no mount point"),
            ("/a/../b 4G", "\"/a/../b\" is no mount point"),
            ("/srv", "how large is /srv?"),
            ("/srv 4", "4 bytes are no disk"),
            ("/srv ext5", "\"ext5\" is no size, no file system and not `keep`"),
            ("/srv 4G 5G", "\"5G\" is too much after what stands before it"),
            ("/srv keep xfs", "a file system that is only kept has the type that it has"),
            ("/ keep", "/ is what is built, so it can't be kept"),
            ("swap 1G keep", "nothing in swap is worth keeping"),
            ("none keep", "what is kept and not mounted needs its LABEL=…"),
            ("none 1G", "`none` is for what is kept and not mounted: none keep LABEL=…"),
            (
                "/var/lib/postgresql 4G",
                "the label \"var-lib-postgresql\" is longer than 12 characters: say another with LABEL=…",
            ),
        ] {
            assert_eq!(Volume::parse(line), Err(what.to_owned()), "{line}");
        }
    }

    #[test]
    fn all_lines() {
        let all = |lines: &[&str]| together(lines.iter().map(|line| Volume::parse(line).unwrap()).collect());
        let names = |lines: &[&str]| {
            all(lines).map(|volumes| volumes.iter().map(|volume| volume.name().to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(all(&[]), Ok(vec![Volume::root()]));
        assert_eq!(names(&["swap 1G", "/var/lib 1G", "/var 1G"]).unwrap(), ["/", "/var", "/var/lib", "swap"]);
        assert_eq!(all(&["/srv 1G", "/srv 2G"]), Err((1, "/srv is there twice".into())));
        assert_eq!(
            all(&["/srv 1G", "none keep LABEL=srv"]),
            Err((1, "the label \"srv\" is there twice: say another with LABEL=…".into()))
        );
        assert_eq!(all(&["/", "/srv rest"]), Err((1, "/ and /srv can't both have the rest".into())));
        assert_eq!(all(&["/srv rest"]), Err((0, "where / is not named, it has the rest".into())));
    }
}
