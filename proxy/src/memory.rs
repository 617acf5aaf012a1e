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
    /// What the allocator counted as free right after it had given back what it could: pieces between what lives on,
    /// whose pages may be gone already. To ask again for as much would change nothing.
    stuck: usize,
}

impl Default for Spare {
    fn default() -> Self {
        Self {
            least: usize::MAX,
            looks: 0,
            stuck: 0,
        }
    }
}

impl Spare {
    /// Looks, and gives memory back if much of it has not been needed for a while. Allocations of other threads
    /// wait meanwhile: a millisecond for some 10 MiB.
    pub(crate) fn look(&mut self) {
        if self.on_look(allocator::free_bytes()) {
            allocator::give_back();
            self.stuck = allocator::free_bytes();
        }
    }

    /// Returns whether to give memory back.
    fn on_look(&mut self, free: usize) -> bool {
        self.least = self.least.min(free);
        self.looks += 1;
        if self.looks < LOOKS {
            return false;
        }
        let spare = self.least > self.stuck.saturating_add(KEEP);
        // Less than ever: what was stuck is in use.
        self.stuck = self.stuck.min(self.least);
        (self.least, self.looks) = (usize::MAX, 0);
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
        // What could not be given back is not asked for again, until there is more.
        spare.stuck = 50 << 20;
        assert_eq!([50, 51, 52].map(|mib| spare.on_look(mib << 20)), [false; 3]);
        assert_eq!(
            [60, 61, 62].map(|mib| spare.on_look(mib << 20)),
            [false, false, true]
        );
    }
}
