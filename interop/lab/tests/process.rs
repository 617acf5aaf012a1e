//! Child processes: readiness, logs, usage, and that none is left behind.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use weft_lab::Error;
use weft_lab::cli::LISTENING;
use weft_lab::process::{Process, Ready};

const SOON: Duration = Duration::from_secs(20);

fn lab(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-lab"));
    command.args(args);
    command
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

fn service() -> (Process, SocketAddr) {
    let mut process = Process::spawn("service", lab(&["services", "http", "--name", "web"])).unwrap();
    let line = process.wait_line(LISTENING, SOON).unwrap();
    (process, line.strip_prefix(LISTENING).unwrap().parse().unwrap())
}

#[test]
fn the_binary_serves_and_loads() {
    let (mut process, address) = service();
    process
        .wait_ready(&Ready::Http(address, "/".to_owned()), SOON)
        .unwrap();
    process.wait_ready(&Ready::Port(address.port()), SOON).unwrap();
    let pid = process.pid().to_string();
    let target = address.to_string();
    let args = [
        "load", "--target", &target, "--count", "100", "-c", "2", "--expect", "web", "-o", "json", "--watch",
        &pid,
    ];
    let output = lab(&args).output().unwrap();
    let report: weft_lab::load::Report = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success() && report.is_clean(), "{report}");
    assert_eq!((report.requests, report.watched.len()), (100, 1));
    let wrong = lab(&["load", "--target", &target, "--count", "1", "--expect", "other"])
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stdout).contains("wrong answer"));
}

#[test]
fn not_ready_is_told_with_the_log() {
    let mut process = Process::spawn("sleeper", shell("echo about to sleep; exec sleep 60")).unwrap();
    process.wait_line("about to", SOON).unwrap();
    let short = Duration::from_millis(50);
    let error = process.wait_ready(
        &Ready::Http("127.0.0.1:1".parse().unwrap(), "/ready".to_owned()),
        short,
    );
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("sleeper") && error.contains("/ready") && error.contains("about to sleep"),
        "{error}"
    );
    let error = process.wait_line("never", short).unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
}

#[test]
fn an_early_end_is_told_with_the_log() {
    let started = Instant::now();
    let mut process = Process::spawn("failing", shell("echo bad configuration >&2; exit 3")).unwrap();
    let error = process.wait_ready(&Ready::Port(1), SOON).unwrap_err().to_string();
    assert!(
        error.contains("exit status: 3") && error.contains("bad configuration"),
        "{error}"
    );
    let mut process = Process::spawn("failing", shell("exit 3")).unwrap();
    let error = process.wait_line("ready", SOON).unwrap_err();
    assert!(matches!(error, Error::Ended { .. }), "{error}");
    assert!(started.elapsed() < SOON, "it must not wait for the timeout");
}

#[test]
fn cpu_time_of_all_threads_and_memory_are_measured() {
    let (process, address) = service();
    let before = process.usage().unwrap();
    let target = address.to_string();
    lab(&["load", "--target", &target, "--count", "5000"])
        .output()
        .unwrap();
    let after = process.usage().unwrap();
    assert!(after.cpu > before.cpu, "{before:?} {after:?}");
    assert!(after.rss > 500_000 && after.peak_rss >= after.rss, "{after:?}");
}

#[test]
fn terminating_gives_the_status() {
    let (mut process, _) = service();
    assert!(process.is_running().unwrap());
    let status = process.terminate(SOON).unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGTERM as i32));
    assert!(!process.is_running().unwrap());
    // A pid may belong to someone else by now.
    assert!(matches!(
        process.signal(Signal::SIGTERM),
        Err(Error::Ended { .. })
    ));
}

#[test]
fn a_dropped_process_is_gone() {
    let (process, _) = service();
    let directory = format!("/proc/{}", process.pid());
    assert!(Path::new(&directory).exists());
    drop(process);
    assert!(!Path::new(&directory).exists());
}

#[test]
fn a_process_ends_with_the_parent_that_is_killed() {
    // The parent is this test binary again, running only `parent_of_a_service`.
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["parent_of_a_service", "--exact", "--nocapture"])
        .env("LAB_PARENT", "1");
    let mut parent = Process::spawn("parent", command).unwrap();
    let line = parent.wait_line("child is ", SOON).unwrap();
    let child = format!("/proc/{}", line.rsplit(' ').next().unwrap());
    assert!(Path::new(&child).exists());
    parent.kill();
    let started = Instant::now();
    // Its death is asynchronous, and there may be nobody to reap it.
    let is_alive =
        || std::fs::read_to_string(format!("{child}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while is_alive() {
        assert!(started.elapsed() < SOON, "the child outlived its parent");
        std::thread::yield_now();
    }
}

#[test]
fn parent_of_a_service() {
    if std::env::var_os("LAB_PARENT").is_none() {
        return;
    }
    let (mut process, _) = service();
    println!("child is {}", process.pid());
    process.wait(SOON).unwrap();
}
