//! A capture is installed, looked at and removed.

use std::net::SocketAddr;

use serde_json::Value;
use weft_lab::{
    netns::{Host, privileged},
    process::{Process, Ready},
};

use crate::{
    common::{Mesh, PROXY, SOON, Workload},
    setup::{MARK, STABLE, as_user, body, capture, eventually, get},
};

const ALL: [&str; 11] = [
    "install",
    "--proxy-mark",
    "4711",
    "--port",
    "8080",
    "--mesh-range",
    "10.0.0.0/8",
    "--service-range",
    "10.96.0.0/16",
    "--service-range",
    "fd96::/112",
];

fn ok(host: &Host, args: &[&str]) {
    let output = capture(host, args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
}

fn root(host: &Host, line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    body(as_user(host, 0, words[0], &words[1..]))
}

/// Everything that a capture changes; without what is counted.
fn all_of(host: &Host) -> String {
    let commands = [
        "nft -s list ruleset",
        "ip -o address show",
        "ip route show table all",
        "ip -6 route show table all",
    ];
    commands.map(|line| root(host, line)).join("\n")
}

fn state(host: &Host, args: &[&str]) -> (Option<i32>, Value) {
    let output = capture(host, &[&["show", "--output", "json"], args].concat());
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    (output.status.code(), json)
}

#[test]
fn an_install_is_shown_repeated_and_removed_without_a_trace() {
    privileged(|| {
        let host = Host::new("host").unwrap();
        root(&host, "nft add table inet firewall");
        let before = all_of(&host);
        assert_eq!(state(&host, &[]).0, Some(1));

        ok(&host, &ALL);
        let (code, json) = state(&host, &[]);
        assert_eq!((code, &json["state"]), (Some(0), &"intact".into()));
        assert_eq!(json["addresses"], serde_json::json!(STABLE));
        let text = String::from_utf8(capture(&host, &["show"]).stdout).unwrap();
        assert!(
            text.contains("redirect to :15001") && text.contains("weft: intact\n"),
            "{text}"
        );
        let installed = all_of(&host);
        for address in STABLE {
            assert!(installed.contains(address));
        }

        ok(&host, &ALL);
        assert_eq!(all_of(&host), installed, "twice is once");
        // Another range in the place of one.
        let other = ALL.map(|arg| {
            if arg == "10.96.0.0/16" {
                "10.97.0.0/16"
            } else {
                arg
            }
        });
        ok(&host, &other);
        assert!(!root(&host, "ip route show").contains("10.96.0.0/16"));
        assert_eq!(state(&host, &[]).0, Some(0));

        ok(&host, &["remove"]);
        assert_eq!(all_of(&host), before);
        ok(&host, &["remove"]);
        assert_eq!(all_of(&host), before);
    })
    .unwrap();
}

#[test]
fn a_dry_run_prints_the_script_and_changes_nothing() {
    privileged(|| {
        let host = Host::new("host").unwrap();
        let before = all_of(&host);
        let output = capture(&host, &[&ALL[..], &["--dry-run"]].concat());
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.starts_with("add table inet weft\n"), "{script}");
        assert!(script.contains("# on lo: route to 10.96.0.0/16 from 169.254.255.15\n"));
        assert_eq!(all_of(&host), before);
    })
    .unwrap();
}

#[test]
fn what_was_altered_is_shown() {
    privileged(|| {
        let host = Host::new("host").unwrap();
        let changes = [
            "nft flush chain inet weft inbound",
            "nft add rule inet weft redirect_outbound accept",
            "nft add element inet weft passed4 { 10.1.0.0/16 }",
            "nft add chain inet weft more",
            "ip route del 10.96.0.0/16 dev lo",
            "ip address del 169.254.255.15/32 dev lo",
            "ip -6 address del fd5e:9a3c:71d4::1/128 dev lo",
        ];
        for change in changes {
            ok(&host, &ALL);
            assert_eq!(state(&host, &[]).0, Some(0), "before {change}");
            root(&host, change);
            let (code, json) = state(&host, &[]);
            assert_eq!((code, &json["state"]), (Some(1), &"altered".into()), "{change}");
            assert_ne!(json["problems"], serde_json::json!([]), "{change}");
        }
        // What is counted is no change.
        ok(&host, &ALL);
        get(&host, "127.0.0.1:9".parse().unwrap(), "/").unwrap_err();
        get(&host, "10.96.0.1:80".parse().unwrap(), "/").unwrap_err();
        assert!(
            !String::from_utf8(capture(&host, &["show"]).stdout)
                .unwrap()
                .contains("packets 0 bytes 0 redirect to :15001")
        );
        assert_eq!(state(&host, &[]).0, Some(0));
        root(&host, "nft delete table inet weft");
        let (code, json) = state(&host, &[]);
        assert_eq!((code, &json["state"]), (Some(1), &"missing".into()));
        // 2 is for what can't be told.
        let output = host
            .command("setpriv")
            .args(["--bounding-set", "-net_admin", "--", PROXY.to_str().unwrap()])
            .args(["capture", "show"])
            .output();
        assert_eq!(output.unwrap().status.code(), Some(2));
    })
    .unwrap();
}

