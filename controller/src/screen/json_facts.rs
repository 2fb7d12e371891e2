//! A host's facts in JSON: digests and addresses as text, enums as words.

use anemos_proto::host::{Disk, Firmware, HostFacts, Inside, Partition, Watchdog};
use anemos_proto::net::{Hop, Link, NetworkState, Route};
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct FactsJson<'a> {
    hostname: &'a str,
    os: &'a str,
    boot_id: &'a str,
    arch: &'a str,
    kernel_release: &'a str,
    kernel_image: Option<&'a str>,
    kernel_lacks: &'a [String],
    cmdline: &'a str,
    firmware: &'static str,
    secure_boot: bool,
    memory_total: u64,
    memory_available: u64,
    memory_reserved: u64,
    inside: &'static str,
    inside_kind: Option<&'a str>,
    disks: Vec<DiskJson<'a>>,
    kexec: KexecJson<'a>,
    network: NetworkJson<'a>,
    ssh_port: u16,
    host_keys: &'a [String],
    mirrors: &'a [String],
    snapshot: Option<&'a str>,
    proxy: Option<&'a str>,
    cached_blobs: Vec<String>,
    cached_bases: Vec<String>,
    watchdogs: Vec<WatchdogJson<'a>>,
}

#[derive(Serialize)]
struct WatchdogJson<'a> {
    name: &'a str,
    identity: &'a str,
    module: &'a str,
    active: bool,
    timeout_s: Option<u32>,
    nowayout: bool,
    holder: Option<&'a str>,
}

#[derive(Serialize)]
struct KexecJson<'a> {
    file_load: bool,
    load: bool,
    disabled: bool,
    lockdown: &'a str,
    loads_left: Option<u32>,
    appraised: bool,
    refused: Option<&'a str>,
}

#[derive(Serialize)]
struct DiskJson<'a> {
    name: &'a str,
    size: u64,
    model: &'a str,
    serial: Option<&'a str>,
    wwid: Option<&'a str>,
    path: &'a str,
    removable: bool,
    rotational: bool,
    read_only: bool,
    table: Option<&'a str>,
    content: Option<&'a str>,
    partitions: Vec<PartitionJson<'a>>,
    mounts: &'a [String],
    out_of_reach: Option<&'a str>,
}

#[derive(Serialize)]
struct PartitionJson<'a> {
    name: &'a str,
    size: u64,
    content: Option<&'a str>,
    label: Option<&'a str>,
    mounts: &'a [String],
}

#[derive(Serialize)]
struct NetworkJson<'a> {
    links: Vec<LinkJson<'a>>,
    routes: Vec<RouteJson<'a>>,
    dns: Vec<String>,
    search: &'a [String],
}

#[derive(Serialize)]
struct LinkJson<'a> {
    name: &'a str,
    mac: String,
    set_mac: Option<String>,
    mtu: u32,
    up: bool,
    kind: &'a str,
    below: Vec<&'a str>,
    driver: &'a str,
    addresses: Vec<String>,
}

#[derive(Serialize)]
struct RouteJson<'a> {
    destination: String,
    gateway: Option<String>,
    link: &'a str,
    mac: String,
    metric: u32,
    onlink: bool,
    table: u32,
    hops: Vec<String>,
}

