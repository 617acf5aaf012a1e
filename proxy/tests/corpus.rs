//! Every input that fuzzing kept, once more.

use std::sync::{Mutex, PoisonError};

use peak_alloc::PeakAlloc;
use weft_proxy::fuzz::TARGETS;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// One test at a time, or the memory of one would count for the other.
static ALONE: Mutex<()> = Mutex::new(());

fn replay(name: &str) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let target = TARGETS.iter().find(|target| target.name == name);
    assert!(target.inspect(|target| target.replay()).is_some(), "{name}");
}

#[test]
fn detect() {
    replay("detect");
}

#[test]
fn http1() {
    replay("http1");
}

/// With `WEFT_BLESS` set the files are written instead: commit them.
#[test]
fn every_smuggling_request_is_a_seed_of_http1() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/http1");
    let directory = std::path::Path::new(directory);
    for case in weft_proxy::fuzz::smuggling::cases() {
        // The first byte is the length of the pieces, 0 for the whole.
        let seed = [&[0], &case.bytes[..]].concat();
        let path = directory.join(&case.name);
        // Larger ones are in the table alone.
        if seed.len() > 4_096 {
            continue;
        }
        if std::env::var_os("WEFT_BLESS").is_some() {
            std::fs::create_dir_all(directory).expect("a directory");
            std::fs::write(&path, &seed).expect("a file");
        }
        assert_eq!(std::fs::read(&path).ok(), Some(seed), "{}", path.display());
    }
}
