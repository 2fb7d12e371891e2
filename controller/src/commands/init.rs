//! `anemos init`: a hosts.toml and a payload to begin with.

mod examples;

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use examples::{EXAMPLES, Example};

use super::up::{look, unlisted};
use super::{CommandError, Status, Stopping, line};
use crate::cli;
use crate::config::{self, AuthorizedKey, Host, format_bytes};
use crate::known_hosts::PublicKey;
use crate::plan::{Plan, PlanDisk};
use crate::screen::{self, text::sanitise_str};
use crate::text::quoted;

/// The file that describes the hosts.
const HOSTS: &str = "hosts.toml";

/// The directory of the payload.
const PAYLOAD: &str = "payload";

pub(super) async fn init(args: cli::Init, stopping: Stopping) -> Result<Status, CommandError> {
    let dir = args.directory.clone();
    free(&dir).map_err(CommandError::bad_input)?;
    let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let place = match &args.ssh {
        Some(place) => place.clone(),
        None if terminal => asked("The host, as [USER@]HOST[:PORT]", "")?,
        None => return Err(wanting("--ssh [USER@]HOST[:PORT]", "which host it is about")),
    };
    let host = unlisted(&place, args.accept_new).map_err(CommandError::bad_input)?;
    let example = match &args.payload {
        Some(name) => name.clone(),
        None if terminal => {
            for example in &EXAMPLES {
                line(format_args!("  {:16} {}", example.name, example.what));
            }
            asked("What is to become of it", EXAMPLES[0].name)?
        }
        None => EXAMPLES[0].name.to_owned(),
    };
    let example = examples::named(&example).map_err(CommandError::bad_input)?;
    let authorized_keys = authorized_keys(&args.authorized_keys, &dir).map_err(CommandError::bad_input)?;
    let args = cli::Init { authorized_keys, ..args };

    let plan = if args.no_look {
        None
    } else {
        let (status, plans) = look(host.clone(), stopping).await?;
        // What would stop a deployment was shown, and may be mended later.
        match plans.into_iter().next() {
            Some(plan) => Some(plan),
            None => return Ok(status),
        }
    };
    let disk = match (&args.disk, &plan) {
        (Some(disk), Some(plan)) => has_disk(plan, disk).map(|()| disk.clone()).map_err(CommandError::bad_input)?,
        (Some(disk), None) => disk.clone(),
        (None, Some(plan)) => chosen_disk(plan, terminal)?,
        (None, None) if terminal => asked("The disk that may be overwritten, such as /dev/sda", "")?,
        (None, None) => return Err(wanting("--disk DISK", "which disk may be overwritten")),
    };
    let default = default_name(plan.as_deref(), &host);
    let name = match &args.name {
        Some(name) => name.clone(),
        None if terminal => asked("What to call it in hosts.toml", &default)?,
        None => default,
    };
    let text = hosts_toml(&name, &host, &selector(&disk, plan.as_deref()), example, &args);
    config::one(&text).map_err(|why| CommandError::bad_input(format!("hosts.toml would not be right: {why}")))?;
    write(&dir, &text, example).map_err(CommandError::bad_input)?;
    let hosts = dir.join(HOSTS);
    let shown =
        if dir == Path::new(".") { String::new() } else { format!(" {}", quoted(&hosts.display().to_string())) };
    line(format_args!("{} and {} are there; make them yours", hosts.display(), dir.join(PAYLOAD).display()));
    line(format_args!("`anemos plan{shown}` shows what would happen, and `anemos up{shown}` does it"));
    Ok(Status::Done)
}

/// That something must be given where nobody can be asked.
fn wanting(flag: &str, what: &str) -> CommandError {
    CommandError::bad_input(format!("there is no terminal to ask on {what}: give {flag}"))
}

