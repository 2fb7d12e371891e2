//! The way to a host: straight, or through what ssh_config puts in between. Pure.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Address;
use crate::text::quoted;

/// How a host is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// By a TCP connection from here.
    #[default]
    Direct,
    /// By a TCP connection of this kind.
    Bound(Origin),
    /// By the user's own `ssh`, through these hosts: `ProxyJump`.
    Jump(Vec<Hop>),
    /// By a command whose input and output lead there: `ProxyCommand`. Of its tokens, `%h`, `%p` and `%%` are left.
    Command(String),
}

/// What ssh_config says of a TCP connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    /// The only version of IP, if there is one: `AddressFamily`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub family: Option<Family>,
    /// The address here from which it is made: `BindAddress`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The network interface that it takes: `BindInterface`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// A version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// 4.
    Inet,
    /// 6.
    Inet6,
}

impl Family {
    /// Its word in ssh_config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Inet6 => "inet6",
        }
    }
}

impl Origin {
    /// Whether a connection to this address may be tried.
    pub(super) fn takes(&self, to: &SocketAddr) -> bool {
        self.family.is_none_or(|family| to.is_ipv4() == (family == Family::Inet))
    }
}

/// A host on the way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hop {
    /// Who logs in there; `None`: whoever ssh_config says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its name, as ssh_config knows it, or its address.
    pub host: String,
    /// The port of its SSH server; `None`: what ssh_config says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// A program and its arguments.
type Words = Vec<String>;

impl Way {
    /// By a TCP connection of this kind.
    pub fn bound(origin: Origin) -> Self {
        if origin == Origin::default() { Self::Direct } else { Self::Bound(origin) }
    }

    /// Whether it is like any other.
    pub fn is_plain(&self) -> bool {
        *self == Self::Direct
    }

    /// Whether nothing is in between.
    pub fn is_direct(&self) -> bool {
        matches!(self, Self::Direct | Self::Bound(_))
    }

    /// What is said of a TCP connection there.
    pub(super) fn origin(&self) -> Option<&Origin> {
        if let Self::Bound(origin) = self { Some(origin) } else { None }
    }

    /// The way that `ProxyJump` names: `[ssh://][USER@]HOST[:PORT]`, several separated by commas, the first first. An
    /// error says what is wrong.
    pub fn through(jumps: &str) -> Result<Self, String> {
        jumps.split(',').map(|hop| Hop::parse(hop.trim())).collect::<Result<_, _>>().map(Self::Jump)
    }

    /// The command whose input and output lead to that host and port, if one does. `ssh` is the user's own with the
    /// arguments that come before all others, `shared` where it shares a connection to the jump hosts, `shell` the
    /// user's shell.
    pub(super) fn command(&self, address: &Address, ssh: &[&str], shared: Option<&Path>, shell: &str) -> Option<Words> {
        match self {
            Self::Direct | Self::Bound(_) => None,
            Self::Jump(hops) => {
                let target = format!("[{}]:{}", address.host, address.port);
                let own = shared.map(|path| control("no", &path.display().to_string()));
                let each = [&["BatchMode=yes".to_owned()][..], &not_shared()].concat();
                let (last, before) = hops.split_last()?;
                let mut words = jump(last, before, ssh, (own.as_ref().map_or(&[], |own| &own[..]), &each));
                words.extend(["-W".into(), target, "--".into(), last.host.clone()]);
                Some(words)
            }
            // The shell makes room for the command, as with ssh: what is ended then is the command itself.
            Self::Command(command) => {
                Some(vec![shell.into(), "-c".into(), format!("exec {}", fill_in(command, address))])
            }
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct | Self::Bound(_) => f.write_str("direct"),
            Self::Jump(hops) => {
                let hops: Vec<String> = hops.iter().map(ToString::to_string).collect();
                write!(f, "through {}", hops.join(" and "))
            }
            Self::Command(_) => f.write_str("through its ProxyCommand"),
        }
    }
}

