//! Changes of configuration and of the fleet while requests go on.

use nix::sys::signal::Signal;

use crate::{
    load::{Load, Target},
    mesh::{Member, Mesh, SOON, Settings, eventually, service, text},
};

#[test]
fn a_change_is_acked_by_all_and_a_bad_one_changes_nothing() {
    let mut mesh = Mesh::start(Settings::default());
    let _workloads = crate::rotation::shop(&mut mesh);
    mesh.wait_current();
    let client = Member::new("client-0", "client", 13, false);
    assert_eq!(mesh.curl(&client, "web", "/").0, 200);

    let file = mesh.directory.path().join("bad.yaml");
    std::fs::write(
        &file,
        service("shiny") + &service("web").replace("port: 80,", "port: 70000,"),
    )
    .unwrap();
    let output = mesh.weft(&["apply", "-f", file.to_str().unwrap()]);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("bad.yaml:") && error.contains("spec.ports[0].port"),
        "{error}"
    );
    assert!(
        !mesh.weft_ok(&["get", "services", "-o", "name"]).contains("shiny"),
        "half applied"
    );
    assert_eq!(mesh.curl(&client, "web", "/").0, 200);

    mesh.apply(&service("web").replace("port: 80,", "port: 8000,"));
    mesh.wait_current();
    eventually("the new port", || match mesh.curl(&client, "web:8000", "/") {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    mesh.weft_ok(&["delete", "service", "web"]);
    eventually("the service's end", || {
        match mesh.curl(&client, "web:8000", "/") {
            (200, body) => Err(body),
            _ => Ok(()),
        }
    });
    assert_eq!(mesh.curl(&client, "cart", "/").0, 200);
}

#[test]
fn a_sidecar_learns_of_a_service_at_its_first_use_and_holds_no_other() {
    let mut mesh = Mesh::start(Settings::default());
    let _workloads = crate::rotation::shop(&mut mesh);
    let client = Member::new("client-1", "client", 14, false);
    let config = mesh.weft_ok(&["proxy", "config", "client-1"]);
    assert!(!config.contains("web"), "{config}");
    assert_eq!(mesh.curl(&client, "web", "/").0, 200, "the first request");
    let config = mesh.weft_ok(&["proxy", "config", "client-1"]);
    assert!(config.contains("web") && !config.contains("cart"), "{config}");
    let (status, body) = mesh.curl(&client, "nothing", "/");
    assert!((400..600).contains(&status), "{status} {body}");
    // It is asked for already: it works as soon as it is there.
    mesh.apply(&service("cart").replace("name: cart", "name: nothing"));
    eventually("the new service", || match mesh.curl(&client, "nothing", "/") {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn replicas_come_and_go_and_no_request_is_lost() {
    let mut mesh = Mesh::start(Settings::default());
    let workloads = crate::rotation::shop(&mut mesh);
    let mut second = mesh.join(Member::new("web-1", "web", 15, true));
    let mut third = mesh.join(Member::new("web-2", "web", 16, true));
    let targets: Vec<Target> = crate::rotation::targets(&mesh, &workloads);
    let load = Load::start(targets, 300);
    load.wait_for_more(300);
    // Scaled down in order.
    second.sidecar.terminate(SOON).unwrap();
    drop(second.application.take());
    load.wait_for_more(300);
    let so_far = load.so_far();
    assert_eq!(so_far.failed(), 0, "{so_far:?}");
    eventually("web-1 gone", || {
        match mesh.weft_ok(&["get", "workloads", "-o", "name"]) {
            names if names.contains("web-1") => Err(names),
            _ => Ok(()),
        }
    });
    // And one that fails, with its application.
    third.sidecar.signal(Signal::SIGKILL).unwrap();
    drop(third.application.take());
    load.wait_for_more(900);
    eventually("web-2 gone", || {
        match mesh.weft_ok(&["get", "workloads", "-o", "name"]) {
            names if names.contains("web-2") => Err(names),
            _ => Ok(()),
        }
    });
    let outcome = load.stop();
    println!(
        "replicas gone: {} requests, {} failed, the longest {:?}",
        outcome.answered,
        outcome.failed(),
        outcome.longest
    );
    assert_eq!(outcome.failed(), 0, "{outcome:?}");
}
