#!/bin/bash
# Packs a Debian as a repository for pacman, as alpm-package(7), alpm-repo-db(7) and alpm-hooks(5) say: its files lie as
# Arch's do, and its kernels come with what Arch's scripts want to know of them.
#
#     pack.sh TREE WORK OUT OLDER NEWER
#
# TREE is an installed system without a kernel. Below WORK, kernel-VERSION has that kernel's package unpacked, and
# makepkg what pacman-key needs. OUT gets older/ and newer/, which differ in kernel and GRUB, and keys/, the keyring of
# the key that signs the package of keys; that has the key of all others.
set -euo pipefail
tree=$1 work=$2 out=$3 older=$4 newer=$5
export GNUPGHOME=$work/gnupg
mkdir -m 700 "$GNUPGHOME"
mkdir -p "$out/keys" "$out/pool"

# keyring NAME USER DIR: makes a key, and a keyring with it.
keyring() {
    gpg --batch --quiet --passphrase '' --quick-generate-key "$2" ed25519
    mkdir -p "$3"
    gpg --batch --export "$2" >"$3/$1.gpg"
    gpg --batch --with-colons --list-keys "$2" | sed -n 's/^fpr:*\([0-9A-F]*\):$/\1:4:/p' | head -1 >"$3/$1-trusted"
}

# pack KEY NAME VERSION DEPENDS PROVIDES: packs WORK/NAME, with the entry for an index beside it.
pack() {
    local key=$1 name=$2 version=$3 dir=$work/$2 file=$2-$3-x86_64.pkg.tar.zst
    local size entry=$work/entries/$2-$3
    size=$(du -sb "$dir" | cut -f 1)
    mkdir -p "$entry"
    {
        printf '%s = %s\n' pkgname "$name" pkgbase "$name" pkgver "$version" pkgdesc "Debian's files" \
            url https://example.net builddate 1700000000 packager lab size "$size" arch x86_64 license custom
        printf 'depend = %s\n' $4
        [ -z "${5-}" ] || printf 'provides = %s\n' "$5"
        # What an update leaves as its owner has made it.
        if [ -d "$dir/etc" ]; then (cd "$dir" && find etc -type f | sort | sed 's/^/backup = /'); fi
    } | grep -v ' = $' >"$dir/.PKGINFO"
    (cd "$dir" && tar -cf - .PKGINFO $(ls)) | zstd -q -T2 -3 -o "$out/pool/$file"
    gpg --batch --quiet --local-user "$key" --detach-sign -o "$out/pool/$file.sig" "$out/pool/$file"
    {
        printf '%%%s%%\n%s\n\n' FILENAME "$file" NAME "$name" BASE "$name" VERSION "$version" DESC "Debian's files" \
            CSIZE "$(stat -c %s "$out/pool/$file")" ISIZE "$size" ARCH x86_64 \
            SHA256SUM "$(sha256sum <"$out/pool/$file" | cut -d ' ' -f 1)" \
            PGPSIG "$(base64 -w 0 "$out/pool/$file.sig")"
        [ -z "$4" ] || { echo %DEPENDS%; printf '%s\n' $4 ''; }
        [ -z "${5-}" ] || printf '%%PROVIDES%%\n%s\n\n' "$5"
    } >"$entry/desc"
}

# publish WHICH REPOSITORY ENTRY...: an index of packages, which lie beside it.
publish() {
    local place=$out/$1/$2/os/x86_64 name=$2
    shift 2
    mkdir -p "$place"
    (cd "$work/entries" && tar -czf "$place/$name.db" "$@")
    for entry; do ln "$out/pool/$entry-x86_64.pkg.tar.zst" "$out/pool/$entry-x86_64.pkg.tar.zst.sig" "$place"; done
}

# split NAME PACKAGE...: moves what Debian's packages have out of the tree.
split() {
    local name=$1 list=$work/files
    shift
    (cd "$tree/var/lib/dpkg/info" && for package; do cat "$package".list "$package":*.list 2>/dev/null || :; done) |
        sed 's,^/usr/sbin/,/usr/bin/,; s,^/,,' | (cd "$tree" && while read -r file; do
            if [ -L "$file" ] || [ -f "$file" ]; then echo "$file"; fi
        done) >"$list"
    mkdir -p "$work/$name"
    tar -C "$tree" -cf - -T "$list" | tar -C "$work/$name" -xf -
    (cd "$tree" && xargs -d '\n' rm -f) <"$list"
}

