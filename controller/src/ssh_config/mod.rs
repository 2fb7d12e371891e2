//! The user's own ssh_config, as `ssh -G HOST` gives it.
//!
//! Precedence: hosts.toml, then ssh_config (`~/.ssh/config`, `/etc/ssh/ssh_config`), then the defaults here. `ssh -G`
//! doesn't tell its own defaults from what a file says. Where that matters, which is for the user and for lists of
//! algorithms, it is also asked with no files at all (`-F none`); and for the user with a file that includes the real
//! ones and ends with a user that nobody has. So the default user is `root` and not the local user, unless a file names
//! that one.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::ssh::{Algorithms, Family, Origin, Way};

/// `Match exec` in a config may run anything; but a name lookup of its own shouldn't take longer than this.
const DEADLINE: Duration = Duration::from_secs(10);

/// What hosts.toml says, which wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `user`.
    pub user: Option<String>,
    /// `port`.
    pub port: Option<u16>,
    /// `identity_file`; empty where it isn't given.
    pub identity_files: Vec<PathBuf>,
    /// `known_hosts`.
    pub known_hosts: Option<PathBuf>,
    /// `proxy_jump`.
    pub proxy_jump: Option<String>,
}

impl From<&crate::config::Host> for Overrides {
    fn from(host: &crate::config::Host) -> Self {
        Self {
            user: host.user.clone(),
            port: host.port,
            identity_files: host.identity_files.clone(),
            known_hosts: host.known_hosts.clone(),
            proxy_jump: host.proxy_jump.clone(),
        }
    }
}

/// How to reach a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effective {
    /// Name or address to connect to.
    pub host_name: String,
    /// TCP port.
    pub port: u16,
    /// What is in between, if it can be taken.
    pub way: Way,
    /// What the connection to the old system may use.
    pub algorithms: Algorithms,
    /// SSH user.
    pub user: String,
    /// Private keys to try, in order. Those of ssh_config need not exist.
    pub identity_files: Vec<PathBuf>,
    /// `identity_files` are those of hosts.toml.
    pub identities_given: bool,
    /// `CertificateFile`: certificates of the user's.
    pub certificate_files: Vec<PathBuf>,
    /// Of the keys that an agent holds, only those in `identity_files` may be tried.
    pub identities_only: bool,
    /// The agent to ask.
    pub agent: Agent,
    /// known_hosts files, in order; the first is where a new key is remembered.
    pub user_known_hosts: Vec<PathBuf>,
    /// The system's known_hosts files.
    pub global_known_hosts: Vec<PathBuf>,
    /// `RevokedHostKeys`: keys that no host may have.
    pub revoked_host_keys: Vec<PathBuf>,
    /// The name under which the host key is filed, instead of its own.
    pub host_key_alias: Option<String>,
    /// `HashKnownHosts`: how a new key is remembered.
    pub hash_known_hosts: bool,
    /// `StrictHostKeyChecking`, as it was given. Anemos is always strict; `accept-new` and `no` are not taken from
    /// here.
    pub strict_host_key_checking: Option<String>,
    /// Something in ssh_config that Anemos can't do, in words for the user: the host can't be reached as `ssh` would.
    pub unsupported: Option<String>,
    /// What the user should know, such as that there is no OpenSSH here.
    pub notes: Vec<String>,
}

impl Effective {
    /// Name and port under which known_hosts has the host's key: an alias has no port, as in OpenSSH.
    pub fn known_hosts_name(&self) -> (&str, u16) {
        self.host_key_alias.as_deref().map_or((self.host_name.as_str(), self.port), |alias| (alias, 22))
    }

    /// Every known_hosts file, the user's first.
    pub fn known_hosts_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.user_known_hosts.iter().chain(&self.global_known_hosts)
    }
}

/// `IdentityAgent`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Agent {
    /// The one in `$SSH_AUTH_SOCK`, if it is set.
    #[default]
    Environment,
    /// The one at this socket.
    Socket(PathBuf),
    /// None.
    Disabled,
}

impl Agent {
    /// Its socket, as this process sees it.
    pub fn socket(&self) -> Option<PathBuf> {
        match self {
            Self::Environment => std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from),
            Self::Socket(path) => Some(path.clone()),
            Self::Disabled => None,
        }
    }
}

