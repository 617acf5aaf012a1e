//! A controller that is gone, or hangs, while requests go on.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::{
    load::Load,
    mesh::{Member, Mesh, SOON, Settings, eventually, is_full, within},
    rotation::{shop, targets},
};

/// By when a controller that says nothing must be known to be lost.
const NOTICED: Duration = Duration::from_secs(60);

/// Whether a sidecar believes to be connected.
fn is_connected(mesh: &Mesh, member: &Member) -> Result<bool, String> {
    let (_, snapshot) = mesh.page(member, "/snapshot");
    let snapshot: serde_json::Value =
        serde_json::from_str(&snapshot).map_err(|error| format!("{error}: {snapshot}"))?;
    match (&snapshot["control"]["controller"], &snapshot["control"]["lost"]) {
        (serde_json::Value::Null, serde_json::Value::Null) => Err(snapshot.to_string()),
        (controller, _) => Ok(!controller.is_null()),
    }
}

#[test]
fn a_controller_that_is_gone_and_then_hangs_costs_no_request() {
    let (stopped, frozen) = if is_full() { (120, 60) } else { (5, 0) };
    let mut mesh = Mesh::start(Settings::default());
    let workloads = shop(&mut mesh);
    let load = Load::start(targets(&mesh, &workloads), 300);
    load.wait_for_more(100);

    mesh.controller.take().unwrap().kill();
    for workload in &workloads {
        within(
            NOTICED,
            "loss noticed",
            &mut || match is_connected(&mesh, &workload.member)? {
                false => Ok(()),
                true => Err("still connected".to_owned()),
            },
        );
    }
    load.wait_for_more(300 * stopped);
    mesh.start_controller();
    mesh.wait_current();
    let so_far = load.so_far();
    assert_eq!(so_far.failed(), 0, "{so_far:?}");

    let controller = mesh.controller.as_mut().unwrap();
    controller.signal(Signal::SIGSTOP).unwrap();
    let frozen_at = Instant::now();
    for workload in &workloads {
        within(
            NOTICED,
            "freeze noticed",
            &mut || match is_connected(&mesh, &workload.member)? {
                false => Ok(()),
                true => Err("still connected".to_owned()),
            },
        );
    }
    let noticed = frozen_at.elapsed();
    load.wait_for_more(300 * frozen + 1);
    mesh.controller.as_mut().unwrap().signal(Signal::SIGCONT).unwrap();
    mesh.wait_current();
    load.wait_for_more(100);
    let outcome = load.stop();
    println!(
        "controller gone for {stopped} s, then frozen for {:.0?} (noticed after {noticed:.1?}): {} requests, {} \
         failed, the longest {:?}",
        frozen_at.elapsed(),
        outcome.answered,
        outcome.failed(),
        outcome.longest
    );
    assert_eq!(outcome.failed(), 0, "{outcome:?}");
}

#[test]
fn a_sidecar_that_restarts_without_a_controller_serves_from_its_cache_and_without_one_stays_closed() {
    let mut mesh = Mesh::start(Settings::default());
    let mut workloads = shop(&mut mesh);
    let client = workloads
        .iter()
        .position(|workload| workload.member.name == "client-0")
        .unwrap();
    let member = workloads[client].member.clone();
    let before = std::process::Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%S"])
        .output()
        .unwrap();
    let before = crate::mesh::text(&before.stdout).trim().to_owned();
    assert_eq!(mesh.curl(&member, "web", "/").0, 200);
    // What it learned by that is on the disk a moment later.
    eventually("kept configuration", || {
        let (_, snapshot) = mesh.page(&member, "/snapshot");
        let snapshot: serde_json::Value =
            serde_json::from_str(&snapshot).map_err(|error| error.to_string())?;
        match snapshot["control"]["kept"].as_str() {
            Some(kept) if kept > before.as_str() && snapshot["control"]["names"] == 1 => Ok(()),
            _ => Err(snapshot["control"].to_string()),
        }
    });
    mesh.controller.take().unwrap().kill();

    workloads[client].sidecar.kill();
    workloads[client].sidecar = mesh.start_sidecar(&member);
    mesh.wait_ready(&member, &mut workloads[client].sidecar);
    let (status, body) = mesh.curl(&member, "web", "/");
    assert_eq!(status, 200, "{body}");

    workloads[client].sidecar.kill();
    std::fs::remove_dir_all(mesh.state("client-0")).unwrap();
    workloads[client].sidecar = mesh.start_sidecar(&member);
    within(SOON, "reason", &mut || {
        let (status, body) = mesh.page(&member, "/ready");
        match (status, body.contains("identity")) {
            (503, true) => Ok(()),
            _ => Err(format!("{status} {body}")),
        }
    });
    let (status, body) = mesh.curl(&member, "web", "/");
    assert_ne!(status, 200, "{body}");

    // The token in its file is still good: nobody has used it since it was made anew.
    std::fs::write(mesh.directory.path().join("client-0.token"), {
        mesh.start_controller();
        mesh.token("client")
    })
    .unwrap();
    mesh.wait_ready(&member, &mut workloads[client].sidecar);
    eventually("an answer", || match mesh.curl(&member, "web", "/") {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
