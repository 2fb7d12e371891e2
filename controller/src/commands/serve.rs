//! `anemos serve`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{CommandError, Status, Stopping, line};
use crate::cli::Serve;
use crate::journal::RunStore;
use crate::{api, serve};

/// Comes first in the units, so that only such are replaced.
const OURS: &str = "# Written by `anemos serve --install`, which replaces it.\n";

pub(super) async fn serve(args: Serve, stopping: Stopping) -> Result<Status, CommandError> {
    if args.install {
        return install();
    }
    let store = RunStore::open()?;
    let dir = api::default_dir().map_err(CommandError::bad_input)?;
    let mut stop = stopping().map_err(CommandError::internal)?;
    tokio::select! {
        served = serve::serve(store, &dir) => served.map(|()| Status::Done).map_err(CommandError::bad_input),
        // What was begun goes on when it is started again, as it would had it been killed.
        _ = stop.wait_for(|stop| stop.asked()) => Ok(Status::Done),
    }
}

/// Writes units for the user's own systemd, and says how they are started.
fn install() -> Result<Status, CommandError> {
    let executable = std::env::current_exe().map_err(CommandError::internal)?;
    let units = units(&executable).map_err(CommandError::bad_input)?;
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
fn units(executable: &Path) -> Result<[(&'static str, String); 2], String> {
    let shown = executable.display().to_string();
    if executable.to_str().is_none() || shown.contains(|c: char| c.is_control() || "\"\\$".contains(c)) {
        return Err(format!("{shown}: a unit can't name such a path; copy anemos elsewhere"));
    }
    // systemd.unit(5): a percent sign begins a specifier.
    let shown = shown.replace('%', "%%");
    let socket = format!(
        "{OURS}[Unit]\nDescription=Conversations with Anemos\n\n[Socket]\nListenStream=%t/anemos/socket\n\
         DirectoryMode=0700\nSocketMode=0600\n\n[Install]\nWantedBy=sockets.target\n"
    );
    // It is started with the machine, too: runs go on before anybody asks.
    let service = format!(
        "{OURS}[Unit]\nDescription=Anemos: deployments that go on without a terminal\nRequires=anemos.socket\n\
         After=anemos.socket\n\n[Service]\nExecStart=\"{shown}\" serve\nRestart=always\nRestartSec=2\n\n\
         [Install]\nWantedBy=default.target\n"
    );
    Ok([("anemos.socket", socket), ("anemos.service", service)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_name_the_executable() {
        let [(_, socket), (_, service)] = units(Path::new("/home/a b/100%/anemos")).unwrap();
        assert!(service.contains("\nExecStart=\"/home/a b/100%%/anemos\" serve\n"), "{service}");
        assert!(socket.contains("\nListenStream=%t/anemos/socket\n") && socket.contains("\nDirectoryMode=0700\n"));
        for text in [&socket, &service] {
            assert!(text.starts_with(OURS) && text.lines().all(|line| line == line.trim()), "{text}");
        }
        for path in ["/a\"b", "/a\\b", "/a\nb", "/$HOME/anemos"] {
            units(Path::new(path)).unwrap_err();
        }
    }
}
