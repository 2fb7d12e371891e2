#!/bin/bash
# Installs what building, tests, lab and demo need from the distribution, besides Rust. Does nothing, says nothing and
# needs no root where all is there; where something still lacks afterwards, it is named, and the exit status is 1.
set -euo pipefail

# What it is recognised by, and the package that has it. tests/pristine.sh finds what a bare Debian lacks besides.
needs="
make make
git git
gcc gcc
/usr/include/stdlib.h libc6-dev
readelf binutils
objcopy binutils
/etc/ssl/certs/ca-certificates.crt ca-certificates
qemu-system-x86_64 qemu-system-x86
qemu-img qemu-utils
/usr/share/OVMF/OVMF_CODE_4M.fd ovmf
/usr/share/OVMF/OVMF_VARS_4M.fd ovmf
/usr/share/keyrings/debian-archive-keyring.gpg debian-archive-keyring
mmdebstrap mmdebstrap
debootstrap debootstrap
mkfs.btrfs btrfs-progs
mkfs.xfs xfsprogs
grub-fstest grub-common
grub-install grub2-common
/usr/lib/grub/i386-pc/boot.img grub-pc-bin
/usr/lib/grub/x86_64-efi/kernel.img grub-efi-amd64-bin
mke2fs e2fsprogs
debugfs e2fsprogs
sfdisk fdisk
mformat mtools
mcopy mtools
mkfs.vfat dosfstools
mkfs.f2fs f2fs-tools
mkfs.jfs jfsutils
mkfs.nilfs2 nilfs-tools
mkfs.exfat exfatprogs
cryptsetup cryptsetup-bin
mkswap util-linux
setpriv util-linux
unshare util-linux
script bsdutils
python3 python3
losetup mount
mount mount
kill procps
ip iproute2
ifup ifupdown
/usr/libexec/netplan/generate netplan.io
/lib/systemd/systemd-networkd systemd
ssh openssh-client
ssh-keygen openssh-client
ssh-add openssh-client
sshd openssh-server
dropbear dropbear-bin
tinyproxy tinyproxy-bin
sudo sudo
doas opendoas
tcsh tcsh
fish fish
zstd zstd
xz xz-utils
gzip gzip
tar tar
cpio cpio
patch patch
mksquashfs squashfs-tools
skopeo skopeo
age age
pass pass
busybox busybox
gpg gpg
gpg-agent gpg-agent
pacman pacman-package-manager
/usr/share/makepkg/util/parseopts.sh makepkg
"

known=$(sed 's/.* //' <<<"$needs" | sort -u)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# Leaves in `marks` what is not there, and in `packages` what has it.
look() {
    marks=() packages=()
    local mark package
    while read -r mark package; do
        case $mark in
            '') continue ;;
            /*) [ ! -e "$mark" ] || continue ;;
            # Not `command -v`: kill is also the shell's own.
            *) ! type -P "$mark" >/dev/null || continue ;;
        esac
        marks+=("$mark")
        [[ " ${packages[*]} " == *" $package "* ]] || packages+=("$package")
    done <<<"$needs"
}

look
[ ${#packages[@]} -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "install-tools: this is for Debian; install these otherwise: ${packages[*]} (for ${marks[*]})" >&2
    exit 1
fi
# `env`, since sudo passes no variables on.
as_root=(env DEBIAN_FRONTEND=noninteractive)
for name in http_proxy https_proxy no_proxy; do
    [ -z "${!name:-}" ] || as_root+=("$name=${!name}")
done
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "install-tools: run as root: apt-get install ${packages[*]}" >&2; exit 1; }
    as_root=(sudo "${as_root[@]}")
fi
# apt that runs at the same time, as on a machine that was just started, is waited for.
apt=("${as_root[@]}" apt-get -qy -o DPkg::Lock::Timeout=50)

echo "installing ${packages[*]}"
"${apt[@]}" update || echo "install-tools: going on with the package lists that were there before" >&2
# What fails here is tried once more below.
"${apt[@]}" install --no-install-recommends "${packages[@]}" || true

first=("${packages[@]}")
look
if [ ${#packages[@]} -gt 0 ]; then
    # A package from elsewhere (backports) may be newer than the distribution's and exclude another that is needed: of
    # two that exclude each other apt removes the first when it is asked for the second, or it refuses, and then says `
    # NAME : Breaks: …`. Both from the distribution go together.
    refused=$("${apt[@]}" -s install --no-install-recommends "${packages[@]}" 2>&1 | sed -n 's/^ \([a-z0-9.+-]*\) : .*/\1/p' || true)
    again=()
    while read -r package; do
        [[ " ${again[*]} " == *" $package "* ]] || again+=("$package")
    done < <(printf '%s\n' "${first[@]}" "${packages[@]}"; grep -Fx "$refused" <<<"$known" || true)
    . /etc/os-release
    echo "still missing: ${marks[*]}; once more, with ${VERSION_CODENAME:-the distribution}'s own ${again[*]}"
    pins=$(mktemp)
    trap 'rm -f "$pins"' EXIT
    printf 'Package: %s\nPin: release n=%s*\nPin-Priority: 1001\n' "${again[*]}" "${VERSION_CODENAME:-}" >"$pins"
    # apt's own user reads it.
    chmod 644 "$pins"
    "${apt[@]}" install -o Dir::Etc::Preferences="$pins" --allow-downgrades --no-install-recommends "${again[@]}" || true
    look
fi
if [ ${#packages[@]} -gt 0 ]; then
    echo "install-tools: missing even after apt-get install: ${marks[*]}" >&2
    # apt installs all or nothing: which of them does it refuse?
    for package in "${packages[@]}"; do
        if ! why=$("${apt[@]}" -s install --no-install-recommends "$package" 2>&1); then
            echo "install-tools: apt can't install $package:" >&2
            # Packages with what stands against them, or that there is none of this name; not that apt's solver gave up.
            sed -n 's/^ /    /p; s/^E: [^E]/    &/p' <<<"$why" >&2
        fi
    done
    exit 1
fi
