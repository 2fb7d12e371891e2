//! `anemos-lab`: the lab from the command line.

use clap::{Parser, Subcommand, ValueEnum};
use lab::machine::DataDisk;
use lab::{Context, Firmware, Lab, Machine, Net, Result, Spec, archive, image, snapshot};
use serde_json::json;
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

/// Machines, a package archive and faults for trying Anemos without a data centre.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make what every test needs: host images, the archive, one booted snapshot. Takes minutes once, then nothing.
    Setup {
        /// Boot and save every kind of machine that the tests use, not only the first.
        #[arg(long)]
        all: bool,
        /// End, and everything that was started with it, when standard input closes.
        #[arg(long)]
        attended: bool,
    },
    /// Fill the package archive, or bring it up to date.
    Archive {
        /// Then serve it on a loopback port until standard input closes.
        #[arg(long)]
        serve: bool,
    },
    /// Start a machine from its snapshot and keep it until standard input closes or a signal comes.
    ///
    /// What hosts.toml must say about it is left in .lab/demo: host.json, host.env, known_hosts.
    DemoHost {
        /// What starts it.
        #[arg(long, value_enum, default_value = "bios")]
        firmware: FirmwareName,
        /// Its network.
        #[arg(long, value_enum, default_value = "dhcp")]
        net: NetName,
        /// Its memory in MiB.
        #[arg(long, default_value_t = 1024)]
        memory: u32,
        /// Its processors.
        #[arg(long, default_value_t = 1)]
        cpus: u32,
        /// Add a second disk of so many MiB, full of a pattern.
        #[arg(long)]
        data_disk: Option<u64>,
        /// Where to leave the description, instead of .lab/demo.
        #[arg(long)]
        into: Option<PathBuf>,
        /// Go on until a signal comes, whatever standard input does.
        #[arg(long)]
        forever: bool,
    },
    /// Log into the machine that demo-host runs, or run a command there.
    Ssh {
        /// Where the description is, instead of .lab/demo.
        #[arg(long)]
        from: Option<PathBuf>,
        /// The command.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Measure deployments of examples/hello against a bare kexec, on like machines, one after the other.
    Bench {
        /// How often each; the median counts.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Measure builds of examples/imgbuild-debian against mmdebstrap alone instead.
        #[arg(long)]
        images: bool,
    },
    /// Say how machines are accelerated here, and why.
    Accel,
}

#[derive(Clone, Copy, ValueEnum)]
enum FirmwareName {
    Bios,
    Uefi,
}

#[derive(Clone, Copy, ValueEnum)]
enum NetName {
    Dhcp,
    Static,
}

fn main() {
    if let Err(error) = run(Arguments::parse().command) {
        eprintln!("anemos-lab: {error}");
        std::process::exit(1);
    }
}

fn run(command: Command) -> Result<()> {
    let lab = Lab::open()?;
    match command {
        Command::Setup { all, attended } => {
            if attended {
                end_with_stdin()?;
            }
            setup(&lab, all)
        }
        Command::Archive { serve } => archive(&lab, serve),
        Command::DemoHost { firmware, net, memory, cpus, data_disk, into, forever } => {
            let spec = Spec {
                firmware: match firmware {
                    FirmwareName::Bios => Firmware::Bios,
                    FirmwareName::Uefi => Firmware::Uefi,
                },
                net: match net {
                    NetName::Dhcp => Net::Dhcp,
                    NetName::Static => Net::Static,
                },
                memory_mib: memory,
                cpus,
                data_disk: data_disk.map(|mib| DataDisk::Pattern { mib }),
                ..Spec::new("demo")
            };
            demo_host(&lab, spec, &into.unwrap_or_else(|| lab.path("demo")), forever)
        }
        Command::Ssh { from, command } => ssh(&lab, &from.unwrap_or_else(|| lab.path("demo")), &command),
        Command::Bench { rounds, images: false } => lab::bench::run(&lab, rounds),
        Command::Bench { rounds, images: true } => lab::bench::images::run(&lab, rounds),
        Command::Accel => {
            let accel = lab::accel::probe(&lab)?;
            println!("{}: {}", accel.arguments(1).join(" "), accel.reason);
            Ok(())
        }
    }
}