impl Hop {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("`{text}` is no jump host: {what}"));
        let rest = text.strip_prefix("ssh://").map_or(text, |rest| rest.trim_end_matches('/'));
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, rest),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, "")) => (host, None),
                Some((host, port)) if port.starts_with(':') => (host, Some(&port[1..])),
                _ => return wrong("its brackets are not in order"),
            },
            // Several colons are those of an IPv6 address.
            None => match place.split_once(':') {
                Some((host, port)) if !port.contains(':') => (host, Some(port)),
                _ => (place, None),
            },
        };
        if host.is_empty() || user.is_some_and(str::is_empty) {
            return wrong("a name is missing");
        }
        if host.starts_with('-') || user.is_some_and(|user| user.starts_with('-')) {
            return wrong("a name can't begin with `-`");
        }
        let port = match port.map(str::parse) {
            None => None,
            Some(Ok(port @ 1..)) => Some(port),
            Some(_) => return wrong("its port is none"),
        };
        Ok(Self { user: user.map(str::to_owned), host: host.into(), port })
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.port {
            Some(port) if self.host.contains(':') => write!(f, "[{}]:{port}", self.host),
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// What each `ssh` on the way is told.
const OPTIONS: [&str; 2] = [
    // So that it is known who did not answer.
    "ConnectTimeout=20",
    // Less would hide why there is no connection.
    "LogLevel=INFO",
];

/// What a connection that is shared is told besides: it is for nothing else, and ends when nobody answers.
const SHARING: [&str; 5] = [
    "ControlPersist=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
];

/// Where a connection is shared, and whether it is this one that others share.
fn control(master: &str, path: &str) -> [String; 2] {
    [format!("ControlMaster={master}"), format!("ControlPath={}", path.replace('%', "%%"))]
}

/// One that others share with us would end with them, and they with it.
fn not_shared() -> [String; 2] {
    control("no", "none")
}

/// The `ssh` that logs into the last of these through the others, asking whoever it is told to ask, and has others
/// share the connection.
pub(super) fn login(hops: &[Hop], ssh: &[&str], shared: &Path) -> Words {
    let Some((last, before)) = hops.split_last() else { return Words::new() };
    let own = [&control("yes", &shared.display().to_string())[..], &SHARING.map(str::to_owned)].concat();
    let mut words = jump(last, before, ssh, (&own, &not_shared()));
    words.extend(["-N", "-T", "-x", "-a", "--", &last.host].map(str::to_owned));
    words
}

/// The `ssh` that logs into `last`, which is reached through `before`, up to what is to be done there. `own` is for
/// it alone, `each` for those before it as well: of two values the first counts. What OpenSSH makes of `ProxyJump` is
/// the same, but it tells nothing to those before the last.
fn jump(last: &Hop, before: &[Hop], ssh: &[&str], (own, each): (&[String], &[String])) -> Words {
    let mut words: Words = ssh.iter().map(ToString::to_string).collect();
    let options = own.iter().chain(each).map(String::as_str).chain(OPTIONS);
    words.extend(options.flat_map(|option| ["-o".to_owned(), option.to_owned()]));
    if let Some((next, before)) = before.split_last() {
        // The ssh that this is for puts in its own host and port.
        let mut inner = jump(next, before, ssh, (&[], each));
        inner.extend(["-W", "\0", "--", &next.host].map(str::to_owned));
        let inner: Vec<String> = inner.iter().map(|word| quoted(&word.replace('%', "%%"))).collect();
        let command = inner.join(" ").replace('\0', "[%h]:%p");
        words.extend(["-o".into(), format!("ProxyCommand={command}")]);
    }
    if let Some(user) = &last.user {
        words.extend(["-l".into(), user.clone()]);
    }
    if let Some(port) = last.port {
        words.extend(["-p".into(), port.to_string()]);
    }
    words
}

/// Puts host and port into a `ProxyCommand`.
fn fill_in(command: &str, address: &Address) -> String {
    let mut out = String::new();
    let mut rest = command;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(token) = rest.chars().next() else { break };
        match token {
            'h' => out.push_str(&address.host),
            'p' => out.push_str(&address.port.to_string()),
            other => out.push(other),
        }
        rest = &rest[token.len_utf8()..];
    }
    out.push_str(rest);
    out
}

