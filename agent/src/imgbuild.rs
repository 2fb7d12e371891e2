//! Payloads that are an IMGBUILD: makeimg builds the system on the host's disk. docs/IMGBUILD.md says what is different
//! from an image.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anemos_netstate::render::{self, Format};
use anemos_proto::config::HostConfig;
use makeimg::build::{self, Job, Machine};
use makeimg::command::{Cancel, Context};
use makeimg::inside::Inside;
use makeimg::problem::{Doing, Problem};
use makeimg::project::{self, Request};
use makeimg::report::{Event, Report};
use makeimg::volumes::Volume;
use rustix::mount::UnmountFlags;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::helper::{self, Call};
use crate::identity;

/// Least time between two reports of progress, since each report is a connection to the agent.
const OFTEN: Duration = Duration::from_millis(500);

/// Builds what the payload describes. Runs with the environment that every payload gets.
///
/// `keeps` are the labels of what the plan showed as kept.
pub fn run(socket: &Path, host: &HostConfig, keeps: &[String]) -> Result<(), String> {
    let context = Context { report: Arc::new(report(socket.to_owned())), cancel: Cancel::default() };
    stop_when_told(context.cancel.clone()).map_err(|e| format!("waiting for signals failed: {e}"))?;
    let mut job = read(&context)?;
    keep(&mut job.imgbuild.settings.filesystems, keeps)?;
    let disk = PathBuf::from(variable("ANEMOS_DISK"));
    let root = PathBuf::from(variable("ANEMOS_TARGET"));
    let console = variable("ANEMOS_CONSOLE");
    let has_console = job.imgbuild.settings.cmdline.contains("console=");
    let offer = |image: &Inside| offer(&context, &job, host, image);
    let cmdline = if has_console { "" } else { &console };
    // An earlier attempt may have left a file system mounted there, with others below it.
    while rustix::mount::unmount(&root, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH).is_ok() {}
    let machine = Machine { disk: &disk, root: &root, cmdline, offer: &offer };
    let built = build::deploy(&job, &context, &machine);
    let _ = fs::remove_dir_all(&job.work);
    built.map_err(|problem| problem.to_string())
}

/// On SIGTERM, with which the agent ends payloads, stops the command that is running and has `cleanup` called.
fn stop_when_told(cancel: Cancel) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let mut told = {
        let _inside = runtime.enter();
        signal(SignalKind::terminate())?
    };
    std::thread::spawn(move || {
        runtime.block_on(told.recv());
        cancel.cancel();
    });
    Ok(())
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn report(socket: PathBuf) -> Report {
    let mut last: Option<Instant> = None;
    Report::new(move |event| {
        let call = match event {
            Event::Output { line } => return println!("{line}"),
            Event::Step { name } => {
                last = None;
                Call::Step(name.clone())
            }
            Event::Progress { done, total, what } => {
                if last.is_some_and(|last| last.elapsed() < OFTEN) && done != total {
                    return;
                }
                last = Some(Instant::now());
                let (total, what) = ((*total > 0).then_some(*total), (!what.is_empty()).then(|| what.clone()));
                Call::Progress { done: *done, total, what }
            }
            Event::Warning { text } => Call::Note(text.clone()),
            Event::Failed { .. } | Event::Built { .. } => return,
        };
        if let Err(error) = helper::tell(&socket, &call) {
            eprintln!("{error}");
        }
    })
}

/// Reads and checks the whole project before anything is written.
fn read(context: &Context) -> Result<Job, String> {
    let project = PathBuf::from(variable("ANEMOS_PAYLOAD"));
    let work = std::env::temp_dir().join("makeimg");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).map_err(|e| format!("{}: {e}", work.display()))?;
    let dirs = inputs(&project, &variable("ANEMOS_VAR_INPUTS"))?;
    let some = |name: &str| Some(variable(name)).filter(|value| !value.is_empty());
    let request = Request {
        project,
        format: None,
        dirs,
        reveal: some("ANEMOS_VAR_REVEAL"),
        mirror: some("ANEMOS_VAR_MIRROR").or_else(|| some("ANEMOS_MIRROR")),
        security: some("ANEMOS_VAR_SECURITY_MIRROR"),
        known_security: some("ANEMOS_SECURITY_MIRROR"),
        output_dir: work.clone(),
    };
    let read = project::read(&request);
    for warning in &read.warnings {
        context.report.warn(warning.to_string());
    }
    let all = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let mut job = read.job.map_err(all)?;
    job.work = work;
    let settings = &mut job.imgbuild.settings;
    settings.hostname.get_or_insert_with(|| variable("ANEMOS_HOST"));
    // Adds to the keys that the IMGBUILD itself lets in.
    let keys = fs::read_to_string(variable("ANEMOS_AUTHORIZED_KEYS")).unwrap_or_default();
    let keys = keys.lines().filter(|key| !key.is_empty());
    settings.authorized_keys.extend(keys.map(|key| ("root".to_owned(), key.to_owned())));
    let missing = job.missing_tools();
    if missing.is_empty() { Ok(job) } else { Err(all(missing)) }
}

