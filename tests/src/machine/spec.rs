//! What a machine is made of, and QEMU's command line for it.

use super::Net;
use crate::command::{run, under_us};
use crate::image::{Image, System};
use crate::{Context, Lab, Result, accel, tools};
use std::fmt;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What starts the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// `SeaBIOS`.
    Bios,
    /// OVMF, without Secure Boot.
    Uefi,
    /// OVMF with Secure Boot and the keys that are sold with machines.
    SecureBoot,
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
            Self::SecureBoot => "secure-boot",
        })
    }
}

/// What the disk that a machine boots from is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk.
    Virtio,
    /// A disk of virtio-scsi.
    Scsi,
    /// An NVMe controller of its own. QEMU saves no machine that has one.
    Nvme,
    /// SATA, behind an AHCI controller.
    Sata,
}

impl Bus {
    /// QEMU's arguments for it and for the disk of the drive `root0`.
    fn arguments(self) -> Vec<String> {
        let disk =
            |device: &str, more: &str| format!("{device},id={ROOT},drive=root0,serial=anemos-root,bootindex=1,{more}");
        let devices = match self {
            Self::Virtio => vec![disk("virtio-blk-pci", "addr=0x4")],
            Self::Scsi => vec!["virtio-scsi-pci,id=scsi,addr=0x4".into(), disk("scsi-hd", "bus=scsi.0")],
            Self::Nvme => vec![disk("nvme", "addr=0x4")],
            Self::Sata => vec!["ich9-ahci,id=ahci,addr=0x4".into(), disk("ide-hd", "bus=ahci.0")],
        };
        devices.into_iter().flat_map(|device| ["-device".to_owned(), device]).collect()
    }
}

/// Where a machine begins.
#[derive(Debug, Clone)]
pub enum Boot {
    /// Debian 12, booted and answering SSH, in seconds. Another system boots from its disk.
    Snapshot,
    /// From the disk, with the image's system.
    Image,
    /// Whatever another machine left on its disks.
    Disks(Disks),
}

/// The kernel of the host image started without a boot loader.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its command line.
    pub command_line: String,
    /// Its initramfs; none means none.
    pub initrd: Option<PathBuf>,
}

impl Kernel {
    pub(super) fn arguments(&self, command: &mut Command, image: &Image) {
        command.arg("-kernel").arg(image.kernel()).args(["-append", &self.command_line]);
        if let Some(initrd) = &self.initrd {
            command.arg("-initrd").arg(initrd);
        }
    }
}

/// A disk beside the one that the machine boots from.
#[derive(Debug, Clone)]
pub enum DataDisk {
    /// A new one, full of bytes that are not zero.
    Pattern {
        /// Its size.
        mib: u64,
    },
    /// An existing raw file.
    File(PathBuf),
    /// A new, empty one with sectors of 4 KiB, which firmware tries before the other.
    Sectors4k {
        /// Its size.
        mib: u64,
    },
}

/// What to do about a fatal line on the serial console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPanic {
    /// End the machine at once.
    End,
    /// Remember it: the scenario is about what comes after.
    Note,
}

/// What machine to start. `..Spec::new("name")` has an ordinary one for the rest.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name in messages and directories.
    pub name: String,
    /// BIOS or UEFI.
    pub firmware: Firmware,
    /// Which system its image has.
    pub system: System,
    /// Its network.
    pub net: Net,
    /// Memory.
    pub memory_mib: u32,
    /// Processors. See [`accel::Accel::arguments`] on how several are emulated.
    pub cpus: u32,
    /// What its disk is attached to.
    pub bus: Bus,
    /// What it starts from.
    pub boot: Boot,
    /// The kernel to start instead of the disk's boot loader.
    pub kernel: Option<Kernel>,
    /// A second disk (vdb, serial `anemos-data`).
    pub data_disk: Option<DataDisk>,
    /// NVMe disks of 64 MiB by their serial numbers, each in a subsystem of its own that says it may have more than one
    /// path: Linux shows a multipath disk for it. QEMU saves no machine that has one, so it can't start from the
    /// snapshot.
    pub nvme: Vec<String>,
    /// Whether it has a management controller (BMC), with a watchdog. It has to boot: the snapshot has none.
    pub bmc: bool,
    /// The loopback port of the archive that the guest sees at its fixed address.
    pub archive: Option<u16>,
    /// Fatal lines on the console.
    pub on_panic: OnPanic,
}

