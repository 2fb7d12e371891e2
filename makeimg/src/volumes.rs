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
    /// Mount options as fstab(5) has them, besides those that it gets anyway.
    #[serde(default)]
    pub options: Vec<String>,
    /// Further words for the program that makes its file system.
    #[serde(default)]
    pub mkfs: Vec<String>,
    /// The subvolume of a Btrfs that is mounted. Without a size, it is one of the nearest Btrfs above it.
    #[serde(default)]
    pub subvolume: Option<String>,
    /// How its partition is encrypted, if it is.
    #[serde(default)]
    pub luks: Option<Luks>,
}

/// How a volume is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Luks {
    /// Its name below /dev/mapper, and that of the file with its passphrase.
    pub name: String,
    /// Whether the initramfs has its passphrase, and so nobody is asked.
    pub in_initramfs: bool,
}

/// The volumes that are encrypted.
pub(crate) fn encrypted(volumes: &[Volume]) -> impl Iterator<Item = &Luks> {
    volumes.iter().filter_map(|volume| volume.luks.as_ref())
}

/// What mount options are made of.
const OPTION: &str = "._=:+-/";

impl Volume {
    /// All of a disk, or all that the others leave.
    pub fn root() -> Self {
        let new = Self::new(At::Path("/".into()));
        Self { size: Some(Size::Rest), label: "root".into(), ..new }
    }

    fn new(at: At) -> Self {
        let (options, mkfs) = (Vec::new(), Vec::new());
        let (size, filesystem, label, subvolume, luks) = (None, None, String::new(), None, None);
        Self { at, size, filesystem, keep: false, label, options, mkfs, subvolume, luks }
    }

    /// The mount option that names its subvolume.
    pub fn subvolume_option(&self) -> Option<String> {
        self.subvolume.as_ref().map(|name| format!("subvol={name}"))
    }

