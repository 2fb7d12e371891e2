//! `anemos serve`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{CommandError, Status, Stopping, line};
use crate::cli::Serve;
use crate::journal::RunStore;
use crate::serve::Daemon;
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
    let daemon = Daemon::bind(store, &dir).map_err(CommandError::bad_input)?;
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

/// Writes units for the user's own systemd, and says how they are started.
fn install(args: &Serve) -> Result<Status, CommandError> {
    let executable = std::env::current_exe().map_err(CommandError::internal)?;
    let units = units(&executable, args).map_err(CommandError::bad_input)?;
    let named = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = named("XDG_CONFIG_HOME").or_else(|| named("HOME").map(|home| home.join(".config")));
    let config = config.ok_or_else(|| CommandError::bad_input("neither XDG_CONFIG_HOME nor HOME is set"))?;
    let dir = config.join("systemd/user");
    let failed =
        |path: &Path, why: std::io::Error| CommandError::bad_input(format!("writing {}: {why}", path.display()));
    fs::create_dir_all(&dir).map_err(|why| failed(&dir, why))?;
    for (name, text) in units {
        let path = dir.join(name);
        match fs::read_to_string(&path) {
            Ok(before) if !before.starts_with(OURS) => {
                let why = "it is there, and somebody else has written it; move it away, and try again";
                return Err(CommandError::bad_input(format!("{}: {why}", path.display())));
            }
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(&path, error)),
            _ => {}
        }
        let new = path.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &path)).map_err(|why| failed(&path, why))?;
        line(format_args!("wrote {}", path.display()));
    }
    line(
        "\nTo start it now and with the machine, without anybody being logged in:\n  systemctl --user daemon-reload\n  \
         systemctl --user enable --now anemos.socket anemos.service\n  loginctl enable-linger",
    );
    Ok(Status::Done)
}

/// The units' names and texts. An error is why systemd could not start such an executable.
fn units(executable: &Path, args: &Serve) -> Result<[(&'static str, String); 2], String> {
    let quoted = |path: &Path| {
        let shown = path.display().to_string();
        if path.to_str().is_none() || shown.contains(|c: char| c.is_control() || "\"\\$".contains(c)) {
            return Err(format!("{shown}: a unit can't name such a path; copy it elsewhere"));
        }
        // systemd.unit(5): a percent sign begins a specifier.
        Ok(format!("\"{}\"", shown.replace('%', "%%")))
    };
    let mut command = format!("{} serve", quoted(executable)?);
    if let Some(address) = args.web {
        command.extend([" --web ".to_owned(), address.to_string()]);
    }
    for (option, file) in [("--web-cert", &args.web_cert), ("--web-key", &args.web_key)] {
        if let Some(file) = file {
            let absolute = std::path::absolute(file).map_err(|error| format!("{}: {error}", file.display()))?;
            command.extend([" ".to_owned(), option.to_owned(), " ".to_owned(), quoted(&absolute)?]);
        }
    }
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
    Ok([("anemos.socket", socket), ("anemos.service", service)])
}

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
        let [(_, socket), (_, service)] = units(Path::new("/home/a b/100%/anemos"), &plain).unwrap();
        assert!(service.contains("\nExecStart=\"/home/a b/100%%/anemos\" serve\n"), "{service}");
        assert!(socket.contains("\nListenStream=%t/anemos/socket\n") && socket.contains("\nDirectoryMode=0700\n"));
        for text in [&socket, &service] {
            assert!(text.starts_with(OURS) && text.lines().all(|line| line == line.trim()), "{text}");
        }
        for path in ["/a\"b", "/a\\b", "/a\nb", "/$HOME/anemos"] {
            units(Path::new(path), &plain).unwrap_err();
        }
        let page = args(&["--web", "[::]:443", "--web-cert", "/c d", "--web-key", "/k"]);
        let [_, (_, service)] = units(Path::new("/anemos"), &page).unwrap();
        let expected = "ExecStart=\"/anemos\" serve --web [::]:443 --web-cert \"/c d\" --web-key \"/k\"\n";
        assert!(service.contains(expected), "{service}");
        assert_eq!(args(&["--web"]).web, Some(web::DEFAULT.parse().unwrap()));
    }
}
