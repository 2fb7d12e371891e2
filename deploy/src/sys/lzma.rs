//! LZMA with a dictionary that both sides have before the first byte (`preset_dict` in liblzma's lzma12.h), and the
//! filter for x86 code. The safe wrapper of liblzma has no way to give one.
#![allow(unsafe_code, reason = "the safe wrapper can't give a dictionary")]

use std::mem::MaybeUninit;
use std::ptr;

use liblzma_sys::{
    LZMA_FILTER_LZMA2, LZMA_FILTER_X86, LZMA_OK, LZMA_PRESET_EXTREME, LZMA_STREAM_END, LZMA_VLI_UNKNOWN, lzma_filter,
    lzma_lzma_preset, lzma_options_lzma, lzma_raw_buffer_decode, lzma_raw_buffer_encode, lzma_ret,
};

unsafe extern "C" {
    /// Since liblzma 5.8.0 (bcj.h). Changes the bytes in place and keeps nothing of them.
    fn lzma_bcj_x86_encode(start_offset: u32, buf: *mut u8, size: usize) -> usize;
}

/// Bytes of the window: it reaches over both executables. Unpacking takes that much memory.
const WINDOW: u32 = 8 << 20;

/// Packs `plain` with `known` as the dictionary.
pub fn encode(plain: &[u8], known: &[u8]) -> Result<Vec<u8>, String> {
    with_filters(known, |filters| {
        // What can't be packed grows by a few bytes for each 64 KiB.
        let mut packed = vec![0; plain.len() + plain.len() / 1000 + 1024];
        let mut end = 0;
        // SAFETY: all pointers are to the slices whose lengths are given; the filters outlive the call.
        let code = unsafe {
            lzma_raw_buffer_encode(
                filters,
                ptr::null(),
                plain.as_ptr(),
                plain.len(),
                packed.as_mut_ptr(),
                &raw mut end,
                packed.len(),
            )
        };
        packed.truncate(end);
        result(code).map(|()| packed)
    })
}

/// The `size` bytes that were packed with `known` as the dictionary.
pub fn decode(packed: &[u8], known: &[u8], size: usize) -> Result<Vec<u8>, String> {
    with_filters(known, |filters| {
        let mut plain = vec![0; size];
        let (mut read, mut end) = (0, 0);
        // SAFETY: all pointers are to the slices whose lengths are given; the filters outlive the call.
        let code = unsafe {
            lzma_raw_buffer_decode(
                filters,
                ptr::null(),
                packed.as_ptr(),
                &raw mut read,
                packed.len(),
                plain.as_mut_ptr(),
                &raw mut end,
                plain.len(),
            )
        };
        result(code)?;
        if end == size { Ok(plain) } else { Err(format!("it ends after {end} of {size} bytes")) }
    })
}

/// Calls `work` with the chain: x86's filter, LZMA2 with `known` as its dictionary.
fn with_filters<T>(known: &[u8], work: impl FnOnce(*const lzma_filter) -> Result<T, String>) -> Result<T, String> {
    // No more than that is in reach. The filter writes the targets of calls as addresses, and so it must there.
    let mut known = known[known.len().saturating_sub(WINDOW as usize)..].to_vec();
    // SAFETY: the pointer is to so many bytes.
    unsafe { lzma_bcj_x86_encode(0, known.as_mut_ptr(), known.len()) };
    let mut options = MaybeUninit::<lzma_options_lzma>::zeroed();
    // SAFETY: it writes to the options, which are plain numbers and pointers, for which zeros are values.
    let (unknown, mut options) =
        unsafe { (lzma_lzma_preset(options.as_mut_ptr(), 9 | LZMA_PRESET_EXTREME) != 0, options.assume_init()) };
    if unknown {
        return Err("liblzma does not have this preset".into());
    }
    options.dict_size = WINDOW;
    options.preset_dict = known.as_ptr();
    options.preset_dict_size = u32::try_from(known.len()).map_err(|_| "the dictionary is too large")?;
    // As suits x86 code, whose instructions are not aligned.
    (options.lc, options.lp, options.pb) = (4, 0, 0);
    let filter = |id, options| lzma_filter { id, options };
    let filters = [
        filter(LZMA_FILTER_X86, ptr::null_mut()),
        filter(LZMA_FILTER_LZMA2, (&raw mut options).cast()),
        filter(LZMA_VLI_UNKNOWN, ptr::null_mut()),
    ];
    work(filters.as_ptr())
}

fn result(code: lzma_ret) -> Result<(), String> {
    match code {
        LZMA_OK | LZMA_STREAM_END => Ok(()),
        other => Err(format!("it is damaged, or made for another executable (liblzma's error {other})")),
    }
}