#[test]
fn what_an_install_that_was_cut_short_left_is_removed() {
    privileged(|| {
        let host = Host::new("host").unwrap();
        // Somebody else's route is in the way of the last step.
        root(&host, "ip route add 10.96.0.0/16 dev lo");
        let before = all_of(&host);
        let output = capture(&host, &ALL);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("add route to 10.96.0.0/16"), "{said}");
        assert_ne!(all_of(&host), before);
        assert_eq!(state(&host, &[]).1["state"], "altered");
        ok(&host, &["remove"]);
        assert_eq!(all_of(&host), before);
        root(&host, "ip route del 10.96.0.0/16 dev lo");

        let before = all_of(&host);
        let halves: [&dyn Fn(); 3] = [
            // Only the rules.
            &|| {
                let script = capture(&host, &[&ALL[..], &["--dry-run"]].concat()).stdout;
                let file = tempfile::NamedTempFile::new().unwrap();
                std::fs::write(file.path(), script).unwrap();
                root(&host, &format!("nft -f {}", file.path().display()));
            },
            // All but the rules.
            &|| {
                ok(&host, &ALL);
                root(&host, "nft delete table inet weft");
            },
            // All but a route.
            &|| {
                ok(&host, &ALL);
                root(&host, "ip route del 10.96.0.0/16 dev lo");
            },
        ];
        for half in halves {
            half();
            assert_ne!(all_of(&host), before);
            ok(&host, &["remove"]);
            assert_eq!(all_of(&host), before);
            // The next install does not mind either.
            half();
            ok(&host, &ALL);
            assert_eq!(state(&host, &[]).0, Some(0));
            ok(&host, &["remove"]);
            assert_eq!(all_of(&host), before);
        }
    })
    .unwrap();
}

#[test]
fn a_capture_leaves_another_its_addresses_and_routes() {
    privileged(|| {
        let host = Host::new("host").unwrap();
        let before = all_of(&host);
        let second = ["--instance", "second", "--service-range", "10.98.0.0/16"];
        ok(&host, &[&ALL[..], &second].concat());
        let alone = all_of(&host);
        ok(&host, &ALL);
        assert_eq!(state(&host, &[]).0, Some(0));
        ok(&host, &["remove"]);
        assert_eq!(all_of(&host), alone);
        assert_eq!(state(&host, &["--instance", "second"]).0, Some(0));
        ok(&host, &["remove", "--instance", "second"]);
        assert_eq!(all_of(&host), before);
    })
    .unwrap();
}

/// The answer of a sidecar's `/ready`.
fn ready(host: &Host) -> String {
    let admin: SocketAddr = "127.0.0.1:15000".parse().unwrap();
    get(host, admin, "/ready").unwrap_or_default()
}

#[test]
fn a_proxy_whose_capture_is_gone_is_not_ready() {
    privileged(|| {
        let host = Host::new("host").unwrap();
        root(&host, "ip address add 10.77.9.1/32 dev lo");
        let mut mesh = Mesh::new();
        mesh.workload(Workload {
            address: "10.77.9.1".parse().unwrap(),
            host: Some(host.clone()),
            extra: MARK.to_owned(),
            ..Workload::new("web-0", "web")
        });
        mesh.start();
        let intact = |wanted: &str| {
            let metrics = get(&host, "10.77.9.1:15020".parse().unwrap(), "/metrics").unwrap();
            assert!(
                metrics.contains(&format!("\nweft_capture_intact {wanted}\n")),
                "{metrics}"
            );
        };
        assert!(ready(&host).contains("503") && ready(&host).contains("the capture is missing"));
        intact("0");
        ok(&host, &ALL);
        eventually("readiness", || ready(&host).contains("200 OK"));
        intact("1");
        root(&host, "nft flush chain inet weft outbound");
        eventually("an alteration", || {
            ready(&host).contains("the capture was altered")
        });
        ok(&host, &ALL);
        eventually("readiness", || ready(&host).contains("200 OK"));
        root(&host, "ip route del 10.96.0.0/16 dev lo");
        eventually("a missing route", || {
            ready(&host).contains("the capture was altered")
        });
        ok(&host, &ALL);
        eventually("readiness", || ready(&host).contains("200 OK"));
        root(&host, "nft delete table inet weft");
        eventually("a missing table", || {
            ready(&host).contains("the capture is missing")
        });
        intact("0");
    })
    .unwrap();
}

#[test]
fn a_proxy_without_the_right_to_look_says_so() {
    privileged(|| {
        let host = Host::new("host").unwrap();
        root(&host, "ip address add 10.77.9.1/32 dev lo");
        let mut mesh = Mesh::new();
        let web = Workload {
            address: "10.77.9.1".parse().unwrap(),
            host: Some(host.clone()),
            extra: "capture: {}\n".to_owned(),
            ..Workload::new("web-0", "web")
        };
        mesh.workload(web);
        mesh.start();
        drop(mesh.take("web-0"));
        ok(&host, &ALL);
        let mut command = host.command("setpriv");
        let file = mesh.directory().join("web-0.yaml");
        command.args([
            "--bounding-set",
            "-net_admin",
            "--",
            PROXY.to_str().unwrap(),
            "run",
            "--config",
            file.to_str().unwrap(),
        ]);
        command.env("NO_COLOR", "1");
        let sidecar =
            Process::spawn_ready("web-0", command, &Ready::Line(" ready ".to_owned()), SOON).unwrap();
        assert!(ready(&host).contains("CAP_NET_ADMIN"), "{}", ready(&host));
        assert!(
            sidecar
                .log()
                .iter()
                .any(|line| line.contains("WARN") && line.contains("CAP_NET_ADMIN"))
        );
    })
    .unwrap();
}
