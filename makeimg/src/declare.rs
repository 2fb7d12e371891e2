//! What an IMGBUILD says of the machine by variables: its name, language, time, users, services.

use std::path::Path;

use crate::chroot::{Chroot, environment};
use crate::command::Context;
use crate::inside::Inside;
use crate::problem::{Doing, Problem};
use crate::settings::{Settings, Target, nearest};
use crate::words::HOSTS;

/// What can be generated, where the image has such a list: a locale and its character set on each line.
const LOCALES: &str = "usr/share/i18n/SUPPORTED";

/// Packages that must be there for what is said.
pub fn packages(settings: &Settings) -> Vec<&'static str> {
    let mut packages = Vec::new();
    if let Target::Debian { .. } = settings.target {
        if settings.locale.as_deref().is_some_and(needs_generating) {
            packages.push("locales");
        }
        if settings.timezone.is_some() {
            packages.push("tzdata");
        }
        if settings.keymap.is_some() {
            packages.extend(["console-setup", "keyboard-configuration", "kbd"]);
        }
    }
    packages
}

/// glibc has these in itself.
fn needs_generating(locale: &str) -> bool {
    !["C", "POSIX", "C.UTF-8"].contains(&&*in_full(locale))
}

/// A locale with UTF-8 as locale.gen has it.
fn in_full(locale: &str) -> String {
    let Some((language, rest)) = locale.split_once('.') else { return locale.to_owned() };
    let charset = rest.split('@').next().unwrap_or(rest);
    if !charset.eq_ignore_ascii_case("utf8") && !charset.eq_ignore_ascii_case("UTF-8") {
        return locale.to_owned();
    }
    format!("{language}.UTF-8{}", &rest[charset.len()..])
}

/// A locale's line in a list of those that can be generated.
pub(crate) fn supported(list: &str, locale: &str) -> Option<String> {
    let locale = in_full(locale);
    let mut words = list.lines().filter_map(|line| line.split_once(' '));
    let (name, charset) = words.find(|(name, _)| *name == locale)?;
    Some(format!("{name} {}", charset.trim()))
}

/// Makes it so.
///
/// # Errors
/// What can't be had in this image.
pub fn apply(context: &Context, settings: &Settings, chroot: &Chroot<'_>) -> Result<(), Problem> {
    let declaring = Declaring { context, settings, chroot, image: chroot.image() };
    declaring.name()?;
    declaring.language()?;
    declaring.users()?;
    declaring.passwords()?;
    declaring.keys()?;
    declaring.shut()?;
    declaring.services()
}

struct Declaring<'a> {
    context: &'a Context,
    settings: &'a Settings,
    chroot: &'a Chroot<'a>,
    image: &'a Inside,
}

