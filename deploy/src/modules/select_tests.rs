use std::fmt::Write as _;

use super::*;

// From depmod's files of Debian's cloud kernel, shortened.
const DEP: &str = "\
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/net/virtio_net.ko: kernel/net/core/failover.ko kernel/drivers/virtio/virtio.ko
kernel/net/core/failover.ko:
kernel/drivers/net/ethernet/amazon/ena/ena.ko:
kernel/drivers/scsi/mpt3sas/mpt3sas.ko: kernel/drivers/scsi/raid_class.ko
kernel/drivers/scsi/raid_class.ko:
kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko kernel/fs/mbcache.ko
kernel/fs/jbd2/jbd2.ko:
kernel/fs/mbcache.ko:
kernel/fs/nfs/nfs.ko:
kernel/arch/x86/crypto/crc32c-intel.ko:
kernel/crypto/crc32c_generic.ko:
kernel/lib/libcrc32c.ko:
kernel/fs/xfs/xfs.ko: kernel/lib/libcrc32c.ko
kernel/net/netfilter/nf_tables.ko: kernel/lib/libcrc32c.ko
kernel/drivers/gpu/drm/ast/ast.ko: kernel/drivers/gpu/drm/drm.ko
kernel/drivers/gpu/drm/drm.ko:
kernel/drivers/gpu/drm/amd/amdgpu.ko: kernel/drivers/gpu/drm/drm.ko
kernel/sound/core/snd.ko:
kernel/drivers/net/ethernet/realtek/r8169.ko:
updates/dkms/r8168.ko: updates/dkms/compat.ko
updates/dkms/compat.ko:
updates/dkms/nvidia.ko:
extra/mpt-vendor.ko:
kernel/net/8021q/8021q.ko: kernel/net/802/garp.ko
kernel/net/802/garp.ko:
kernel/drivers/net/bonding/bonding.ko: kernel/net/tls/tls.ko
kernel/net/tls/tls.ko:
kernel/drivers/mfd/lpc_ich.ko:
kernel/drivers/watchdog/iTCO_wdt.ko: kernel/drivers/watchdog/iTCO_vendor_support.ko
kernel/drivers/watchdog/iTCO_vendor_support.ko:
kernel/drivers/watchdog/i6300esb.ko:
kernel/drivers/watchdog/softdog.ko:
kernel/drivers/char/ipmi/ipmi_msghandler.ko:
kernel/drivers/char/ipmi/ipmi_si.ko: kernel/drivers/char/ipmi/ipmi_msghandler.ko
kernel/drivers/char/ipmi/ipmi_watchdog.ko: kernel/drivers/char/ipmi/ipmi_msghandler.ko
";
const ALIAS: &str = "\
# Aliases extracted from modules themselves.
alias virtio:d00000002v* virtio_blk
alias virtio:d00000001v* virtio_net
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
alias pci:v00001D0Fd0000EC20sv*sd*bc*sc*i* ena
alias pci:v00001000d00000097sv*sd*bc*sc*i* mpt3sas
alias pci:v00001A03d*sv*sd*bc03sc00i00* ast
alias pci:v00001002d*sv*sd*bc03sc00i00* amdgpu
alias pci:v000010ECd00008168sv*sd*bc*sc*i* r8168
alias pci:v000010ECd00008168sv*sd*bc*sc*i* r8169
alias pci:v00008086d000025ABsv*sd*bc*sc*i* i6300esb
alias pci:v000010DEd*sv*sd*bc03sc*i* nvidia
alias crc32c crc32c_intel
alias crc32c crc32c_generic
alias fs-ext4 ext4
alias rtnl-link-vlan 8021q
alias rtnl-link-bond bonding
";
const SOFTDEP: &str = "softdep libcrc32c pre: crc32c\nsoftdep ext4 pre: crc32c\n";

fn hardware(loaded: &[&str], modaliases: &[&str]) -> Hardware {
    let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Hardware { loaded: set(loaded), modaliases: set(modaliases), ..Hardware::default() }
}

fn index() -> Index {
    Index::parse(DEP, ALIAS, SOFTDEP)
}

#[test]
fn a_virtual_machine() {
    let chosen = select(
        &index(),
        &hardware(
            &["ext4", "jbd2", "mbcache", "nf_tables", "nfs", "snd", "not_there"],
            &["virtio:d00000002v00001AF4", "pci:v00001AF4d00001001sv00001AF4sd00000002bc01sc00i00"],
        ),
    );
    for name in
        ["virtio_blk", "virtio_pci", "virtio_net", "ext4", "jbd2", "mbcache", "xfs", "libcrc32c", "crc32c_intel"]
    {
        assert!(chosen.modules.contains(name), "{name}");
    }
    for name in ["ena", "mpt3sas", "amdgpu", "ast", "snd", "nfs", "nf_tables"] {
        assert!(!chosen.modules.contains(name), "{name}");
    }
    let at = |name: &str| chosen.load.iter().position(|n| n == name).unwrap_or_else(|| panic!("{name} is not loaded"));
    assert!(at("virtio_ring") < at("virtio") && at("virtio") < at("virtio_blk"));
    assert!(at("crc32c_generic") < at("ext4") && at("jbd2") < at("ext4"));
    assert!(!chosen.load.iter().any(|name| name == "xfs"), "what nothing asks for is there but not loaded");
}

