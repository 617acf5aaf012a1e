//! Gives memory back to the kernel when a flood is over.
//!
//! The C library's allocator keeps what was freed between things that live on. After a peer has made us hold much,
//! most of it would stay resident for good, and the next flood of another kind would come on top.

use std::time::Duration;

/// How often to look at what the allocator keeps.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// Looks after which memory counts as not needed, if it was free in each of them. To give back what is taken again a
/// moment later would cost page faults under load.
const LOOKS: u32 = 3;

/// What the allocator may keep.
const KEEP: usize = 4 << 20;

/// By how much the process must have grown since memory was last given back. What is free counts as free afterwards,
/// too, in pieces between what lives on: only the process's size tells whether there is something to give.
const GROWN: usize = 2 << 20;

/// What was free in each of the last looks.
#[derive(Debug)]
pub(crate) struct Spare {
    least: usize,
    looks: u32,
    /// The size of the process when memory was last given back, in bytes.
    resident: usize,
}

impl Default for Spare {
    fn default() -> Self {
        Self {
            least: usize::MAX,
            looks: 0,
            resident: 0,
        }
    }
}

impl Spare {
    /// Looks, and gives memory back if much of it has not been needed for a while. Allocations of other threads
    /// wait meanwhile: a millisecond for some 10 MiB.
    pub(crate) fn look(&mut self) {
        let resident = resident();
        // The allocator is asked, which other threads may wait for too, only if there can be anything to give.
        let grown = resident > self.resident.saturating_add(GROWN);
        let free = if grown { allocator::free_bytes() } else { 0 };
        if self.on_look(free) {
            allocator::give_back();
            self.resident = self::resident();
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
        (self.least, self.looks) = (usize::MAX, 0);
        spare
    }
}

/// Bytes of this process in memory (proc_pid_statm(5)); none if the kernel does not say.
fn resident() -> usize {
    const PAGE: usize = 4 << 10;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0_usize).saturating_mul(PAGE)
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

    #[test]
    fn a_process_has_a_size() {
        assert!(resident() > 1 << 20);
    }
}
