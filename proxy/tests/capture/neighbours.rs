//! One application of a host is captured, or two, each with a sidecar.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use weft_lab::netns::{Host, privileged};

use crate::{
    common::{Workload, port},
    setup::{
        Lab, MARK, access, as_user, body, capture, curl_args, eventually, get, has_users, is_refused, service,
    },
};

/// Users of the two applications.
const FIRST: u32 = 1_001;
const SECOND: u32 = 1_002;

fn curl(lab: &Lab, uid: u32, address: SocketAddr, path: &str) -> String {
    let url = format!("http://{address}{path}");
    body(as_user(&lab.left, uid, "curl", &curl_args(&url, "x")))
}

fn two_applications(family: usize) {
    assert!(
        has_users(),
        "this test needs users beside root: run it as root, or map subordinate users"
    );
    let mut lab = Lab::start(family, |mesh| {
        let first = mesh.named_mut("client-0");
        first.extra = MARK.replace('{', "{instance: first, ");
        let second = Workload {
            address: first.address,
            host: first.host.clone(),
            extra: MARK.replace('{', "{instance: second, "),
            shift: 100,
            ..Workload::new("other-0", "other").port("http", 8_180, "http")
        };
        mesh.workload(second);
    });
    let other = lab.mesh.named("other-0").at(8_180);
    let _other = service(&lab.left, "http", other);
    lab.capture("web-0", &[]);
    lab.capture("client-0", &["--uid", &FIRST.to_string()]);
    lab.capture("other-0", &["--uid", &SECOND.to_string()]);

    // Both are meshed, each in its own name.
    for (uid, name, path) in [(FIRST, "client-0", "/echo?1"), (SECOND, "other-0", "/echo?2")] {
        assert_eq!(curl(&lab, uid, lab.service(80), path), "x");
        let identity = lab.mesh.named(name).identity();
        access(lab.mesh.sidecar("web-0"), &[("caller", &identity)]);
        access(
            lab.mesh.sidecar(name),
            &[("service", "default/web"), ("transport", "h3")],
        );
    }
    let callers: Vec<_> = lab.mesh.sidecar("web-0").access_log();
    assert_eq!(callers.len(), 2, "{callers:#?}");

    // One calls the other by the address that they share: through both sidecars all the same.
    assert_eq!(curl(&lab, FIRST, other, "/echo?3"), "x");
    let client = lab.mesh.named("client-0").identity();
    access(
        lab.mesh.sidecar("other-0"),
        &[("direction", "inbound"), ("caller", &client)],
    );

    // Whoever else is on the host has no identity, and is refused as if from outside.
    let refused = get(&lab.left, other, "/");
    assert!(is_refused(&refused), "{refused:?}");
    access(lab.mesh.sidecar("other-0"), &[("reason", "plaintext_refused")]);
    // It is not captured either: to the far application it is one from outside.
    let refused = get(&lab.left, lab.web(port::HTTP), "/");
    assert!(is_refused(&refused), "{refused:?}");
    access(lab.mesh.sidecar("web-0"), &[("reason", "plaintext_refused")]);
}

/// A control group of this test, which takes a writable cgroup2 file system.
struct Group(PathBuf);

impl Group {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounted = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let root = mounted.expect("a cgroup2 file system").split(' ').nth(4).unwrap();
        let group = Path::new(root).join(format!("weft-test-{}", std::process::id()));
        if let Err(error) = fs::create_dir(&group) {
            panic!("this test needs to make {}: {error}", group.display());
        }
        Self(group)
    }

    /// Runs curl in it.
    fn curl(&self, host: &Host, url: &str) -> String {
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.0.display());
        let args = curl_args(url, "x");
        body(as_user(
            host,
            0,
            "sh",
            &[&["-c", &enter, "sh", "curl"], &args[..]].concat(),
        ))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
    }
}

#[test]
fn one_control_group_alone_is_captured() {
    privileged(|| {
        let group = Group::new();
        let mut lab = Lab::start(0, |_| {});
        lab.capture("web-0", &[]);
        lab.capture("client-0", &["--cgroup", group.0.to_str().unwrap()]);
        let url = format!("http://{}/echo", lab.web(port::HTTP));
        assert_eq!(group.curl(&lab.left, &url), "x");
        access(
            lab.mesh.sidecar("client-0"),
            &[("path", "/echo"), ("transport", "h3")],
        );
        // What is not in it goes its own way, and the far side takes no plaintext.
        let refused = get(&lab.left, lab.web(port::HTTP), "/");
        assert!(is_refused(&refused), "{refused:?}");
        access(lab.mesh.sidecar("web-0"), &[("reason", "plaintext_refused")]);
        // A group that is gone is captured no more, whatever comes in its place.
        assert_eq!(capture(&lab.left, &["show"]).status.code(), Some(0));
        drop(group);
        eventually("the end of the group", || {
            capture(&lab.left, &["show"]).status.code() == Some(1)
        });
    })
    .unwrap();
}

#[test]
fn two_applications_of_a_host_are_meshed_each_in_its_own_name() {
    privileged(|| two_applications(0)).unwrap();
}

#[test]
fn two_applications_of_a_host_are_meshed_over_ipv6() {
    privileged(|| two_applications(1)).unwrap();
}