/// Refuses a directory in which something is that would be written over.
fn free(dir: &Path) -> Result<(), String> {
    for name in [HOSTS, PAYLOAD] {
        let path = dir.join(name);
        match fs::symlink_metadata(&path) {
            Ok(_) => {
                let shown = path.display();
                return Err(format!("{shown} is there already; nothing is written over, so name another directory"));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", path.display())),
        }
    }
    Ok(())
}

/// Asks on the terminal. Nothing typed is the default, if there is one.
fn asked(what: &str, default: &str) -> Result<String, CommandError> {
    let answer = ask(what, default, &mut std::io::stdin().lock(), &mut std::io::stderr());
    answer.map_err(|error| CommandError::bad_input(format!("{what}: {error}")))
}

fn ask(what: &str, default: &str, input: &mut impl BufRead, output: &mut impl Write) -> std::io::Result<String> {
    loop {
        let shown = if default.is_empty() { String::new() } else { format!(" [{}]", sanitise_str(default)) };
        write!(output, "{what}{shown}: ")?;
        output.flush()?;
        let mut answer = String::new();
        if input.read_line(&mut answer)? == 0 {
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "nothing was said"));
        }
        match (answer.trim(), default) {
            ("", "") => {}
            ("", default) => return Ok(default.to_owned()),
            (answer, _) => return Ok(answer.to_owned()),
        }
    }
}

/// The disks of a host of which nobody has said yet which is meant.
fn disks(plan: &Plan) -> Vec<&PlanDisk> {
    plan.wipe.iter().chain(&plan.untouched).collect()
}

/// The disk that is meant, by its name: the only one, or the one that is chosen.
fn chosen_disk(plan: &Plan, terminal: bool) -> Result<String, CommandError> {
    match disks(plan)[..] {
        [disk] => Ok(disk.id.name.clone()),
        [] => Err(CommandError::bad_input("no disk was seen that could be overwritten")),
        _ if terminal => loop {
            let disk = asked("The disk that may be overwritten", "")?;
            match has_disk(plan, &disk) {
                Ok(()) => return Ok(disk),
                Err(why) => screen::warning(&why),
            }
        },
        ref disks => {
            let names: Vec<String> = disks.iter().map(|disk| sanitise_str(&disk.id.name)).collect();
            let what = format!("which disk of {} may be overwritten", names.join(", "));
            Err(wanting("--disk DISK", &what))
        }
    }
}

/// Says which disks the host has, if this is none of them.
fn has_disk(plan: &Plan, disk: &str) -> Result<(), String> {
    let seen = disks(plan);
    if seen.iter().any(|seen| seen.id.name == disk) {
        return Ok(());
    }
    let shown = |seen: &&PlanDisk| format!("{} ({})", sanitise_str(&seen.id.name), what_it_is(seen));
    let has: Vec<String> = seen.iter().map(shown).collect();
    let has = if has.is_empty() { "no disk was seen".into() } else { format!("it has {}", has.join(", ")) };
    Err(format!("the host has no disk `{}`; {has}", sanitise_str(disk)))
}

/// What a disk is, by model and size.
fn what_it_is(disk: &PlanDisk) -> String {
    let what = [sanitise_str(&disk.model), format_bytes(disk.id.size)].join(", ");
    what.trim_start_matches(", ").to_owned()
}

/// The keys and files of keys of the command line as hosts.toml has them. A file is named there from where hosts.toml
/// is, and here from where the user is. One whose name does not say that it has public keys is written out.
fn authorized_keys(given: &[String], dir: &Path) -> Result<Vec<String>, String> {
    let mut keys = Vec::new();
    for text in given {
        if text.contains("PRIVATE KEY") {
            return Err("--authorized-keys is a private key: give the public one".into());
        }
        if PublicKey::parse(text).is_ok() {
            keys.push(text.clone());
            continue;
        }
        // A shell leaves a `~` in quotes.
        let at_home = text.strip_prefix("~/").and_then(|rest| Some(std::env::home_dir()?.join(rest)));
        let path = at_home.clone().unwrap_or_else(|| text.into());
        let read = AuthorizedKey::File(path.clone()).read();
        let read =
            read.map_err(|why| format!("--authorized-keys is neither a public key nor a file of some: {why}"))?;
        match path.extension().is_some_and(|extension| extension == "pub") {
            true if at_home.is_some() => keys.push(text.clone()),
            true => keys.push(named_from(dir, &path)?),
            false => keys.extend(read),
        }
    }
    Ok(keys)
}

