# Runs after dpkg (/etc/dpkg/dpkg.cfg.d/makeimg-grub) or pacman (/etc/pacman.d/hooks). When GRUB's packages have been
# updated, what they have is put where makeimg has put it: the boot sector and what comes after it, the EFI system
# partition, and the modules beside the menu, which must be of the same version. With --note, only what is installed now
# is noted.
set -eu
mode=${1-}
note=/boot/grub/makeimg.version
# With shim, firmware starts what is signed, and nothing else.
shim=/usr/lib/shim/shimx64.efi.signed
if [ -e /etc/pacman.d/hooks/zz-makeimg-grub.hook ]; then
    now=$(pacman -Q grub) || exit 0
else
    set -- grub-common grub2-common grub-pc-bin grub-efi-amd64-bin
    [ ! -e $shim ] || set -- "$@" grub-efi-amd64-signed shim-signed shim-helpers-amd64-signed
    now=$(dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\n' "$@" 2>/dev/null || :)
    # In the middle of an update, tools and modules are of different versions.
    [ "$(printf '%s\n' "$now" | grep -c ' installed$')" = $# ] || exit 0
fi
if [ "$mode" = --note ]; then
    printf '%s\n' "$now" >"$note"
    exit 0
fi
[ -e "$note" ] && [ "$(cat "$note")" != "$now" ] || exit 0
failed='GRUB has been updated, but could not be put where this machine starts from. To try again:'
trap '[ $? = 0 ] || echo "makeimg: $failed $0" >&2' EXIT
mkdir -p /boot/efi
mountpoint -q /boot/efi || mount /boot/efi
esp=/boot/efi/EFI/BOOT
mkdir -p $esp /boot/grub/x86_64-efi
# What is likeliest to fail comes before anything is replaced. FAT has room for both, and a rename leaves one whole.
if [ -e $shim ]; then
    loaders='grubx64.efi mmx64.efi BOOTX64.EFI'
    cp /usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed $esp/grubx64.efi.new
    cp /usr/lib/shim/mmx64.efi.signed $esp/mmx64.efi.new
    cp $shim $esp/BOOTX64.EFI.new
else
    loaders=BOOTX64.EFI
    grub-mkimage -O x86_64-efi -p "$prefix" -c /boot/grub/makeimg-early.cfg -o $esp/BOOTX64.EFI.new $modules
fi
for disk in $(grub-probe --target=disk /boot/grub); do
    grub-install --target=i386-pc --no-floppy "$disk"
done
cp /usr/lib/grub/x86_64-efi/*.mod /usr/lib/grub/x86_64-efi/*.lst /boot/grub/x86_64-efi/
for loader in $loaders; do
    mv $esp/$loader.new $esp/$loader
done
printf '%s\n' "$now" >"$note"