impl Declaring<'_> {
    fn write(&self, path: &str, text: &str) -> Result<(), Problem> {
        let written = self.image.write(Path::new(path), text.as_bytes(), 0o644);
        written.doing(|| format!("writing /{path} in the image"))
    }

    /// What the author or a package has written.
    fn old(&self, path: &str) -> Result<Vec<u8>, Problem> {
        if !self.image.exists(path) {
            return Ok(Vec::new());
        }
        self.image.read(Path::new(path)).doing(|| format!("reading /{path} in the image"))
    }

    /// Adds a line to a file, which keeps owner and mode.
    fn add(&self, path: &str, line: &str) -> Result<(), Problem> {
        let text = with_line(self.old(path)?, line);
        let file = Path::new(path);
        let written = if self.image.exists(path) {
            self.image.rewrite(file, &text[..])
        } else {
            self.image.write(file, &text[..], 0o644)
        };
        written.doing(|| format!("writing /{path} in the image"))
    }

    fn run(&self, what: &str, program: &str, args: &[&str]) -> Result<(), Problem> {
        let ran = environment(self.chroot.command(program).args(args)).run(self.context);
        ran.map_err(|problem| Problem { what: format!("{what}: {}", problem.what), ..problem })
    }

    fn is(&self, target: &str) -> bool {
        target
            == match self.settings.target {
                Target::Debian { .. } => "debian",
                Target::Arch => "arch",
                Target::Alpine => "alpine",
            }
    }

    fn name(&self) -> Result<(), Problem> {
        let Some(hostname) = &self.settings.hostname else { return Ok(()) };
        self.write("etc/hostname", &format!("{hostname}\n"))?;
        let short = hostname.split('.').next().filter(|short| short != hostname);
        let names = short.map_or_else(|| hostname.clone(), |short| format!("{hostname} {short}"));
        let line = format!("127.0.1.1 {names}");
        let mut hosts = self.old("etc/hosts")?;
        if hosts.is_empty() {
            self.write("etc/hosts", HOSTS)?;
            hosts = HOSTS.into();
        }
        if is_named(&hosts, hostname) {
            return Ok(());
        }
        self.add("etc/hosts", &line)
    }

    fn language(&self) -> Result<(), Problem> {
        if let Some(locale) = &self.settings.locale {
            let line = self.locale_line(locale)?;
            let file = if self.is("debian") { "etc/default/locale" } else { "etc/locale.conf" };
            self.write(file, &format!("LANG={locale}\n"))?;
            if let Some(line) = line {
                self.add("etc/locale.gen", &line)?;
                self.run(&format!("locale={locale}"), "locale-gen", &[])?;
            }
        }
        if let Some(zone) = &self.settings.timezone {
            let path = format!("usr/share/zoneinfo/{zone}");
            if !self.image.exists(&path) {
                return Err(
                    Problem::build(format!("timezone={zone}: the image has no /{path}")).hint("is it misspelt?")
                );
            }
            let made = self.image.link(Path::new("etc/localtime"), Path::new(&format!("/{path}")));
            made.doing(|| "making /etc/localtime in the image".into())?;
            if self.is("debian") {
                self.write("etc/timezone", &format!("{zone}\n"))?;
            }
        }
        if let Some(keymap) = &self.settings.keymap {
            self.write("etc/vconsole.conf", &format!("KEYMAP={keymap}\n"))?;
            if self.is("debian") {
                // console-setup knows layouts, not maps; most have the same name.
                let text = format!("XKBMODEL=\"pc105\"\nXKBLAYOUT=\"{keymap}\"\nXKBVARIANT=\"\"\nXKBOPTIONS=\"\"\n");
                self.write("etc/default/keyboard", &text)?;
            }
        }
        Ok(())
    }

    /// What locale.gen has for it, if it is to be generated. locale-gen itself says nothing of what it does not know.
    fn locale_line(&self, locale: &str) -> Result<Option<String>, Problem> {
        if !needs_generating(locale) || self.is("alpine") {
            return Ok(None);
        }
        let list = self.old(LOCALES)?;
        if list.is_empty() {
            let (_, rest) = locale.split_once('.').unwrap_or(("", "ISO-8859-1"));
            let charset = rest.split('@').next().unwrap_or(rest);
            return Ok(Some(format!("{locale} {charset}")));
        }
        let list = String::from_utf8_lossy(&list);
        if let Some(line) = supported(&list, locale) {
            return Ok(Some(line));
        }
        let names: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
        // Some languages have UTF-8 alone, and don't say so in the name.
        let bare = in_full(locale).replace(".UTF-8", "");
        let near = names.iter().copied().find(|name| *name == bare).or_else(|| nearest(&in_full(locale), &names));
        let hint = near
            .map_or_else(|| format!("/{LOCALES} in the image lists them"), |near| format!("did you mean {near:?}?"));
        Err(Problem::build(format!("locale={locale}: the image can't generate it")).hint(hint))
    }

    fn users(&self) -> Result<(), Problem> {
        let shell = if self.image.exists("bin/bash") { "/bin/bash" } else { "/bin/sh" };
        let known = self.accounts();
        for user in &self.settings.users {
            let what = format!("users: {}", user.name);
            if !known.iter().any(|account| account.name == user.name) {
                if self.image.exists("usr/sbin/useradd") {
                    self.run(&what, "useradd", &["--create-home", "--user-group", "--shell", shell, &user.name])?;
                } else {
                    self.run(&what, "adduser", &["-D", "-s", shell, &user.name])?;
                }
            }
            for group in &user.groups {
                if self.image.exists("usr/sbin/usermod") {
                    self.run(&what, "usermod", &["--append", "--groups", group, &user.name])?;
                } else {
                    self.run(&what, "addgroup", &[&user.name, group])?;
                }
            }
        }
        Ok(())
    }

    /// Hashes go by standard input, and so are in no list of processes.
    fn passwords(&self) -> Result<(), Problem> {
        let accounts = self.accounts();
        for (name, hash) in &self.settings.passwords {
            if !accounts.iter().any(|account| account.name == *name) {
                let hint = format!("add {name} to users");
                return Err(Problem::build(format!("passwords: the image has no user {name}")).hint(hint));
            }
            let tool = environment(self.chroot.command("chpasswd").arg("-e")).input(format!("{name}:{hash}\n"));
            let ran = tool.run(self.context);
            ran.map_err(|problem| Problem { what: format!("passwords: {name}: {}", problem.what), ..problem })?;
        }
        Ok(())
    }

    fn keys(&self) -> Result<(), Problem> {
        let accounts = self.accounts();
        let mut users: Vec<&String> = self.settings.authorized_keys.iter().map(|(user, _)| user).collect();
        users.sort();
        users.dedup();
        for name in users {
            let Some(account) = accounts.iter().find(|account| account.name == *name) else {
                let hint = format!("add {name} to users");
                return Err(Problem::build(format!("authorized_keys: the image has no user {name}")).hint(hint));
            };
            let keys = self.settings.authorized_keys.iter().filter(|(user, _)| user == name);
            let dir = Path::new(account.home.trim_start_matches('/')).join(".ssh");
            let file = dir.join("authorized_keys");
            let text = keys.fold(self.old(&file.to_string_lossy())?, |text, (_, key)| with_line(text, key));
            let made = self
                .image
                .dir(&dir)
                .and_then(|_| self.image.give(&dir, 0o700, account.uid, account.gid))
                .and_then(|()| self.image.write(&file, &text[..], 0o600))
                .and_then(|()| self.image.give(&file, 0o600, account.uid, account.gid));
            made.doing(|| format!("writing /{} in the image", file.display()))?;
        }
        Ok(())
    }

    /// Shuts accounts to passwords that nobody has set, and no account to keys: a system without PAM takes `!` for an
    /// account that is locked to these, too (sshd(8)). Arch's root has no password, and asks for none.
    fn shut(&self) -> Result<(), Problem> {
        let old = self.old("etc/shadow")?;
        let has_key = |name: &str| self.settings.authorized_keys.iter().any(|(user, _)| user == name);
        let new = shut(&String::from_utf8_lossy(&old), has_key);
        if new.as_bytes() == old {
            return Ok(());
        }
        let written = self.image.rewrite(Path::new("etc/shadow"), new.as_bytes());
        written.doing(|| "writing /etc/shadow in the image".into())
    }

    fn services(&self) -> Result<(), Problem> {
        for service in &self.settings.services {
            let what = format!("services: {service}");
            if self.image.exists("bin/systemctl") {
                self.run(&what, "systemctl", &["enable", "--", service])?;
            } else if self.image.exists("sbin/rc-update") {
                self.run(&what, "rc-update", &["add", service, "default"])?;
            } else {
                return Err(Problem::build(format!("{what}: the image has neither systemd nor OpenRC"))
                    .hint("add systemd-sysv (Debian) or openrc (Alpine) to packages"));
            }
        }
        Ok(())
    }

    fn accounts(&self) -> Vec<Account> {
        let passwd = self.image.read(Path::new("etc/passwd")).unwrap_or_default();
        String::from_utf8_lossy(&passwd).lines().filter_map(account).collect()
    }
}