/// How a file in `dir` names that one: relative if it is in there too, else absolute.
fn named_from(dir: &Path, path: &Path) -> Result<String, String> {
    let whole = |path: &Path| std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()));
    let path = whole(path)?;
    // What begins with `~` would be elsewhere.
    let within =
        path.strip_prefix(whole(dir)?).ok().filter(|within| !within.as_os_str().as_encoded_bytes().starts_with(b"~"));
    let name = within.unwrap_or(&path);
    name.to_str().map(str::to_owned).ok_or_else(|| format!("{} has a name that hosts.toml can't have", path.display()))
}

/// How hosts.toml names a disk: by its serial number, if it has one of its own, since names change.
fn selector(disk: &str, plan: Option<&Plan>) -> (String, String) {
    let seen = plan.map(disks).unwrap_or_default();
    let Some(found) = seen.iter().find(|seen| seen.id.name == disk) else {
        return (toml(disk), "All others are set read-only before the payload starts.".into());
    };
    let what = what_it_is(found);
    let serial = found.id.serial.as_deref().map(str::trim).filter(|serial| !serial.is_empty());
    let own = serial.filter(|serial| {
        seen.iter().filter(|seen| seen.id.serial.as_deref().map(str::trim) == Some(*serial)).count() == 1
    });
    match own {
        Some(serial) => (
            format!("{{ serial = {} }}", toml(serial)),
            format!("It was {} when this was written: {what}.", sanitise_str(disk)),
        ),
        None => (toml(disk), format!("It was this when this was written: {what}.")),
    }
}

