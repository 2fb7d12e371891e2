//! What happens to the declared disk.

use std::time::Duration;

use lab::Result;

use super::Scene;
use crate::deployment::{LONG, expect};

/// A swap area on a RAID on an encrypted device on a logical volume on the disk's last partition, as a host may have
/// them. They are made by hand, since the host lacks the tools: the RAID in `/sys` (Documentation/admin-guide/md.rst),
/// the others by the device mapper's ioctls (`<linux/dm-ioctl.h>`).
const STACK: &str = r#"set -e
modprobe -a dm_mod dm_crypt raid1
perl -e '
    open(my $control, "+<", "/dev/mapper/control") or die "device mapper: $!";
    sub call {
        my ($number, $name, $uuid, $table) = @_;
        my $head = pack("L3 L3 l L3 Q a128 a129 x7", 4, 0, 0, 4096, 312, $table ? 1 : 0, 0, 0, 0, 0, 0, $name, $uuid);
        my $bytes = substr($head . $table . "\0" x 4096, 0, 4096);
        ioctl($control, 0xc138fd00 | $number, $bytes) or die "ioctl $number of $name: $!";
    }
    sub make {
        my ($name, $uuid, $sectors, $kind, $words) = @_;
        call(3, $name, $uuid, "");
        call(9, $name, "", pack("Q Q l L a16", 0, $sectors, 0, 0, $kind) . "$words\0");
        call(6, $name, "", "");
    }
    make("volume", "LVM-anemos", 32768, "linear", "/dev/vda4 0");
    make("secret", "CRYPT-LUKS2-anemos", 32768, "crypt", "aes-xts-plain64 " . "5a" x 32 . " 0 $ARGV[0] 0");
' /dev/dm-0
echo md127 >/sys/module/md_mod/parameters/new_array
cd /sys/block/md127/md
echo none >metadata_version
echo raid1 >level
echo 1 >raid_disks
echo 8192 >component_size
cat /sys/block/dm-1/dev >new_dev
echo 0 >dev-dm-1/slot
echo active >array_state
mkswap /dev/md127
swapon /dev/md127
cat /proc/swaps
"#;

/// The disk becomes part of much while nobody has looked at it yet.
pub fn stack(scene: &mut Scene) -> Result<()> {
    let swaps = scene.machine().ssh_aside(STACK, Duration::from_secs(60))?;
    expect(swaps.contains("/dev/md127"), format!("no swap on the RAID: {swaps}"))?;
    scene.release()?;
    let shown = |line: &serde_json::Value| line["type"] == "plan" && line.to_string().contains("[SWAP]");
    scene.running()?.wait_json("the plan with the swap in it", LONG, shown).map(drop)
}
