//! Gives memory back to the kernel when a flood is over.
//!
//! The C library's allocator keeps what was freed between things that live on. After a peer has made us hold much,
//! most of it would stay resident for good, and the next flood of another kind would come on top.

use std::time::Duration;

/// How often [`give_back`] is to be called: a flood is over sooner than anyone misses the memory.
pub(crate) const INTERVAL: Duration = Duration::from_secs(2);

/// What the allocator may keep: to get less of it back is not worth the page faults that follow.
#[cfg(target_env = "gnu")]
const KEEP: usize = 4 << 20;

/// Gives free memory back, if the allocator keeps much of it. Allocations of other threads wait meanwhile: a
/// millisecond for some 10 MiB.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator has no safe interface")]
pub(crate) fn give_back() {
    // SAFETY: mallinfo2(3) and malloc_trim(3) may be called at any time, and from any thread.
    unsafe {
        if libc::mallinfo2().fordblks > KEEP {
            libc::malloc_trim(KEEP);
        }
    }
}

/// Other allocators give it back by themselves.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn give_back() {}
