//! Which systems host images have: those that people rent, and those that do much otherwise than Debian 12 does.

use std::fmt;

/// What a host image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// Debian 12, as most tests have it.
    Bookworm,
    /// Debian 11: Linux 5.10, OpenSSH 8.4, and /usr apart from /.
    Bullseye,
    /// Debian 13, with the kernel for all machines.
    Trixie,
    /// Debian's unstable branch, as the mirror has it.
    Sid,
    /// Debian 12 with sysvinit for systemd, dropbear for OpenSSH, and its root with /boot in it on btrfs.
    Sysvinit,
    /// Debian 12 with `OpenRC` for systemd.
    OpenRc,
    /// Nothing but busybox and dropbear, with Debian 12's kernel.
    Busybox,
    /// Debian 12 with what boots from LVM, LUKS and RAID, and room on its disk for that.
    Stacked,
    /// Debian 12 with SELinux, enforcing.
    Selinux,
    /// Debian 12 with what the firmware's Secure Boot lets boot: shim, and GRUB as Debian signed it.
    Signed,
}

/// How the root file system is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filesystem {
    Ext4,
    Btrfs,
}

impl System {
    /// The suite of Debian's archive that it comes from.
    pub(super) fn suite(self) -> &'static str {
        match self {
            Self::Bullseye => "bullseye",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
            Self::Bookworm
            | Self::Sysvinit
            | Self::OpenRc
            | Self::Busybox
            | Self::Stacked
            | Self::Selinux
            | Self::Signed => "bookworm",
        }
    }

    /// What somebody who rents a small server finds on it. No D-Bus, as on any minimal Debian.
    pub(super) fn packages(self) -> Vec<&'static str> {
        let mut packages = vec![
            "ca-certificates",
            "e2fsprogs",
            "grub-efi-amd64-bin",
            "grub-pc-bin",
            "grub2-common",
            "gzip",
            "ifupdown",
            "initramfs-tools",
            "iproute2",
            "iputils-ping",
            "kmod",
            "less",
            "netbase",
            "procps",
            "udev",
            "zstd",
        ];
        packages.extend(match self {
            Self::Trixie | Self::Sysvinit | Self::Signed => ["linux-image-amd64"],
            Self::Bookworm
            | Self::Bullseye
            | Self::Sid
            | Self::OpenRc
            | Self::Busybox
            | Self::Stacked
            | Self::Selinux => ["linux-image-cloud-amd64"],
        });
        packages.extend(match self {
            Self::Trixie | Self::Sid => ["dhcpcd-base"],
            _ => ["isc-dhcp-client"],
        });
        packages.extend_from_slice(match self {
            Self::Sysvinit => &["btrfs-progs", "dropbear", "sudo", "sysvinit-core"],
            Self::OpenRc => &["openrc", "openssh-server", "sudo", "sysvinit-core"],
            Self::Busybox => &["busybox-static", "dropbear-bin"],
            Self::Bookworm => &["openssh-server", "systemd-sysv"],
            Self::Bullseye | Self::Trixie | Self::Sid => &["openssh-server", "sudo", "systemd-sysv"],
            Self::Stacked => &["cryptsetup-initramfs", "lvm2", "mdadm", "openssh-server", "sudo", "systemd-sysv"],
            Self::Selinux => &["openssh-server", "policycoreutils", "selinux-policy-default", "sudo", "systemd-sysv"],
            Self::Signed => &["grub-efi-amd64-signed", "openssh-server", "shim-signed", "sudo", "systemd-sysv"],
        });
        packages
    }

    pub(super) fn filesystem(self) -> Filesystem {
        if self == Self::Sysvinit { Filesystem::Btrfs } else { Filesystem::Ext4 }
    }

    /// How many sectors of 512 bytes its second partition for data has.
    pub(super) fn data_sectors(self) -> u64 {
        if self == Self::Stacked { 2 << 21 } else { 16 << 11 }
    }

    /// Whether dropbear is its SSH server.
    pub(super) fn has_dropbear(self) -> bool {
        matches!(self, Self::Sysvinit | Self::Busybox)
    }

    /// Whether systemd is its process 1.
    pub(super) fn has_systemd(self) -> bool {
        !self.has_dropbear() && self != Self::OpenRc
    }

    /// What its kernel is told beside where root and console are.
    pub(super) fn command_line(self) -> &'static str {
        match self {
            Self::Selinux => " security=selinux enforcing=1",
            _ => "",
        }
    }

    /// What its first card is called.
    pub(super) fn card(self) -> &'static str {
        match self {
            // Another chipset, in whose slots nothing can be plugged while it runs.
            Self::Signed => "enp0s3",
            _ => crate::machine::net::GUEST_DEVICE,
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bookworm => "bookworm",
            Self::Bullseye => "bullseye",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
            Self::Sysvinit => "sysvinit",
            Self::OpenRc => "openrc",
            Self::Busybox => "busybox",
            Self::Stacked => "stacked",
            Self::Selinux => "selinux",
            Self::Signed => "signed",
        })
    }
}
