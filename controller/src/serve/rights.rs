//! What people other than the daemon's own user may do, by a file that its user wrote. Pure, but for reading that file.
//!
//! Hosts are meant by their addresses: a name in hosts.toml is whatever the one who submits it says.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::api::{Fault, Peer};
use crate::engine::sha256;
use crate::journal::{HostEntry, RunDir};
use crate::run::Described;

/// Longest file, in bytes.
const LONGEST: u64 = 1 << 20;

/// Something that may be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// To see runs, and what their hosts say.
    See,
    /// To decide about plans, and to wish for something: retry, abort, finish, stop.
    Decide,
    /// To submit runs, and to give what these want: secrets, passphrases.
    Deploy,
}

/// As the file has it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    groups: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    users: BTreeMap<String, Allowed>,
    #[serde(default)]
    tokens: BTreeMap<String, Named>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Allowed {
    #[serde(default)]
    see: Vec<String>,
    #[serde(default)]
    decide: Vec<String>,
    #[serde(default)]
    deploy: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    sha256: String,
    #[serde(default)]
    see: Vec<String>,
    #[serde(default)]
    decide: Vec<String>,
}

/// Patterns of addresses.
type Hosts = Vec<glob::Pattern>;

/// Somebody whom the file names, and what they may do.
#[derive(Debug, Default)]
pub struct Person {
    name: String,
    see: Hosts,
    decide: Hosts,
    deploy: Hosts,
}

/// Who asks.
#[derive(Debug, Clone)]
pub enum Who {
    /// The daemon's own user, or root.
    Owner,
    /// Somebody whom the file names.
    Other(Arc<Person>),
}

/// What people may do. By default nobody but the daemon's own user and root may do anything.
#[derive(Debug, Default)]
pub struct Rights {
    users: BTreeMap<String, Arc<Person>>,
    /// By the SHA-256 of a token, in lower-case hexadecimal.
    tokens: BTreeMap<String, Arc<Person>>,
}

impl Rights {
    /// Reads the file. It must be the daemon's user's or root's, and nobody else may be able to write it. An error says
    /// why it can't be gone by.
    pub fn read(path: &Path) -> Result<Self, String> {
        let named = |why: String| format!("{}: {why}", path.display());
        let file = File::open(path).map_err(|error| named(error.to_string()))?;
        let metadata = file.metadata().map_err(|error| named(error.to_string()))?;
        let ours = rustix::process::geteuid().as_raw();
        if ![ours, 0].contains(&metadata.uid()) || metadata.mode() & 0o022 != 0 {
            return Err(named(format!(
                "others could give themselves rights there: it must belong to user {ours} or root, and be writable by \
                 its owner only (it belongs to user {}, and has mode {:o})",
                metadata.uid(),
                metadata.mode() & 0o7777
            )));
        }
        let mut text = String::new();
        file.take(LONGEST).read_to_string(&mut text).map_err(|error| named(error.to_string()))?;
        Self::parse(&text).map_err(named)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let Written { groups, users, tokens } = toml::from_str(text).map_err(|error| error.to_string())?;
        let hosts = |of: &str, words: Vec<String>| -> Result<Hosts, String> {
            let mut hosts = Hosts::new();
            for word in words {
                match word.strip_prefix('@') {
                    None => hosts.push(pattern(&word).map_err(|why| format!("{of}: {why}"))?),
                    Some(group) => {
                        let members = groups.get(group).ok_or_else(|| format!("{of}: there is no group `{group}`"))?;
                        for member in members {
                            hosts.push(pattern(member).map_err(|why| format!("group `{group}`: {why}"))?);
                        }
                    }
                }
            }
            Ok(hosts)
        };
        let mut rights = Self::default();
        for (name, Allowed { see, decide, deploy }) in users {
            let of = format!("user `{name}`");
            let (see, decide, deploy) = (hosts(&of, see)?, hosts(&of, decide)?, hosts(&of, deploy)?);
            rights.users.insert(name.clone(), Arc::new(Person { name, see, decide, deploy }));
        }
        for (name, Named { sha256, see, decide }) in tokens {
            let of = format!("token `{name}`");
            if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(format!("{of}: `sha256` is the token's SHA-256 in hexadecimal, as sha256sum(1) shows it"));
            }
            let (see, decide) = (hosts(&of, see)?, hosts(&of, decide)?);
            let person = Arc::new(Person { name, see, decide, deploy: Hosts::new() });
            if rights.tokens.insert(sha256.to_ascii_lowercase(), person).is_some() {
                return Err(format!("{of}: another one has the same `sha256`"));
            }
        }
        Ok(rights)
    }

    /// Whether users of the socket other than the daemon's own are named.
    pub fn are_shared(&self) -> bool {
        !self.users.is_empty()
    }

    /// Who is at the other end of the socket. An error is for them.
    pub fn of_peer(&self, peer: &Peer) -> Result<Who, String> {
        let ours = rustix::process::geteuid().as_raw();
        if peer.uid == ours || peer.uid == 0 {
            return Ok(Who::Owner);
        }
        let named = self.users.get(&peer.user).or_else(|| self.users.get(&peer.uid.to_string()));
        let whom = || format!("this daemon serves user {ours}, and you are user {}", peer.uid);
        named.map(|person| Who::Other(Arc::clone(person))).ok_or_else(whom)
    }

    /// Whose token of the page this is.
    pub fn of_token(&self, token: &str) -> Option<Who> {
        // What is compared is a digest: how long that takes says nothing about the token.
        self.tokens.get(&sha256(token.as_bytes()).to_string()).map(|person| Who::Other(Arc::clone(person)))
    }
}

