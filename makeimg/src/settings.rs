//! What the variables of an IMGBUILD mean. docs/IMGBUILD.md is the manual, with the source of each rule.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::volumes::{self, Volume};
use crate::words::{Bootloader, Compression, Filesystem, Image, Squash, Table, size};
use crate::{alpine, arch, sources};

/// What is bootstrapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// By mmdebstrap or debootstrap: a suite.
    Debian {
        /// A release's name or class, such as `trixie` or `stable`.
        suite: String,
    },
    /// By pacman.
    Arch,
    /// By apk.
    Alpine,
}

impl Target {
    /// Words of `hostconf` that mean something for it.
    fn hostconf(&self) -> &'static [&'static str] {
        match self {
            Self::Debian { .. } => &[],
            Self::Arch => &arch::HOSTCONF,
            Self::Alpine => &alpine::HOSTCONF,
        }
    }
}

/// Debian's package of shim. An image that has it starts where Secure Boot is enforced.
pub(crate) const SHIM: &str = "shim-signed";

/// Debian's package of the GRUB that shim starts.
pub(crate) const SIGNED_GRUB: &str = "grub-efi-amd64-signed";

/// What comes out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// A disk image with one file system.
    Raw {
        /// Bytes.
        size: u64,
        /// Its partition table.
        table: Table,
        /// Of the root.
        filesystem: Filesystem,
        /// What the image's file is.
        kind: Image,
    },
    /// An archive.
    Tar(Compression),
    /// A directory.
    Dir,
    /// A read-only file system.
    Squashfs(Squash),
    /// An image for containers, its only layer compressed so.
    Oci(Compression),
    /// What `setup` prepares and `cleanup` finishes.
    Custom,
}

/// Somebody who can log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The login name.
    pub name: String,
    /// Further groups.
    pub groups: Vec<String>,
}

/// Where a rule was broken: the variable, and what is wrong with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The variable.
    pub variable: &'static str,
    /// The line of its value, from 0.
    pub line: usize,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub hint: Option<String>,
}

/// Every variable's value, understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Name of what comes out, without an ending.
    pub imgname: String,
    /// What is bootstrapped.
    pub target: Target,
    /// What comes out.
    pub format: Format,
    /// What the image has from the machine that builds it.
    pub hostconf: Vec<String>,
    /// To install.
    pub packages: Vec<String>,
    /// For /etc/hostname.
    pub hostname: Option<String>,
    /// `LANG`.
    pub locale: Option<String>,
    /// As in /usr/share/zoneinfo.
    pub timezone: Option<String>,
    /// The console's, as in vconsole.conf(5).
    pub keymap: Option<String>,
    /// systemd units or OpenRC services to start at boot.
    pub services: Vec<String>,
    /// To add.
    pub users: Vec<User>,
    /// Passwords: user, and the password's hash as in shadow(5).
    pub passwords: Vec<(String, String)>,
    /// Who may log in with which SSH key: user, and a line for authorized_keys.
    pub authorized_keys: Vec<(String, String)>,
    /// Further words for the kernel.
    pub cmdline: String,
    /// What starts the kernel; if nothing is said, GRUB where there is a kernel.
    pub bootloader: Option<Bootloader>,
    /// Which of Debian's packages are there without being named.
    pub debian_variant: String,
    /// Which parts of Debian's archive are used.
    pub debian_components: Vec<String>,
    /// The URL of Debian's archive.
    pub debian_mirror: Option<String>,
    /// A file with the keys that sign it, relative to the project's directory.
    pub debian_keyring: Option<String>,
    /// The URL of the archive that has Debian's security updates, or `none`.
    pub debian_security: Option<String>,
    /// What a disk is divided into; mount points come after those above them.
    pub filesystems: Vec<Volume>,
}

/// Variables that mean something.
pub const VARIABLES: &[&str] = &[
    "imgname",
    "arch",
    "debian_arch",
    "target",
    "debian_suite",
    "debian_variant",
    "debian_components",
    "debian_mirror",
    "debian_keyring",
    "debian_security",
    "format",
    "hostconf",
    "packages",
    "hostname",
    "locale",
    "timezone",
    "keymap",
    "services",
    "users",
    "passwords",
    "authorized_keys",
    "cmdline",
    "bootloader",
    "filesystems",
];

