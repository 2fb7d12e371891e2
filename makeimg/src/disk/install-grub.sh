# Runs after dpkg (/etc/dpkg/dpkg.cfg.d/makeimg-grub). When GRUB's packages have been updated, what they have is put
# where makeimg has put it: the boot sector and what comes after it, the EFI system partition, and the modules beside
# the menu, which must be of the same version. With --note, only what is installed now is noted.
set -eu
note=/boot/grub/makeimg.version
now=$(dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\n' \
    grub-common grub2-common grub-pc-bin grub-efi-amd64-bin 2>/dev/null || :)
# In the middle of an update, tools and modules are of different versions.
[ "$(printf '%s\n' "$now" | grep -c ' installed$')" = 4 ] || exit 0
if [ "${1-}" = --note ]; then
    printf '%s\n' "$now" >"$note"
    exit 0
fi
[ -e "$note" ] && [ "$(cat "$note")" != "$now" ] || exit 0
failed='GRUB has been updated, but could not be put where this machine starts from. To try again:'
trap '[ $? = 0 ] || echo "makeimg: $failed $0" >&2' EXIT
mountpoint -q /boot/efi || mount /boot/efi
mkdir -p /boot/efi/EFI/BOOT /boot/grub/x86_64-efi
# What is likeliest to fail comes before anything is replaced. FAT has room for both, and a rename leaves one whole.
grub-mkimage -O x86_64-efi -p "$prefix" -c /boot/grub/makeimg-early.cfg \
    -o /boot/efi/EFI/BOOT/BOOTX64.NEW $modules
for disk in $(grub-probe --target=disk /boot/grub); do
    grub-install --target=i386-pc --no-floppy "$disk"
done
cp /usr/lib/grub/x86_64-efi/*.mod /usr/lib/grub/x86_64-efi/*.lst /boot/grub/x86_64-efi/
mv /boot/efi/EFI/BOOT/BOOTX64.NEW /boot/efi/EFI/BOOT/BOOTX64.EFI
printf '%s\n' "$now" >"$note"
