//! `weft demo`, as a newcomer runs it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::LazyLock,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

/// The program, with the one that cargo builds for this package's tests only if it is asked: the sidecar.
static WEFT: LazyLock<&'static str> = LazyLock::new(|| {
    let weft = env!("CARGO_BIN_EXE_weft");
    let directory = Path::new(weft).parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "build",
        "--quiet",
        "--locked",
        "-p",
        "weft-proxy",
        "-p",
        "weft-controller",
        "--bin",
        "weft-proxy",
    ]);
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    // The same as that of this test, wherever it is.
    cargo.arg("--target-dir").arg(directory.parent().unwrap());
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(status.success(), "weft-proxy cannot be built");
    weft
});

/// Each test has a network of its own: they run at the same time.
fn demo(subnet: &str, extra: &[&str]) -> Command {
    let mut command = Command::new(*WEFT);
    command.args([
        "demo",
        "--once",
        "--rps",
        "100",
        "--seconds",
        "3",
        "--subnet",
        subnet,
    ]);
    command.args(extra).stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn every_step_is_done_and_costs_no_request() {
    let files = tempfile::tempdir().unwrap();
    let mut command = demo("127.77.101.0", &["-o", "json"]);
    let output = command.env("TMPDIR", files.path()).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&summary["ok"], &summary["failed"]),
        (&true.into(), &0.into()),
        "{said}"
    );
    let steps = summary["steps"].as_array().unwrap();
    let names: Vec<_> = steps.iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "change",
            "split",
            "testers",
            "bad-replica",
            "rotate-leaves",
            "rotate-root",
            "kill-controller",
            "kill-replica"
        ]
    );
    for step in steps {
        assert_eq!(step["failed"], 0, "{step}");
        assert!(step["requests"].as_u64().unwrap() > 50, "{step}");
    }
    let count = |step: usize, pointer: &str| match steps[step].pointer(pointer) {
        Some(Value::Array(values)) => values.len(),
        Some(Value::Object(values)) => values.len(),
        _ => 0,
    };
    assert_eq!(count(0, "/detail/ackedAfterMillis"), 7, "{}", steps[0]);
    assert_eq!(count(1, "/detail/answers"), 2, "{}", steps[1]);
    let testers = &steps[2]["detail"]["testers"];
    assert_eq!(testers.as_object().unwrap().keys().collect::<Vec<_>>(), ["v2"]);
    let bad = &steps[3]["detail"];
    assert!(bad["requestsUntilEjected"].as_u64().unwrap() >= 5, "{bad}");
    assert!(bad["backAfterMillis"].as_u64().unwrap() > 0, "{bad}");
    assert_eq!(count(4, "/detail/renewed"), 7, "{}", steps[4]);
    assert!(count(5, "/detail/steps") >= 2, "{}", steps[5]);
    assert_eq!(count(5, "/detail/retiredRootRefusedBy"), 2, "{}", steps[5]);
    for flow in summary["flows"].as_array().unwrap() {
        assert!(flow["answered"].as_u64().unwrap() > 0, "{flow}");
    }
    assert!(
        !said.contains('\x1b'),
        "colours and tables that move are for terminals"
    );
    let left: Vec<_> = files.path().read_dir().unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Kills a sidecar for good when all have joined; gives the exit code and everything that was said.
fn kill_during(mut command: Command, workload: &str) -> (Option<i32>, String) {
    let mut child: Child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (mut said, mut pid) = (String::new(), None);
    for line in lines.by_ref().map(Result::unwrap) {
        said += &format!("{line}\n");
        if line.starts_with(&format!("started {workload} ")) {
            let (_, after) = line.split_once("sidecar pid ").unwrap();
            let digits = after.split(',').next().unwrap();
            pid = Some(Pid::from_raw(digits.parse().unwrap()));
        }
        if line.starts_with("all have joined") {
            kill(pid.unwrap(), Signal::SIGKILL).unwrap();
        }
    }
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

#[test]
fn a_killed_sidecar_is_named() {
    for (subnet, workload) in [("127.77.103.0", "catalog-v1-0"), ("127.77.104.0", "frontend")] {
        let (code, said) = kill_during(demo(subnet, &[]), workload);
        assert_eq!(code, Some(1), "{said}");
        assert!(
            said.contains(&format!("the sidecar of {workload} (pid ")),
            "{said}"
        );
        assert!(said.contains("SIGKILL") && !said.contains("OK:"), "{said}");
    }
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::UdpSocket::bind("127.77.105.3:15008").unwrap();
    let output = demo("127.77.105.0", &[]).output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("UDP 127.77.105.3:15008") && text.contains("--subnet"),
        "{text}"
    );
    drop(taken);
}