/// Functions that are called.
pub const FUNCTIONS: &[&str] = &["setup", "provision", "cleanup"];

/// debootstrap(8)'s own choice, and what apt cannot do without.
const VARIANTS: &[&str] = &["important", "minbase"];
const TARGETS: &[&str] = &["arch", "alpine", "debian"];
const FORMATS: &[&str] = &["raw", "qcow2", "tar", "dir", "squashfs", "oci", "custom"];
/// How a layer of an image for containers may be compressed.
const LAYERS: &[&str] = &["none", "gz", "zst"];
/// makeimg's own default: `raw 8G msdos ext4`.
const SIZE: u64 = 8 << 30;

impl Settings {
    /// Whether the image gets shim, with which it starts where Secure Boot is enforced.
    pub(crate) fn has_shim(&self) -> bool {
        matches!(self.target, Target::Debian { .. }) && self.has_package(SHIM)
    }

    /// Whether a package is named, of whatever version.
    pub(crate) fn has_package(&self, name: &str) -> bool {
        self.packages.iter().any(|package| package.split(['=', ':', '/']).next() == Some(name))
    }

    /// Reads the values of the variables. `default_name` is the image's name if the IMGBUILD gives none.
    ///
    /// # Errors
    /// Everything that is wrong with the values, and not only the first.
    pub fn from_variables(variables: &BTreeMap<String, String>, default_name: &str) -> Result<Self, Vec<Wrong>> {
        let mut wrong = Vec::new();
        let value = |name: &str| variables.get(name).map(String::as_str);
        let name = value("imgname").filter(|name| !name.is_empty()).map_or_else(
            // The default is a directory's name, which may have characters that are not allowed here.
            || Ok(imgname(default_name).unwrap_or_else(|_| "image".to_owned())),
            imgname,
        );
        let imgname = keep(&mut wrong, name);
        let target = keep(&mut wrong, target(value("target"), value("debian_suite")));
        let format = keep(&mut wrong, format(value("format").unwrap_or_default()));
        for variable in ["arch", "debian_arch"] {
            // Kernel and Debian have a name of their own for each.
            let ours = match std::env::consts::ARCH {
                "x86_64" => ["x86_64", "amd64"],
                "aarch64" => ["aarch64", "arm64"],
                other => [other, other],
            };
            let value = value(variable).map(str::trim).filter(|value| !value.is_empty());
            if let Some(other) = value.filter(|value| !ours.contains(value)) {
                let what = format!("{other:?} is not what runs here, {}, and no other can be built", ours.join(" or "));
                wrong.push(Wrong { variable, line: 0, what, hint: None });
            }
        }
        let packages = keep(&mut wrong, packages(value("packages").unwrap_or_default()));
        let hostconf = list(value("hostconf").unwrap_or_default()).map(|(_, item)| item.to_owned()).collect();
        let mut one = |variable: &'static str, is_good: fn(&str) -> bool, such_as: &str| {
            let value = value(variable).map(str::trim).filter(|value| !value.is_empty())?;
            if is_good(value) {
                return Some(value.to_owned());
            }
            let hint = Some(format!("such as {such_as}"));
            wrong.push(Wrong { variable, line: 0, what: format!("{value:?} is no {variable}"), hint });
            None
        };
        let hostname = one("hostname", is_hostname, "web1");
        let locale = one("locale", is_word, "en_GB.UTF-8");
        let timezone = one("timezone", is_zone, "Europe/Lisbon");
        let keymap = one("keymap", is_word, "uk");
        let bootloader = one("bootloader", |value| Bootloader::from_word(value).is_some(), "grub or none");
        let variant = one("debian_variant", |value| VARIANTS.contains(&value), &VARIANTS.join(" or "));
        let security = one("debian_security", is_security, "https://archive.example.org/debian-security, or none");
        let mirror = one("debian_mirror", is_archive, "https://archive.example.org/debian");
        let keyring = one("debian_keyring", is_keyring, "keys/example.gpg or keys/example.asc, in the project");
        let components =
            one("debian_components", are_components, "main, or main non-free-firmware; main must be among them");
        let services = keep(&mut wrong, items("services", value("services"), service));
        let users = keep(&mut wrong, items("users", value("users"), user));
        let passwords = keep(&mut wrong, items("passwords", value("passwords"), password));
        let authorized_keys = keep(&mut wrong, items("authorized_keys", value("authorized_keys"), authorized_key));
        let filesystems = keep(&mut wrong, filesystems(value("filesystems")));
        let cmdline = value("cmdline").unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        // Some of these mean something to GRUB's parser, too.
        if cmdline.contains(['"', '\'', '\\', '$', '`', ';', '&', '|', '<', '>', '{', '}'])
            || cmdline.split(' ').any(|word| word.starts_with('#'))
        {
            let hint = Some("quotes and what means something to a shell can't be passed on".to_owned());
            wrong.push(Wrong { variable: "cmdline", line: 0, what: format!("{cmdline:?} can't be passed on"), hint });
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let required = (imgname, target, format, packages, services, users, passwords, authorized_keys, filesystems);
        let (
            Some(imgname),
            Some(target),
            Some(format),
            Some(packages),
            Some(services),
            Some(users),
            Some(passwords),
            Some(keys),
            Some(filesystems),
        ) = required
        else {
            return Err(wrong);
        };
        Ok(Self {
            imgname,
            target,
            format,
            hostconf,
            packages,
            hostname,
            locale,
            timezone,
            keymap,
            services,
            users,
            passwords,
            authorized_keys: keys,
            cmdline,
            bootloader: bootloader.and_then(|word| Bootloader::from_word(&word)),
            debian_variant: variant.unwrap_or_else(|| VARIANTS[0].to_owned()),
            debian_components: components.as_deref().unwrap_or("main").split_whitespace().map(str::to_owned).collect(),
            debian_mirror: mirror,
            debian_keyring: keyring,
            debian_security: security,
            filesystems,
        })
    }