/// What a path in ssh_config may refer to.
#[derive(Debug, Clone, Default)]
pub struct Local {
    /// `~` and `%d`.
    pub home: PathBuf,
    /// `%u`: the local user.
    pub user: Option<String>,
    /// `%i`: the local user's number.
    pub uid: Option<u32>,
    /// `${NAME}`.
    pub environment: BTreeMap<String, String>,
}

impl Local {
    /// The values of this process.
    pub fn here() -> Self {
        let text =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let environment: BTreeMap<_, _> = text.filter(|(_, value)| !value.is_empty()).collect();
        Self {
            home: environment.get("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from),
            user: environment.get("USER").or_else(|| environment.get("LOGNAME")).cloned(),
            uid: Some(rustix::process::getuid().as_raw()),
            environment,
        }
    }
}

/// Asks OpenSSH how to reach `alias`, and puts `overrides` over it.
///
/// Where there is no OpenSSH, the defaults apply and a note says so. Where it can't say, that is an error: the defaults
/// would lead to whatever machine has that name, past the jump hosts and the known_hosts that the user relies on.
pub async fn effective(alias: &str, overrides: &Overrides) -> Result<Effective, String> {
    static OURS: LazyLock<OpenSsh> = LazyLock::new(|| {
        OpenSsh::new(vec!["ssh".into()], ["~/.ssh/config", "/etc/ssh/ssh_config"].map(PathBuf::from).into(), DEADLINE)
    });
    OURS.effective(alias, overrides, &Local::here()).await
}

/// The `ssh` that is asked.
struct OpenSsh {
    /// The program, and arguments before all others.
    command: Vec<OsString>,
    /// The files that it reads.
    files: Vec<PathBuf>,
    deadline: Duration,
    /// What it answers without any file.
    default: OnceCell<String>,
}

/// What ssh says of a host.
struct Answers {
    /// With the user's files.
    real: String,
    /// The user whom a file names, if that was asked.
    named: Option<String>,
    /// Without any file.
    default: String,
}

/// Why there is no answer.
enum Unasked {
    /// There is no OpenSSH here.
    Missing,
    /// It can't say, because …
    Failed(String),
}

/// A user that nobody has.
const NOBODY: &str = "anemos-names-no-user";

impl OpenSsh {
    fn new(command: Vec<OsString>, files: Vec<PathBuf>, deadline: Duration) -> Self {
        Self { command, files, deadline, default: OnceCell::new() }
    }

    async fn effective(&self, alias: &str, overrides: &Overrides, local: &Local) -> Result<Effective, String> {
        // The options given here decide `Match user`, and `%r` and `%p` in paths that ssh expands itself.
        let mut given = Vec::new();
        if let Some(user) = &overrides.user {
            given.extend(["-l".to_owned(), user.clone()]);
        }
        if let Some(port) = overrides.port {
            given.extend(["-p".to_owned(), port.to_string()]);
        }
        if let Some(jumps) = &overrides.proxy_jump {
            given.extend(["-J".to_owned(), jumps.clone()]);
        }
        match self.answers(alias, &given, overrides.user.is_none()).await {
            Ok(Answers { real, named, default }) => {
                let mut effective = resolve(alias, &real, named.as_deref(), overrides, local);
                effective.algorithms = algorithms(&Options(&real), &Options(&default));
                let unusable = effective.algorithms.unusable();
                effective.notes.extend(unusable.into_iter().map(|option| {
                    format!("ssh_config's {option} has nothing that Anemos can use, so Anemos' own list is taken")
                }));
                Ok(effective)
            }
            Err(Unasked::Missing) if overrides.proxy_jump.as_ref().is_some_and(|jumps| jumps != "none") => {
                Err("`proxy_jump` needs OpenSSH's `ssh`, which is not installed".into())
            }
            Err(Unasked::Missing) => {
                let mut effective = resolve(alias, "", None, overrides, local);
                effective.notes.push(
                    "OpenSSH's `ssh` is not installed, so ~/.ssh/config is not read; using Anemos' own defaults for SSH"
                        .into(),
                );
                Ok(effective)
            }
            Err(Unasked::Failed(why)) => Err(format!("{why}. `ssh {alias}` would fail too; mend your ssh_config")),
        }
    }

