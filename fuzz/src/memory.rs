//! Counts memory: an input that takes more than [`LIMIT`] is a crash.
//!
//! What C libraries take (zstd and xz, for their windows) is not seen here; libFuzzer's own limit is for all of it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes that one input may have at a time: as much as a host may have the controller use.
const LIMIT: usize = 64 << 20;

/// Bytes that are taken now.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Bytes at which it is too much.
static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Set while an allocation is being refused: saying so takes memory too.
static REFUSING: AtomicBool = AtomicBool::new(false);

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn take(bytes: usize) {
    let taken = TAKEN.fetch_add(bytes, Ordering::Relaxed) + bytes;
    if taken > MOST.load(Ordering::Relaxed) && !REFUSING.swap(true, Ordering::Relaxed) {
        panic!("an input takes more than {LIMIT} bytes of memory");
    }
}

// SAFETY: everything is the system's allocator's, which is called as this one was.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as for this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as for this function.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        TAKEN.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as for this function.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        take(size);
        TAKEN.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as for this function.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Runs something that may take so much and no more.
pub fn measured(run: impl FnOnce()) {
    MOST.store(TAKEN.load(Ordering::Relaxed) + LIMIT, Ordering::Relaxed);
    run();
    MOST.store(usize::MAX, Ordering::Relaxed);
}
