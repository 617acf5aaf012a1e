//! Gives memory back to the kernel when a flood is over.
//!
//! The C library's allocator keeps what was freed between things that live on. After a peer has made us hold much,
//! most of it would stay resident for good, and the next flood of another kind would come on top.

use std::time::Duration;

/// How often to look at what the allocator keeps.
pub(crate) const INTERVAL: Duration = Duration::from_secs(2);

/// Looks after which memory counts as not needed, if it was free in each of them. To give back what is taken again a
/// moment later would cost page faults under load.
const LOOKS: u32 = 3;

/// What the allocator may keep.
const KEEP: usize = 4 << 20;

/// What was free in each of the last looks.
#[derive(Debug)]
pub(crate) struct Spare {
    least: usize,
    looks: u32,
}

impl Default for Spare {
    fn default() -> Self {
        Self {
            least: usize::MAX,
            looks: 0,
        }
    }
}

impl Spare {
    /// Looks, and gives memory back if much of it has not been needed for a while. Allocations of other threads
    /// wait meanwhile: a millisecond for some 10 MiB.
    pub(crate) fn look(&mut self) {
        if self.on_look(allocator::free_bytes()) {
            allocator::give_back();
        }
    }

    /// Returns whether to give memory back.
    fn on_look(&mut self, free: usize) -> bool {
        self.least = self.least.min(free);
        self.looks += 1;
        if self.looks < LOOKS {
            return false;
        }
        let spare = self.least > KEEP;
        *self = Self::default();
        spare
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator has no safe interface")]
mod allocator {
    pub(super) fn free_bytes() -> usize {
        // SAFETY: mallinfo2(3) may be called at any time, and from any thread.
        unsafe { libc::mallinfo2().fordblks }
    }

    pub(super) fn give_back() {
        // SAFETY: malloc_trim(3) may be called at any time, and from any thread.
        unsafe {
            libc::malloc_trim(super::KEEP);
        }
    }
}

/// Other allocators give it back by themselves.
#[cfg(not(target_env = "gnu"))]
mod allocator {
    pub(super) fn free_bytes() -> usize {
        0
    }

    pub(super) fn give_back() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_was_needed_in_between_is_kept() {
        let mut spare = Spare::default();
        let looks = [100, 100, 1, 100, 2, 100, 100, 100, 100].map(|mib| spare.on_look(mib << 20));
        let given = [false, false, false, false, false, false, false, false, true];
        assert_eq!(looks, given);
        assert_eq!([1, 1, 1].map(|mib| spare.on_look(mib << 20)), [false; 3]);
    }
}