    /// Warnings about the variables that these settings come from: what is allowed, but probably not meant.
    pub fn doubts(&self, variables: &BTreeMap<String, String>) -> Vec<Wrong> {
        let value = |name: &str| variables.get(name).map_or("", |value| value.trim_end());
        let known = self.target.hostconf();
        let doubt = |(line, item): (usize, &str)| {
            let what = format!("{item:?} means nothing with target={}", value("target").trim_start());
            let hint = if known.is_empty() { "nothing does there".to_owned() } else { choices(item, known) };
            Wrong { variable: "hostconf", line, what, hint: Some(hint) }
        };
        list(value("hostconf")).filter(|(_, item)| !known.contains(item)).map(doubt).collect()
    }
}

/// A list whose items are understood each by itself.
fn items<T>(
    variable: &'static str,
    value: Option<&str>,
    understand: fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, Wrong> {
    let understood = |(line, item)| {
        let hint = match variable {
            "users" => "such as `alice` or `alice:sudo,adm`; each has a line of its own",
            "filesystems" => "such as `/var 4G`, `swap 1G` or `/srv 20G ext4 keep`; each has a line of its own",
            "passwords" => "such as `root $6$…`, with what `openssl passwd -6` or mkpasswd(1) prints, in single quotes",
            "authorized_keys" => "such as `root ssh-ed25519 AAAA… comment`; each has a line of its own",
            _ => "each has a line of its own",
        };
        understand(item).map_err(|what| Wrong { variable, line, what, hint: Some(hint.to_owned()) })
    };
    list(value.unwrap_or_default()).map(understood).collect()
}

fn filesystems(value: Option<&str>) -> Result<Vec<Volume>, Wrong> {
    let lines: Vec<usize> = list(value.unwrap_or_default()).map(|(line, _)| line).collect();
    volumes::together(items("filesystems", value, Volume::parse)?).map_err(|(index, what)| Wrong {
        variable: "filesystems",
        line: lines.get(index).copied().unwrap_or(0),
        what,
        hint: None,
    })
}

/// RFC 1123: labels of letters, digits and hyphens.
fn is_hostname(value: &str) -> bool {
    let label = |label: &str| {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
        (1..=63).contains(&label.len()) && label.chars().all(good) && !label.starts_with('-') && !label.ends_with('-')
    };
    value.len() <= 64 && value.split('.').all(label)
}

/// An archive's URL, or what says that there is none.
pub fn is_security(value: &str) -> bool {
    value == sources::NONE || is_archive(value)
}

/// A URL as a word of sources.list(5).
pub fn is_archive(value: &str) -> bool {
    let is_url = value.split_once(':').is_some_and(|(_, rest)| rest.starts_with('/'));
    is_url && !value.contains(|c: char| c.is_whitespace() || "[]".contains(c))
}

/// A path below the project, with an ending by which apt knows the kind of file (apt-secure(8)).
fn is_keyring(value: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "._/+-".contains(c);
    let path = std::path::Path::new(value);
    let is_below = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    is_below && value.chars().all(good) && [".gpg", ".asc"].iter().any(|ending| value.strip_suffix(ending).is_some())
}

fn are_components(value: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let mut words = value.split_whitespace();
    words.clone().all(|word| word.chars().all(good) && !word.starts_with('-')) && words.any(|word| word == "main")
}

fn is_word(value: &str) -> bool {
    value.chars().all(|c| c.is_ascii_alphanumeric() || "._@-".contains(c)) && !value.starts_with(['-', '.'])
}

fn is_zone(value: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "._+-".contains(c))
    };
    value.split('/').all(part)
}

