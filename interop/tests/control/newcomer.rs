//! What someone types who sees the mesh for the first time, in three terminals.

use std::{net::SocketAddr, process::Command};

use weft_lab::process::{Process, Ready};

use crate::mesh::{Member, Mesh, SOON, Settings, eventually, program, service, text};

/// A sidecar by flags alone.
fn sidecar(mesh: &Mesh, name: &str, account: &str, host: u8, token: &str, ports: &[&str]) -> Process {
    let ip = mesh.address(host);
    let mut command = Command::new(program("weft-proxy"));
    command
        .args(["run", "--controller", &mesh.controller_address().to_string()])
        .args(["--join", token, "--name", name, "--service-account", account])
        .args(["--label", &format!("app={account}"), "--address", &ip.to_string()])
        .arg("--state")
        .arg(mesh.state(name));
    // On one machine, each sidecar's listeners are on an address of its own.
    for (listener, port) in [
        ("mesh", 15008),
        ("outbound", 15001),
        ("inbound", 15006),
        ("admin", 15000),
        ("metrics", 15020),
    ] {
        command
            .arg(format!("--listen-{listener}"))
            .arg(SocketAddr::new(ip, port).to_string());
    }
    command.args(["--application", &ip.to_string()]);
    for port in ports {
        command.args(["--port", port]);
    }
    Process::spawn(name, command).unwrap()
}

#[test]
fn three_terminals() {
    let mesh = Mesh::start(Settings::default());
    let log = mesh.controller.as_ref().unwrap().log().join("\n");
    assert!(
        log.contains("weft ") && log.contains("token create"),
        "what to type next: {log}"
    );

    let web = Member::new("web-0", "web", 11, true);
    let _application = mesh.start_application(&web);
    let mut first = sidecar(&mesh, "web-0", "web", 11, &mesh.token("web"), &["http:8080/http"]);
    first
        .wait_ready(
            &Ready::Http(SocketAddr::new(mesh.address(11), 15020), "/ready".to_owned()),
            SOON,
        )
        .unwrap();
    let mut second = sidecar(&mesh, "client-0", "client", 12, &mesh.token("client"), &[]);
    second
        .wait_ready(
            &Ready::Http(SocketAddr::new(mesh.address(12), 15020), "/ready".to_owned()),
            SOON,
        )
        .unwrap();
    mesh.apply(&service("web"));
    let client = Member::new("client-0", "client", 12, false);
    eventually("an answer", || match mesh.curl(&client, "web", "/") {
        (200, body) if body.starts_with("web-0") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    mesh.wait_current();
    let table = mesh.weft_ok(&["status"]);
    assert!(table.contains("web-0") && table.contains("client-0"), "{table}");
}

#[test]
fn tokens_that_are_wrong_say_so() {
    let mesh = Mesh::start(Settings::default());
    let other = Mesh::start(Settings::default());
    let used = mesh.token("web");
    let mut first = sidecar(&mesh, "web-0", "web", 11, &used, &[]);
    first
        .wait_ready(
            &Ready::Http(SocketAddr::new(mesh.address(11), 15020), "/ready".to_owned()),
            SOON,
        )
        .unwrap();
    for (host, token, wanted) in [
        (12, used.as_str(), "used"),
        (13, "weft1.AAAA", "token"),
        (14, other.token("web").as_str(), "unknown_authority"),
    ] {
        let mut refused = sidecar(&mesh, &format!("web-{host}"), "web", host, token, &[]);
        refused.wait_line(wanted, SOON).unwrap();
        let (status, _) = mesh.curl(&Member::new("", "", host, false), "web", "/");
        assert_ne!(status, 200);
        drop(refused);
    }
    let output = mesh.weft(&["token", "list", "-o", "json"]);
    let list = text(&output.stdout);
    assert!(!list.contains(&used), "a token is never shown again: {list}");
}
