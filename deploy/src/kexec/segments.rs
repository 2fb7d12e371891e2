//! Lays out a bzImage for `kexec_load(2)`: kernel, initramfs, boot parameters, and the few instructions that enter it.
//!
//! Source: the kernel's `Documentation/arch/x86/boot.rst` (64-bit boot protocol) and `zero-page.rst`.

use super::efi::Efi;
use super::place::{self, E820, PAGE, Range};
use crate::cmdline;

/// What only the running kernel knows of the machine.
pub struct Machine {
    /// RAM that can be written at the jump.
    pub free: Vec<Range>,
    /// The memory map for the new kernel.
    pub map: Vec<E820>,
    /// The running kernel's own boot parameters, if it shows them.
    pub params: Vec<u8>,
    /// EFI, if the running kernel uses it and shows it.
    pub efi: Option<Efi>,
    /// Physical address of ACPI's root pointer, if the firmware doesn't leave it where every kernel looks.
    pub rsdp: Option<u64>,
}

/// Where everything goes in physical memory.
#[derive(Debug)]
pub struct Layout {
    /// The kernel: its address, the bytes of memory that it needs, and the offset in the image at which it begins.
    pub kernel: (u64, u64, usize),
    /// Address of the initramfs.
    pub initramfs: u64,
    /// Address and bytes of the block with boot parameters, command line, code, and EFI's data.
    pub params: (u64, Vec<u8>),
    /// Address of the first instruction.
    pub entry: u64,
}

const FOUR_GIB: u64 = 1 << 32;

/// Nothing is placed below this address, where the firmware's data and the processors' start-up code are.
const LOW: u64 = 1 << 20;

/// Offsets in the block, whose first page has the boot parameters proper.
const CMDLINE: u64 = PAGE;
const CODE: u64 = PAGE + 2048;
const GDT: u64 = CODE + 256;
const STACK: u64 = 2 * PAGE;
const EFI: u64 = 2 * PAGE;

/// Most entries of a memory map that the boot parameters have room for.
const MAP_ENTRIES: usize = 128;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Puts the low half of `value` at one place and the high half at another.
fn put_split(bytes: &mut [u8], low: usize, high: usize, value: u64) {
    put(bytes, low, &(value as u32).to_le_bytes());
    put(bytes, high, &((value >> 32) as u32).to_le_bytes());
}