fn service(item: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if item.starts_with('-') || !item.chars().all(good) {
        return Err(format!("{item:?} is no service"));
    }
    Ok(item.to_owned())
}

/// What useradd(8) takes on Debian, but for capitals.
fn is_user(name: &str) -> bool {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    (1..=32).contains(&name.len())
        && name.chars().all(good)
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
}

fn user(item: &str) -> Result<User, String> {
    let (name, groups) = item.split_once(':').unwrap_or((item, ""));
    let groups: Vec<&str> = groups.split(',').filter(|group| !group.is_empty()).collect();
    match std::iter::once(&name).chain(&groups).find(|name| !is_user(name)) {
        Some(bad) => Err(format!("{bad:?} is no user's or group's name")),
        None => Ok(User { name: name.to_owned(), groups: groups.into_iter().map(str::to_owned).collect() }),
    }
}

/// Methods of crypt(5) that are good for new passwords: yescrypt, gost-yescrypt, scrypt, bcrypt, SHA-512, SHA-256.
const HASHES: [&str; 6] = ["$y$", "$gy$", "$7$", "$2b$", "$6$", "$5$"];

fn password(item: &str) -> Result<(String, String), String> {
    let (user, hash) = item.split_once(char::is_whitespace).unwrap_or((item, ""));
    if !is_user(user) {
        return Err(format!("{user:?} is no user's name"));
    }
    let (hash, good) = (hash.trim(), |c: char| c.is_ascii_alphanumeric() || "./$=,_-".contains(c));
    if !HASHES.iter().any(|head| hash.starts_with(head)) || !hash.chars().all(good) || hash.len() < 40 {
        // It may be the password itself.
        return Err(format!("what follows {user:?} is no hash of a password, or one that is too weak"));
    }
    Ok((user.to_owned(), hash.to_owned()))
}

fn authorized_key(item: &str) -> Result<(String, String), String> {
    let (user, key) = item.split_once(char::is_whitespace).unwrap_or((item, ""));
    if !is_user(user) {
        return Err(format!("{user:?} is no user's name"));
    }
    // Options may stand before the key's type (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
    let kinds = ["ssh-", "ecdsa-", "sk-"];
    if !key.split_whitespace().any(|word| kinds.iter().any(|kind| word.starts_with(kind))) {
        return Err(format!("there is no SSH public key after {user:?}"));
    }
    Ok((user.to_owned(), key.trim().to_owned()))
}

fn keep<T>(wrong: &mut Vec<Wrong>, result: Result<T, Wrong>) -> Option<T> {
    result.map_err(|what| wrong.push(what)).ok()
}

fn wrong<T>(variable: &'static str, what: String, hint: impl Into<Option<String>>) -> Result<T, Wrong> {
    Err(Wrong { variable, line: 0, what, hint: hint.into() })
}