impl Spec {
    /// A BIOS machine with one processor, a lease and 1 GiB, started from the snapshot.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            firmware: Firmware::Bios,
            system: System::Bookworm,
            net: Net::Dhcp,
            memory_mib: 1024,
            cpus: 1,
            bus: Bus::Virtio,
            boot: Boot::Snapshot,
            kernel: None,
            data_disk: None,
            nvme: Vec::new(),
            bmc: false,
            archive: None,
            on_panic: OnPanic::End,
        }
    }

    pub(crate) fn hardware(&self) -> Hardware {
        let Self { firmware, net, memory_mib, cpus, bus, .. } = *self;
        Hardware { firmware, net, memory_mib, cpus, bus }
    }
}

/// What must be the same for a snapshot to be restored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hardware {
    pub firmware: Firmware,
    pub net: Net,
    pub memory_mib: u32,
    pub cpus: u32,
    pub bus: Bus,
}

impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { firmware, net, memory_mib, cpus, bus } = self;
        write!(f, "{firmware}-{net}-{memory_mib}m-{cpus}c")?;
        match bus {
            Bus::Virtio => Ok(()),
            other => write!(f, "-{other:?}"),
        }
    }
}

/// A machine's disk and, with UEFI, its firmware's variables.
#[derive(Debug, Clone)]
pub struct Disks {
    /// The disk that it boots from (vda, serial `anemos-root`), qcow2.
    pub root: PathBuf,
    /// The firmware's variables, qcow2.
    pub vars: Option<PathBuf>,
}

impl Disks {
    /// New disks in `dir` over the image.
    pub(crate) fn from_image(image: &Image, firmware: Firmware, dir: &Path) -> Result<Self> {
        let root = dir.join("disk.qcow2");
        overlay(&image.disk(), &root)?;
        Ok(Self { root, vars: new_vars(firmware, dir)? })
    }

    /// New disks in `dir` with what a raw image holds.
    pub fn from_raw(raw: &Path, firmware: Firmware, dir: &Path) -> Result<Self> {
        let root = dir.join("disk.qcow2");
        run(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).arg(raw).arg(&root))?;
        Ok(Self { root, vars: new_vars(firmware, dir)? })
    }

    /// Writes what the first of them holds into a raw image.
    pub fn to_raw(&self, raw: &Path) -> Result<()> {
        run(Command::new("qemu-img").args(["convert", "-f", "qcow2", "-O", "raw"]).arg(&self.root).arg(raw))?;
        Ok(())
    }

    /// New disks in `dir` over these, which must not change any more.
    pub(crate) fn over(&self, dir: &Path) -> Result<Self> {
        let root = dir.join("disk.qcow2");
        overlay(&self.root, &root)?;
        let vars = match &self.vars {
            Some(base) => {
                let vars = dir.join("vars.qcow2");
                overlay(base, &vars)?;
                Some(vars)
            }
            None => None,
        };
        Ok(Self { root, vars })
    }

    /// Deletes them.
    pub fn remove(self) {
        // What is left behind is found and removed with the lab's directory.
        let _ = fs::remove_file(self.root);
        if let Some(vars) = self.vars {
            let _ = fs::remove_file(vars);
        }
    }
}

/// A booted host, kept.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Disks that must not change any more.
    pub disks: Disks,
    /// Memory and devices, as QEMU's migration writes them.
    pub memory: PathBuf,
}