#[test]
fn the_network_comes_first() {
    let mut machine = hardware(
        &["virtio_net", "ext4"],
        &["virtio:d00000002v00001AF4", "virtio:d00000001v00001AF4", "pci:v00001AF4d00001001sv0sd0bc01sc00i00"],
    );
    machine.network = vec![
        Place { modalias: Some("pci:v00001AF4d00001000sv0sd0bc02sc00i00".into()), module: Some("virtio_pci".into()) },
        Place { modalias: None, module: Some("virtio_net".into()) },
    ];
    let chosen = select(&index(), &machine);
    assert_eq!(chosen.first, ["softdog", "virtio_ring", "virtio", "virtio_pci", "failover", "virtio_net"]);
    assert!(chosen.load.contains(&"virtio_blk".to_owned()) && chosen.load.contains(&"ext4".to_owned()));
    assert!(!chosen.load.iter().any(|name| chosen.first.contains(name)), "{:?}", chosen.load);
    assert!(chosen.first.iter().all(|name| chosen.modules.contains(name)));
}

#[test]
fn links_that_are_made_have_their_modules_first() {
    let mut machine = hardware(&["ena"], &[]);
    machine.network = vec![Place { modalias: None, module: Some("ena".into()) }];
    machine.kinds = names(&["bond", "bridge", "vlan"]);
    let chosen = select(&index(), &machine);
    assert_eq!(chosen.first, ["softdog", "ena", "tls", "bonding", "garp", "8021q"]);
    assert!(chosen.first.iter().all(|name| chosen.modules.contains(name)));
}