/// A text with this line at its end, unless it is in there.
pub(crate) fn with_line(mut text: Vec<u8>, line: &str) -> Vec<u8> {
    if text.split(|&byte| byte == b'\n').any(|old| old.trim_ascii() == line.as_bytes()) {
        return text;
    }
    if text.last().is_some_and(|&byte| byte != b'\n') {
        text.push(b'\n');
    }
    text.extend([line.as_bytes(), b"\n"].concat());
    text
}

/// shadow(5) where nobody becomes root without a password, and whoever has a key gets in with that.
pub(crate) fn shut(shadow: &str, has_key: impl Fn(&str) -> bool) -> String {
    let line = |line: &str| match line.splitn(3, ':').collect::<Vec<_>>()[..] {
        ["root", "", rest] => format!("root:*:{rest}"),
        [name, "!" | "!!", rest] if has_key(name) => format!("{name}:*:{rest}"),
        _ => line.to_owned(),
    };
    shadow.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

/// Whether hosts(5) has a host of that name.
pub(crate) fn is_named(hosts: &[u8], name: &str) -> bool {
    let hosts = String::from_utf8_lossy(hosts);
    let names = |line| str::split(line, '#').next().unwrap_or_default().split_whitespace().skip(1);
    hosts.lines().flat_map(names).any(|word| word.eq_ignore_ascii_case(name))
}

/// A line of passwd(5).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) name: String,
    uid: u32,
    gid: u32,
    home: String,
}