# /usr/sbin is a link to bin. What knows Debian's archive is not there.
find "$tree/usr/sbin" -mindepth 1 -maxdepth 1 -exec mv -n -t "$tree/usr/bin" {} +
rm -r "$tree/usr/sbin"
ln -s bin "$tree/usr/sbin"
rm -rf "$tree"/etc/apt "$tree"/usr/share/keyrings/debian* "$tree"/etc/ssh/ssh_host_* "$tree"/etc/machine-id \
    "$tree"/etc/{init.d,rc?.d} "$tree"/usr/share/{doc,man,locale} "$tree"/var/cache/* "$tree"/dev/* "$tree"/etc/hostname
sed -i 's/^root:[^:]*:/root::/' "$tree/etc/shadow"
printf 'NAME="Arch Linux"\nID=arch\nPRETTY_NAME="Arch Linux, by the lab"\n' >"$tree/usr/lib/os-release"
printf '# Static table lookup for hostnames.\n' >"$tree/etc/hosts"
printf '# Resolver configuration file.\n' >"$tree/etc/resolv.conf"

split grub grub-common grub2-common grub-pc-bin grub-efi-amd64-bin
split openssh openssh-server openssh-sftp-server openssh-client
split pacman pacman-package-manager libalpm15t64 libalpm15
mv "$tree/etc/ssh" "$work/openssh/etc/" 2>/dev/null || cp -a "$tree/etc/ssh/." "$work/openssh/etc/ssh/"
rm -rf "$tree/etc/ssh"
mv "$work/openssh/usr/lib/systemd/system/ssh.service" "$work/openssh/usr/lib/systemd/system/sshd.service"
# Arch has another unit for the keys.
keys="ExecStartPre=/bin/sh -c 'test -e /etc/ssh/ssh_host_ed25519_key || ssh-keygen -A'"
sed -i "/^Alias=/d; 0,/^ExecStartPre=/s,,$keys\n&," "$work/openssh/usr/lib/systemd/system/sshd.service"
rm -rf "$tree/etc/systemd/system/sshd.service" "$tree"/etc/systemd/system/*.wants/ssh* "$tree"/etc/systemd/system/ssh*
mkdir -p "$work/grub/etc/default"
printf '%s\n' GRUB_DEFAULT=0 GRUB_TIMEOUT=5 'GRUB_DISTRIBUTOR="Arch"' 'GRUB_CMDLINE_LINUX_DEFAULT="loglevel=3"' \
    'GRUB_CMDLINE_LINUX=""' GRUB_TERMINAL_INPUT=console >"$work/grub/etc/default/grub"
cp -a "$work/makepkg/usr/share/makepkg" "$work/pacman/usr/share/"
mkdir -p "$work/pacman/etc/pacman.d"
printf '# Server = https://mirror.example/$repo/os/$arch\n' >"$work/pacman/etc/pacman.d/mirrorlist"
cat >"$work/pacman/etc/pacman.conf" <<'END'
[options]
HoldPkg = pacman
Architecture = auto
CheckSpace
SigLevel = Required DatabaseOptional
[core]
Include = /etc/pacman.d/mirrorlist
[extra]
Include = /etc/pacman.d/mirrorlist
END

# What puts a kernel into /boot and makes its initramfs: on Arch, hooks of kmod and mkinitcpio, which Debian has not.
mkdir -p "$work/initramfs/usr/share/libalpm/"{hooks,scripts}
cat >"$work/initramfs/usr/share/libalpm/hooks/90-initramfs.hook" <<'END'
[Trigger]
Type = Path
Operation = Install
Operation = Upgrade
Target = usr/lib/modules/*/vmlinuz

[Action]
Description = Making initramfs images...
When = PostTransaction
Exec = /usr/share/libalpm/scripts/initramfs
NeedsTargets
END
cat >"$work/initramfs/usr/share/libalpm/scripts/initramfs" <<'END'
#!/bin/sh
set -eu
while read -r kernel; do
    dir=/${kernel%/*}
    base=$(cat "$dir/pkgbase")
    depmod "${dir##*/}"
    cp "$dir/vmlinuz" "/boot/vmlinuz-$base"
    mkinitramfs -o "/boot/initramfs-$base.img" "${dir##*/}"
done
END
chmod 755 "$work/initramfs/usr/share/libalpm/scripts/initramfs"

mkdir -p "$work/base/usr/share/base" "$work/lab-extra/usr/share"
echo base >"$work/base/usr/share/base/name"
echo 'from extra' >"$work/lab-extra/usr/share/lab-extra"
mv "$tree" "$work/filesystem"

keyring lab keys@example.net "$out/keys"
keyring archlinux packages@example.net "$work/archlinux-keyring/usr/share/pacman/keyrings"
# Where Debian's pacman-key looks.
mkdir -p "$work/archlinux-keyring/usr/share/keyrings"
cp "$work/archlinux-keyring/usr/share/pacman/keyrings/"* "$work/archlinux-keyring/usr/share/keyrings/"

pack keys@example.net archlinux-keyring 1-1 filesystem
for package in filesystem: openssh:filesystem pacman:filesystem initramfs:filesystem:initramfs \
    "base:filesystem pacman archlinux-keyring" lab-extra:filesystem; do
    IFS=: read -r name depends provides <<<"$package"
    pack packages@example.net "$name" 1-1 "$depends" "$provides"
done
common="archlinux-keyring-1-1 filesystem-1-1 openssh-1-1 pacman-1-1 initramfs-1-1 base-1-1"
for which in older newer; do
    release=${!which}
    grub=1-$([ $which = older ] && echo 1 || echo 2)
    pack packages@example.net grub "$grub" filesystem
    modules=$work/linux/usr/lib/modules
    rm -rf "$work/linux"
    mkdir -p "$modules"
    cp -a "$work/kernel-$release/usr/lib/modules/$release" "$modules/"
    cp "$work/kernel-$release/boot/vmlinuz-$release" "$modules/$release/vmlinuz"
    echo linux >"$modules/$release/pkgbase"
    # pacman's versions have no `+`.
    version=$(tr -c 'a-z0-9.\n' . <<<"$release")-1
    pack packages@example.net linux "$version" initramfs
    publish "$which" core $common "grub-$grub" "linux-$version"
    publish "$which" extra lab-extra-1-1
done
