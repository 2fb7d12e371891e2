//! Which modules go into the initramfs, and which of them the agent loads at once.

use std::collections::{BTreeMap, BTreeSet};

use anemos_proto::host::Watchdog;

use super::index::{self, Index, Module};
use super::modprobe::Modprobe;

/// The host's hardware, by which modules are chosen.
#[derive(Debug, Clone, Default)]
pub struct Hardware {
    /// Names of loaded modules.
    pub loaded: BTreeSet<String>,
    /// Every modalias of a device in `/sys`.
    pub modaliases: BTreeSet<String>,
    /// Names of the modules that drive a device now.
    pub bound: BTreeSet<String>,
    /// Names of those that drive a disk, a network device, or a device above one.
    pub data: BTreeSet<String>,
    /// The network devices through which the host is reached, and the places that they need: see `places`.
    pub network: Vec<Place>,
    /// The kinds of the links that are to be made, such as `bond`.
    pub kinds: BTreeSet<String>,
    /// Whether there is a hardware watchdog that shows itself in `/sys`.
    pub has_watchdog: bool,
    /// Names of the modules that drive watchdogs and the devices above them, from the root down.
    pub watchdogs: Vec<String>,
    /// What modprobe would be told about modules.
    pub modprobe: Modprobe,
}

/// A place in the tree of devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The modalias by which it asks for a module.
    pub modalias: Option<String>,
    /// The module that drives it now.
    pub module: Option<String>,
}

/// The modules that were chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Names of all chosen modules and of those that they need.
    pub modules: BTreeSet<String>,
    /// Names of the modules that watchdogs and the network need, each after those that it needs itself.
    pub first: Vec<String>,
    /// Names of the other modules to load, each after those that it needs itself.
    pub load: Vec<String>,
    /// Parameters of modules, by name.
    pub parameters: BTreeMap<String, String>,
}

/// Directories whose modules are all taken: they are small, and a payload may need them for any disk or file system.
const WHOLE: &[&str] = &[
    "kernel/crypto/",
    "kernel/arch/x86/crypto/",
    "kernel/drivers/ata/",
    "kernel/drivers/nvme/common/",
    "kernel/drivers/nvme/host/",
    "kernel/drivers/virtio/",
    "kernel/fs/btrfs/",
    "kernel/fs/efivarfs/",
    "kernel/fs/exfat/",
    "kernel/fs/ext4/",
    "kernel/fs/fat/",
    "kernel/fs/fuse/",
    "kernel/fs/isofs/",
    "kernel/fs/nls/",
    "kernel/fs/overlayfs/",
    "kernel/fs/squashfs/",
    "kernel/fs/xfs/",
];

/// Single modules that are always taken.
const ALWAYS: &[&str] = &[
    "8021q",
    "ahci",
    "af_packet",
    "bonding",
    "bridge",
    "dm_bufio",
    "dm_crypt",
    "dm_integrity",
    "dm_mirror",
    "dm_mod",
    "dm_multipath",
    "dm_raid",
    "dm_snapshot",
    "dm_thin_pool",
    "dm_verity",
    "dm_zero",
    "dummy",
    "e1000",
    "e1000e",
    "ehci_hcd",
    "ehci_pci",
    "erofs",
    "f2fs",
    "failover",
    "hid",
    "hid_generic",
    "hv_netvsc",
    "hv_storvsc",
    "hv_vmbus",
    "hyperv_keyboard",
    "ipv6",
    "linear",
    "loop",
    "macvlan",
    "md_mod",
    "nbd",
    "net_failover",
    "nvme",
    "ohci_hcd",
    "ohci_pci",
    "qemu_fw_cfg",
    "raid0",
    "raid1",
    "raid10",
    "raid456",
    "sd_mod",
    "sg",
    "sr_mod",
    "tun",
    "uas",
    "uhci_hcd",
    "usb_storage",
    "usbhid",
    "veth",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "virtio_rng",
    "virtio_scsi",
    "vmw_pvscsi",
    "vmxnet3",
    "xen_blkfront",
    "xen_netfront",
    "xhci_hcd",
    "xhci_pci",
    "zram",
];

