//! What is on the host's root file system.

use super::Ids;
use super::system::{Filesystem, System};
use crate::archive::sources;
use crate::command::{program, run, tail};
use crate::machine::{Net, net};
use crate::{Context, Result, bail};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Has the initramfs hold the modules of the lab's machines.
const INITRD: &str = r#"set -e
cd "$1"
list=usr/share/initramfs-tools/modules.d
mkdir -p etc/initramfs-tools/conf.d $list
echo MODULES=list >etc/initramfs-tools/conf.d/lab
printf '%s\n' ahci btrfs ext4 nvme sd_mod virtio_blk virtio_net virtio_pci virtio_scsi >$list/lab"#;

/// Bootstraps the Debian that a system is or is made from, from the mirror that this machine's apt uses.
pub fn bootstrap(system: System, root: &Path, log: &Path) -> Result<()> {
    minimal(system.suite(), &system.packages().join(","), root, log)
}

/// Bootstraps a Debian of these packages, with commas between them, from the mirror that this machine's apt uses.
pub fn minimal(suite: &str, packages: &str, root: &Path, log: &Path) -> Result<()> {
    let mirror = sources::debian_mirror()?;
    let output = File::create(log).context(format!("cannot make {}", log.display()))?;
    let status = program("mmdebstrap")
        .args(["--mode=root", "--variant=minbase", "--format=directory", "--include", packages])
        .args(["--aptopt=APT::Install-Recommends \"false\"", "--keyring", crate::tools::KEYRING])
        // A mirror may be behind, and what it has of a suite that changes then says that it is too old.
        .arg("--aptopt=Acquire::Check-Valid-Until \"false\"")
        // The modules of the lab's machines, not of all there are: those are emulated while they read it.
        .arg(format!("--essential-hook={INITRD}"))
        .arg(suite)
        .arg(root)
        .arg(&mirror)
        .stdin(std::process::Stdio::null())
        .stdout(output.try_clone().context("cannot share the log")?)
        .stderr(output)
        .status()
        .context("cannot run mmdebstrap")?;
    if !status.success() {
        let text = fs::read_to_string(log).unwrap_or_default();
        bail!("mmdebstrap: {status}\n{}", tail(&text, 20));
    }
    Ok(())
}

/// Makes the bootstrapped system one particular host.
pub fn configure(system: System, root: &Path, kind: Net, ids: &Ids, public_key: &str) -> Result<()> {
    let write = |path: &str, text: &str| -> Result<()> {
        let path = root.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).context(format!("cannot make {}", parent.display()))?;
        }
        fs::write(&path, text).context(format!("cannot write {}", path.display()))
    };
    write("etc/hostname", &format!("lab-{kind}\n"))?;
    write("etc/hosts", &format!("127.0.0.1 localhost\n127.0.1.1 lab-{kind}\n::1 localhost ip6-localhost\n"))?;
    write(
        "etc/fstab",
        &format!(
            "UUID={} / {} 0 1\nUUID={}-{} /boot/efi vfat umask=0077,nofail 0 1\n",
            ids.root,
            match system.filesystem() {
                Filesystem::Ext4 => "ext4 errors=remount-ro",
                Filesystem::Btrfs => "btrfs defaults",
            },
            &ids.esp[..4],
            &ids.esp[4..]
        ),
    )?;
    fs::create_dir_all(root.join("boot/efi")).context("cannot make /boot/efi")?;
    configure_network(system, root, kind, &write)?;
    configure_ssh(root, public_key, &write)?;
    configure_grub(system, root, ids, &write)?;
    // Each machine has an identity of its own, as after an installation.
    write("etc/machine-id", "uninitialized\n")?;
    if system == System::Selinux {
        write("etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=default\n")?;
    }
    if !system.has_systemd() {
        return Ok(());
    }
    // They would only try to reach an archive in the middle of a test.
    run(program("chroot").arg(root).args([
        "systemctl",
        "--quiet",
        "mask",
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "e2scrub_all.timer",
        "e2scrub_reap.service",
        "fstrim.timer",
    ]))?;
    if system == System::Selinux {
        // As `fixfiles relabel` would at its first boot; all of it is written now. It names files by /proc.
        let contexts = "/etc/selinux/default/contexts/files/file_contexts";
        let mut unshare = program("unshare");
        unshare.args(["--mount", "--pid", "--fork"]).arg(format!("--mount-proc={}/proc", root.display()));
        run(unshare.arg("chroot").arg(root).args(["setfiles", "-F", "-m", contexts, "/"]))?;
    }
    Ok(())
}

