#!/bin/sh
# Installs what the tests and the demo need from the distribution, and says what is missing where it can't.
set -eu
# Command, and the package that has it.
tools="qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils mmdebstrap:mmdebstrap debootstrap:debootstrap
sshd:openssh-server ssh:openssh-client mke2fs:e2fsprogs mformat:mtools mkfs.vfat:dosfstools sfdisk:fdisk sgdisk:gdisk
grub-mkimage:grub-common grub-install:grub2-common cpio:cpio xz:xz-utils zstd:zstd ip:iproute2 readelf:binutils
busybox:busybox gpgv:gpgv curl:curl"
files="/usr/share/OVMF/OVMF_CODE.fd:ovmf /usr/lib/grub/i386-pc/boot.img:grub-pc-bin
/usr/lib/grub/x86_64-efi/modinfo.sh:grub-efi-amd64-bin"
PATH=$PATH:/usr/sbin:/sbin
export PATH

missing() {
    for pair in $tools; do command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"; done
    for pair in $files; do [ -e "${pair%%:*}" ] || echo "${pair##*:}"; done
}

wanted=$(missing | sort -u)
[ -n "$wanted" ] || exit 0
if [ "$(id -u)" != 0 ]; then
    echo "install-tools: missing: $(echo $wanted). As root: apt-get update && apt-get install --no-install-recommends $(echo $wanted)" >&2
    exit 1
fi
echo "install-tools: installing $(echo $wanted)"
apt-get update -qq
export DEBIAN_FRONTEND=noninteractive
# A qemu-utils from elsewhere can be newer than the release's qemu-system-x86 allows; both from one place then.
case " $(echo $wanted) " in *" qemu-system-x86 "*)
    wanted="$wanted qemu-utils"
    if dpkg -s qemu-utils >/dev/null 2>&1 && ! apt-get install -s --no-install-recommends $wanted >/dev/null 2>&1; then
        apt-get remove -y -qq qemu-utils
    fi ;;
esac
apt-get install -y -qq --no-install-recommends $wanted >/dev/null
wanted=$(missing | sort -u)
[ -z "$wanted" ] || { echo "install-tools: still missing after apt-get: $(echo $wanted)" >&2; exit 1; }