/// Directories whose modules are not chosen even if devices ask for them, since a server in RAM has no use for them.
const NEVER: &[&str] = &[
    "kernel/drivers/accel/",
    "kernel/drivers/android/",
    "kernel/drivers/bluetooth/",
    "kernel/drivers/cpufreq/",
    "kernel/drivers/edac/",
    "kernel/drivers/gnss/",
    "kernel/drivers/gpu/",
    "kernel/drivers/hwmon/",
    "kernel/drivers/iio/",
    "kernel/drivers/infiniband/",
    "kernel/drivers/input/joystick/",
    "kernel/drivers/input/tablet/",
    "kernel/drivers/input/touchscreen/",
    "kernel/drivers/leds/",
    "kernel/drivers/media/",
    "kernel/drivers/net/can/",
    "kernel/drivers/net/wireless/",
    "kernel/drivers/net/wwan/",
    "kernel/drivers/nfc/",
    "kernel/drivers/platform/",
    "kernel/drivers/powercap/",
    "kernel/drivers/staging/",
    "kernel/drivers/thermal/",
    "kernel/arch/x86/events/",
    "kernel/arch/x86/kvm/",
    "kernel/samples/",
    "kernel/sound/",
    "kernel/virt/",
    // File systems that are not on disks, and modules that firewalls and containers load.
    "kernel/fs/autofs/",
    "kernel/fs/binfmt_misc",
    "kernel/fs/ceph/",
    "kernel/fs/nfs",
    "kernel/fs/smb",
    "kernel/net/bluetooth/",
    "kernel/net/bridge/netfilter/",
    "kernel/net/ipv4/",
    "kernel/net/ipv6/netfilter/",
    "kernel/net/netfilter/",
    "kernel/net/sched/",
    "kernel/net/wireless/",
    "kernel/net/xfrm/",
    "kernel/crypto/tcrypt",
];

/// Display drivers of servers: without them the console of such a machine stays dark after a kexec.
const DISPLAYS: &[&str] = &["ast", "bochs", "cirrus_qemu", "hyperv_drm", "mgag200", "virtio_gpu"];

/// Drivers of watchdogs. Those that the host uses are loaded first, and no others: a watchdog that nobody has fed so
/// far may count from the moment at which its driver is loaded.
const WATCHDOGS: &str = "kernel/drivers/watchdog/";

/// The beginning of the names of a BMC's watchdog's driver and of what it stands on: a BMC is found by a module that
/// nothing needs by name.
const IPMI: &str = "ipmi_";

/// The watchdog that the kernel itself makes, of a timer.
const SOFTDOG: &str = "softdog";

/// Whether the module at `path` may be chosen for its own sake.
pub fn may_be_chosen(path: &str) -> bool {
    !NEVER.iter().any(|prefix| path.starts_with(prefix)) || DISPLAYS.contains(&&*index::name_of(path))
}

/// Whether the module at `path` is of the kernel's own sources.
fn is_in_tree(path: &str) -> bool {
    path.starts_with("kernel/")
}

/// Chooses from `index` for a machine with `hardware`.
pub fn select(index: &Index, hardware: &Hardware) -> Selection {
    let mut index = index.clone();
    // What is configured counts as what the modules say of themselves.
    index.aliases.extend(hardware.modprobe.aliases.iter().cloned());
    index.softdeps.extend(hardware.modprobe.softdeps.iter().cloned());
    let index = &index;
    let allowed = |name: &str| {
        index.modules.get(name).is_some_and(|Module { path, .. }| {
            if is_in_tree(path) {
                may_be_chosen(path) && !path.starts_with(WATCHDOGS)
            } else {
                // A driver from elsewhere, such as a display's, may take long, or hang: only what data needs is taken.
                hardware.data.contains(name)
            }
        })
    };
    let known = |names: &BTreeSet<String>| -> Vec<&str> {
        names.iter().filter_map(|name| index.modules.get_key_value(name)).map(|(name, _)| &**name).collect()
    };
    // Of two drivers of one device that which is loaded first gets the device.
    let mut asked = known(&hardware.bound);
    asked.extend(known(&hardware.loaded));
    asked.extend(by_modalias(index, hardware, &hardware.modaliases));
    asked.retain(|name| allowed(name));
    let general = index.modules.iter().filter(|(name, module)| {
        ALWAYS.contains(&&***name) || WHOLE.iter().any(|prefix| module.path.starts_with(prefix))
    });
    let general = general.map(|(name, _)| &**name).filter(|name| allowed(name));

    let soft = soft_needs(index);
    let mut all = Vec::new();
    let mut seen = BTreeSet::new();
    for name in general.chain(asked.iter().copied()) {
        visit(index, &soft, name, &mut seen, &mut all);
    }

    let mut first = Vec::new();
    let mut seen = BTreeSet::new();
    let (watchdogs, ipmi) = for_watchdogs(index, hardware);
    let network = for_network(index, hardware).into_iter().filter(|name| allowed(name));
    // A BMC takes seconds to answer, and gives two minutes: the network comes before it.
    for name in watchdogs.into_iter().chain(network).chain(ipmi) {
        visit(index, &soft, name, &mut seen, &mut first);
    }
    // Displays are loaded last, because they take longest and nothing waits for them. The order of all others follows
    // from what they need.
    let mut load = Vec::new();
    let (displays, others): (Vec<_>, Vec<_>) = asked.iter().partition(|name| DISPLAYS.contains(name));
    for name in others.into_iter().chain(displays) {
        visit(index, &soft, name, &mut seen, &mut load);
    }
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    // Adds the modules that are loaded first, since a driver that is bound now may be one that no modalias asks for.
    let modules = all.into_iter().chain(first.iter().copied()).map(str::to_owned).collect();
    let parameters = hardware.modprobe.parameters(index);
    Selection { modules, first: owned(first), load: owned(load), parameters }
}

