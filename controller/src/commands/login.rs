//! `anemos ssh`: into whatever runs on a host now.

use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::hosts_file::named_or;
use super::ram::reach;
use super::{CommandError, Status, shell};
use crate::cli::{self, HOSTS_VARIABLE};
use crate::config::{self, Host, LoadError};
use crate::journal::{HostEntry, RunDir, RunStore};
use crate::run::{self, Asked, Booted, Last, RunError};
use crate::screen;
use crate::ssh::{Address, HostKey, Way};
use crate::ssh_config::{self, Effective, Overrides};

pub(super) async fn ssh(args: cli::Ssh) -> Result<Status, CommandError> {
    let meant = match listed(&args)? {
        Listed::Host(host) => Meant::of_host(*host).await?,
        Listed::Not(why) => Meant::Entry(Box::new(known(&args, why)?)),
    };
    let name = meant.name();
    let addresses = meant.addresses();
    let last = match run::last_booted(&RunStore::open()?, name, &addresses)? {
        Last::None => None,
        Last::Of(booted) => Some(booted),
        Last::Elsewhere(booted) => {
            screen::note(&passed_over(&booted, &addresses));
            None
        }
    };
    if let Some(Booted { run, entry, in_ram: true }) = &last {
        match reach(run, entry).await {
            Ok(session) => return shell::within(session, name, &args.command).await,
            // It may have left since, or may not have come there.
            Err(error) => screen::note(&format!("{error}; trying its system")),
        }
    }
    // The agent reported the new system's keys; known_hosts may still have those of the old one.
    let keys = last.as_ref().and_then(|booted| run::new_keys(&booted.run, name));
    let place = meant.place(keys.is_some()).await?;
    let known = match (&last, keys) {
        (Some(booted), Some(keys)) => Some(remember(&booted.run, name, &place, &keys)?),
        _ => None,
    };
    let error = Command::new("ssh").args(place.arguments(known.as_deref())).args(&args.command).exec();
    let what = "ssh can't be started (package openssh-client)";
    Err(CommandError::bad_input(format!("{what}: {error}")))
}

/// That a run is not taken for the host's own, and why.
fn passed_over(Booted { run, entry, in_ram }: &Booted, addresses: &[Address]) -> String {
    let (id, name) = (&run.id, &entry.name);
    let now = addresses.first().map_or_else(String::new, |now| format!(", and now it is at {now}"));
    let shell = if *in_ram { format!("; `anemos shell {name} --run {id}` opens a shell there") } else { String::new() };
    format!("in run {id} {name} was at {}{now}: that run is taken for another machine's{shell}", entry.address)
}

/// Where somebody is to log in.
enum Meant {
    /// At a host of hosts.toml, which ssh_config resolves to this.
    Host(Box<Host>, Box<Effective>),
    /// At a host of a run.
    Entry(Box<HostEntry>),
}

impl Meant {
    async fn of_host(host: Host) -> Result<Self, CommandError> {
        let effective = resolved(&host, &host.address).await?;
        Ok(Self::Host(Box::new(host), Box::new(effective)))
    }

    fn name(&self) -> &str {
        match self {
            Self::Host(host, _) => &host.name,
            Self::Entry(entry) => &entry.name,
        }
    }

    /// Where it is, in all the ways in which a run may have written that down.
    fn addresses(&self) -> Vec<Address> {
        match self {
            Self::Host(host, effective) => {
                let at =
                    |host: &str| Address { host: host.to_owned(), port: effective.port, way: effective.way.clone() };
                // Runs have a `new_address` as hosts.toml has it, and that may be the address by now.
                vec![at(&effective.host_name), at(&host.address)]
            }
            Self::Entry(entry) => vec![entry.address.clone()],
        }
    }

    /// `is_new`: its new system is meant.
    async fn place(&self, is_new: bool) -> Result<Place, CommandError> {
        match self {
            Self::Host(host, effective) => match host.new_address.as_ref().filter(|_| is_new) {
                Some(asked) => Ok(Place::with(host, asked, is_new, &resolved(host, asked).await?)),
                None => Ok(Place::with(host, &host.address, is_new, effective)),
            },
            Self::Entry(entry) => Ok(Place::of_entry(entry, is_new)),
        }
    }
}

async fn resolved(host: &Host, asked: &str) -> Result<Effective, CommandError> {
    let effective = ssh_config::effective(asked, &Overrides::from(host)).await;
    effective.map_err(|why| CommandError::bad_input(format!("host `{}`: {why}", host.name)))
}

/// What hosts.toml says of who is meant.
enum Listed {
    Host(Box<Host>),
    /// There is no hosts.toml, or none was named and it does not have the host: why, in the second case.
    Not(Option<String>),
}

