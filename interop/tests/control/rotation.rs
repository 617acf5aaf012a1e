//! Rotations of leaves and of the root while requests go on.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    load::{Load, Target},
    mesh::{Member, Mesh, SOON, Settings, Workload, eventually, is_full, service, within},
};

/// Requests a second.
const RATE: u32 = 300;

/// Two services behind a sidecar each, and two callers.
pub(crate) fn shop(mesh: &mut Mesh) -> Vec<Workload> {
    mesh.apply(&(service("web") + &service("cart")));
    let members = [
        Member::new("web-0", "web", 11, true),
        Member::new("cart-0", "cart", 12, true),
        Member::new("client-0", "client", 13, false),
        Member::new("client-1", "client", 14, false),
    ];
    members.into_iter().map(|member| mesh.join(member)).collect()
}

/// From both callers to both services.
pub(crate) fn targets(mesh: &Mesh, workloads: &[Workload]) -> Vec<Target> {
    let callers = workloads.iter().filter(|workload| !workload.member.serves);
    callers
        .flat_map(|caller| {
            ["web", "cart"].map(|host| Target {
                outbound: mesh.outbound(&caller.member),
                host: host.to_owned(),
            })
        })
        .collect()
}

fn trust_version(status: &Value) -> u64 {
    status["version"].as_u64().unwrap_or(0)
}

#[test]
fn roots_and_leaves_rotate_under_load_and_no_request_is_lost() {
    let rotations = if is_full() { 20 } else { 2 };
    let mut mesh = Mesh::start(Settings {
        leaf_lifetime: "10s",
        ..Settings::default()
    });
    let workloads = shop(&mut mesh);
    // A copy of the identity under the first root, for later.
    let retired = mesh.directory.path().join("retired");
    copy(&mesh.state("client-0"), &retired);
    let load = Load::start(targets(&mesh, &workloads), RATE);
    load.wait_for_more(100);
    let started = Instant::now();
    let mut version = trust_version(&mesh.weft_json(&["ca", "status"]));
    for rotation in 1..=rotations {
        mesh.weft_ok(&["ca", "rotate", "--wait", "--timeout", "120s"]);
        let status = mesh.weft_json(&["ca", "status"]);
        assert!(trust_version(&status) > version, "{status}");
        version = trust_version(&status);
        assert_eq!(status["roots"].as_array().map(Vec::len), Some(1), "{status}");
        let so_far = load.so_far();
        assert_eq!(so_far.failed(), 0, "rotation {rotation}: {so_far:?}");
    }
    load.wait_for_more(100);
    let took = started.elapsed();
    let outcome = load.stop();
    println!(
        "{rotations} rotations of the root in {took:.1?}: {} requests, {} failed, the longest {:?}",
        outcome.answered,
        outcome.failed(),
        outcome.longest
    );
    assert_eq!(outcome.failed(), 0, "{outcome:?}");
    assert!(
        outcome.answered >= u64::from(RATE) * took.as_secs() * 9 / 10,
        "{outcome:?}"
    );
    mesh.wait_current();
    a_retired_identity_is_refused(&mesh, &retired);
}

/// A sidecar that comes back with an identity under a root that was retired gets nothing from anyone.
fn a_retired_identity_is_refused(mesh: &Mesh, retired: &std::path::Path) {
    let member = Member::new("ghost-0", "client", 20, false);
    mesh.configure(&member);
    copy(retired, &mesh.state("ghost-0"));
    let mut ghost = mesh.start_sidecar(&member);
    within(SOON, "refusal", &mut || {
        let (status, _) = mesh.page(&member, "/ready");
        let log = ghost.log().join("\n");
        match status {
            200 => panic!("a retired root is still believed: {log}"),
            _ if log.contains("controller") && (log.contains("certificate") || log.contains("trust")) => {
                Ok(())
            }
            _ => Err(log),
        }
    });
    let (status, body) = mesh.curl(&member, "web", "/");
    assert_ne!(status, 200, "{body}");
    assert!(ghost.is_running().unwrap(), "it says why, and waits");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg("-T")
        .arg(from)
        .arg(to)
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn leaves_rotate_by_themselves_under_load() {
    let time = if is_full() { 120 } else { 15 };
    let mut mesh = Mesh::start(Settings {
        leaf_lifetime: "10s",
        ..Settings::default()
    });
    let workloads = shop(&mut mesh);
    let expiry = |mesh: &Mesh| {
        let proxies = mesh.proxies();
        proxies
            .get("web-0")
            .and_then(|proxy| proxy["certificateNotAfter"].as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let first = eventually("a first expiry", || match expiry(&mesh) {
        expiry if expiry.is_empty() => Err("none".to_owned()),
        expiry => Ok(expiry),
    });
    let load = Load::start(targets(&mesh, &workloads), RATE);
    let started = Instant::now();
    let mut renewals = 0;
    let mut last = first;
    within(Duration::from_secs(time + 60), "time under load", &mut || {
        let now = expiry(&mesh);
        if now > last {
            (renewals, last) = (renewals + 1, now);
        }
        match started.elapsed() >= Duration::from_secs(time) {
            true => Ok(()),
            false => Err(String::new()),
        }
    });
    let outcome = load.stop();
    println!(
        "{renewals} renewals in {time} s: {} requests, {} failed, the longest {:?}",
        outcome.answered,
        outcome.failed(),
        outcome.longest
    );
    assert_eq!(outcome.failed(), 0, "{outcome:?}");
    assert!(renewals as u64 >= time / 10, "{renewals}");
}