    /// What ssh says of a host, and, if that is wanted, the user whom a file names.
    async fn answers(&self, alias: &str, given: &[String], want_user: bool) -> Result<Answers, Unasked> {
        let default = self.default.get_or_try_init(|| async {
            let none = ["-F".to_owned(), "none".to_owned()];
            self.ask(alias, &none, Stdio::null()).await
        });
        if !want_user {
            let (real, default) = tokio::try_join!(self.ask(alias, given, Stdio::null()), default)?;
            return Ok(Answers { real, named: None, default: default.clone() });
        }
        let (real, with_nobody, default) =
            tokio::try_join!(self.ask(alias, given, Stdio::null()), self.ask_with_nobody(alias, given), default)?;
        let named = named_user(&real, &with_nobody, Options(default).get("user"));
        Ok(Answers { real, named, default: default.clone() })
    }

    /// Asks with a file that includes the real ones and ends with a user whom nobody has.
    async fn ask_with_nobody(&self, alias: &str, given: &[String]) -> Result<String, Unasked> {
        let failed = |error: io::Error| Unasked::Failed(format!("`ssh -G {alias}` can't be prepared: {error}"));
        let mut text: Vec<String> = self.files.iter().map(|file| format!("Include \"{}\"", file.display())).collect();
        text.push(format!("Host *\nUser {NOBODY}\n"));
        // In memory: ssh opens it as its standard input, anew each time that it reads it.
        let file = rustix::fs::memfd_create("ssh_config", rustix::fs::MemfdFlags::CLOEXEC);
        let mut file = File::from(file.map_err(|e| failed(e.into()))?);
        file.write_all(text.join("\n").as_bytes()).map_err(failed)?;
        let options = [&["-F".to_owned(), "/proc/self/fd/0".to_owned()][..], given].concat();
        self.ask(alias, &options, file.into()).await
    }