/// The items of a list, one a line, with their lines from 0. Blank lines are none.
fn list(value: &str) -> impl Iterator<Item = (usize, &str)> {
    value.lines().map(str::trim).enumerate().filter(|(_, item)| !item.is_empty())
}

fn imgname(value: &str) -> Result<String, Wrong> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._+-@".contains(c);
    if value.is_empty() || value.starts_with(['.', '-']) || !value.chars().all(good) {
        return wrong(
            "imgname",
            format!("{value:?} can't be a file's name here"),
            "letters, digits and . _ + - @ can, not beginning with . or -".to_owned(),
        );
    }
    Ok(value.to_owned())
}

fn target(value: Option<&str>, suite: Option<&str>) -> Result<Target, Wrong> {
    let suite = suite.map(str::trim).filter(|suite| !suite.is_empty()).unwrap_or("stable");
    match value.map(str::trim) {
        Some("debian") => {
            // The suite becomes part of a URL and of commands.
            if !suite.chars().all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c)) || suite.starts_with('-') {
                return wrong("debian_suite", format!("{suite:?} is no suite"), "such as stable or trixie".to_owned());
            }
            Ok(Target::Debian { suite: suite.to_owned() })
        }
        Some("arch") => Ok(Target::Arch),
        Some("alpine") => Ok(Target::Alpine),
        Some(other) => wrong("target", format!("{other:?} is no target"), choices(other, TARGETS)),
        None => wrong("target", "`target` is not set".into(), choices("", TARGETS)),
    }
}

fn format(value: &str) -> Result<Format, Wrong> {
    let words: Vec<&str> = value.split_whitespace().collect();
    let (kind, rest) = words.split_first().map_or(("raw", &[][..]), |(kind, rest)| (*kind, rest));
    let most = match kind {
        "raw" | "qcow2" => 3,
        "tar" | "squashfs" | "oci" => 1,
        _ => 0,
    };
    if !FORMATS.contains(&kind) {
        return wrong("format", format!("{kind:?} is no format"), choices(kind, FORMATS));
    }
    if let Some(extra) = rest.get(most) {
        return wrong("format", format!("{extra:?} is too much: `{kind}` takes {most} words at most"), None);
    }
    let word = |at: usize| rest.get(at).copied();
    if let Some(image) = Image::from_word(kind) {
        return Ok(Format::Raw {
            kind: image,
            size: word(0).map_or(Ok(SIZE), |word| size(word).or_else(|(what, hint)| wrong("format", what, hint)))?,
            table: word(1)
                .map_or(Ok(Table::Msdos), |w| choose(w, "partition table", Table::from_word, Table::WORDS))?,
            filesystem: word(2)
                .map_or(Ok(Filesystem::Ext4), |w| choose(w, "file system", Filesystem::from_word, Filesystem::WORDS))?,
        });
    }
    match kind {
        "tar" => {
            let compression = word(0).map_or(Ok(Compression::None), |w| {
                choose(w, "compression", Compression::from_word, Compression::WORDS)
            });
            Ok(Format::Tar(compression?))
        }
        "squashfs" => {
            let squash =
                word(0).map_or(Ok(Squash::Zstd), |w| choose(w, "compression", Squash::from_word, Squash::WORDS));
            Ok(Format::Squashfs(squash?))
        }
        "oci" => {
            // What the media types of layers allow (OCI image specification, layer.md).
            let from = |w: &str| Compression::from_word(w).filter(|it| LAYERS.contains(&it.word()));
            Ok(Format::Oci(word(0).map_or(Ok(Compression::Gzip), |w| choose(w, "compression", from, LAYERS))?))
        }
        "dir" => Ok(Format::Dir),
        _ => Ok(Format::Custom),
    }
}

fn choose<T>(word: &str, kind: &str, from: impl Fn(&str) -> Option<T>, words: &[&str]) -> Result<T, Wrong> {
    from(word).map_or_else(|| wrong("format", format!("{word:?} is no {kind}"), choices(word, words)), Ok)
}