impl<'a> From<&'a HostFacts> for FactsJson<'a> {
    fn from(facts: &'a HostFacts) -> Self {
        let (firmware, secure_boot) = match facts.firmware {
            Firmware::Bios => ("bios", false),
            Firmware::Uefi { secure_boot } => ("uefi", secure_boot),
        };
        let (inside, inside_kind) = match &facts.inside {
            Inside::Machine => ("machine", None),
            Inside::Container(kind) => ("container", Some(&**kind)),
            Inside::XenPv => ("xen-pv", None),
            Inside::Encrypted(kind) => ("encrypted", Some(&**kind)),
        };
        let network = &facts.network;
        Self {
            hostname: &facts.hostname,
            os: &facts.os,
            boot_id: &facts.boot_id,
            arch: &facts.arch,
            kernel_release: &facts.kernel_release,
            kernel_image: facts.kernel_image.as_deref(),
            kernel_lacks: &facts.kernel_lacks,
            cmdline: &facts.cmdline,
            firmware,
            secure_boot,
            memory_total: facts.memory_total,
            memory_available: facts.memory_available,
            memory_reserved: facts.memory_reserved,
            inside,
            inside_kind,
            disks: facts.disks.iter().map(DiskJson::from).collect(),
            kexec: KexecJson {
                file_load: facts.kexec.file_load,
                load: facts.kexec.load,
                disabled: facts.kexec.disabled,
                lockdown: &facts.kexec.lockdown,
                loads_left: facts.kexec.loads_left,
                appraised: facts.kexec.appraised,
                refused: facts.kexec.refused.as_deref(),
            },
            network: NetworkJson {
                links: network.links.iter().map(|link| LinkJson::new(network, link)).collect(),
                routes: network.routes.iter().filter_map(|route| RouteJson::new(network, route)).collect(),
                dns: network.dns.iter().map(ToString::to_string).collect(),
                search: &network.search,
            },
            ssh_port: facts.ssh_port,
            host_keys: &facts.host_keys,
            mirrors: &facts.mirrors,
            snapshot: facts.snapshot.as_deref(),
            proxy: facts.proxy.as_deref(),
            cached_blobs: facts.cached_blobs.iter().map(ToString::to_string).collect(),
            cached_bases: facts.cached_bases.iter().map(ToString::to_string).collect(),
            watchdogs: facts.watchdogs.iter().map(WatchdogJson::from).collect(),
        }
    }
}

impl<'a> From<&'a Watchdog> for WatchdogJson<'a> {
    fn from(watchdog: &'a Watchdog) -> Self {
        Self {
            name: &watchdog.name,
            identity: &watchdog.identity,
            module: &watchdog.module,
            active: watchdog.active,
            timeout_s: watchdog.timeout_s,
            nowayout: watchdog.nowayout,
            holder: watchdog.holder.as_deref(),
        }
    }
}

impl<'a> From<&'a Disk> for DiskJson<'a> {
    fn from(disk: &'a Disk) -> Self {
        Self {
            name: &disk.id.name,
            size: disk.id.size,
            model: &disk.model,
            serial: disk.id.serial.as_deref(),
            wwid: disk.id.wwid.as_deref(),
            path: &disk.id.path,
            removable: disk.removable,
            rotational: disk.rotational,
            read_only: disk.read_only,
            table: disk.table.as_deref(),
            content: disk.content.as_deref(),
            partitions: disk.partitions.iter().map(PartitionJson::from).collect(),
            mounts: &disk.mounts,
            out_of_reach: disk.out_of_reach.as_deref(),
        }
    }
}

impl<'a> From<&'a Partition> for PartitionJson<'a> {
    fn from(partition: &'a Partition) -> Self {
        Self {
            name: &partition.name,
            size: partition.size,
            content: partition.content.as_deref(),
            label: partition.label.as_deref(),
            mounts: &partition.mounts,
        }
    }
}

impl<'a> LinkJson<'a> {
    fn new(network: &'a NetworkState, link: &'a Link) -> Self {
        Self {
            name: &link.name,
            mac: mac(link.mac),
            set_mac: link.set_mac.map(mac),
            mtu: link.mtu,
            up: link.up,
            kind: link.kind.name(),
            below: link.below.iter().filter_map(|id| Some(&*network.link(*id)?.name)).collect(),
            driver: &link.driver,
            addresses: link.addresses.iter().map(|address| format!("{}/{}", address.ip, address.prefix)).collect(),
        }
    }
}

impl<'a> RouteJson<'a> {
    /// `None` if its link is not among the network's.
    fn new(network: &'a NetworkState, route: &Route) -> Option<Self> {
        let link = network.link(route.link)?;
        let destination = match route.destination {
            Some((ip, prefix)) => format!("{ip}/{prefix}"),
            None if route.v6 => "::/0".to_owned(),
            None => "0.0.0.0/0".to_owned(),
        };
        Some(Self {
            destination,
            gateway: route.gateway.map(|gateway| gateway.to_string()),
            link: &link.name,
            mac: mac(link.mac),
            metric: route.metric,
            onlink: route.onlink,
            table: route.table,
            hops: route.hops.iter().map(|hop| words(network, hop)).collect(),
        })
    }
}

/// A next hop in the words of ip(8).
fn words(network: &NetworkState, hop: &Hop) -> String {
    let via = hop.gateway.map(|gateway| format!("via {gateway} ")).unwrap_or_default();
    let link = network.link(hop.link).map_or("", |link| &link.name);
    format!("{via}dev {link} weight {}", hop.weight)
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}