    /// Runs `ssh -G`.
    async fn ask(&self, alias: &str, options: &[String], stdin: Stdio) -> Result<String, Unasked> {
        let failed = |why: String| Err(Unasked::Failed(format!("`ssh -G {alias}` {why}")));
        let Some((program, first)) = self.command.split_first() else { return Err(Unasked::Missing) };
        let mut command = Command::new(program);
        command.args(first).arg("-G").args(options).arg("--").arg(alias);
        command.stdin(stdin).kill_on_drop(true);
        let output = match tokio::time::timeout(self.deadline, command.output()).await {
            Err(_) => return failed(format!("did not end within {} s", self.deadline.as_secs())),
            Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Err(Unasked::Missing),
            Ok(Err(error)) => return failed(format!("can't be run: {error}")),
            Ok(Ok(output)) => output,
        };
        match String::from_utf8(output.stdout) {
            Ok(text) if output.status.success() => Ok(text),
            // Read otherwise than it was written, a path would be another one.
            Err(_) if output.status.success() => failed("names a file whose name is not UTF-8".into()),
            _ => failed(failure(output.status, &String::from_utf8_lossy(&output.stderr))),
        }
    }
}

/// The user that a file names: whoever comes before the one whom nobody has, or is not the default.
pub fn named_user(answer: &str, with_nobody: &str, default: Option<&str>) -> Option<String> {
    let before_nobody = Options(with_nobody).get("user").filter(|user| *user != NOBODY);
    let not_default = || Options(answer).get("user").filter(|user| Some(*user) != default);
    before_nobody.or_else(not_default).map(str::to_owned)
}

fn failure(status: ExitStatus, stderr: &str) -> String {
    let said: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    format!("failed ({status}): {}", said.join("; "))
}

/// What an answer of `ssh -G` means, which is empty where there is none; `named` is the user that a file names. Pure.
pub fn resolve(alias: &str, answer: &str, named: Option<&str>, overrides: &Overrides, local: &Local) -> Effective {
    let options = Options(answer);
    let host_name = options.get("hostname").unwrap_or(alias).to_owned();
    let port = overrides.port.or_else(|| options.get("port")?.parse().ok()).unwrap_or(22);
    let user = overrides.user.as_deref().or(named).unwrap_or("root").to_owned();
    let host_key_alias = options.get("hostkeyalias");
    let tokens = Tokens { alias, host_name: &host_name, port, user: &user, host_key_alias, local };

    let mut notes = Vec::new();
    let mut expand = |option: &str, text: &str| {
        let path = tokens.path(text);
        if path.is_none() {
            notes.push(format!("ssh_config's {option} {text} is left out: it can't be expanded here"));
        }
        path
    };
    let mut identity_files = overrides.identity_files.clone();
    if identity_files.is_empty() {
        identity_files = match options.all("identityfile") {
            files if files.is_empty() => {
                DEFAULT_IDENTITIES.iter().filter_map(|file| expand("IdentityFile", file)).collect()
            }
            files => files
                .into_iter()
                .filter(|file| *file != "none")
                .filter_map(|file| expand("IdentityFile", file))
                .collect(),
        };
    }
    let certificate_files = options.all("certificatefile").into_iter();
    let certificate_files =
        certificate_files.filter(|file| *file != "none").filter_map(|file| expand("CertificateFile", file)).collect();
    let mut listed_files = |option: &str, default: &str| -> Vec<PathBuf> {
        let files = split_files(options.get(&option.to_lowercase()).unwrap_or(default));
        files.iter().filter(|file| *file != "none").filter_map(|file| expand(option, file)).collect()
    };
    let user_known_hosts = match &overrides.known_hosts {
        Some(file) => vec![file.clone()],
        None => listed_files("UserKnownHostsFile", "~/.ssh/known_hosts ~/.ssh/known_hosts2"),
    };
    let global_known_hosts = match &overrides.known_hosts {
        Some(_) => Vec::new(),
        None => listed_files("GlobalKnownHostsFile", "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"),
    };
    let agent = match options.get("identityagent") {
        None | Some("SSH_AUTH_SOCK") => Agent::Environment,
        Some("none") => Agent::Disabled,
        Some(socket) => match socket.strip_prefix('$').filter(|name| !name.starts_with('{')) {
            Some(variable) => {
                local.environment.get(variable).map_or(Agent::Disabled, |path| Agent::Socket(path.into()))
            }
            None => expand("IdentityAgent", socket).map_or(Agent::Disabled, Agent::Socket),
        },
    };
    let (way, unsupported) = match way(&options, &tokens).map_err(|why| format!("ssh_config reaches {alias} by {why}"))
    {
        Ok(way) => (way, None),
        Err(why) => (Way::Direct, Some(why)),
    };
    let revoked: Vec<Option<PathBuf>> = split_files(options.get("revokedhostkeys").unwrap_or("none"))
        .iter()
        .filter(|file| *file != "none")
        .map(|file| tokens.path(file))
        .collect();
    let unread = || revoked.contains(&None).then(|| revoked_unread(alias, &options));
    let unsupported = unsupported.or_else(unread);
    notes.extend(passed_over(&options));
    let is_yes = |option: &str| matches!(options.get(option), Some("yes" | "true"));
    Effective {
        identities_only: is_yes("identitiesonly"),
        identities_given: !overrides.identity_files.is_empty(),
        certificate_files,
        revoked_host_keys: revoked.into_iter().flatten().collect(),
        host_key_alias: host_key_alias.map(str::to_owned),
        hash_known_hosts: is_yes("hashknownhosts"),
        strict_host_key_checking: options.get("stricthostkeychecking").map(str::to_owned),
        host_name,
        port,
        way,
        algorithms: Algorithms::default(),
        user,
        identity_files,
        agent,
        user_known_hosts,
        global_known_hosts,
        unsupported,
        notes,
    }
}

/// What files say of algorithms and keys: what is not the default.
fn algorithms(options: &Options<'_>, defaults: &Options<'_>) -> Algorithms {
    let list = |option: &str| {
        let told = options.get(option).filter(|told| Some(*told) != defaults.get(option));
        told.map(|told| told.split(',').map(str::to_owned).collect()).unwrap_or_default()
    };
    Algorithms {
        kex: list("kexalgorithms"),
        ciphers: list("ciphers"),
        macs: list("macs"),
        host_keys: list("hostkeyalgorithms"),
        // What it was called before OpenSSH 8.5.
        user_keys: [list("pubkeyacceptedalgorithms"), list("pubkeyacceptedkeytypes")].concat(),
        rsa_bits: list("requiredrsasize").first().and_then(|bits| bits.parse().ok()),
    }
}

/// Options by which ssh would do otherwise than Anemos, with the values by which it would not.
const PASSED_OVER: [(&str, &str, [&str; 3]); 4] = [
    ("verifyhostkeydns", "VerifyHostKeyDNS", ["no", "false", "none"]),
    ("knownhostscommand", "KnownHostsCommand", ["none"; 3]),
    ("pkcs11provider", "PKCS11Provider", ["none"; 3]),
    ("pubkeyauthentication", "PubkeyAuthentication", ["yes", "true", "unbound"]),
];

/// What the user should know of options that Anemos passes over.
fn passed_over(options: &Options<'_>) -> impl Iterator<Item = String> {
    let named = PASSED_OVER.iter().filter_map(|(option, name, same)| {
        let value = options.get(option).filter(|value| !same.contains(value))?;
        Some(format!("ssh_config has {name} {value}, which Anemos passes over"))
    });
    let gssapi = "ssh_config has GSSAPIAuthentication yes, and no other way to log in; Anemos passes over that";
    named.chain(has_only_gssapi(options).then(|| gssapi.to_owned()))
}

/// Whether Kerberos is all that ssh would log in by. Many distributions switch it on, and that alone means nothing.
fn has_only_gssapi(options: &Options<'_>) -> bool {
    const OTHERS: [(&str, &str); 3] = [
        ("publickey", "pubkeyauthentication"),
        ("password", "passwordauthentication"),
        ("keyboard-interactive", "kbdinteractiveauthentication"),
    ];
    let preferred = options.get("preferredauthentications");
    let is_other = |(method, option): &(&str, &str)| {
        options.get(option) != Some("no")
            && options.get(option) != Some("false")
            && preferred.is_none_or(|methods| methods.split(',').any(|preferred| preferred == *method))
    };
    matches!(options.get("gssapiauthentication"), Some("yes" | "true")) && !OTHERS.iter().any(is_other)
}

/// The way to the host. An error says what it is that can't be taken.
fn way(options: &Options<'_>, tokens: &Tokens<'_>) -> Result<Way, String> {
    if let Some(jumps) = options.set("proxyjump") {
        let why_not = |why: String| format!("ProxyJump ({jumps}), which can't be taken: {why}");
        let filled = tokens.proxy(jumps, false).map_err(why_not)?;
        return Way::through(&filled).map_err(why_not);
    }
    let Some(command) = options.set("proxycommand") else {
        let family = match options.get("addressfamily") {
            Some("inet") => Some(Family::Inet),
            Some("inet6") => Some(Family::Inet6),
            _ => None,
        };
        let text = |option: &str| options.set(option).map(str::to_owned);
        return Ok(Way::bound(Origin { family, address: text("bindaddress"), interface: text("bindinterface") }));
    };
    let why_not = |why: &str| format!("ProxyCommand ({command}), which can't be taken: {why}");
    if matches!(options.get("proxyusefdpass"), Some("yes" | "true")) {
        return Err(why_not("with ProxyUseFdpass it hands over a connection, and does not lead there itself"));
    }
    if command == "-" {
        return Err(why_not("that is this terminal"));
    }
    tokens.proxy(command, true).map(Way::Command).map_err(|why| why_not(&why))
}

/// A file of revoked keys whose name can't be expanded here: it may have the host's key.
fn revoked_unread(alias: &str, options: &Options<'_>) -> String {
    let files = options.get("revokedhostkeys").unwrap_or_default();
    format!(
        "ssh_config names revoked host keys for {alias} (RevokedHostKeys {files}), and a name can't be expanded here, \
         so it can't be told whether the host's key is one of them. Write the path out"
    )
}

/// What OpenSSH tries by default, of the kinds that Anemos can use.
const DEFAULT_IDENTITIES: &[&str] = &["~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"];

/// Lines of `option value`, option names in lower case.
struct Options<'a>(&'a str);

