//! The command line.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anemos_netstate::render::{self, Format};

use crate::app::BUILD;
use crate::heart::Heart;
use crate::helper::{self, Call};
use crate::paths::Paths;
use crate::{given, identity, seccomp, serve};

const USAGE: &str = "\
anemos-agent: the payload's line to the agent that runs it

  anemos-agent step NAME             begin the step NAME; the one before it is done
  anemos-agent progress N/M [WHAT]   N of M things of this step are done; WHAT is being worked on
  anemos-agent progress N [WHAT]     the same, when it is not known how many there will be
  anemos-agent note TEXT             tell the person who deploys
  anemos-agent nosync COMMAND…       run a command whose requests to flush files to the disk do nothing: package
                                     managers are many times faster, and all is flushed at the end anyway
  anemos-agent network render FORMAT DIR
                                     write the host's network as configuration of the system in DIR;
                                     FORMAT is --ifupdown, --networkd, --netplan or --iproute2
  anemos-agent identity install DIR  give the system in DIR this host's SSH host keys
";

/// Runs the command that `words`, the arguments after the program's name, give.
pub fn run(words: &[String]) -> ExitCode {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        ["--version" | "-V"] => {
            println!("anemos-agent {BUILD}");
            return ExitCode::SUCCESS;
        }
        ["serve", ref options @ ..] => {
            serve_options(options).and_then(|(paths, held, heart)| serve::run(&paths, held, heart))
        }
        [word @ ("step" | "progress" | "note"), ref rest @ ..] => {
            let rest: Vec<String> = rest.iter().map(|&w| w.into()).collect();
            Call::parse(word, &rest).and_then(|call| helper::tell(&socket(), &call))
        }
        // The agent itself runs this if the payload is an IMGBUILD.
        #[cfg(feature = "imgbuild")]
        ["imgbuild"] => given::read_host(&here())
            .and_then(|host| crate::imgbuild::run(&socket(), &host, &given::read_run(&here())?.keeps)),
        ["nosync", program, ref arguments @ ..] => Err(nosync(program, arguments)),
        ["network", "render", format, dir] => network(format, Path::new(dir)),
        ["identity", "install", dir] => install(Path::new(dir)),
        [] => Err(format!("what is to be done?\n\n{USAGE}")),
        _ => Err(format!("`{}` is not understood\n\n{USAGE}", words.join(" "))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("anemos-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads the options of `serve`: init gives `--held REASON` and `--heart DESCRIPTOR`; `--root DIR --listen ADDRESS` is
/// for a trial on an ordinary machine.
fn serve_options(options: &[&str]) -> Result<(Paths, Option<String>, Heart), String> {
    let (mut held, mut root, mut listen, mut heart) = (None, None, None, Heart::default());
    let mut rest = options.iter();
    while let Some(&option) = rest.next() {
        let value = *rest.next().ok_or_else(|| format!("{option} needs a value"))?;
        match option {
            "--held" => held = Some(value.to_owned()),
            "--heart" => {
                let number = value.parse().map_err(|_| format!("`{value}` is no DESCRIPTOR"))?;
                heart = Heart::inherited(number).map_err(|e| format!("--heart {number}: {e}"))?;
            }
            "--root" => root = Some(PathBuf::from(value)),
            "--listen" => listen = Some(value.parse().map_err(|_| format!("`{value}` is no ADDRESS:PORT"))?),
            _ => return Err(format!("serve has no option {option}")),
        }
    }
    let paths = match (root, listen) {
        (None, None) => Paths::host(),
        (Some(root), Some(listen)) => Paths::trial(&root, listen),
        _ => return Err("--root and --listen go together".into()),
    };
    Ok((paths, held, heart))
}

/// Becomes the program; returns only if that fails, with the reason.
fn nosync(program: &str, arguments: &[&str]) -> String {
    if let Err(e) = crate::sys::filter_calls(&seccomp::ignoring_syncs()) {
        // The program works all the same, only slower.
        eprintln!("anemos-agent: requests to flush are not ignored: {e}");
    }
    let error = Command::new(program).args(arguments).exec();
    format!("{program}: {error}")
}

fn socket() -> PathBuf {
    std::env::var_os("ANEMOS_SOCKET").map_or_else(|| Paths::host().socket(), PathBuf::from)
}

fn network(format: &str, dir: &Path) -> Result<(), String> {
    let state = given::read_host(&here())?.network;
    let Some(known) = format.strip_prefix("--").and_then(Format::by_name) else {
        return Err(format!(
            "`{format}` is none of --ifupdown, --networkd, --netplan, --networkmanager and --iproute2"
        ));
    };
    let files = known.files(&state);
    if !dir.is_dir() {
        return Err(format!("{} is no directory", dir.display()));
    }
    render::write_files(dir, &files).map_err(|e| format!("the network configuration could not be written: {e}"))?;
    for line in known.left_out(&state) {
        eprintln!("anemos-agent: {line}");
    }
    for (path, _) in &files {
        println!("{}", dir.join(path).display());
    }
    Ok(())
}

fn install(dir: &Path) -> Result<(), String> {
    let host = given::read_host(&here())?;
    for name in identity::install(&host.ssh_identity, dir).map_err(|e| format!("host keys: {e}"))? {
        println!("{}", dir.join("etc/ssh").join(name).display());
    }
    Ok(())
}

/// The paths of the agent that runs this payload, which a trial changes.
fn here() -> Paths {
    match std::env::var_os("ANEMOS_FILES") {
        Some(anemos) => Paths { anemos: anemos.into(), ..Paths::host() },
        None => Paths::host(),
    }
}
