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
alias crc32c crc32c_intel
alias crc32c crc32c_generic
alias fs-ext4 ext4
";
const SOFTDEP: &str = "softdep libcrc32c pre: crc32c\nsoftdep ext4 pre: crc32c\n";

fn hardware(loaded: &[&str], modaliases: &[&str]) -> Hardware {
    let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Hardware { loaded: set(loaded), modaliases: set(modaliases), network: Vec::new() }
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
    assert_eq!(chosen.first, ["virtio_ring", "virtio", "virtio_pci", "failover", "virtio_net"]);
    assert!(chosen.load.contains(&"virtio_blk".to_owned()) && chosen.load.contains(&"ext4".to_owned()));
    assert!(!chosen.load.iter().any(|name| chosen.first.contains(name)), "{:?}", chosen.load);
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
