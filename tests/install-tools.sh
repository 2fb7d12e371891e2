#!/bin/bash
# Installs what tests, lab and demo need from the distribution. Does nothing, and needs no root, where all is there.
set -euo pipefail

# What it is recognised by, and the package that has it.
needs="
qemu-system-x86_64 qemu-system-x86
qemu-img qemu-utils
/usr/share/OVMF/OVMF_CODE_4M.fd ovmf
/usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
mmdebstrap mmdebstrap
debootstrap debootstrap
mkfs.btrfs btrfs-progs
mkfs.xfs xfsprogs
mke2fs e2fsprogs
sfdisk fdisk
mformat mtools
mkfs.vfat dosfstools
ip iproute2
ssh openssh-client
sshd openssh-server
setpriv util-linux
gcc gcc
readelf binutils
zstd zstd
cpio cpio
patch patch
busybox busybox
pacstrap arch-install-scripts
pacman pacman-package-manager
"

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
missing=()
while read -r mark package; do
    case $mark in
        '') ;;
        /*) [ -e "$mark" ] || missing+=("$package") ;;
        *) command -v "$mark" >/dev/null || missing+=("$package") ;;
    esac
done <<<"$needs"
[ ${#missing[@]} -gt 0 ] || exit 0

echo "installing ${missing[*]}"
if ! command -v apt-get >/dev/null; then
    echo "install-tools: this is for Debian; install these otherwise: ${missing[*]}" >&2
    exit 1
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "install-tools: run as root: apt-get install ${missing[*]}" >&2; exit 1; }
    as_root=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get -q update
# A qemu-utils from elsewhere may be newer than, and in conflict with, the distribution's qemu-system-x86: both then come
# from the distribution.
if [[ " ${missing[*]} " == *" qemu-system-x86 "* ]] && dpkg -s qemu-utils >/dev/null 2>&1 &&
    ! apt-get -s install --no-install-recommends qemu-system-x86 >/dev/null 2>&1; then
    "${as_root[@]}" apt-get -qy remove qemu-utils
    missing+=(qemu-utils)
fi
# The test of the controller against a real sshd starts its own; the machine's need not run.
"${as_root[@]}" apt-get -qy install --no-install-recommends "${missing[@]}"