impl<'a> Options<'a> {
    fn all(&self, option: &str) -> Vec<&'a str> {
        let lines = self.0.lines().filter_map(|line| line.split_once(' '));
        lines
            .filter(|(name, _)| *name == option)
            .map(|(_, value)| value.trim())
            .filter(|value| !value.is_empty())
            .collect()
    }

    fn get(&self, option: &str) -> Option<&'a str> {
        self.all(option).first().copied()
    }

    fn set(&self, option: &str) -> Option<&'a str> {
        self.get(option).filter(|value| *value != "none")
    }
}

/// `ssh -G` prints a list of files with spaces between, and doesn't quote those in a name. A word that
/// doesn't look like the beginning of a path continues the path before it.
fn split_files(list: &str) -> Vec<String> {
    let mut files: Vec<String> = Vec::new();
    for word in list.split(' ') {
        match files.last_mut() {
            Some(last) if !word.starts_with(['/', '~', '%', '$']) => {
                last.push(' ');
                last.push_str(word);
            }
            _ => files.push(word.to_owned()),
        }
    }
    files.retain(|file| !file.trim().is_empty());
    files
}

/// What `%` stands for (ssh_config(5), "TOKENS").
struct Tokens<'a> {
    alias: &'a str,
    host_name: &'a str,
    port: u16,
    user: &'a str,
    host_key_alias: Option<&'a str>,
    local: &'a Local,
}