/// Whose fault it is that there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The jump host was reached, and has no connection to the host.
    Target,
    /// The jump host forbids it.
    Forbidden,
    /// The jump host can't be reached.
    Unreached,
    /// The jump host has too many who want in, or has had enough of us.
    Busy,
    /// The jump host is not who it should be, as far as ssh knows.
    Identity,
    /// The jump host did not let us in.
    Refused,
    /// It can't be told.
    Unknown,
}

impl Fault {
    /// What OpenSSH's client says when it has no connection. The first line that says something is meant: what follows
    /// tells of the consequences.
    pub(super) fn of(said: &str) -> Self {
        const TABLE: [(&str, Fault); 18] = [
            ("open failed: connect failed", Fault::Target),
            ("open failed: administratively prohibited", Fault::Forbidden),
            ("open failed: unknown channel type", Fault::Forbidden),
            // So through a connection that is shared, whatever the reason.
            ("Stdio forwarding request failed", Fault::Target),
            ("Could not resolve hostname", Fault::Unreached),
            ("Connection refused", Fault::Unreached),
            ("Connection timed out", Fault::Unreached),
            ("No route to host", Fault::Unreached),
            ("Network is unreachable", Fault::Unreached),
            ("Exceeded MaxStartups", Fault::Busy),
            ("Not allowed at this time", Fault::Busy),
            ("kex_exchange_identification:", Fault::Busy),
            ("Host key verification failed", Fault::Identity),
            ("host key is known for", Fault::Identity),
            ("REMOTE HOST IDENTIFICATION HAS CHANGED", Fault::Identity),
            ("Permission denied (", Fault::Refused),
            ("Too many authentication failures", Fault::Refused),
            ("This account is currently not available", Fault::Refused),
        ];
        let of_line = |line: &str| TABLE.iter().find(|(words, _)| line.contains(words)).map(|(_, fault)| *fault);
        match said.lines().find_map(of_line).unwrap_or(Self::Unknown) {
            // That was one jump host about the next.
            Self::Target | Self::Forbidden if said.contains("UNKNOWN port 65535") => Self::Unreached,
            fault => fault,
        }
    }