/// A string of TOML.
fn toml(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// What a host is called where nobody says: as it calls itself, if hosts.toml can call it so.
fn default_name(plan: Option<&Plan>, host: &Host) -> String {
    let own = plan.map(|plan| plan.hostname.split('.').next().unwrap_or_default().to_owned());
    let fits = |name: &String| {
        let odd = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
        !name.is_empty() && name.len() <= 64 && !name.starts_with('-') && !name.contains(odd)
    };
    let address = host.address.split('.').next().unwrap_or_default().to_owned();
    let is_name = address.starts_with(|c: char| c.is_ascii_alphabetic());
    own.filter(fits).or(Some(address).filter(|address| is_name && fits(address))).unwrap_or_else(|| "host".into())
}

fn hosts_toml(
    name: &str,
    host: &Host,
    (disk, of_disk): &(String, String),
    example: &Example,
    args: &cli::Init,
) -> String {
    let mut text = format!(
        "# What becomes of your hosts. docs/HOSTS.md describes every key; `anemos schema` has it for editors.\n\
         #\n\
         #     anemos plan    looks, shows what would happen, changes nothing\n\
         #     anemos up      shows the same, asks, and does it\n\
         \n\
         [hosts.{}]\n\
         # Name or address, or an alias from your ~/.ssh/config.\n\
         address = {}\n",
        toml(name),
        toml(&host.address)
    );
    // Writing to a String can't fail.
    if let Some(user) = &host.user {
        let _ = writeln!(text, "user = {}", toml(user));
    }
    if let Some(port) = host.port {
        let _ = writeln!(text, "port = {port}");
    }
    let _ = write!(
        text,
        "\n# {}: the directory, relative to this file.\npayload = \"{PAYLOAD}\"\n\
         \n# The disk to overwrite. {of_disk}\ndisk = {disk}\n\
         \n# Who may log into the RAM system and the new one, besides the key that logs in now: public keys, or\n\
         # paths of .pub files.\n",
        example.what
    );
    match &args.authorized_keys[..] {
        [] => text.push_str("# authorized_keys = [\"~/.ssh/id_ed25519.pub\"]\n"),
        keys => {
            let keys: Vec<String> = keys.iter().map(|key| toml(key)).collect();
            let _ = writeln!(text, "authorized_keys = [{}]", keys.join(", "));
        }
    }
    text.push_str(example.settings);
    text
}

/// Writes hosts.toml and the payload. hosts.toml comes last: while it is missing, nothing was begun.
fn write(dir: &Path, text: &str, example: &Example) -> Result<(), String> {
    let mut made = Vec::new();
    for (path, bytes, executable) in example.files {
        let path = dir.join(PAYLOAD).join(path);
        made.push((path, *bytes, if *executable { 0o777 } else { 0o666 }));
    }
    made.push((dir.join(HOSTS), text.as_bytes(), 0o666));
    for (path, bytes, mode) in made {
        let fault = |error: std::io::Error| format!("{}: {error}", path.display());
        let above: Option<PathBuf> = path.parent().map(Path::to_owned);
        above.map_or(Ok(()), fs::create_dir_all).map_err(fault)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).map_err(fault)?;
        file.write_all(bytes).map_err(fault)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::plan::tests::plan;

    fn args() -> cli::Init {
        cli::Init {
            directory: ".".into(),
            ssh: None,
            name: None,
            payload: None,
            disk: None,
            authorized_keys: Vec::new(),
            accept_new: false,
            no_look: false,
        }
    }

    #[test]
    fn every_example_is_written_as_it_can_be_deployed() {
        for example in &EXAMPLES {
            let dir = tempfile::tempdir().unwrap();
            let host = unlisted("ann@[2001:db8::7]:2222", false).unwrap();
            let args = cli::Init { authorized_keys: vec!["key.pub".into()], ..args() };
            std::fs::write(dir.path().join("key.pub"), "").unwrap();
            let text =
                hosts_toml("web 1".trim_end_matches(" 1"), &host, &selector("/dev/vda", Some(&plan())), example, &args);
            write(dir.path(), &text, example).unwrap();
            let file = config::load(&dir.path().join(HOSTS)).map_err(|error| error.to_string()).unwrap();
            let host = &file.hosts[0];
            assert_eq!((host.name.as_str(), host.address.as_str(), host.port), ("web", "2001:db8::7", Some(2222)));
            assert_eq!(host.disk.to_string(), "serial `SER-vda`");
            crate::payload::pack(&host.payload).map_err(|error| error.to_string()).unwrap();
            if let Ok(deploy) = dir.path().join("payload/deploy").metadata() {
                assert!(deploy.permissions().mode() & 0o100 != 0);
            }
            // A second time nothing is written over.
            let error = free(dir.path()).unwrap_err();
            assert!(error.contains("hosts.toml is there already"), "{error}");
            std::fs::remove_file(dir.path().join(HOSTS)).unwrap();
            free(dir.path()).unwrap_err();
            write(dir.path(), "", example).unwrap_err();
            assert!(!dir.path().join(HOSTS).exists());
        }
    }

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIQr8xQuCc4EgyOdEyDMALuAkLUWsLkXbTJFWwT3jPW2";

    #[test]
    fn a_file_of_keys_is_found_from_where_hosts_toml_is() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let site = dir.path().join("site");
        fs::create_dir(&site).unwrap();
        for name in ["key.pub", "site/key.pub", "site/~key.pub", "keys"] {
            fs::write(at(name), format!("# mine\n{KEY} me@here\n\n{KEY}\n")).unwrap();
        }
        let named = |given: &str| authorized_keys(&[given.to_owned()], &site);
        for (given, expected) in [
            (at("key.pub"), at("key.pub")),
            (at("site/key.pub"), "key.pub".into()),
            (at("site/~key.pub"), at("site/~key.pub")),
            (format!("{KEY} me"), format!("{KEY} me")),
        ] {
            assert_eq!(named(&given), Ok(vec![expected]), "{given}");
        }
        // From here, which no hosts.toml would know.
        let here = fs::read_dir(".").unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
        let expected = std::env::current_dir().unwrap().join(&here).to_str().unwrap().to_owned();
        assert_eq!(named_from(&site, Path::new(&here)), Ok(expected));
        // No path of hosts.toml leads to a file of that name: the keys themselves do.
        assert_eq!(named(&at("keys")).unwrap().len(), 2);
        fs::write(at("other.pub"), "nothing\n").unwrap();
        for (given, says) in [
            (at("nosuch.pub"), "No such file"),
            (at("other.pub"), "other.pub:1: "),
            ("ssh-ed25519 AAAA".into(), "neither a public key nor a file"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----".into(), "--authorized-keys is a private key"),
        ] {
            let error = named(&given).unwrap_err();
            assert!(error.contains(says), "{given}: {error}");
        }
    }

    #[test]
    fn a_disk_that_the_host_lacks_is_not_taken() {
        let seen = plan();
        assert_eq!(has_disk(&seen, "/dev/vda"), Ok(()));
        assert_eq!(has_disk(&seen, &seen.untouched[0].id.name), Ok(()));
        let error = has_disk(&seen, "/dev/sdx").unwrap_err();
        assert!(error.starts_with("the host has no disk `/dev/sdx`; it has /dev/vda ("), "{error}");
        let error = has_disk(&Plan { wipe: Vec::new(), untouched: Vec::new(), ..seen }, "/dev/vda").unwrap_err();
        assert!(error.ends_with("no disk was seen"), "{error}");
    }

    #[test]
    fn a_disk_is_named_by_what_is_its_own() {
        let mut seen = plan();
        assert_eq!(selector("/dev/vda", Some(&seen)).0, "{ serial = \"SER-vda\" }");
        assert_eq!(selector("/dev/sdx", Some(&seen)).0, "\"/dev/sdx\"");
        assert_eq!(selector("/dev/sda", None).0, "\"/dev/sda\"");
        seen.untouched[0].id.serial = seen.wipe[0].id.serial.clone();
        assert_eq!(selector("/dev/vda", Some(&seen)).0, "\"/dev/vda\"", "another has the same");
        seen.wipe[0].id.serial = Some("a\"b\n".into());
        assert!(
            config::one(&format!("[hosts.a]\npayload = \"p\"\ndisk = {}\n", selector("/dev/vda", Some(&seen)).0))
                .is_ok()
        );
    }

    #[test]
    fn a_question_is_asked_until_it_is_answered() {
        let said = |default: &str, typed: &str| {
            let mut output = Vec::new();
            let answer = ask("What", default, &mut typed.as_bytes(), &mut output).ok();
            (answer, String::from_utf8(output).unwrap())
        };
        assert_eq!(said("", "\n x \n"), (Some("x".into()), "What: What: ".into()));
        assert_eq!(said("y", "\n"), (Some("y".into()), "What [y]: ".into()));
        assert_eq!(said("", "\n").0, None);
    }

    #[test]
    fn a_host_is_called_as_it_calls_itself() {
        let host = unlisted("web.example.org", false).unwrap();
        let named = |hostname: &str| default_name(Some(&Plan { hostname: hostname.into(), ..plan() }), &host);
        for (hostname, name) in [("db7.example.org", "db7"), ("", "web"), ("../x", "web"), ("a\u{1b}b", "web")] {
            assert_eq!(named(hostname), name);
        }
        assert_eq!(default_name(None, &unlisted("192.0.2.7", false).unwrap()), "host");
    }
}
