//! Wipes secrets from memory after use, and keeps other processes from reading them.
//!
//! `Zeroizing` wipes the values that this crate knows to be secret. Libraries copy them: a buffer
//! that grows leaves its old block behind, and arithmetic on a private key spills to the stack.
//! So there are two more nets: the allocator wipes every block that is freed, and code that handles a
//! private key runs in [`wiping_stack`].

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
};

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

use crate::memory::or_end;

/// Larger blocks contain replies of a cluster, not secrets: a key file has at most 1 MiB. Wiping them
/// would touch pages that were never used, and keep `realloc` from moving pages instead of bytes.
const LARGEST_WITH_SECRET: usize = 4 << 20;

/// More than decoding, decrypting or signing uses, in a debug build too.
const STACK: usize = 128 << 10;

/// The program's allocator: it wipes blocks when they are freed or moved, and ends the process when
/// memory runs out.
pub struct Allocator;

// SAFETY: every block is returned to `System` with the layout that it was allocated with.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the same contract.
        or_end(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        or_end(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout.size() <= LARGEST_WITH_SECRET {
            // SAFETY: the block has this size and is no longer in use.
            unsafe { block.write_bytes(0, layout.size()) };
            // Keeps the compiler from removing a write that is never read.
            black_box(block);
        }
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if layout.size() > LARGEST_WITH_SECRET {
            // SAFETY: as above.
            return or_end(unsafe { System.realloc(block, layout, new_size) });
        }
        // SAFETY: the caller guarantees that the new size is valid for the same alignment; both
        // blocks have at least the smaller of the two sizes, and do not overlap.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            new.copy_from_nonoverlapping(block, layout.size().min(new_size));
            self.dealloc(block, layout);
            new
        }
    }
}

/// Runs `work` and wipes the stack that it used. A secret in the result must be behind a pointer: the
/// value itself is returned through this stack.
pub fn wiping_stack<T>(work: impl FnOnce() -> T) -> T {
    let result = on_own_frame(work);
    wipe_stack();
    result
}

/// Keeps the locals of `work` out of the caller's frame, which is not wiped.
#[inline(never)]
fn on_own_frame<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Its frame covers the frames of earlier calls from the same place.
#[inline(never)]
fn wipe_stack() {
    let mut stack = [0_u8; STACK];
    black_box(&mut stack);
}

/// Keeps the user's other processes from reading this one's memory, and crashes from dumping it.
pub fn protect() {
    // Child programs become dumpable again on exec, but keep the limit. The calls fail only if there is
    // nothing to prevent.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: getrlimit(Resource::Core).maximum,
        },
    );
}