fn setup(lab: &Lab, all: bool) -> Result<()> {
    lab::tools::check()?;
    let first = Spec::new("setup");
    let snapshot = |spec: &Spec| {
        let image = image::ensure(lab, spec.system, spec.net)?;
        snapshot::ensure(lab, spec, &image).map(drop)
    };
    // Each of these waits most of the time, for a download, a disk or a boot, so they run beside each other. Host
    // images don't need the archive.
    thread::scope(|scope| {
        let mut parts = vec![
            scope.spawn(|| {
                archive::fill_if_missing(lab)?;
                if all { lab::base::ensure(lab).map(drop) } else { Ok(()) }
            }),
            scope.spawn(|| snapshot(&first)),
        ];
        if all {
            parts.push(scope.spawn(|| snapshot(&Spec { firmware: Firmware::Uefi, ..first.clone() })));
            parts.push(scope.spawn(|| snapshot(&Spec { net: Net::Static, ..first.clone() })));
            parts.push(scope.spawn(|| snapshot(&Spec { cpus: 2, ..first.clone() })));
        }
        parts
            .into_iter()
            .try_for_each(|part| part.join().map_err(|_| lab::Error::new("a thread that prepares the lab died"))?)
    })?;
    let accel = lab::accel::probe(lab)?;
    println!("the lab is ready in {} ({}: {})", lab.dir().display(), accel.arguments(1)[1], accel.reason);
    Ok(())
}

/// From now on this process and what it starts are a group, which a thread ends when standard input does. So whoever
/// holds the other end can't leave them behind, however it ends and whoever they belong to.
fn end_with_stdin() -> Result<()> {
    // The leader of a session leads its group already, and may not start another. (Which group this is now can't be
    // asked: one whose leader is outside of this PID namespace has the number 0, which rustix takes for impossible.)
    match rustix::process::setpgid(None, None) {
        Ok(()) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error).context("cannot start a process group"),
    }
    thread::spawn(|| {
        // Standard input that can't be read any more counts as closed.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = rustix::process::kill_current_process_group(rustix::process::Signal::TERM);
    });
    Ok(())
}

fn archive(lab: &Lab, serve: bool) -> Result<()> {
    lab::tools::check()?;
    let begin = Instant::now();
    let filled = archive::fill(lab)?;
    println!(
        "{} packages, {} MB, of which {} were fetched in {:.0} s",
        filled.packages,
        filled.bytes / 1_000_000,
        filled.fetched,
        begin.elapsed().as_secs_f32()
    );
    if serve {
        let server = archive::Server::start(lab)?;
        println!("{}", server.url());
        wait_for_end(false);
    }
    Ok(())
}

fn demo_host(lab: &Lab, spec: Spec, into: &Path, forever: bool) -> Result<()> {
    let server = archive::Server::start(lab)?;
    let begin = Instant::now();
    let machine = Machine::start(lab, Spec { archive: Some(server.port()), ..spec })?;
    fs::create_dir_all(into).context(format!("cannot make {}", into.display()))?;
    let known_hosts = into.join("known_hosts");
    fs::write(&known_hosts, machine.known_hosts()).context("cannot write known_hosts")?;
    let known_hosts = known_hosts.canonicalize().context("cannot resolve known_hosts")?;
    let description = json!({
        "address": "127.0.0.1",
        "port": machine.port(),
        "user": "root",
        "identity_file": lab.key(),
        "known_hosts": known_hosts,
        "disk_serial": "anemos-root",
        "archive_guest": machine.archive_url(),
        "archive_host": server.url(),
        "serial_log": machine.serial_log(),
        "pid": std::process::id(),
    });
    let mut env = String::new();
    for (name, value) in description.as_object().expect("it is an object") {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        env.extend(["LAB_", &name.to_uppercase(), "='", &value, "'\n"]);
    }
    fs::write(into.join("host.env"), env).context("cannot write host.env")?;
    // host.json appears last and in one piece: whoever waits for it finds all files complete.
    let part = into.join("host.json.part");
    fs::write(&part, format!("{description}\n")).context("cannot write host.json")?;
    fs::rename(&part, into.join("host.json")).context("cannot write host.json")?;
    println!("{description}");
    std::io::stdout().flush().context("cannot write to standard output")?;
    eprintln!("lab: a Debian 12 host answers on port {} after {:.1} s", machine.port(), begin.elapsed().as_secs_f32());
    wait_for_end(forever);
    let gone = fs::remove_file(into.join("host.json"));
    drop(machine);
    gone.context("cannot remove host.json")
}

/// Waits for the end of standard input. A signal needs no waiting for: QEMU ends with this process.
fn wait_for_end(forever: bool) {
    if !forever {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        return;
    }
    loop {
        std::thread::park();
    }
}

fn ssh(lab: &Lab, from: &Path, words: &[String]) -> Result<()> {
    let path = from.join("host.json");
    let text = fs::read(&path).context(format!("no demo-host is running ({})", path.display()))?;
    let description: serde_json::Value = serde_json::from_slice(&text).context(path.display())?;
    let port = description["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    let port = port.ok_or_else(|| lab::Error::new(format!("{} names no port", path.display())))?;
    let mut command = lab::ssh::client(port, &lab.key(), &from.join("known_hosts"));
    if words.is_empty() {
        command.arg("-t");
    } else {
        command.arg("--").args(words);
    }
    let error = command.exec();
    Err(lab::Error::new(format!("cannot run ssh: {error}")))
}