/// Makes sure that every partition which the plan showed as kept is kept, even if the IMGBUILD, which is a script,
/// gives other settings on this host.
fn keep(volumes: &mut [Volume], labels: &[String]) -> Result<(), String> {
    for label in labels {
        let volume = volumes.iter_mut().find(|volume| volume.keep && volume.label == *label);
        let volume = volume.ok_or_else(|| {
            format!(
                "filesystems: the plan showed that the partition labelled {label:?} is kept, and as this host reads \
                 the IMGBUILD it is not; nothing was written: have `filesystems` say the same everywhere"
            )
        })?;
        // A volume without a size is taken as it is and never made anew.
        volume.size = None;
    }
    Ok(())
}

/// Directories of the payload, as `vars` names them.
fn inputs(project: &Path, names: &str) -> Result<Vec<PathBuf>, String> {
    let below = |name: &str| {
        let is_below = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        let dir = project.join(name);
        if is_below && dir.is_dir() {
            return Ok(dir);
        }
        Err(format!("vars.inputs: the payload has no directory {name:?}: name directories of it, separated by spaces"))
    };
    names.split_whitespace().map(below).collect()
}

/// Gives the new system the host's SSH keys, network configuration and SSH port, so that it is reached as the old
/// system was. Returns the services to enable.
fn offer(context: &Context, job: &Job, host: &HostConfig, image: &Inside) -> Result<Vec<String>, Problem> {
    context.report.step("identity and network");
    identity::install(&host.ssh_identity, image.path()).doing(|| "installing the host's SSH keys".into())?;
    let services = &job.imgbuild.settings.services;
    let networkd = !image.exists("usr/sbin/ifup") || services.iter().any(|name| name.starts_with("systemd-networkd"));
    let format = if networkd { Format::Networkd } else { Format::Ifupdown };
    let files = format.files(&host.network);
    render::write_files(image.path(), &files).doing(|| "writing the host's network configuration".into())?;
    for line in format.left_out(&host.network) {
        context.report.warn(line);
    }
    if host.ssh_port != 22 && image.exists("etc/ssh/sshd_config.d") {
        let text = format!("Port {}\n", host.ssh_port);
        let written = image.write(Path::new("etc/ssh/sshd_config.d/anemos.conf"), text.as_bytes(), 0o644);
        written.doing(|| "writing the port of the SSH server in the image".into())?;
    }
    let enable = networkd && image.exists("bin/systemctl");
    Ok(if enable { vec!["systemd-networkd.service".into()] } else { Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_plan_showed_as_kept_is_kept_or_nothing_is_done() {
        let volume = |line: &str| Volume::parse(line).unwrap();
        let mut volumes = vec![volume("/"), volume("/srv 1G keep"), volume("/new 1G keep"), volume("/old 1G")];
        keep(&mut volumes, &["srv".into()]).unwrap();
        assert!(volumes[1].size.is_none() && volumes[2].size.is_some());
        let refused = keep(&mut volumes, &["srv".into(), "old".into()]).unwrap_err();
        assert!(refused.contains("labelled \"old\" is kept"), "{refused}");
    }

    #[test]
    fn inputs_are_directories_of_the_payload() {
        let dir = tempfile::tempdir().unwrap();
        let payload = dir.path().join("payload");
        fs::create_dir_all(payload.join("web/one")).unwrap();
        fs::write(payload.join("deploy"), "").unwrap();
        assert_eq!(inputs(&payload, " web/one\tweb ").unwrap(), [payload.join("web/one"), payload.join("web")]);
        assert!(inputs(&payload, "").unwrap().is_empty());
        for wrong in ["..", "/etc", "web/../web", "deploy", "none"] {
            assert!(inputs(&payload, wrong).unwrap_err().contains(&format!("no directory {wrong:?}")), "{wrong}");
        }
    }

    #[test]
    fn sigterm_stops_the_build() {
        let cancel = Cancel::default();
        stop_when_told(cancel.clone()).unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while !cancel.is_cancelled() {
            assert!(Instant::now() < until, "nobody heard it");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
