//! Our transport against HTTP/3 stacks of other people, on sockets of the loopback interface.
//!
//! - `cases`: what must be true of every stack, in both directions; `call`: what clients are told to do and tell.
//! - `place`: stack and direction, and how their ends are joined.
//! - `ours`, `h3_quinn`, `aioquic` (with `peer.py`), `envoy`: the ends.
//! - `table`: the outcome as a table, which `interop/README.md` holds.
//! - `h3_alone`: what can be tried with h3 on quinn alone.
//!
//! `WEFT_CASES=trailers` or `WEFT_CASES='Envoy'` runs the cells whose case or place contains that.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod aioquic;
mod call;
mod cases;
mod envoy;
mod h3_alone;
mod h3_quinn;
mod ours;
mod place;
mod table;

use std::{
    any::Any,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cases::{CASES, Case, Exception};
use place::Place;
use table::{Cell, Table};

/// A case that takes longer hangs, also on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// What our own code logs as an error: in none of the cases anything should wake someone.
static ERRORS: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Runs `case` as a worker does: on one thread.
fn run<F: Future<Output = ()>>(case: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(LIMIT, case()).await.expect("it hangs");
    });
}

#[test]
fn every_case_on_every_stack() {
    // Once, and not in the time of the first cases.
    weft_lab::tools::envoy().unwrap();
    weft_lab::tools::python_with_aioquic().unwrap();
    tracing_subscriber::fmt()
        .with_env_filter("weft_transport=error")
        .with_writer(|| Errors)
        .init();
    let wanted = std::env::var("WEFT_CASES").unwrap_or_default();
    let cells: Vec<_> = CASES
        .iter()
        .flat_map(|case| Place::all().into_iter().map(move |place| (case, place)))
        .filter(|(case, place)| case.name.contains(&wanted) || place.to_string().contains(&wanted))
        .collect();
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        while let Some((case, place)) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
            let cell = try_cell(case, *place);
            println!("{}, {place}: {cell:?}", case.name);
            done.lock().unwrap().push((case.name, *place, cell));
        }
    };
    std::thread::scope(|scope| {
        // Most of the time they wait for others.
        let threads = 2 * std::thread::available_parallelism().map_or(2, usize::from);
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let table = Table::new(done.into_inner().unwrap());
    println!("{table}");
    let failures = table.failures();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let errors = String::from_utf8_lossy(&ERRORS.lock().unwrap()).into_owned();
    assert!(errors.is_empty(), "logged: {errors}");
    if wanted.is_empty() {
        table.assert_kept();
    }
}

/// Writes to [`ERRORS`].
struct Errors;

impl io::Write for Errors {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        ERRORS.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Runs a case in a place, and compares with what is known.
fn try_cell(case: &Case, place: Place) -> Cell {
    let exception = case
        .exceptions
        .iter()
        .find(|(stack, direction, _)| (*stack, *direction) == (place.stack, place.direction));
    if let Some((_, _, Exception::Cannot(why))) = exception {
        return Cell::Cannot(why);
    }
    let failure = catch_unwind(AssertUnwindSafe(|| run(|| (case.run)(place)))).err();
    let failure = failure.map(|panic| message(&*panic));
    match (exception, failure) {
        (None, None) => Cell::Works,
        (Some((_, _, Exception::Known { fault, shows })), Some(failure)) if failure.contains(shows) => {
            Cell::Known(fault)
        }
        (Some(_), None) => Cell::Failed("the known fault is no longer there".to_owned()),
        (_, Some(failure)) => Cell::Failed(failure),
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic").to_owned()
}