    /// It, as a sentence without its end.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Target => "the jump host has no connection to it",
            Self::Forbidden => "the jump host does not let anybody through to it",
            Self::Unreached => "the jump host can't be reached",
            Self::Busy => "the jump host hung up before it let anybody in",
            Self::Identity => "the jump host's key is not trusted",
            Self::Refused => "the jump host did not let us in",
            Self::Unknown => "the way there ended",
        }
    }

    /// What to do about it, if that is known.
    pub fn hint(self) -> Option<&'static str> {
        match self {
            Self::Target | Self::Unreached | Self::Unknown => None,
            Self::Forbidden => {
                Some("its AllowTcpForwarding and PermitOpen, or the options of the key there, say who may")
            }
            Self::Busy => {
                Some("its MaxStartups or PerSourcePenalties may be too low for so many hosts: give --parallel")
            }
            Self::Identity => Some("log in there once with ssh, to check and remember its key"),
            Self::Refused => Some(
                "what it takes stands in brackets. Where that is a password or a code, start anemos on a terminal, \
                 which asks for it; else `ssh -o BatchMode=yes` must get in, by a key in an agent or without a \
                 passphrase",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(user: Option<&str>, host: &str, port: Option<u16>) -> Hop {
        Hop { user: user.map(str::to_owned), host: host.into(), port }
    }

    fn address() -> Address {
        Address { host: "10.0.0.5".into(), port: 2222, way: Way::Direct }
    }

    #[test]
    fn jump_hosts_are_read_as_openssh_reads_them() {
        let cases = [
            ("bastion", vec![hop(None, "bastion", None)]),
            ("me@b:24", vec![hop(Some("me"), "b", Some(24))]),
            ("me@realm@b", vec![hop(Some("me@realm"), "b", None)]),
            (
                "a,u@[::1]:23,[fe80::1]",
                vec![hop(None, "a", None), hop(Some("u"), "::1", Some(23)), hop(None, "fe80::1", None)],
            ),
            ("2001:db8::1", vec![hop(None, "2001:db8::1", None)]),
            ("ssh://u@b:24/", vec![hop(Some("u"), "b", Some(24))]),
        ];
        for (text, hops) in cases {
            assert_eq!(Way::through(text), Ok(Way::Jump(hops)), "{text}");
        }
        for text in ["", "a,", "@b", "b:", "b:0", "b:70000", "[::1", "[b]22", "-oProxyCommand=x", "-x@b"] {
            let read = Way::through(text);
            assert!(read.is_err(), "{text}: {read:?}");
        }
    }

    #[test]
    fn a_way_is_shown_as_it_is_written() {
        let shown = |jumps: &str| Way::through(jumps).unwrap().to_string();
        assert_eq!(shown("jump.example.org"), "through jump.example.org");
        assert_eq!(shown("ssh://u@a:24,[::1]:23,fe80::1"), "through u@a:24 and [::1]:23 and fe80::1");
    }

    #[test]
    fn what_was_written_before_there_were_ways_is_read() {
        let before = r#"{"host":"10.0.0.5","port":2222}"#;
        assert_eq!(serde_json::from_str::<Address>(before).unwrap(), address());
        assert_eq!(serde_json::to_string(&address()).unwrap(), before);
        let bound = Origin { family: Some(Family::Inet6), address: Some("::1".into()), interface: None };
        for way in [Way::through("a,u@[::1]:23").unwrap(), Way::Command("nc %h %p".into()), Way::Bound(bound)] {
            let text = serde_json::to_string(&Address { way: way.clone(), ..address() }).unwrap();
            assert_eq!(serde_json::from_str::<Address>(&text).unwrap().way, way, "{text}");
        }
    }

    #[test]
    fn each_hop_is_told_how_to_reach_the_next() {
        let way = Way::through("a,u%x@b:24,c").unwrap();
        let words = way.command(&address(), &["ssh", "-F", "my config"], None, "/bin/sh").unwrap();
        assert_eq!(words.last_chunk().unwrap(), &["-W", "[10.0.0.5]:2222", "--", "c"].map(str::to_owned));
        let command = words.iter().find_map(|word| word.strip_prefix("ProxyCommand=")).unwrap();
        assert!(command.starts_with("ssh -F 'my config' -o BatchMode=yes "), "{command}");
        // What stands for host and port of `b` is doubled, as ssh undoubles it on the way to `c`.
        assert!(command.contains("-o 'ProxyCommand=ssh -F '\\''my config'\\'' -o BatchMode=yes "), "{command}");
        assert!(command.contains(r" -W '\''[%%h]:%%p'\'' -- a'"), "{command}");
        assert!(command.ends_with(" -l u%%x -p 24 -W '[%h]:%p' -- b"), "{command}");
    }

    #[test]
    fn a_connection_to_the_last_jump_host_may_be_shared() {
        let way = Way::through("a,u@b:24").unwrap();
        let Way::Jump(hops) = &way else { panic!("{way:?}") };
        let shared = Path::new("/run/50%/way");
        let words = login(hops, &["ssh"], shared).join(" ");
        assert!(words.starts_with("ssh -o ControlMaster=yes -o ControlPath=/run/50%%/way -o Contr"), "{words}");
        assert!(words.ends_with(" -l u -p 24 -N -T -x -a -- b") && !words.contains("BatchMode"), "{words}");
        let through = way.command(&address(), &["ssh"], Some(shared), "").unwrap().join(" ");
        assert!(through.starts_with("ssh -o ControlMaster=no -o ControlPath=/run/50%%/way -o BatchMode=yes "));
        for words in [words, through] {
            let (_, inner) = words.split_once("ProxyCommand=").unwrap();
            assert!(inner.contains("ControlMaster=no") && inner.contains("ControlPath=none"), "{words}");
            assert!(!inner.contains("/run"), "{words}");
        }
    }

    #[test]
    fn a_command_gets_host_and_port_and_nothing_else() {
        let way = Way::Command("nc -X 5 '%h' %p # 100%%h".into());
        let words = way.command(&address(), &["ssh"], None, "/bin/zsh").unwrap();
        assert_eq!(words, ["/bin/zsh", "-c", "exec nc -X 5 '10.0.0.5' 2222 # 100%h"]);
        assert_eq!(Way::Direct.command(&address(), &["ssh"], None, "/bin/sh"), None);
    }
}
