//! `anemos serve`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{CommandError, Status, Stopping, line};
use crate::cli::Serve;
use crate::journal::RunStore;
use crate::serve::{Daemon, Rights};
use crate::{api, web};

/// Comes first in the units, so that only such are replaced.
const OURS: &str = "# Written by `anemos serve --install`, which replaces it.\n";

pub(super) async fn serve(args: Serve, stopping: Stopping) -> Result<Status, CommandError> {
    if args.install {
        return install(&args);
    }
    let store = RunStore::open()?;
    let dir = api::default_dir().map_err(CommandError::bad_input)?;
    let mut stop = stopping().map_err(CommandError::internal)?;
    let token = store.beside("web-token");
    let rights = args.users.as_deref().map(Rights::read).transpose().map_err(CommandError::bad_input)?;
    let daemon = Daemon::bind(store, &dir, rights.unwrap_or_default()).map_err(CommandError::bad_input)?;
    let page = match settings(&args, token) {
        None => None,
        Some(settings) => Some(web::Web::bind(settings).await.map_err(CommandError::bad_input)?),
    };
    let runs = daemon.runs();
    let page = async {
        match page {
            Some(page) => page.serve(runs).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        served = daemon.serve() => served.map(|()| Status::Done).map_err(CommandError::bad_input),
        () = page => Ok(Status::Done),
        // What was begun goes on when it is started again, as it would had it been killed.
        _ = stop.wait_for(|stop| stop.asked()) => Ok(Status::Done),
    }
}

/// How the page is served, if it is.
fn settings(args: &Serve, token: PathBuf) -> Option<web::Settings> {
    let tls = args.web_cert.clone().zip(args.web_key.clone());
    args.web.map(|address| web::Settings { address, tls, token })
}

/// A file that is written, and its text.
type Unit = (PathBuf, String);

/// Writes units, and says how they are started.
fn install(args: &Serve) -> Result<Status, CommandError> {
    let executable = std::env::current_exe().map_err(CommandError::internal)?;
    let command = command(&executable, args).map_err(CommandError::bad_input)?;
    let (units, then) = if args.system {
        if !rustix::process::geteuid().is_root() {
            return Err(CommandError::bad_input("`--system` writes to /etc: run it as root"));
        }
        let bind = args.web.is_some_and(|address| address.port() < PRIVILEGED);
        (Vec::from(system_units(&executable, &command, bind).map_err(CommandError::bad_input)?), SYSTEM_THEN)
    } else {
        let named = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let config = named("XDG_CONFIG_HOME").or_else(|| named("HOME").map(|home| home.join(".config")));
        let config = config.ok_or_else(|| CommandError::bad_input("neither XDG_CONFIG_HOME nor HOME is set"))?;
        (Vec::from(user_units(&config.join("systemd/user"), &command)), USER_THEN)
    };
    for (path, text) in units {
        write(&path, &text)?;
        line(format_args!("wrote {}", path.display()));
    }
    line(then);
    Ok(Status::Done)
}

/// Writes a file, unless somebody else has written it.
fn write(path: &Path, text: &str) -> Result<(), CommandError> {
    let failed = |why: std::io::Error| CommandError::bad_input(format!("writing {}: {why}", path.display()));
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    match fs::read_to_string(path) {
        Ok(before) if !before.starts_with(OURS) => {
            let why = "it is there, and somebody else has written it; move it away, and try again";
            return Err(CommandError::bad_input(format!("{}: {why}", path.display())));
        }
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let new = path.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, path)).map_err(failed)
}

/// What a unit calls a path. An error is why it can't.
fn quoted(path: &Path) -> Result<String, String> {
    let shown = path.display().to_string();
    if path.to_str().is_none() || shown.contains(|c: char| c.is_control() || "\"\\$".contains(c)) {
        return Err(format!("{shown}: a unit can't name such a path; copy it elsewhere"));
    }
    // systemd.unit(5): a percent sign begins a specifier.
    Ok(format!("\"{}\"", shown.replace('%', "%%")))
}

/// What is started. An error is why systemd could not start such an executable.
fn command(executable: &Path, args: &Serve) -> Result<String, String> {
    let mut command = format!("{} serve", quoted(executable)?);
    if let Some(address) = args.web {
        command.extend([" --web ".to_owned(), address.to_string()]);
    }
    for (option, file) in [("--web-cert", &args.web_cert), ("--web-key", &args.web_key), ("--users", &args.users)] {
        if let Some(file) = file {
            let absolute = std::path::absolute(file).map_err(|error| format!("{}: {error}", file.display()))?;
            command.extend([" ".to_owned(), option.to_owned(), " ".to_owned(), quoted(&absolute)?]);
        }
    }
    Ok(command)
}

