//! Keeps secrets in memory no longer than they are used, and out of reach of other processes.
//!
//! `Zeroizing` wipes the values that this crate knows to be secret. Libraries copy them: a buffer
//! that grows leaves its old block behind, and arithmetic on a private key spills to the stack.
//! Hence two nets below it: the allocator wipes every block that it takes back, and code that
//! handles a private key runs in [`wiping_stack`].

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
};

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// Larger blocks hold replies of a cluster, not secrets: a key file has at most 1 MiB. Wiping them
/// would touch pages that were never used, and keep `realloc` from moving pages instead of bytes.
const LARGEST_WITH_SECRET: usize = 4 << 20;

/// More than decoding, decrypting or signing uses, in a debug build too.
const STACK: usize = 128 << 10;

/// The system's allocator, except that nothing is left in a block that is freed or moved.
pub struct Wiping;

// SAFETY: every block comes from `System` with the layout that it goes back with.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if layout.size() <= LARGEST_WITH_SECRET {
            // SAFETY: the block has this size, and nobody else uses it any longer.
            unsafe { block.write_bytes(0, layout.size()) };
            // Without this, the compiler may drop a write that nobody reads.
            black_box(block);
        }
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if layout.size() > LARGEST_WITH_SECRET {
            // SAFETY: as above.
            return unsafe { System.realloc(block, layout, new_size) };
        }
        // SAFETY: the caller guarantees that the new size is valid for the same alignment; both
        // blocks have at least the smaller of the two sizes, and do not overlap.
        unsafe {
            let new = System.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !new.is_null() {
                new.copy_from_nonoverlapping(block, layout.size().min(new_size));
                self.dealloc(block, layout);
            }
            new
        }
    }
}

/// Runs `work` and wipes the stack that it used. A secret in its result must be behind a pointer:
/// the value itself is returned through this stack.
pub fn wiping_stack<T>(work: impl FnOnce() -> T) -> T {
    let result = on_own_frame(work);
    wipe_stack();
    result
}

/// Keeps the locals of `work` out of its caller's frame, which is not wiped.
#[inline(never)]
fn on_own_frame<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Its own frame covers what was called before it from the same place.
#[inline(never)]
fn wipe_stack() {
    let mut stack = [0_u8; STACK];
    black_box(&mut stack);
}

/// Lets no other process of this user read this one's memory, and no crash write it to a file.
pub fn protect() {
    // The programs that are run become dumpable again when they start, and keep the limit. Neither
    // call fails where there is anything to prevent.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum: getrlimit(Resource::Core).maximum,
        },
    );
}
