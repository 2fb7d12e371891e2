//! What the processor says of itself.
#![allow(unsafe_code, reason = "CPUID has no safe wrapper in older compilers")]
#![allow(unused_unsafe, reason = "newer compilers have it as a safe function")]

use std::arch::x86_64::__cpuid;

/// Number of the highest extended leaf, and that of encrypted memory.
const EXTENDED: u32 = 0x8000_0000;
const ENCRYPTED_MEMORY: u32 = 0x8000_001f;

/// EAX of CPUID 8000_001F, or 0 where the processor doesn't have it.
pub fn encrypted_memory() -> u32 {
    // SAFETY: every x86-64 processor has this instruction.
    let leaf = |number| unsafe { __cpuid(number) };
    if leaf(EXTENDED).eax < ENCRYPTED_MEMORY { 0 } else { leaf(ENCRYPTED_MEMORY).eax }
}