fn packages(value: &str) -> Result<Vec<String>, Wrong> {
    let mut names = Vec::new();
    for (line, name) in list(value) {
        let good = |c: char| c.is_ascii_alphanumeric() || "+-._:=~@/<>^*".contains(c);
        if name.starts_with('-') || !name.chars().all(good) {
            let hint = name.contains(char::is_whitespace).then(|| "each package has a line of its own".to_owned());
            return Err(Wrong { variable: "packages", line, what: format!("{name:?} is no package's name"), hint });
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

/// A hint: the word that was probably meant, or all words that there are.
fn choices(word: &str, words: &[&str]) -> String {
    nearest(word, words)
        .map_or_else(|| format!("there are {}", words.join(", ")), |near| format!("did you mean {near:?}?"))
}

/// The one of `words` that `word` probably is a misspelling of. What a host builds, the workstation has read before.
pub fn nearest<'a>(word: &str, words: &[&'a str]) -> Option<&'a str> {
    if !cfg!(feature = "hints") {
        return None;
    }
    let lower = word.to_ascii_lowercase();
    let distance = |other: &str| strsim::osa_distance(&lower, &other.to_ascii_lowercase());
    let near = words.iter().copied().min_by_key(|other| distance(other))?;
    // One slip in a short word, two in a long one.
    (distance(near) <= if near.len() > 5 { 2 } else { 1 }).then_some(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(assignments: &[(&str, &str)]) -> Result<Settings, Vec<Wrong>> {
        let set = assignments.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Settings::from_variables(&set, "machine")
    }

    #[test]
    fn what_is_not_said_is_as_the_manual_says() {
        let found = settings(&[("target", "debian")]).unwrap();
        assert_eq!(found.imgname, "machine");
        assert_eq!(found.target, Target::Debian { suite: "stable".into() });
        let (size, table, filesystem) = (8 << 30, Table::Msdos, Filesystem::Ext4);
        let raw = Format::Raw { size, table, filesystem, kind: Image::Raw };
        assert_eq!(found.format, raw);
        assert!(found.packages.is_empty() && found.hostconf.is_empty());
        assert_eq!(settings(&[("target", "debian"), ("imgname", "")]), Ok(found), "empty is as unset");
    }

    #[test]
    fn words_for_the_kernel_are_not_taken_for_commands() {
        let found = |cmdline| settings(&[("target", "debian"), ("cmdline", cmdline)]).map(|found| found.cmdline);
        assert_eq!(found(" quiet\n a=1,b#2 ").as_deref(), Ok("quiet a=1,b#2"));
        for cmdline in ["a;b", "a &", "a|b", "<a", "a>b", "{a}", "a #b", "#a", "a'b", "$a"] {
            assert_eq!(found(cmdline).unwrap_err()[0].what, format!("{cmdline:?} can't be passed on"));
        }
    }

    #[test]
    fn archives() {
        let found = |name, value| settings(&[("target", "debian"), (name, value)]);
        let components = |value| found("debian_components", value).map(|found| found.debian_components);
        assert_eq!(components(" main\nnon-free-firmware ").unwrap(), ["main", "non-free-firmware"]);
        assert_eq!(components("").unwrap(), ["main"]);
        assert!(components("contrib").is_err() && components("main a,b").is_err());
        let security = |value| found("debian_security", value).map(|found| found.debian_security);
        assert_eq!(security("none").unwrap().as_deref(), Some("none"));
        assert_eq!(security("file:/srv/security").unwrap().as_deref(), Some("file:/srv/security"));
        assert!(
            ["no", "example.org/debian", "http://a b", "[trusted=yes] http://a"]
                .iter()
                .all(|value| security(value).is_err())
        );
    }

    #[test]
    fn passwords_are_hashes_and_are_not_repeated() {
        let found = |value: &str| settings(&[("target", "debian"), ("passwords", value)]).map(|found| found.passwords);
        let hash = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7";
        assert_eq!(found(&format!("\n root  {hash} \n")).unwrap(), [("root".to_owned(), hash.to_owned())]);
        for wrong in ["hunter2", "$6$short", "$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/AAAAAAAAAAAAA", "", ":", "$6$a:b"] {
            let told = found(&format!("root {wrong}")).unwrap_err();
            assert_eq!((told[0].variable, told.len()), ("passwords", 1));
            assert!(!told[0].what.contains("hunter2") && told[0].what.contains("no hash"), "{}", told[0].what);
        }
        assert!(found("Root $6$x").unwrap_err()[0].what.contains("no user's name"));
    }

    #[test]
    fn formats() {
        let found = |text| format(text).map_err(|wrong| wrong.what);
        let image = |kind, size, table, filesystem| Ok(Format::Raw { size, table, filesystem, kind });
        let raw = |size, table, filesystem| image(Image::Raw, size, table, filesystem);
        assert_eq!(found("raw 2G"), raw(2 << 30, Table::Msdos, Filesystem::Ext4));
        assert_eq!(found("raw 900M gpt"), raw(900 << 20, Table::Gpt, Filesystem::Ext4));
        assert_eq!(found(" raw  20GB\tgpt btrfs\n"), raw(20_000_000_000, Table::Gpt, Filesystem::Btrfs));
        assert_eq!(found("qcow2 3G gpt xfs"), image(Image::Qcow2, 3 << 30, Table::Gpt, Filesystem::Xfs));
        assert_eq!(found("squashfs"), Ok(Format::Squashfs(Squash::Zstd)));
        assert_eq!(found("squashfs gzip"), Ok(Format::Squashfs(Squash::Gzip)));
        assert_eq!(found("oci"), Ok(Format::Oci(Compression::Gzip)));
        assert_eq!(found("oci zstd"), Ok(Format::Oci(Compression::Zstd)));
        assert_eq!(found("tar"), Ok(Format::Tar(Compression::None)));
        for (words, compression) in [
            ("tar none", Compression::None),
            ("tar gz|tar gzip", Compression::Gzip),
            ("tar xz", Compression::Xz),
            ("tar zst|tar zstd", Compression::Zstd),
            ("tar bz2|tar bzip2", Compression::Bzip2),
        ] {
            words.split('|').for_each(|word| assert_eq!(found(word), Ok(Format::Tar(compression)), "{word}"));
        }
        assert_eq!(found("dir"), Ok(Format::Dir));
        assert_eq!(found("custom"), Ok(Format::Custom));
        for (text, what) in [
            ("row", "\"row\" is no format"),
            ("raw 8", "8 bytes are no disk"),
            ("raw 8Gb", "\"8Gb\" is no size"),
            ("raw 99999999999T", "\"99999999999T\" is no size"),
            ("raw 8G dos", "\"dos\" is no partition table"),
            ("raw 8G gpt ext5", "\"ext5\" is no file system"),
            ("raw 8G gpt ext4 xfs", "\"xfs\" is too much: `raw` takes 3 words at most"),
            ("dir x", "\"x\" is too much: `dir` takes 0 words at most"),
            ("tar rar", "\"rar\" is no compression"),
            ("squashfs bz2", "\"bz2\" is no compression"),
            ("oci xz", "\"xz\" is no compression"),
            ("qcow2 8", "8 bytes are no disk"),
        ] {
            assert_eq!(found(text), Err(what.into()));
        }
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let all = [("imgname", "../x"), ("target", "debain"), ("format", "rwa"), ("packages", "\nvim\ncurl wget\n")];
        let told = settings(&all).unwrap_err();
        let hints: Vec<_> = told.iter().map(|wrong| (wrong.variable, wrong.line, wrong.hint.as_deref())).collect();
        assert_eq!(hints[1], ("target", 0, Some("did you mean \"debian\"?")));
        assert_eq!(hints[2], ("format", 0, Some("did you mean \"raw\"?")));
        assert_eq!(hints[3], ("packages", 2, Some("each package has a line of its own")));
        assert_eq!(told.len(), 4);
    }

    #[test]
    fn slips() {
        assert_eq!(nearest("pakcages", VARIABLES), Some("packages"));
        assert_eq!(nearest("Target", VARIABLES), Some("target"));
        assert_eq!(nearest("formats", VARIABLES), Some("format"));
        assert_eq!(nearest("release", VARIABLES), None);
        assert_eq!(nearest("dir", VARIABLES), None);
    }
}