pub(crate) fn account(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
    Some(Account { name: name.into(), uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_added_once() {
        let added = |text: &str| String::from_utf8(with_line(text.into(), "b c")).unwrap();
        for (text, with) in [("", "b c\n"), ("a", "a\nb c\n"), ("a\n", "a\nb c\n"), ("b c d\n", "b c d\nb c\n")] {
            assert_eq!(added(text), with);
        }
        assert_eq!(added(" b c\r\na"), " b c\r\na");
    }

    #[test]
    fn hosts_are_whole_words() {
        let hosts = b"127.0.0.1\tlocalhost\n# 127.0.1.1 web\n192.0.2.1 db.test Db # host\n";
        let named = ["localhost", "db", "db.test", "host", "web", "192.0.2.1"].map(|name| is_named(hosts, name));
        assert_eq!(named, [true, true, true, false, false, false]);
    }

    #[test]
    fn locales_have_their_character_sets() {
        let list =
            "C.UTF-8 UTF-8\nde_DE.UTF-8 UTF-8\nde_DE ISO-8859-1\nde_DE@euro ISO-8859-15\nca_ES.UTF-8@valencia UTF-8\n";
        for (locale, line) in [
            ("de_DE", Some("de_DE ISO-8859-1")),
            ("de_DE.utf8", Some("de_DE.UTF-8 UTF-8")),
            ("de_DE.Utf8", Some("de_DE.UTF-8 UTF-8")),
            ("de_DE@euro", Some("de_DE@euro ISO-8859-15")),
            ("ca_ES.utf8@valencia", Some("ca_ES.UTF-8@valencia UTF-8")),
            ("de_DE.ISO-8859-1", None),
            ("de", None),
        ] {
            assert_eq!(supported(list, locale).as_deref(), line, "{locale}");
        }
        assert!(!needs_generating("C.utf8") && needs_generating("de_DE.utf8"));
    }

    #[test]
    fn passwords_that_nobody_has_set_let_nobody_in() {
        let shadow =
            "root::14871::::::\nbin:!*:14871::::::\nadmin:!:20000:0:99999:7:::\nweb:!!:1::::::\nguest::1::::::\n";
        let shut = shut(shadow, |name| ["admin", "web", "bin"].contains(&name));
        let expected =
            "root:*:14871::::::\nbin:!*:14871::::::\nadmin:*:20000:0:99999:7:::\nweb:*:1::::::\nguest::1::::::\n";
        assert_eq!(shut, expected);
        let set = "root:$y$j9T$a:1::::::\nadmin:!:1::::::";
        assert_eq!(super::shut(set, |_| false), set);
    }

    #[test]
    fn accounts_are_read() {
        let root = Account { name: "root".into(), uid: 0, gid: 0, home: "/root".into() };
        assert_eq!(account("root:x:0:0:root:/root:/bin/bash"), Some(root));
        assert_eq!(account("# a comment"), None);
        assert_eq!(account("a:x:one:2::/:"), None);
    }
}
