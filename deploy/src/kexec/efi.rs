//! What a kernel that is booted by kexec must be told of EFI. A kernel can set up EFI's runtime services only once per
//! boot of the firmware, so the new one must be told how the old one has set them up.

use anemos_host::Root;

/// EFI as the running kernel has set it up.
#[derive(Debug, Clone)]
pub struct Efi {
    /// `efi_info` of the boot parameters: signature, system table, versions.
    info: Vec<u8>,
    /// Physical addresses of the vendor's name, of the configuration tables, and of SMBIOS (0 if unknown).
    tables: [u64; 3],
    /// Regions that its runtime services live in: type, physical and virtual address, pages, attributes.
    regions: Vec<[u64; 5]>,
}

/// Where `efi_info` is in the boot parameters.
const INFO: usize = 0x1c0;
const INFO_SIZE: usize = 32;

/// A node of setup data (`struct setup_data`, type `SETUP_EFI`): its header, and the `struct efi_setup_data` for an EFI
/// that is set up already.
const SETUP_EFI: u32 = 4;
const SETUP_HEADER: usize = 16;
const SETUP_SIZE: usize = 96;
const REGIONS: usize = 128;

/// Least bytes of a region's descriptor.
const DESCRIPTOR: usize = 40;

impl Efi {
    /// Reads it from /sys and the boot parameters; `None` without EFI, or if the kernel doesn't use its runtime
    /// services.
    pub fn read(root: &Root, params: &[u8]) -> Option<Self> {
        let hex = |path: String| u64::from_str_radix(root.text(&path)?.trim_start_matches("0x"), 16).ok();
        let info = params.get(INFO..INFO + INFO_SIZE)?.to_vec();
        if &info[..4] != b"EL64" {
            return None;
        }
        let dir = "/sys/firmware/efi";
        let mut numbers: Vec<u32> =
            root.names(&format!("{dir}/runtime-map")).iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        let region = |number: u32| {
            let value = |name: &str| hex(format!("{dir}/runtime-map/{number}/{name}"));
            Some([value("type")?, value("phys_addr")?, value("virt_addr")?, value("num_pages")?, value("attribute")?])
        };
        let regions: Vec<_> = numbers.into_iter().map(region).collect::<Option<_>>()?;
        let tables =
            [hex(format!("{dir}/fw_vendor"))?, hex(format!("{dir}/config_table"))?, table(root, "SMBIOS").unwrap_or(0)];
        (!regions.is_empty()).then_some(Self { info, tables, regions })
    }

    fn descriptor(&self) -> usize {
        let given = u32::from_le_bytes([self.info[8], self.info[9], self.info[10], self.info[11]]) as usize;
        if (DESCRIPTOR..=1024).contains(&given) { given } else { DESCRIPTOR }
    }

    /// Bytes that [`write`](Self::write) needs.
    pub fn size(&self) -> u64 {
        (REGIONS + self.regions.len() * self.descriptor()) as u64
    }

    /// Writes the data into `block` at offset `at`, which will have the physical address `address`. Points the boot
    /// parameters, with which `block` starts, to it.
    pub fn write(&self, block: &mut [u8], at: usize, address: u64) {
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        let descriptor = self.descriptor();
        // The pointer to the next node stays 0.
        put(at + 8, &SETUP_EFI.to_le_bytes());
        put(at + 12, &(SETUP_SIZE as u32).to_le_bytes());
        let [vendor, tables, smbios] = self.tables;
        for (slot, value) in [vendor, 0, tables, smbios].into_iter().enumerate() {
            put(at + SETUP_HEADER + 8 * slot, &value.to_le_bytes());
        }
        for (number, region) in self.regions.iter().enumerate() {
            // The type has 32 bits, and 32 of padding follow, so it can be written as 64.
            for (slot, value) in region.iter().enumerate() {
                put(at + REGIONS + number * descriptor + 8 * slot, &value.to_le_bytes());
            }
        }
        let map = address + REGIONS as u64;
        put(INFO, &self.info);
        put(INFO + 8, &(descriptor as u32).to_le_bytes());
        put(INFO + 16, &(map as u32).to_le_bytes());
        put(INFO + 20, &((self.regions.len() * descriptor) as u32).to_le_bytes());
        put(INFO + 28, &((map >> 32) as u32).to_le_bytes());
        put(0x250, &address.to_le_bytes());
    }
}

/// Physical address of ACPI's root pointer, as EFI gives it.
pub fn rsdp(root: &Root) -> Option<u64> {
    table(root, "ACPI20").or_else(|| table(root, "ACPI"))
}

fn table(root: &Root, name: &str) -> Option<u64> {
    find_table(&root.text("/sys/firmware/efi/systab")?, name)
}

pub fn find_table(systab: &str, name: &str) -> Option<u64> {
    let value = systab.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    u64::from_str_radix(value.trim().trim_start_matches("0x"), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        // As OVMF has it.
        let systab = "ACPI20=0x3f77e014\nACPI=0x3f77e000\nSMBIOS3=0x3f5a6000\nSMBIOS=0x3f5a8000\n";
        assert_eq!(find_table(systab, "ACPI20"), Some(0x3f77_e014));
        assert_eq!(find_table(systab, "ACPI"), Some(0x3f77_e000));
        assert_eq!(find_table(systab, "SMBIOS"), Some(0x3f5a_8000));
        assert_eq!(find_table(systab, "MPS"), None);
    }

    #[test]
    fn the_boot_parameters_point_to_it() {
        let mut info = vec![0; INFO_SIZE];
        info[..4].copy_from_slice(b"EL64");
        info[8] = 48;
        let efi = Efi { info, tables: [1, 2, 3], regions: vec![[5, 0x1000, 0xffff_0000, 2, 9], [6, 0x9000, 0, 1, 9]] };
        assert_eq!(efi.size(), 128 + 96);
        let mut block = vec![0; 3 * 4096];
        efi.write(&mut block, 0x2000, 0x1_7000_2000);
        let word = |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().unwrap());
        assert_eq!(word(0x250), 0x1_7000_2000);
        assert_eq!([word(0x2010), word(0x2018), word(0x2020), word(0x2028)], [1, 0, 2, 3]);
        assert_eq!([word(0x2080), word(0x2088), word(0x2090), word(0x2098)], [5, 0x1000, 0xffff_0000, 2]);
        assert_eq!(word(0x2080 + 48), 6);
        assert_eq!(word(INFO + 16), 0x60_7000_2080, "address (low) and size of the map");
        assert_eq!(block[INFO + 28], 1, "address (high)");
    }
}
