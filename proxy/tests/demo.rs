//! `weft-proxy demo`, as a newcomer runs it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Each test has a network of its own: they run at the same time.
fn demo(subnet: &str, extra: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-proxy"));
    command.args(["demo", "--once", "--requests", "200", "--subnet", subnet]);
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
fn once_shows_who_talked_to_whom() {
    let output = demo("127.77.101.0", &[]).output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    let caller = "spiffe://weft.demo/ns/default/sa/client";
    for account in ["web", "greeter", "db"] {
        assert!(
            text.contains(&format!(
                "{caller} -> spiffe://weft.demo/ns/default/sa/{account}\n"
            )),
            "{text}"
        );
    }
    for workload in ["web-0", "web-1", "greeter-0", "db-0"] {
        assert!(
            text.contains(&format!("  {workload}: 1 QUIC connection, ")),
            "{text}"
        );
    }
    assert!(
        text.contains("OK: 200 HTTP/1.1 requests, 40 gRPC calls, 40 TCP echoes, 0 failed"),
        "{text}"
    );
    assert!(!text.contains('\x1b'), "colours are for terminals");
}

#[test]
fn the_summary_is_for_programs_too() {
    let output = demo("127.77.102.0", &["-o", "json"]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["ok"], true);
    let services = summary["services"].as_array().unwrap();
    let protocols: Vec<_> = services
        .iter()
        .map(|service| service["protocol"].as_str().unwrap())
        .collect();
    assert_eq!(protocols, ["HTTP/1.1", "gRPC", "TCP"]);
    for service in services {
        assert_eq!(service["failed"], 0, "{summary}");
        for peer in service["peers"].as_array().unwrap() {
            assert_eq!(peer["connections"], 1, "{summary}");
            assert!(peer["streams"].as_u64().unwrap() > 0, "{summary}");
        }
    }
    // The requests of a connection are streams of one QUIC connection, and both replicas have their share.
    let streams = services[0]["peers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|peer| peer["streams"].as_u64().unwrap());
    assert_eq!(streams.sum::<u64>(), 200, "{summary}");
    assert_eq!(summary["sidecars"].as_array().unwrap().len(), 5);
}

/// Kills a sidecar when the traffic has begun; gives the exit code and everything that was said.
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
        if line.starts_with(&format!("starting {workload} ")) {
            let (_, after) = line.split_once("sidecar pid ").unwrap();
            pid = Some(Pid::from_raw(after.trim_end_matches(')').parse().unwrap()));
        }
        if line.starts_with("SERVICE ") {
            kill(pid.unwrap(), Signal::SIGKILL).unwrap();
        }
    }
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    (child.wait().unwrap().code(), said)
}

#[test]
fn a_killed_sidecar_is_named() {
    for (subnet, workload) in [("127.77.103.0", "web-1"), ("127.77.104.0", "client")] {
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