    /// Whether it is in the file system of another line.
    pub fn is_shared(&self) -> bool {
        self.size.is_none() && self.subvolume.is_some()
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

    /// A line: `MOUNTPOINT [SIZE] [FILESYSTEM] [keep] [LABEL=…] [subvol=…] [options=…] [mkfs=…]… [luks=…]
    /// [key=initramfs]`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let at = at(words.next().unwrap_or_default())?;
        let mut volume = Self::new(at);
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
        } else if let Some(name) = word.strip_prefix("subvol=") {
            let good = |c: char| c.is_ascii_alphanumeric() || "._+@-".contains(c);
            if !name.chars().all(good) || matches!(name, "" | "." | "..") {
                return Err(format!("{name:?} is no subvolume's name"));
            }
            self.subvolume.replace(name.to_owned()).is_none()
        } else if let Some(name) = word.strip_prefix("luks=") {
            // It is a file's name, and one below /dev/mapper, where `control` is the device mapper's own.
            let good = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
            if !name.chars().all(good) || name.starts_with(['.', '-']) || matches!(name, "" | "control") {
                return Err(format!("{name:?} can't be an encrypted device's name"));
            }
            self.luks.replace(Luks { name: name.to_owned(), in_initramfs: false }).is_none()
        } else if let Some(place) = word.strip_prefix("key=") {
            if place != "initramfs" {
                return Err(format!("{word:?} means nothing: key=initramfs puts the passphrase into the initramfs"));
            }
            let luks = self.luks.as_mut().ok_or("`key=` stands after `luks=…`, whose key it is")?;
            !std::mem::replace(&mut luks.in_initramfs, true)
        } else if let Some(options) = word.strip_prefix("options=") {
            let good = |c: char| c.is_ascii_alphanumeric() || OPTION.contains(c);
            if let Some(bad) = options.split(',').find(|option| option.is_empty() || !option.chars().all(good)) {
                return Err(format!("{bad:?} is no mount option"));
            }
            if let Some(own) = options.split(',').find(|option| option.starts_with("subvol")) {
                return Err(format!("{own:?} is no mount option here: subvol=… is a word of its own"));
            }
            let options = options.split(',').map(str::to_owned).collect();
            std::mem::replace(&mut self.options, options).is_empty()
        } else if let Some(more) = word.strip_prefix("mkfs=") {
            if more.is_empty() {
                return Err("`mkfs=` has no word for the program that makes the file system".into());
            }
            self.mkfs.push(more.to_owned());
            true
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
            At::Swap if self.subvolume.is_some() => return what("swap has no subvolume"),
            At::Nowhere if !self.options.is_empty() => return what("what is not mounted has no mount options"),
            At::Nowhere if !self.keep || self.size.is_some() => {
                return what("`none` is for what is kept and not mounted: none keep LABEL=…");
            }
            At::Nowhere if self.label.is_empty() => return what("what is kept and not mounted needs its LABEL=…"),
            At::Path(_) | At::Swap | At::Nowhere => {}
        }
        if self.keep && self.luks.is_some() {
            return what("what is kept stays as it is: `none keep LABEL=…` keeps a partition that is encrypted");
        }
        if self.keep && self.subvolume.is_some() {
            return what("a subvolume can't be kept, only a whole file system");
        }
        if self.size.is_none() {
            if !self.mkfs.is_empty() {
                return what("`mkfs=` is for what is made, which has a size");
            }
            if self.luks.is_some() {
                return what("`luks=` is for what is made, which has a size");
            }
            if self.is_shared() {
                if self.filesystem.is_some() || !self.label.is_empty() {
                    return what("a subvolume without a size is in the Btrfs above it, and has neither type nor label");
                }
                return Ok(self);
            }
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
        if !volume.is_shared() && before.iter().any(|other| other.label == volume.label) {
            return Err((index, format!("the label {:?} is there twice: say another with LABEL=…", volume.label)));
        }
        if let Some(luks) = &volume.luks
            && encrypted(before).any(|other| other.name == luks.name)
        {
            return Err((index, format!("luks={} is there twice", luks.name)));
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
    let lines = volumes.clone();
    volumes.sort_by_key(|volume| volume.path().map_or(usize::MAX, depth));
    let line = |volume: &Volume| lines.iter().position(|line| line == volume).unwrap_or(0);
    for (index, volume) in volumes.iter().enumerate() {
        let Some(name) = &volume.subvolume else { continue };
        let holder = holder(&volumes, index);
        if volumes[holder].subvolume.is_none() {
            let what = format!("{} has no subvolume of its own: say subvol=… there, too", volumes[holder].name());
            return Err((line(volume), what));
        }
        let is_same = |other: &usize| self::holder(&volumes, *other) == holder;
        if (0..index).filter(is_same).any(|other| volumes[other].subvolume.as_ref() == Some(name)) {
            return Err((line(volume), format!("the subvolume {name:?} is there twice")));
        }
    }
    Ok(volumes)
}

/// The volume that has the file system of another: itself, but for a subvolume without a size, which is in the nearest
/// one above it. Volumes are in an order in which they can be mounted.
pub fn holder(volumes: &[Volume], index: usize) -> usize {
    let Some(path) = volumes[index].path().filter(|_| volumes[index].is_shared()) else { return index };
    let is_above = |other: &&usize| {
        let other = &volumes[**other];
        let above = other.path().map(|path| path.trim_end_matches('/'));
        !other.is_shared()
            && above.is_some_and(|above| path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/')))
    };
    let before: Vec<usize> = (0..index).collect();
    before.iter().rev().find(is_above).copied().unwrap_or(0)
}

fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str, size: Option<Size>, filesystem: Option<Filesystem>, keep: bool, label: &str) -> Volume {
        Volume { size, filesystem, keep, label: label.into(), ..Volume::new(at(name).unwrap()) }
    }

    #[test]
    fn subvolumes_and_options() {
        let read = |line: &str| Volume::parse(line).unwrap();
        let root = read("/ 20G btrfs subvol=@ options=noatime,compress=zstd:3 mkfs=-m mkfs=dup");
        assert_eq!((root.subvolume.as_deref(), &root.options[1][..]), (Some("@"), "compress=zstd:3"));
        assert_eq!((root.mkfs.join(" "), root.is_shared()), ("-m dup".to_owned(), false));
        let all = |lines: &[&str]| together(lines.iter().map(|line| read(line)).collect());
        let volumes =
            all(&["/var/log subvol=@log", "/ subvol=@", "/var 1G btrfs subvol=v", "/srv subvol=@srv"]).unwrap();
        let held: Vec<_> = (0..4).map(|at| (volumes[at].name(), volumes[holder(&volumes, at)].name())).collect();
        assert_eq!(held, [("/", "/"), ("/var", "/var"), ("/srv", "/"), ("/var/log", "/var")]);
        let luks = |name: &str, in_initramfs| Some(Luks { name: name.into(), in_initramfs });
        assert_eq!(read("/ 20G luks=system").luks, luks("system", false));
        assert_eq!(read("swap 2G luks=swap key=initramfs").luks, luks("swap", true));
        assert_eq!(all(&["/ luks=a", "/a 1G luks=a"]), Err((1, "luks=a is there twice".into())));
        assert_eq!(
            all(&["/home subvol=@home", "/ 2G btrfs"]),
            Err((0, "/ has no subvolume of its own: say subvol=… there, too".into()))
        );
        assert_eq!(all(&["/ subvol=@", "/a subvol=@"]), Err((1, "the subvolume \"@\" is there twice".into())));
        for (line, what) in [
            ("/a 1G subvol=a/b", "\"a/b\" is no subvolume's name"),
            ("/a 1G options=a,,b", "\"\" is no mount option"),
            ("/a 1G options=subvolid=5", "\"subvolid=5\" is no mount option here: subvol=… is a word of its own"),
            ("/a keep subvol=a LABEL=a", "a subvolume can't be kept, only a whole file system"),
            ("/a keep mkfs=-n", "`mkfs=` is for what is made, which has a size"),
            ("/a ext4 subvol=a", "a subvolume without a size is in the Btrfs above it, and has neither type nor label"),
            ("swap 1G subvol=a", "swap has no subvolume"),
            ("/a 1G luks=a/b", "\"a/b\" can't be an encrypted device's name"),
            ("/a 1G luks=control", "\"control\" can't be an encrypted device's name"),
            ("/a 1G key=initramfs", "`key=` stands after `luks=…`, whose key it is"),
            ("/a 1G luks=a key=tpm", "\"key=tpm\" means nothing: key=initramfs puts the passphrase into the initramfs"),
            ("/a subvol=a luks=a", "`luks=` is for what is made, which has a size"),
            (
                "/a 1G keep luks=a",
                "what is kept stays as it is: `none keep LABEL=…` keeps a partition that is encrypted",
            ),
            ("none keep LABEL=a options=ro", "what is not mounted has no mount options"),
        ] {
            assert_eq!(Volume::parse(line), Err(what.to_owned()), "{line}");
        }
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