impl Tokens<'_> {
    fn path(&self, text: &str) -> Option<PathBuf> {
        let expanded = self.expand(text)?;
        Some(match expanded.strip_prefix("~/") {
            Some(rest) => self.local.home.join(rest),
            None if expanded.starts_with('~') => return None,
            None => Path::new(&expanded).to_owned(),
        })
    }

    /// What a proxy's option means, which knows fewer tokens. A command is not for one port only, so host and port are
    /// left to be filled in; and so is `%%`.
    fn proxy(&self, text: &str, is_command: bool) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = text.split('%');
        out.push_str(rest.next().unwrap_or_default());
        while let Some(part) = rest.next() {
            let Some(token) = part.chars().next() else {
                out.push_str(if is_command { "%%" } else { "%" });
                out.push_str(rest.next().ok_or("it ends in `%`")?);
                continue;
            };
            let value = match token {
                'h' | 'p' if is_command => format!("%{token}"),
                'h' => self.host_name.to_owned(),
                'p' => self.port.to_string(),
                'n' => self.alias.to_owned(),
                'r' => self.user.to_owned(),
                'k' => self.host_key_alias.unwrap_or(self.alias).to_owned(),
                other => return Err(format!("it can't have the token %{other}")),
            };
            let is_left = is_command && matches!(token, 'h' | 'p');
            out.push_str(&if is_command && !is_left { value.replace('%', "%%") } else { value });
            out.push_str(&part[token.len_utf8()..]);
        }
        Ok(out)
    }

    fn expand(&self, text: &str) -> Option<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['%', '$']) {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(variable) = rest.strip_prefix("${") {
                let (name, after) = variable.split_once('}')?;
                out.push_str(self.local.environment.get(name)?);
                rest = after;
                continue;
            }
            if let Some(after) = rest.strip_prefix('$') {
                out.push('$');
                rest = after;
                continue;
            }
            let token = rest[1..].chars().next()?;
            match token {
                '%' => out.push('%'),
                'd' => out.push_str(self.local.home.to_str()?),
                'h' => out.push_str(self.host_name),
                'n' => out.push_str(self.alias),
                'p' => out.push_str(&self.port.to_string()),
                'r' => out.push_str(self.user),
                'u' => out.push_str(self.local.user.as_deref()?),
                'i' => out.push_str(&self.local.uid?.to_string()),
                _ => return None,
            }
            rest = &rest[1 + token.len_utf8()..];
        }
        out.push_str(rest);
        Some(out)
    }
}