type Writer<'a> = &'a dyn Fn(&str, &str) -> Result<()>;

fn configure_network(system: System, root: &Path, kind: Net, write: Writer) -> Result<()> {
    let archive = net::archive_url(kind);
    let device = system.card();
    match kind {
        Net::Dhcp | Net::Trunk => {
            write(
                "etc/network/interfaces",
                &format!("auto lo\niface lo inet loopback\n\nallow-hotplug {device}\niface {device} inet dhcp\n"),
            )?;
            write("etc/resolv.conf", "")?;
            if system != System::Bookworm {
                return write("etc/apt/sources.list", &format!("deb {archive} {} main\n", system.suite()));
            }
            write(
                "etc/apt/sources.list",
                &format!(
                    "deb {archive} bookworm main\n\
                     deb {archive}-security bookworm-security main\n\
                     deb {archive} bookworm-updates main\n"
                ),
            )
        }
        Net::Static => {
            write(
                "etc/network/interfaces",
                &format!(
                    "auto lo\niface lo inet loopback\n\nauto {device}\n\
                     iface {device} inet static\n    address {}/32\n    gateway {}\n\
                     iface {device} inet6 static\n    address {}/64\n    gateway {}\n    accept_ra 0\n    \
                     dad-attempts 0\n",
                    net::STATIC_V4,
                    net::STATIC_V4_GATEWAY,
                    net::STATIC_V6,
                    net::STATIC_V6_GATEWAY
                ),
            )?;
            write("etc/resolv.conf", &format!("search lab.test\nnameserver {}\n", net::STATIC_V4_GATEWAY))?;
            // No lease can come from a host that has no client for it.
            for client in ["sbin/dhclient", "usr/sbin/dhclient"] {
                let client = root.join(client);
                if client.exists() {
                    fs::remove_file(&client).context("cannot remove the DHCP client")?;
                }
            }
            // This host describes its archive in the newer form.
            fs::remove_file(root.join("etc/apt/sources.list")).context("cannot remove sources.list")?;
            write(
                "etc/apt/sources.list.d/debian.sources",
                &format!(
                    "Types: deb\nURIs: {archive}\nSuites: bookworm bookworm-updates\nComponents: main\n\
                     Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n\
                     Types: deb\nURIs: {archive}-security\nSuites: bookworm-security\nComponents: main\n\
                     Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
                ),
            )
        }
    }
}

fn configure_ssh(root: &Path, public_key: &str, write: Writer) -> Result<()> {
    let dir = root.join("root/.ssh");
    fs::create_dir_all(&dir).context("cannot make /root/.ssh")?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).context("cannot protect /root/.ssh")?;
    write("root/.ssh/authorized_keys", public_key)?;
    fs::set_permissions(dir.join("authorized_keys"), fs::Permissions::from_mode(0o600))
        .context("cannot protect authorized_keys")?;
    fs::create_dir_all(root.join("etc/ssh")).context("cannot make /etc/ssh")?;
    for entry in fs::read_dir(root.join("etc/ssh")).context("cannot read /etc/ssh")? {
        let path = entry.context("cannot read /etc/ssh")?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ssh_host_")) {
            fs::remove_file(&path).context("cannot remove a host key")?;
        }
    }
    run(program("ssh-keygen").arg("-A").arg("-f").arg(root))?;
    Ok(())
}

fn configure_grub(system: System, root: &Path, ids: &Ids, write: Writer) -> Result<()> {
    let kernel = fs::read_link(root.join("vmlinuz")).context("no /vmlinuz in the host image")?;
    let initrd = fs::read_link(root.join("initrd.img")).context("no /initrd.img in the host image")?;
    write(
        "boot/grub/grub.cfg",
        &format!(
            "serial --unit=0 --speed=115200\nterminal_output serial\nset timeout=0\n\
             menuentry 'Debian GNU/Linux' {{\n    search --no-floppy --fs-uuid --set=root {id}\n    \
             linux /{} root=UUID={id} ro console=tty0 console=ttyS0,115200{}\n    initrd /{}\n}}\n",
            kernel.display(),
            system.command_line(),
            initrd.display(),
            id = ids.root,
        ),
    )
}