/// Lays out `image` and an initramfs of `initramfs` bytes.
pub fn lay_out(image: &[u8], initramfs: u64, command_line: &str, machine: &Machine) -> Result<Layout, String> {
    let version = u16_at(image, 0x206);
    if u32_at(image, 0x202) != u32::from_le_bytes(*b"HdrS") || version < 0x20c || image.len() < 0x1000 {
        return Err("the image is no bzImage of boot protocol 2.12 or later".into());
    }
    let (features, relocatable) = (u16_at(image, 0x236), image[0x234] != 0);
    if features & 1 == 0 || !relocatable {
        return Err("the kernel has no 64-bit entry, or can't be relocated".into());
    }
    let setup = match image[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let begin = (setup + 1) * 512;
    if begin >= image.len() {
        return Err("the image is truncated".into());
    }
    if machine.map.is_empty() || machine.free.is_empty() {
        return Err("the running kernel shows no memory map (/sys/firmware/memmap, /proc/iomem)".into());
    }
    if machine.map.len() > MAP_ENTRIES {
        return Err(format!("the memory map has {} entries, more than the {MAP_ENTRIES} that fit", machine.map.len()));
    }
    if command_line.len() > cmdline::MAX {
        return Err("the command line is too long".into());
    }

    let room = |what: &str, size: u64| format!("there is no room for {what} ({size} bytes) in the host's memory");
    let size = u64::from(u32_at(image, 0x260)).max((image.len() - begin) as u64).next_multiple_of(PAGE);
    let align = u64::from(u32_at(image, 0x230)).max(PAGE).next_power_of_two();
    let wanted = u64_at(image, 0x258).max(LOW);
    let kernel = place::lowest(&machine.free, size, align, wanted, FOUR_GIB)
        .or_else(|| place::lowest(&machine.free, size, align, LOW, FOUR_GIB))
        .ok_or_else(|| room("the kernel", size))?;
    let free = place::without(&machine.free, (kernel, kernel + size));

    let length = EFI + machine.efi.as_ref().map_or(0, |efi| efi.size().next_multiple_of(PAGE));
    let params = place::highest(&free, length, LOW, FOUR_GIB).ok_or_else(|| room("the boot parameters", length))?;
    let free = place::without(&free, (params, params + length));

    // A kernel that can be loaded above 4 GiB also takes an initramfs from there.
    let highest = u64::from(u32_at(image, 0x22c)).saturating_add(1).min(FOUR_GIB);
    let size_in_memory = initramfs.next_multiple_of(PAGE);
    let ramdisk = place::highest(&free, size_in_memory, LOW, highest)
        .or_else(|| (features & 2 != 0).then(|| place::highest(&free, size_in_memory, FOUR_GIB, u64::MAX)).flatten())
        .ok_or_else(|| room("the initramfs", initramfs))?;

    let mut block = vec![0; length as usize];
    boot_params(&mut block, image, machine);
    block[0x1e8] = machine.map.len() as u8;
    for (entry, (start, length, kind)) in machine.map.iter().enumerate() {
        let at = 0x2d0 + 20 * entry;
        put(&mut block, at, &start.to_le_bytes());
        put(&mut block, at + 8, &length.to_le_bytes());
        put(&mut block, at + 16, &kind.to_le_bytes());
    }
    put(&mut block, 0x214, &(kernel as u32).to_le_bytes());
    put_split(&mut block, 0x218, 0xc0, ramdisk);
    put_split(&mut block, 0x21c, 0xc4, initramfs);
    put_split(&mut block, 0x228, 0xc8, params + CMDLINE);
    put(&mut block, CMDLINE as usize, command_line.as_bytes());
    if let Some(efi) = &machine.efi {
        efi.write(&mut block, EFI as usize, params + EFI);
    }
    put(&mut block, CODE as usize, &code(params, kernel + 0x200));
    put(&mut block, GDT as usize, &gdt(params));
    Ok(Layout { kernel: (kernel, size, begin), initramfs: ramdisk, params: (params, block), entry: params + CODE })
}

/// Fills in the boot parameters proper, all but addresses and memory map.
fn boot_params(block: &mut [u8], image: &[u8], machine: &Machine) {
    // The length of the header is the operand of the jump instruction in it.
    let end = (0x202 + usize::from(image[0x201])).min(0x290);
    put(block, 0x1f1, &image[0x1f1..end]);
    let old = |range: std::ops::Range<usize>| machine.params.get(range).map(<[u8]>::to_vec);
    // The new kernel is told of the screen, its EDID, and the BIOS's disks what the old one was told.
    for range in [0x000..0x040, 0x140..0x1c0, 0x1e9..0x1eb, 0x1ec..0x1ed, 0x290..0x2d0, 0xd00..0xeec] {
        if let Some(bytes) = old(range.clone()) {
            put(block, range.start, &bytes);
        }
    }
    let rsdp = machine.rsdp.unwrap_or_else(|| u64_at(&machine.params, 0x70));
    put(block, 0x70, &rsdp.to_le_bytes());
    // The loader's number is that of kexec, and there is no setup data yet.
    block[0x210] = 0xd0;
    put(block, 0x250, &0_u64.to_le_bytes());
}

/// The instructions that the old kernel jumps to, in 64-bit mode and with memory mapped one to one. They load flat
/// segments and a stack, point `rsi` to the boot parameters, and jump to the new kernel.
fn code(params: u64, kernel: u64) -> Vec<u8> {
    let mut code = Vec::new();
    let mut add = |bytes: &[u8]| code.extend_from_slice(bytes);
    add(&[0xfa, 0xfc]); // cli; cld
    add(&[0x48, 0xb8]); // mov rax, GDT's descriptor
    add(&(params + GDT + 32).to_le_bytes());
    add(&[0x0f, 0x01, 0x10]); // lgdt [rax]
    add(&[0xb8, 0x18, 0, 0, 0]); // mov eax, 0x18
    add(&[0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0x8e, 0xe0, 0x8e, 0xe8]); // mov ds, es, ss, fs, gs from ax
    add(&[0x48, 0xbc]); // mov rsp, end of the second page
    add(&(params + STACK).to_le_bytes());
    add(&[0x48, 0xbe]); // mov rsi, boot parameters
    add(&params.to_le_bytes());
    add(&[0x48, 0xb8]); // mov rax, the kernel's 64-bit entry
    add(&kernel.to_le_bytes());
    add(&[0x31, 0xdb, 0x31, 0xed, 0x31, 0xff]); // xor ebx, ebx; xor ebp, ebp; xor edi, edi
    add(&[0x6a, 0x10, 0x50, 0x48, 0xcb]); // push 0x10; push rax; far return to 0x10:rax
    code
}

/// The descriptor table that the boot protocol asks for (0x10 code, 0x18 data, both flat), and its descriptor.
fn gdt(params: u64) -> Vec<u8> {
    let mut table = Vec::new();
    for entry in [0, 0, 0x00af_9a00_0000_ffff_u64, 0x00cf_9200_0000_ffff] {
        table.extend(entry.to_le_bytes());
    }
    table.extend(31_u16.to_le_bytes());
    table.extend((params + GDT).to_le_bytes());
    table
}

#[cfg(test)]
#[path = "segments_tests.rs"]
mod tests;