/// A pattern of addresses. IPv6 addresses have colons.
fn pattern(word: &str) -> Result<glob::Pattern, String> {
    let odd = |c: char| !c.is_ascii_alphanumeric() && !"._-:*?".contains(c);
    if word.is_empty() || word.contains(odd) || word.contains("**") {
        return Err(format!("`{word}` is no address, and no pattern of some such as `10.0.1.*` or `*.example.org`"));
    }
    glob::Pattern::new(&word.to_ascii_lowercase()).map_err(|why| format!("`{word}`: {}", why.msg))
}

impl Who {
    /// Their name, if they are not the daemon's own user.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Owner => None,
            Self::Other(person) => Some(&person.name),
        }
    }

    /// Whether they are the daemon's own user, or root.
    pub fn is_owner(&self) -> bool {
        matches!(self, Self::Owner)
    }

    /// Whether they may do that to all of these hosts. An error is for them.
    pub fn may(&self, right: Right, hosts: &[HostEntry]) -> Result<(), Fault> {
        let addresses = |host: &HostEntry| {
            let new = host.new_address.as_ref().map(|address| address.host.clone());
            std::iter::once(host.address.host.clone()).chain(new).collect::<Vec<_>>()
        };
        hosts.iter().try_for_each(|host| self.may_at(right, &host.name, &addresses(host)))
    }

    /// Whether they may see all of a run's hosts. Blocks the thread while it reads which these are.
    pub fn sees(&self, run: &RunDir) -> bool {
        self.is_owner() || run.load().is_ok_and(|file| self.may(Right::See, &file.hosts).is_ok())
    }

    /// Whether they may have these hosts deployed.
    pub fn may_submit(&self, hosts: &[Described]) -> Result<(), Fault> {
        let Self::Other(person) = self else { return Ok(()) };
        for described in hosts {
            let name = &described.host.name;
            if !described.ssh.way.is_direct() {
                // A program that leads there would be run by the daemon's user.
                return Err(Fault::input(format!(
                    "{} may not have `{name}` deployed: only the daemon's own user may name jump hosts or a \
                     ProxyCommand",
                    person.name
                )));
            }
            let addresses: Vec<String> =
                std::iter::once(described.ssh.host_name.clone()).chain(described.host.new_address.clone()).collect();
            self.may_at(Right::Deploy, name, &addresses)?;
        }
        Ok(())
    }

    /// Forgets from where people other than the daemon's own user have secrets, and by which commands they open them:
    /// who looks at a run later (`anemos attach`) reads these files and runs these commands to give secrets again, and
    /// must not do so for others.
    pub fn names_no_place(&self, hosts: &mut [Described]) {
        if self.is_owner() {
            return;
        }
        for Described { host, .. } in hosts {
            host.reveal = None;
            host.secrets.values_mut().for_each(|path| *path = PathBuf::new());
        }
    }

    fn may_at(&self, right: Right, host: &str, addresses: &[String]) -> Result<(), Fault> {
        let Self::Other(person) = self else { return Ok(()) };
        let (lists, what): (&[&Hosts], _) = match right {
            // Whoever decides about a host, or has it deployed, sees it.
            Right::See => (&[&person.see, &person.decide, &person.deploy], "see"),
            Right::Decide => (&[&person.decide], "decide about"),
            Right::Deploy => (&[&person.deploy], "deploy"),
        };
        for address in addresses {
            let address_in_lower_case = address.to_ascii_lowercase();
            if !lists.iter().any(|list| list.iter().any(|pattern| pattern.matches(&address_in_lower_case))) {
                return Err(Fault::input(format!("{} may not {what} `{host}` ({address})", person.name)));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::journal::samples::run_file;

    const FILE: &str = r#"
        [groups]
        web = ["web*.example.org", "10.0.1.*"]

        [users.ann]
        see = ["*"]
        decide = ["@web"]
        deploy = ["@web", "192.0.2.7"]

        [users.1234]
        see = ["@web"]

        [tokens.bob]
        sha256 = "A665A45920422F9D417E4867EFDC4FB8A04A1F3FFF1FA07E998E86F7F7A27AE3"
        decide = ["@web"]
    "#;

    fn peer(uid: u32, user: &str) -> Peer {
        Peer { uid, user: user.into(), author: format!("{user} (process 1)") }
    }

    fn at(address: &str) -> HostEntry {
        let mut host = run_file("20261123-093000-0a1b", &["web1"]).hosts.remove(0);
        host.address.host = address.into();
        host
    }

    #[test]
    fn each_may_what_the_file_says_and_no_more() {
        let rights = Rights::parse(FILE).unwrap();
        assert!(rights.are_shared() && !Rights::default().are_shared());
        // A number that is neither this process' nor root's.
        let other = rustix::process::geteuid().as_raw() + 4321;
        let ann = rights.of_peer(&peer(other, "ann")).unwrap();
        let numbered = rights.of_peer(&peer(1234, "user 1234")).unwrap();
        let bob = rights.of_token("123").unwrap();
        assert_eq!((ann.name(), bob.name(), bob.is_owner()), (Some("ann"), Some("bob"), false));
        for (address, [of_ann, of_numbered, of_bob]) in [
            ("web1.example.org", ["sdp", "s--", "sd-"]),
            ("WEB1.Example.org", ["sdp", "s--", "sd-"]),
            ("10.0.1.7", ["sdp", "s--", "sd-"]),
            ("192.0.2.7", ["s-p", "---", "---"]),
            ("db1.example.org", ["s--", "---", "---"]),
            ("10.0.10.7", ["s--", "---", "---"]),
        ] {
            let may = |who: &Who| -> String {
                let each = [(Right::See, 's'), (Right::Decide, 'd'), (Right::Deploy, 'p')];
                each.map(|(right, letter)| if who.may(right, &[at(address)]).is_ok() { letter } else { '-' })
                    .iter()
                    .collect()
            };
            assert_eq!([may(&ann), may(&numbered), may(&bob)], [of_ann, of_numbered, of_bob], "{address}");
            assert_eq!(may(&Who::Owner), "sdp");
        }
        // All of a run, or nothing of it; also where the new system is.
        let why = bob.may(Right::See, &[at("10.0.1.7"), at("192.0.2.7")]).unwrap_err().message;
        assert_eq!(why, "bob may not see `web1` (192.0.2.7)");
        let mut moves = at("10.0.1.7");
        moves.new_address = Some(at("192.0.2.7").address);
        bob.may(Right::See, &[moves]).unwrap_err();
    }

    #[test]
    fn nobody_reads_files_or_runs_commands_for_another() {
        let rights = Rights::parse(FILE).unwrap();
        let ann = rights.of_peer(&peer(rustix::process::geteuid().as_raw() + 4321, "ann")).unwrap();
        let submitted = || {
            let mut described = crate::run::samples::described("web1", "reveal = \"evil\"");
            described.host.secrets = BTreeMap::from([("key".to_owned(), PathBuf::from("/root/.ssh/id_ed25519"))]);
            [described]
        };
        let (mut of_ann, mut of_owner) = (submitted(), submitted());
        ann.names_no_place(&mut of_ann);
        Who::Owner.names_no_place(&mut of_owner);
        let said =
            |[described]: [Described; 1]| (described.host.reveal, described.host.secrets["key"].display().to_string());
        assert_eq!(said(of_ann), (None, String::new()));
        assert_eq!(said(of_owner), (Some("evil".into()), "/root/.ssh/id_ed25519".into()));
    }

    #[test]
    fn nobody_else_is_served() {
        let rights = Rights::parse(FILE).unwrap();
        let ours = rustix::process::geteuid().as_raw();
        for rights in [&rights, &Rights::default()] {
            assert!(rights.of_peer(&peer(ours, "us")).unwrap().is_owner());
            assert!(rights.of_peer(&peer(0, "root")).unwrap().is_owner());
            let why = rights.of_peer(&peer(ours + 4321, "eve")).unwrap_err();
            assert!(why.contains(&format!("you are user {}", ours + 4321)), "{why}");
            assert!(rights.of_token("").is_none() && rights.of_token("1234").is_none());
        }
        assert!(Rights::default().of_token("123").is_none());
    }

    #[test]
    fn what_can_t_be_understood_gives_nobody_a_right() {
        for (text, part) in [
            ("[users.ann]\nseee = [\"*\"]", "seee"),
            ("[users.ann]\nsee = [\"@web\"]", "no group `web`"),
            ("[users.ann]\nsee = [\"\"]", "is no address"),
            ("[users.ann]\nsee = [\"a b\"]", "is no address"),
            ("[users.ann]\nsee = [\"**\"]", "is no address"),
            ("[user.ann]\nsee = [\"*\"]", "user"),
            ("[tokens.ann]\nsha256 = \"12\"", "SHA-256"),
            ("[tokens.ann]\nsee = [\"*\"]", "sha256"),
            ("[tokens.ann]\nsha256 = \"\"\ndeploy = [\"*\"]", "deploy"),
            ("[groups]\nweb = [\"@db\"]\n[users.ann]\nsee = [\"@web\"]", "is no address"),
        ] {
            let why = Rights::parse(text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
        let twice = "[tokens.a]\nsha256 = \"@\"\n[tokens.b]\nsha256 = \"@\"".replace('@', &"ab".repeat(32));
        assert!(Rights::parse(&twice).unwrap_err().contains("the same"));
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.toml");
        std::fs::write(&path, FILE).unwrap();
        for (mode, is_taken) in [(0o600, true), (0o644, true), (0o664, false), (0o646, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Rights::read(&path).is_ok(), is_taken, "{mode:o}");
        }
        assert!(Rights::read(&dir.path().join("nowhere")).unwrap_err().contains("nowhere"));
    }
}
