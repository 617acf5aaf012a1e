//! What fuzzing calls, and `cargo test` with every input that was kept (feature `fuzz`).
//!
//! A [`Target`] takes any bytes and panics if a property of what it tests does not hold: not only that nothing
//! panics by itself, but that what was read is what was said. Each crate has the targets of its own parsers and a
//! test that [replays](Target::replay) their corpora; `fuzz/` at the root of the project runs them under libFuzzer.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a property that does not hold is a panic"
)]

mod documents;
mod spiffe_id;
pub mod writer;

use std::path::Path;

use peak_alloc::PeakAlloc;

/// The targets of this crate.
pub const TARGETS: [Target; 2] = [documents::TARGET, spiffe_id::TARGET];

/// The directory of the corpora, one directory a target.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus");

/// Something that takes bytes of any kind, and what must hold of it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Also the name of its corpus.
    pub name: &'static str,
    /// Panics if a property does not hold.
    pub body: fn(&[u8]),
    /// What the body may have on the heap at once.
    pub memory: Memory,
}

/// A bound on memory by the length of the input, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// For an empty input.
    pub floor: usize,
    /// For each byte of input.
    pub per_byte: usize,
}

impl Target {
    /// Runs the body. Where [`PeakAlloc`] is the allocator, and nothing else runs, its memory is bounded as well.
    pub fn check(&self, input: &[u8]) {
        let before = PeakAlloc.current_usage();
        PeakAlloc.reset_peak_usage();
        (self.body)(input);
        let held = PeakAlloc.peak_usage().saturating_sub(before);
        let allowed = self.memory.floor + self.memory.per_byte * input.len();
        assert!(
            held <= allowed,
            "{}: {held} bytes held for {} of input, more than the {allowed} allowed",
            self.name,
            input.len()
        );
    }

    /// Checks every file of the corpus. The one that fails is named, as are a corpus that is missing and one that
    /// is empty.
    pub fn replay(&self) {
        let directory = Path::new(CORPUS).join(self.name);
        let mut count = 0;
        // What an earlier input left behind for good, such as tables that are made once, is nobody's.
        (self.body)(&[]);
        for path in files(&directory) {
            let input = std::fs::read(&path);
            let input = input.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let named = OnPanic(&path);
            self.check(&input);
            std::mem::forget(named);
            count += 1;
        }
        assert!(count > 0, "{} is empty", directory.display());
    }
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// Says which input it was when a property does not hold.
struct OnPanic<'a>(&'a Path);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        eprintln!("the input is {}", self.0.display());
    }
}