/// Names of the modules that watchdogs need, and of those that a BMC's watchdog needs.
fn for_watchdogs<'a>(index: &'a Index, hardware: &Hardware) -> (Vec<&'a str>, Vec<&'a str>) {
    let known = |name: &str| index.modules.get_key_value(name).map(|(name, module)| (&**name, &*module.path));
    let mut found: Vec<&str> = hardware.watchdogs.iter().filter_map(|name| known(name)).map(|(name, _)| name).collect();
    // A watchdog of an old driver is no device in /sys/class/watchdog.
    let loaded = hardware.loaded.iter().filter_map(|name| known(name));
    let loaded = loaded.filter(|(name, path)| path.starts_with(WATCHDOGS) && *name != SOFTDOG);
    found.extend(loaded.map(|(name, _)| name));
    let has_ipmi = hardware.loaded.contains(Watchdog::IPMI);
    let is_ipmi = |name: &&str| has_ipmi && name.starts_with(IPMI);
    let mut ipmi: Vec<&str> =
        hardware.loaded.iter().filter_map(|name| known(name)).map(|(name, _)| name).filter(is_ipmi).collect();
    ipmi.sort_by_key(|name| *name == Watchdog::IPMI);
    if !hardware.has_watchdog && !has_ipmi && !found.iter().any(|name| index.modules[*name].path.starts_with(WATCHDOGS))
    {
        found.extend(known(SOFTDOG).map(|(name, _)| name));
    }
    found.retain(|name| !is_ipmi(name));
    (found, ipmi)
}

/// Names of the modules that the network needs.
fn for_network<'a>(index: &'a Index, hardware: &Hardware) -> Vec<&'a str> {
    if hardware.network.is_empty() {
        return Vec::new();
    }
    let known = |name: &str| index.modules.get_key_value(name).map(|(name, _)| &**name);
    // Some kernels have IPv6 as a module.
    let mut names: Vec<_> = hardware.loaded.get("ipv6").and_then(|name| known(name)).into_iter().collect();
    for place in &hardware.network {
        let modaliases = place.modalias.iter().cloned().collect();
        // Of two drivers of one device that which is loaded first gets the device.
        names.extend(place.module.as_deref().and_then(known));
        names.extend(by_modalias(index, hardware, &modaliases));
    }
    // Where a kernel has no module for a kind, the kernel contains it.
    names.extend(hardware.kinds.iter().flat_map(|kind| index.resolve(&link_alias(kind))));
    names
}

/// The alias by which the kernel asks for the module that makes links of this kind.
pub fn link_alias(kind: &str) -> String {
    format!("rtnl-link-{kind}")
}

/// Names of the modules that devices ask for, without those that the host has switched off.
fn by_modalias<'a>(index: &'a Index, hardware: &Hardware, modaliases: &BTreeSet<String>) -> BTreeSet<&'a str> {
    // Only patterns of the same bus are tried, since there are tens of thousands of patterns.
    let bus = |text: &str| text.split(':').next().map(str::to_owned);
    let mut by_bus: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for modalias in modaliases {
        by_bus.entry(bus(modalias).unwrap_or_default()).or_default().push(modalias);
    }
    let wanted = |(pattern, _): &&(String, String)| {
        let prefix = bus(pattern).unwrap_or_default();
        let candidates = if prefix.contains(['*', '?', '[']) { None } else { by_bus.get(&prefix) };
        candidates.is_some_and(|texts| texts.iter().any(|text| index::matches(pattern, text)))
    };
    index
        .aliases
        .iter()
        .filter(wanted)
        .filter_map(|(_, name)| index.modules.get_key_value(name))
        .map(|(n, _)| &**n)
        .filter(|name| !hardware.modprobe.blacklist.contains(*name))
        .collect()
}

fn soft_needs(index: &Index) -> BTreeMap<&str, Vec<&str>> {
    let mut soft: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, words) in &index.softdeps {
        soft.entry(name).or_default().extend(words.iter().flat_map(|word| index.resolve(word)));
    }
    soft
}

/// Adds `name` to `order` after everything that it needs. The chain of needs may be as long as the host's files say, so
/// it is no chain of calls.
fn visit<'a>(
    index: &'a Index,
    soft: &BTreeMap<&'a str, Vec<&'a str>>,
    name: &str,
    seen: &mut BTreeSet<&'a str>,
    order: &mut Vec<&'a str>,
) {
    let mut enter = |name: &str| {
        let (name, module) = index.modules.get_key_value(name)?;
        let soft = soft.get(&**name).into_iter().flatten().copied();
        // Enters `name` into `seen` before its needs are visited, which also ends circles of soft needs.
        seen.insert(name).then(|| (&**name, soft.chain(module.needs.iter().map(String::as_str))))
    };
    // Modules that wait for the next of what they need.
    let mut open: Vec<_> = enter(name).into_iter().collect();
    while let Some((name, needs)) = open.last_mut() {
        if let Some(need) = needs.next() {
            open.extend(enter(need));
        } else {
            order.push(*name);
            open.pop();
        }
    }
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
