//! Feeds libFuzzer's inputs to the target that `WEFT_FUZZ_TARGET` names. `run` starts it.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use peak_alloc::PeakAlloc;
use weft_proto::fuzz::Target;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("WEFT_FUZZ_TARGET").unwrap_or_default();
        let targets = [
            &weft_proto::fuzz::TARGETS[..],
            &weft_transport::fuzz::TARGETS,
            &weft_proxy::fuzz::TARGETS,
        ]
        .concat();
        let Some(target) = targets.iter().find(|target| target.name == name) else {
            let names: Vec<_> = targets.iter().map(|target| target.name).collect();
            eprintln!("no target {name:?}: there are {}", names.join(", "));
            std::process::exit(1);
        };
        TARGET.get_or_init(|| *target);
    },
    |input: &[u8]| {
        if let Some(target) = TARGET.get() {
            target.check(input);
        }
    }
);
