//! A system of nothing but busybox and dropbear, as routers and rescue systems are.

use crate::command::{program, run};
use crate::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Process 1's table: busybox's init reads it.
const INITTAB: &str = "\
::sysinit:/etc/rc
::respawn:/usr/sbin/dropbear -F -E
::ctrlaltdel:/sbin/reboot
";

const RC: &str = "\
#!/bin/sh
mount -o remount,rw /
mount -t proc proc /proc
[ -e /sys/kernel ] || mount -t sysfs sysfs /sys
[ -e /dev/null ] || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
hostname -F /etc/hostname
modprobe virtio_net
ip link set lo up
# The initramfs may have given it another name than the kernel did.
for card in /sys/class/net/e*; do
    udhcpc -i ${card##*/} -s /usr/share/udhcpc/default.script
done
";

/// What busybox' DHCP client runs (udhcpc's own documentation has the variables).
const LEASED: &str = "\
#!/bin/sh
case $1 in
    deconfig) ip link set $interface up ;;
    bound | renew)
        ip addr add $ip/$mask dev $interface
        [ -z \"$router\" ] || ip route replace default via ${router%% *} dev $interface
        for server in $dns; do echo nameserver $server; done >/etc/resolv.conf
        ;;
esac
";

/// Makes the system in `into`, out of Debian's in `root`, and gives the path back.
pub fn make(root: &Path, into: &Path, public_key: &str) -> Result<PathBuf> {
    let at = |path: &str| into.join(path);
    for dir in
        ["bin", "sbin", "usr/bin", "usr/sbin", "usr/share/udhcpc", "lib", "dev", "proc", "sys", "run", "tmp", "mnt"]
    {
        fs::create_dir_all(at(dir)).context(format!("cannot make /{dir}"))?;
    }
    let write = |path: &str, mode: u32, text: &str| -> Result<()> {
        fs::write(at(path), text).context(format!("cannot write {path}"))?;
        fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).context(format!("cannot protect {path}"))
    };
    let copy =
        |paths: &[&str]| run(program("cp").args(["-a", "--parents"]).args(paths).arg(into).current_dir(root)).map(drop);
    copy(&["boot", "usr/lib/modules", "etc/dropbear", "etc/hostname", "etc/hosts", "usr/sbin/dropbear"])?;
    // Debian's /lib is a link to /usr/lib.
    fs::remove_dir(at("lib")).context("cannot remove /lib")?;
    symlink("usr/lib", at("lib")).context("cannot make /lib")?;
    symlink("usr/lib64", at("lib64")).context("cannot make /lib64")?;
    let listed = run(program("chroot").arg(root).args(["ldd", "/usr/sbin/dropbear"]))?;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    // `NAME => FILE (ADDRESS)`, or for the loader itself `FILE (ADDRESS)`.
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
        let real = fs::canonicalize(root.join(library.trim_start_matches('/'))).context(library)?;
        let to = at(&format!("usr{}", library.trim_start_matches("/usr")));
        fs::create_dir_all(to.parent().unwrap_or(into)).context("a library's directory")?;
        fs::copy(&real, &to).context(format!("cannot copy {library}"))?;
    }
    let busybox = ["bin/busybox", "usr/bin/busybox"].map(|path| root.join(path));
    let Some(busybox) = busybox.iter().find(|path| path.exists()) else { bail!("busybox-static has no busybox") };
    fs::copy(busybox, at("bin/busybox")).context("cannot copy busybox")?;
    for applet in
        String::from_utf8_lossy(&run(program("chroot").arg(into).args(["/bin/busybox", "--list-full"]))?).lines()
    {
        let link = at(applet);
        if !link.exists() {
            symlink("/bin/busybox", &link).context(format!("cannot make /{applet}"))?;
        }
    }
    write("etc/inittab", 0o644, INITTAB)?;
    write("etc/rc", 0o755, RC)?;
    write("usr/share/udhcpc/default.script", 0o755, LEASED)?;
    write("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n")?;
    write("etc/group", 0o644, "root:x:0:\n")?;
    write("etc/shadow", 0o600, "root:*:1:0:99999:7:::\n")?;
    write("etc/shells", 0o644, "/bin/sh\n")?;
    write("etc/os-release", 0o644, "ID=busybox\nPRETTY_NAME=\"busybox and dropbear\"\nVERSION_CODENAME=bookworm\n")?;
    fs::create_dir_all(at("root/.ssh")).context("cannot make /root/.ssh")?;
    for dir in ["root", "root/.ssh"] {
        fs::set_permissions(at(dir), fs::Permissions::from_mode(0o700)).context("cannot protect /root")?;
    }
    write("root/.ssh/authorized_keys", 0o600, public_key)?;
    Ok(into.to_owned())
}