/// Those of the user's own systemd.
fn user_units(dir: &Path, command: &str) -> [Unit; 2] {
    let socket = format!(
        "{OURS}[Unit]\nDescription=Conversations with Anemos\n\n[Socket]\nListenStream=%t/anemos/socket\n\
         DirectoryMode=0700\nSocketMode=0600\n\n[Install]\nWantedBy=sockets.target\n"
    );
    // It is started with the machine, too: runs go on before anybody asks.
    let service = format!(
        "{OURS}[Unit]\nDescription=Anemos: deployments that go on without a terminal\nRequires=anemos.socket\n\
         After=anemos.socket\n\n[Service]\nExecStart={command}\nRestart=always\nRestartSec=2\n\n\
         [Install]\nWantedBy=default.target\n"
    );
    [(dir.join("anemos.socket"), socket), (dir.join("anemos.service"), service)]
}

/// How these are started.
const USER_THEN: &str = "\nTo start it now and with the machine, without anybody being logged in:\n  \
     systemctl --user daemon-reload\n  \
     systemctl --user enable --now anemos.socket anemos.service\n  loginctl enable-linger";

/// Ports below this one are root's: `net.ipv4.ip_unprivileged_port_start` in ip(7).
const PRIVILEGED: u16 = 1024;

/// What the daemon may do as a user of its own: talk over the network, run ssh for jump hosts, and write its own
/// directories. `pidfd_getfd` is how it takes systemd's socket, and is in none of the groups of `@system-service`;
/// name services are asked over netlink.
const CONFINED: &str = "UMask=0077\nNoNewPrivileges=yes\nProtectSystem=strict\nReadWritePaths=/run/anemos\n\
    ProtectHome=yes\nPrivateTmp=yes\nPrivateDevices=yes\nProtectProc=invisible\nProtectClock=yes\n\
    ProtectHostname=yes\nProtectKernelLogs=yes\nProtectKernelModules=yes\nProtectKernelTunables=yes\n\
    ProtectControlGroups=yes\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK\n\
    RestrictNamespaces=yes\nRestrictRealtime=yes\nRestrictSUIDSGID=yes\nLockPersonality=yes\n\
    MemoryDenyWriteExecute=yes\nSystemCallArchitectures=native\nSystemCallFilter=@system-service pidfd_getfd\n";

/// Those of the machine's systemd, and the user and the directory that they need. With `bind` the page listens on a
/// port that is root's. An error is why the daemon could not start the executable.
fn system_units(executable: &Path, command: &str, bind: bool) -> Result<[Unit; 4], String> {
    // ProtectHome= hides these, and the daemon's user could not enter most of them anyway.
    if ["/home", "/root", "/run/user"].iter().any(|hidden| executable.starts_with(hidden)) {
        let shown = executable.display();
        return Err(format!(
            "{shown}: the daemon's own user can't read it there; copy it to /usr/local/bin, and go on"
        ));
    }
    let sysusers = format!("{OURS}u anemos - \"Anemos deployments\" /var/lib/anemos\n");
    // systemd would make it root's: SocketUser= is about the socket only.
    let tmpfiles = format!("{OURS}d /run/anemos 0750 anemos anemos -\n");
    let socket = format!(
        "{OURS}[Unit]\nDescription=Conversations with Anemos\n\n[Socket]\nListenStream=/run/anemos/socket\n\
         SocketUser=anemos\nSocketGroup=anemos\nSocketMode=0660\n\n[Install]\nWantedBy=sockets.target\n"
    );
    let capabilities = if bind {
        "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n"
    } else {
        "CapabilityBoundingSet=\n"
    };
    let service = format!(
        "{OURS}[Unit]\nDescription=Anemos: deployments that go on without a terminal\nRequires=anemos.socket\n\
         Wants=network-online.target\nAfter=anemos.socket network-online.target nss-lookup.target\n\n[Service]\n\
         User=anemos\nGroup=anemos\nExecStart={command}\nEnvironment=XDG_RUNTIME_DIR=/run XDG_STATE_HOME=/var/lib\n\
         StateDirectory=anemos\nStateDirectoryMode=0700\nRestart=always\nRestartSec=2\n{capabilities}{CONFINED}\n\
         [Install]\nWantedBy=multi-user.target\n"
    );
    Ok([
        ("/etc/sysusers.d/anemos.conf".into(), sysusers),
        ("/etc/tmpfiles.d/anemos.conf".into(), tmpfiles),
        ("/etc/systemd/system/anemos.socket".into(), socket),
        ("/etc/systemd/system/anemos.service".into(), service),
    ])
}

