//! What an IMGBUILD says of the machine by variables: its name, language, time, users, services.

use std::path::Path;

use crate::chroot::{Chroot, environment};
use crate::command::Context;
use crate::inside::Inside;
use crate::problem::{Doing, Problem};
use crate::settings::{Settings, Target};

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
    !["C", "POSIX", "C.UTF-8", "C.utf8"].contains(&locale)
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
    declaring.keys()?;
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
        if self.image.read(Path::new("etc/hosts")).is_ok_and(|hosts| String::from_utf8_lossy(&hosts).contains(hostname))
        {
            return Ok(());
        }
        let short = hostname.split('.').next().filter(|short| short != hostname);
        let names = short.map_or_else(|| hostname.clone(), |short| format!("{hostname} {short}"));
        self.write(
            "etc/hosts",
            &format!("127.0.0.1 localhost\n127.0.1.1 {names}\n::1 localhost ip6-localhost ip6-loopback\n"),
        )
    }

    fn language(&self) -> Result<(), Problem> {
        if let Some(locale) = &self.settings.locale {
            let file = if self.is("debian") { "etc/default/locale" } else { "etc/locale.conf" };
            self.write(file, &format!("LANG={locale}\n"))?;
            if needs_generating(locale) && !self.is("alpine") {
                let charset = locale.rsplit_once('.').map_or("ISO-8859-1", |(_, charset)| charset);
                self.write("etc/locale.gen", &format!("{locale} {charset}\n"))?;
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
            let text = keys.flat_map(|(_, key)| [key, "\n"]).collect::<String>();
            let dir = Path::new(account.home.trim_start_matches('/')).join(".ssh");
            let file = dir.join("authorized_keys");
            let made = self
                .image
                .dir(&dir)
                .and_then(|_| self.image.give(&dir, 0o700, account.uid, account.gid))
                .and_then(|()| self.image.write(&file, text.as_bytes(), 0o600))
                .and_then(|()| self.image.give(&file, 0o600, account.uid, account.gid));
            made.doing(|| format!("writing /{} in the image", file.display()))?;
        }
        Ok(())
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

/// A line of passwd(5).
#[derive(Debug, PartialEq, Eq)]
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

fn account(line: &str) -> Option<Account> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
    Some(Account { name: name.into(), uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_read() {
        let root = Account { name: "root".into(), uid: 0, gid: 0, home: "/root".into() };
        assert_eq!(account("root:x:0:0:root:/root:/bin/bash"), Some(root));
        assert_eq!(account("# a comment"), None);
        assert_eq!(account("a:x:one:2::/:"), None);
    }
}