#[test]
fn a_server_keeps_its_controller_and_its_console() {
    let modaliases = [
        "pci:v00001000d00000097sv00001000sd00003090bc01sc07i00",
        "pci:v00001A03d00002000sv000015D9sd00000870bc03sc00i00",
        "pci:v00001002d00001638sv00001002sd00001636bc03sc00i00",
    ];
    let chosen = select(&index(), &hardware(&[], &modaliases));
    for name in ["mpt3sas", "raid_class", "ast", "drm"] {
        assert!(chosen.modules.contains(name), "{name}");
    }
    assert!(!chosen.modules.contains("amdgpu"));
    assert_eq!(chosen.load, ["raid_class", "mpt3sas", "drm", "ast"]);
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// A card that two drivers claim: one of the kernel's, and one from elsewhere.
#[test]
fn the_driver_that_a_device_has_comes_first() {
    let realtek = "pci:v000010ECd00008168sv00001043sd00008677bc02sc00i00";
    let machine = |bound: &str| Hardware {
        bound: names(&[bound]),
        data: names(&[bound]),
        network: vec![Place { modalias: Some(realtek.into()), module: Some(bound.into()) }],
        ..hardware(&["r8168", "r8169", "compat"], &[realtek])
    };
    let order = |list: &[String]| list.iter().filter(|name| name.starts_with("r81")).cloned().collect::<Vec<_>>();
    let chosen = select(&index(), &machine("r8169"));
    assert_eq!(order(&chosen.first), ["r8169"], "the other one drives nothing");
    let chosen = select(&index(), &machine("r8168"));
    assert_eq!(order(&chosen.first), ["r8168", "r8169"]);
    assert!(chosen.first.contains(&"compat".to_owned()), "what it needs comes from elsewhere too");

    // Of two drivers of a disk's controller, none of which the network needs.
    let both = Hardware { bound: names(&["mpt3sas"]), data: names(&["ena"]), ..hardware(&["ena", "mpt3sas"], &[]) };
    assert_eq!(select(&index(), &both).load, ["raid_class", "mpt3sas", "ena"]);
}

#[test]
fn modules_from_elsewhere_are_for_data() {
    let display = "pci:v000010DEd00002204sv000010DEsd00001467bc03sc00i00";
    let loaded = ["nvidia", "mpt_vendor", "r8168"];
    let machine = Hardware { data: names(&["mpt_vendor"]), ..hardware(&loaded, &[display]) };
    let chosen = select(&index(), &machine);
    assert!(chosen.load.contains(&"mpt_vendor".to_owned()), "{:?}", chosen.load);
    for name in ["nvidia", "r8168", "compat"] {
        assert!(!chosen.modules.contains(name), "{name}");
    }
}

#[test]
fn what_is_switched_off_stays_off_unless_it_is_loaded() {
    let modaliases = ["pci:v00001000d00000097sv00001000sd00003090bc01sc07i00", "virtio:d00000002v00001AF4"];
    let mut machine = hardware(&["virtio_blk"], &modaliases);
    machine.modprobe.blacklist = names(&["mpt3sas", "virtio_blk"]);
    let chosen = select(&index(), &machine);
    assert!(!chosen.modules.contains("mpt3sas"), "{:?}", chosen.modules);
    assert!(chosen.load.contains(&"virtio_blk".to_owned()), "{:?}", chosen.load);
}

#[test]
fn what_is_configured_counts() {
    let mut machine = hardware(&[], &["acme:board"]);
    machine.modprobe.aliases.push(("acme:*".into(), "mpt3sas".into()));
    machine.modprobe.softdeps.push(("raid_class".into(), vec!["libcrc32c".into()]));
    let chosen = select(&index(), &machine);
    assert_eq!(chosen.load, ["crc32c_intel", "crc32c_generic", "libcrc32c", "raid_class", "mpt3sas"]);
}

#[test]
fn watchdogs_come_first() {
    let i6300esb = "pci:v00008086d000025ABsv00001AF4sd00001100bc08sc80i00";
    let network = vec![Place { modalias: None, module: Some("ena".into()) }];
    let ipmi = ["ipmi_watchdog", "ipmi_si", "ipmi_msghandler"];
    let cases = [
        (
            "a chipset's, with what its device hangs on",
            Hardware {
                has_watchdog: true,
                watchdogs: vec!["lpc_ich".into(), "iTCO_wdt".into()],
                ..hardware(&["iTCO_wdt", "lpc_ich"], &[])
            },
            vec!["lpc_ich", "iTCO_vendor_support", "iTCO_wdt", "ena"],
        ),
        ("one that is no device", hardware(&["i6300esb"], &[]), vec!["i6300esb", "ena"]),
        (
            "a BMC's, after the network",
            hardware(&ipmi, &[]),
            vec!["ena", "ipmi_msghandler", "ipmi_si", "ipmi_watchdog"],
        ),
        ("a BMC without a watchdog", hardware(&ipmi[1..], &[]), vec!["softdog", "ena"]),
        ("a driver that the host doesn't use", hardware(&[], &[i6300esb]), vec!["softdog", "ena"]),
        ("one whose driver the kernel contains", Hardware { has_watchdog: true, ..hardware(&[], &[]) }, vec!["ena"]),
        ("the kernel's own timer", hardware(&["softdog"], &[]), vec!["softdog", "ena"]),
    ];
    for (what, machine, first) in cases {
        let chosen = select(&index(), &Hardware { network: network.clone(), ..machine });
        assert_eq!(chosen.first, first, "{what}");
        assert!(chosen.first.iter().all(|name| chosen.modules.contains(name)), "{what}");
        assert!(!chosen.load.contains(&"i6300esb".to_owned()), "{what}");
    }
}

proptest::proptest! {
    /// Whatever the dependencies, everything chosen has what it needs, and loads after it unless that is a circle.
    #[test]
    fn selections_are_closed(
        needs in proptest::collection::vec((0..12_usize, 0..12_usize), 0..30),
        loaded in proptest::collection::btree_set(0..12_usize, 0..6),
    ) {
        let mut index = Index::default();
        for number in 0..12 {
            // Only later ones are needed, as depmod allows no circles.
            let needs = needs.iter().filter(|(a, b)| *a == number && b > a).map(|(_, b)| format!("m{b}")).collect();
            index.modules.insert(format!("m{number}"), index::Module { path: format!("kernel/m{number}.ko"), needs });
        }
        let hardware = Hardware { loaded: loaded.iter().map(|n| format!("m{n}")).collect(), ..Hardware::default() };
        let chosen = select(&index, &hardware);
        let mut seen = BTreeSet::new();
        for name in &chosen.load {
            proptest::prop_assert!(index.modules[name].needs.iter().all(|need| seen.contains(need)));
            proptest::prop_assert!(seen.insert(name.clone()));
        }
        proptest::prop_assert!(hardware.loaded.is_subset(&seen));
        proptest::prop_assert_eq!(&chosen.modules, &seen);
    }
}

/// Each module needs the one before it, by modules.dep or by a soft dependency: a longer chain than a stack has room
/// for.
#[test]
fn needs_without_end_are_survived() {
    const LONG: usize = 200_000;
    let mut dep = String::from("kernel/m0.ko:\n");
    let mut softdep = String::new();
    for at in 1..LONG {
        let hard = if at % 2 == 0 { format!(" kernel/m{}.ko", at - 1) } else { String::new() };
        writeln!(dep, "kernel/m{at}.ko:{hard}").unwrap();
        if at % 2 == 1 {
            writeln!(softdep, "softdep m{at} pre: m{}", at - 1).unwrap();
        }
    }
    let index = Index::parse(&dep, "", &softdep);
    let last = format!("m{}", LONG - 1);
    let chosen = select(&index, &hardware(&[&last], &[]));
    assert_eq!((chosen.load.len(), &*chosen.load[0], chosen.load.last()), (LONG, "m0", Some(&last)));
}