/// How these are started.
const SYSTEM_THEN: &str = "\nTo start it now and with the machine:\n  systemd-sysusers\n  systemd-tmpfiles --create \
    anemos.conf\n  systemctl daemon-reload\n  systemctl enable --now anemos.socket anemos.service\n\
    Whoever is in the group `anemos`, and in the file of --users, may talk to it.";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn units_name_the_executable() {
        let args = |words: &[&str]| match Cli::try_parse_from([&["anemos", "serve"], words].concat()).unwrap().command {
            crate::cli::Command::Serve(args) => args,
            other => panic!("{other:?}"),
        };
        let plain = args(&[]);
        let started = command(Path::new("/home/a b/100%/anemos"), &plain).unwrap();
        let [(path, socket), (_, service)] = user_units(Path::new("/u"), &started);
        assert_eq!(path, Path::new("/u/anemos.socket"));
        assert!(service.contains("\nExecStart=\"/home/a b/100%%/anemos\" serve\n"), "{service}");
        assert!(socket.contains("\nListenStream=%t/anemos/socket\n") && socket.contains("\nDirectoryMode=0700\n"));
        for text in [&socket, &service] {
            assert!(text.starts_with(OURS) && text.lines().all(|line| line == line.trim()), "{text}");
        }
        for path in ["/a\"b", "/a\\b", "/a\nb", "/$HOME/anemos"] {
            command(Path::new(path), &plain).unwrap_err();
        }
        let page = args(&["--web", "[::]:443", "--web-cert", "/c d", "--web-key", "/k"]);
        let expected = "\"/anemos\" serve --web [::]:443 --web-cert \"/c d\" --web-key \"/k\"";
        assert_eq!(command(Path::new("/anemos"), &page).unwrap(), expected);
        assert_eq!(args(&["--web"]).web, Some(web::DEFAULT.parse().unwrap()));
    }

    #[test]
    fn a_user_of_its_own_may_little() {
        let executable = Path::new("/usr/local/bin/anemos");
        let units = system_units(executable, "\"/usr/local/bin/anemos\" serve --users \"/etc/u\"", false).unwrap();
        let text = |name: &str| &units.iter().find(|(path, _)| path.ends_with(name)).unwrap().1;
        for (path, text) in &units {
            assert!(path.starts_with("/etc") && text.starts_with(OURS) && text.ends_with('\n'), "{text}");
            assert!(text.lines().all(|line| line == line.trim()), "{text}");
        }
        let service = text("anemos.service");
        for line in [
            "User=anemos",
            "ExecStart=\"/usr/local/bin/anemos\" serve --users \"/etc/u\"",
            "Environment=XDG_RUNTIME_DIR=/run XDG_STATE_HOME=/var/lib",
            "StateDirectory=anemos",
            "CapabilityBoundingSet=",
            "ProtectSystem=strict",
            "SystemCallFilter=@system-service pidfd_getfd",
        ] {
            assert!(service.lines().any(|is| is == line), "{line}: {service}");
        }
        let mut keys: Vec<&str> = service.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        let all = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), all, "an option is there twice: {service}");
        assert!(text("anemos.socket").contains("\nSocketGroup=anemos\nSocketMode=0660\n"));
        assert!(text("tmpfiles.d/anemos.conf").ends_with("\nd /run/anemos 0750 anemos anemos -\n"));
        assert!(text("sysusers.d/anemos.conf").ends_with("\nu anemos - \"Anemos deployments\" /var/lib/anemos\n"));
        let [.., (_, low)] = system_units(executable, "x", true).unwrap();
        assert!(low.contains("\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n") && !service.contains("Ambient"));
        for path in ["/home/ann/anemos", "/root/anemos"] {
            assert!(system_units(Path::new(path), "x", false).unwrap_err().contains("/usr/local/bin"));
        }
        // Only a systemd knows whether it takes them; where there is none, the texts are all that can be looked at.
        let dir = tempfile::tempdir().unwrap();
        let there = |path: &PathBuf| path.starts_with("/etc/systemd");
        let named: Vec<PathBuf> = units
            .iter()
            .filter(|(path, _)| there(path))
            .map(|(path, text)| {
                let file = dir.path().join(path.file_name().unwrap());
                fs::write(&file, text.replace("/usr/local/bin/anemos", "/bin/true")).unwrap();
                file
            })
            .collect();
        if let Ok(said) =
            std::process::Command::new("systemd-analyze").args(["verify", "--man=no"]).args(named).output()
        {
            let said = String::from_utf8_lossy(&said.stderr).into_owned();
            assert!(!said.lines().any(|line| line.contains("anemos.")), "{said}");
        }
    }

    #[test]
    fn only_what_was_written_here_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/anemos.socket");
        write(&path, &format!("{OURS}1")).unwrap();
        write(&path, &format!("{OURS}2")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{OURS}2"));
        fs::write(&path, "mine").unwrap();
        assert!(write(&path, OURS).unwrap_err().message.contains("somebody else has written it"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }
}