/// Firmware variables as a new machine has them.
fn new_vars(firmware: Firmware, dir: &Path) -> Result<Option<PathBuf>> {
    match firmware {
        Firmware::Bios => Ok(None),
        Firmware::Uefi | Firmware::SecureBoot => {
            let vars = dir.join("vars.qcow2");
            let new = if firmware == Firmware::Uefi { tools::OVMF_VARS } else { tools::OVMF_VARS_SOLD };
            run(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2", new]).arg(&vars))?;
            Ok(Some(vars))
        }
    }
}

fn overlay(base: &Path, over: &Path) -> Result<()> {
    run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(base).arg(over))?;
    Ok(())
}

/// What QEMU calls the device that the machine boots from, and the first of its nodes.
pub(super) const ROOT: &str = "root";
/// The node below it: the disk's file.
pub(super) const ROOT_DISK: &str = "root-disk";

/// QEMU's command line, but for the network.
pub(crate) fn qemu(lab: &Lab, name: &str, hardware: &Hardware, dir: &Path, disks: &Disks) -> Result<Command> {
    let mut command = under_us("qemu-system-x86_64");
    command.args(["-name", name, "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"]);
    command.args(["-qmp", "stdio"]);
    match hardware.firmware {
        Firmware::Bios | Firmware::Uefi => command.args(["-machine", "pc"]),
        // The firmware's variables are safe from the system only with system management mode, which needs this chipset.
        Firmware::SecureBoot => {
            command.args(["-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"])
        }
    };
    let accel = accel::probe(lab)?;
    command.args(accel.arguments(hardware.cpus)).args(accel.tuning());
    command.args(["-m", &hardware.memory_mib.to_string(), "-smp", &hardware.cpus.to_string()]);
    if hardware.firmware != Firmware::Bios {
        let code = if hardware.firmware == Firmware::Uefi { tools::OVMF_CODE } else { tools::OVMF_CODE_SECURE };
        command.args(["-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={code}")]);
        let vars = disks.vars.as_deref().unwrap_or(Path::new("missing"));
        command.args(["-drive", &format!("if=pflash,unit=1,format=qcow2,file={}", escaped(vars))]);
    }
    // A node that does nothing stands above the disk, so that one that fails can come between while the machine runs.
    let root = format!(
        "if=none,id=root0,driver=raw,node-name={ROOT},cache=unsafe,discard=unmap,file.driver=qcow2,\
         file.node-name={ROOT_DISK},file.file.driver=file,file.file.filename={}",
        escaped(&disks.root)
    );
    command.args(["-drive", &root]).args(hardware.bus.arguments());
    command.args([
        "-device",
        "virtio-rng-pci,addr=0x5",
        "-serial",
        &format!("file:{}", escaped(&dir.join("serial.log"))),
    ]);
    Ok(command)
}

/// Adds an NVMe disk to QEMU's command line.
pub(super) fn add_nvme(command: &mut Command, serial: &str, file: &Path) {
    command.args(["-device", &format!("nvme-subsys,id=subsys-{serial},nqn={serial}")]);
    command.args(["-device", &format!("nvme,id=nvme-{serial},serial={serial},subsys=subsys-{serial}")]);
    command.args(["-drive", &format!("if=none,id=drive-{serial},format=raw,file={}", escaped(file))]);
    command.args(["-device", &format!("nvme-ns,drive=drive-{serial},bus=nvme-{serial},nsid=1")]);
}

/// A path inside one of QEMU's comma-separated options.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// Fills a file with bytes that look like data and are the same every time.
pub(super) fn write_pattern(path: &Path, mib: u64) -> Result<()> {
    let file = File::create(path).context(format!("cannot make {}", path.display()))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..mib * (1 << 20) / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.write_all(&state.to_le_bytes()).context("cannot write the pattern")?;
    }
    out.flush().context("cannot write the pattern")
}