/// The host of hosts.toml that is meant.
fn listed(args: &cli::Ssh) -> Result<Listed, CommandError> {
    let variable = std::env::var_os(HOSTS_VARIABLE).filter(|file| !file.is_empty());
    let named = !args.of.names_no_file() || variable.is_some();
    if !named {
        let (path, selection) = args.of.meant(None).map_err(CommandError::bad_input)?;
        match config::load(&path) {
            Err(LoadError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Ok(Listed::Not(None));
            }
            Ok(file) => {
                if let Err(why) = file.pick(&selection) {
                    return Ok(Listed::Not(Some(why)));
                }
            }
            // It says what is wrong.
            Err(_) => {}
        }
    }
    let words = args.of.words().map_err(CommandError::bad_input)?;
    let (file, mut hosts) = named_or(&args.of, variable)
        .map_err(|error| CommandError { message: format!("{error}{}", hint(&words)), ..error })?;
    let last = hosts.pop();
    match last {
        Some(host) if hosts.is_empty() => Ok(Listed::Host(Box::new(host))),
        _ => {
            let names = hosts.iter().chain(&last).map(|host| host.name.as_str()).collect::<Vec<_>>().join(", ");
            let path = file.path.display();
            let why = format!("name one host to log into; {names} of {path} are several{}", hint(&words));
            Err(CommandError::bad_input(why))
        }
    }
}

/// Where several words are there, those after the first may have been meant as a command.
fn hint(words: &[String]) -> String {
    match words {
        [host, command @ ..] if !command.is_empty() => {
            format!("; a command comes after `--`: `anemos ssh {host} -- {}`", command.join(" "))
        }
        _ => String::new(),
    }
}

/// The host of the newest run that is meant. `why` hosts.toml does not have it, if there is one.
fn known(args: &cli::Ssh, why: Option<String>) -> Result<HostEntry, CommandError> {
    let words = args.of.words().map_err(CommandError::bad_input)?;
    if words.is_empty() {
        let why = why.unwrap_or_else(|| "there is no ./hosts.toml".into());
        return Err(CommandError::bad_input(format!("{why}: name the host to log into")));
    }
    let hint = hint(&words);
    let less = args.of.less.clone();
    let asked = Asked { words, limit: less.limit, exclude: less.exclude, ..Asked::default() };
    let mut hosts = match asked.find() {
        Ok(found) => found.hosts,
        Err(error) => {
            let why = why.map_or_else(String::new, |why| format!("{why}; and "));
            return Err(RunError { message: format!("{why}{error}{hint}"), ..error }.into());
        }
    };
    match hosts.pop() {
        Some(entry) if hosts.is_empty() => Ok(entry),
        _ => Err(CommandError::bad_input(format!("several hosts are meant; name one to log into{hint}"))),
    }
}

/// Where ssh is to go, and how.
#[derive(Debug, Default, PartialEq, Eq)]
struct Place {
    address: String,
    port: u16,
    user: String,
    identity_files: Vec<PathBuf>,
    /// What leads there, as options of ssh.
    way: Vec<String>,
    /// Name and port by which known_hosts has its keys.
    known_as: (String, u16),
    /// known_hosts files, if they are not what ssh takes by itself.
    known_hosts: Vec<PathBuf>,
}

impl Place {
    /// `is_new`: its new system is meant.
    fn with(host: &Host, asked: &str, is_new: bool, effective: &Effective) -> Self {
        let (name, port) = effective.known_hosts_name();
        Self {
            address: asked.to_owned(),
            port: effective.port,
            user: host.new_user.clone().filter(|_| is_new).unwrap_or_else(|| effective.user.clone()),
            identity_files: host.identity_files.clone(),
            way: host.proxy_jump.iter().flat_map(|jump| ["-J".to_owned(), jump.clone()]).collect(),
            known_as: (name.to_owned(), port),
            // Where ssh would look by itself, it need not be told.
            known_hosts: if is_new || host.known_hosts.is_some() {
                effective.user_known_hosts.clone()
            } else {
                Vec::new()
            },
        }
    }

    fn of_entry(entry: &HostEntry, is_new: bool) -> Self {
        let address = entry.new_address.as_ref().filter(|_| is_new).unwrap_or(&entry.address);
        let option = |name: &str, value: String| vec!["-o".to_owned(), format!("{name}={value}")];
        let way = match &address.way {
            Way::Direct => Vec::new(),
            Way::Bound(origin) => [
                origin.family.map(|family| option("AddressFamily", family.name().into())),
                origin.address.clone().map(|address| option("BindAddress", address)),
                origin.interface.clone().map(|interface| option("BindInterface", interface)),
            ]
            .into_iter()
            .flatten()
            .flatten()
            .collect(),
            Way::Jump(hops) => {
                vec!["-J".into(), hops.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")]
            }
            Way::Command(command) => option("ProxyCommand", command.clone()),
        };
        Self {
            address: address.host.clone(),
            port: address.port,
            user: entry.new_user.clone().filter(|_| is_new).unwrap_or_else(|| entry.user.clone()),
            identity_files: if entry.identities_given { entry.identity_files.clone() } else { Vec::new() },
            way,
            known_as: (address.host.clone(), address.port),
            known_hosts: Vec::new(),
        }
    }

    /// The arguments of ssh that come before a command. `more` is a known_hosts file besides.
    fn arguments(&self, more: Option<&Path>) -> Vec<String> {
        let mut words = vec!["-l".to_owned(), self.user.clone(), "-p".into(), self.port.to_string()];
        for file in &self.identity_files {
            words.extend(["-i".into(), file.display().to_string()]);
        }
        words.extend(self.way.clone());
        let own = [PathBuf::from("~/.ssh/known_hosts"), PathBuf::from("~/.ssh/known_hosts2")];
        let files = if self.known_hosts.is_empty() && more.is_some() { &own[..] } else { &self.known_hosts };
        let files: Vec<String> =
            files.iter().map(PathBuf::as_path).chain(more).map(|file| format!("\"{}\"", file.display())).collect();
        if !files.is_empty() {
            words.extend(["-o".into(), format!("UserKnownHostsFile={}", files.join(" "))]);
        }
        words.extend(["--".into(), self.address.clone()]);
        words
    }
}

/// Puts the keys of a new system into a known_hosts file of the run's.
fn remember(run: &RunDir, host: &str, place: &Place, keys: &[HostKey]) -> Result<PathBuf, CommandError> {
    let name = match &place.known_as {
        (name, 22) => name.clone(),
        (name, port) => format!("[{name}]:{port}"),
    };
    let lines: String = keys.iter().flat_map(|key| [&name, " ", key.line(), "\n"].map(str::to_owned)).collect();
    Ok(run.keep_known_hosts(host, &lines)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::samples::run_file;
    use crate::ssh::Hop;
    use crate::ssh_config::{Local, resolve};

    fn host(more: &str) -> Host {
        let text = format!("[hosts.web1]\naddress = \"web\"\npayload = \"p\"\ndisk = \"/dev/vda\"\n{more}");
        config::one(&text).unwrap()
    }

    fn arguments(more: &str, answer: &str, is_new: bool, known: Option<&str>) -> String {
        let host = host(more);
        let asked = host.new_address.clone().filter(|_| is_new).unwrap_or_else(|| host.address.clone());
        let effective = resolve(&asked, answer, None, &Overrides::from(&host), &Local::default());
        let place = Place::with(&host, &asked, is_new, &effective);
        place.arguments(known.map(Path::new)).join(" ")
    }

    #[test]
    fn ssh_is_told_what_hosts_toml_says() {
        let plain = arguments("", "hostname 192.0.2.7\nport 2222\n", false, None);
        assert_eq!(plain, "-l root -p 2222 -- web");
        let more = "user = \"ann\"\nproxy_jump = \"j1,j2\"\nnew_user = \"me\"\nnew_address = \"web.new\"\n";
        assert_eq!(arguments(more, "", false, None), "-l ann -p 22 -J j1,j2 -- web");
        // What runs now is the new system.
        assert_eq!(
            arguments(more, "userknownhostsfile /a/known\n", true, Some("/run/k")),
            "-l me -p 22 -J j1,j2 -o UserKnownHostsFile=\"/a/known\" \"/run/k\" -- web.new"
        );
    }

    #[test]
    fn ssh_is_told_what_the_run_knows() {
        let mut entry = run_file("20261123-093000-0a1b", &["web1"]).hosts.remove(0);
        entry.user = "ann".into();
        let said = |entry: &HostEntry| Place::of_entry(entry, false).arguments(None).join(" ");
        assert_eq!(said(&entry), "-l ann -p 22 -- 192.0.2.1");
        let hop = |user: Option<&str>, host: &str, port| Hop { user: user.map(str::to_owned), host: host.into(), port };
        entry.address.way = Way::Jump(vec![hop(Some("j"), "one", Some(2222)), hop(None, "two", None)]);
        assert_eq!(said(&entry), "-l ann -p 22 -J j@one:2222,two -- 192.0.2.1");
        entry.address.way = Way::Command("nc %h %p".into());
        entry.identities_given = true;
        entry.identity_files = vec!["/k".into()];
        assert_eq!(said(&entry), "-l ann -p 22 -i /k -o ProxyCommand=nc %h %p -- 192.0.2.1");
        let known = Place::of_entry(&entry, true).arguments(Some(Path::new("/run/k"))).join(" ");
        assert!(known.contains("UserKnownHostsFile=\"~/.ssh/known_hosts\" \"~/.ssh/known_hosts2\" \"/run/k\""));
    }

    #[test]
    fn keys_are_kept_as_ssh_looks_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = RunStore::at(dir.path().join("runs"));
        let key = crate::journal::samples::run_key();
        let (run, _lock) = store.create(&run_file("20261123-093000-0a1b", &["web1"]), &key).unwrap();
        for (port, name) in [(22, "web"), (2222, "[web]:2222")] {
            let place = Place { known_as: ("web".into(), port), ..Place::default() };
            let file = remember(&run, "web1", &place, &[key.public()]).unwrap();
            assert_eq!(std::fs::read_to_string(file).unwrap(), format!("{name} {}\n", key.public().line()));
        }
    }
}
