//! What comes for an application and not through the mesh.

use std::{
    io::Read,
    net::{SocketAddr, TcpStream},
};

use serde_json::Value;
use weft_lab::{
    netns::{Host, privileged},
    services::tcp::banner,
};

use crate::{
    common::{SOON, port},
    setup::{Lab, MARK, access, as_user, capture, get, is_refused, service, talk},
};

fn metric(lab: &Lab, text: &str) -> bool {
    let metrics = get(&lab.right, lab.web(15_020), "/metrics").unwrap();
    metrics.contains(text)
}

/// What the service answers on its port for HTTP, and says first on another, to a host without a sidecar.
fn from_outside(lab: &Lab) -> [std::io::Result<String>; 2] {
    let http = get(&lab.left, lab.web(port::HTTP), "/");
    let greeting = lab.left.run(|| {
        let mut stream = TcpStream::connect(lab.web(port::TCP))?;
        stream.set_read_timeout(Some(SOON))?;
        let mut greeting = vec![0; banner("web-0").len()];
        stream.read_exact(&mut greeting)?;
        Ok(String::from_utf8(greeting).expect("text"))
    });
    [http, greeting.expect("a thread in the host")]
}

fn start(family: usize, inbound: &str) -> Lab {
    let lab = Lab::start(family, |mesh| {
        mesh.named_mut("web-0").extra = format!("{MARK}inbound: {inbound}\n");
    });
    lab.capture("web-0", &[]);
    lab
}

fn strict_with_a_port_for_probes(family: usize) {
    let mut lab = start(family, &format!("{{plaintextPorts: [{}]}}", port::TCP));
    let [http, tcp] = from_outside(&lab);
    assert!(is_refused(&http), "{http:?}");
    assert!(tcp.unwrap().starts_with("220 web-0"));
    let line = access(lab.mesh.sidecar("web-0"), &[("reason", "plaintext_refused")]);
    assert_eq!(
        (&line["direction"], &line["transport"]),
        (&"inbound".into(), &Value::Null)
    );
    let line = access(lab.mesh.sidecar("web-0"), &[("transport", "plaintext")]);
    assert_eq!((&line["reason"], &line["caller"]), (&Value::Null, &Value::Null));
    assert!(metric(
        &lab,
        "weft_connections_refused_total{reason=\"plaintext_refused\"} 1\n"
    ));
    // What the sidecar answers itself is never captured, and its inbound port is no way around.
    let direct = talk_to_the_inbound_port(&lab);
    assert!(is_refused(&direct), "{direct:?}");
    assert!(metric(
        &lab,
        "weft_connections_refused_total{reason=\"not_redirected\"} 1\n"
    ));
}

fn talk_to_the_inbound_port(lab: &Lab) -> std::io::Result<String> {
    let inbound = SocketAddr::new(lab.web(0).ip(), 15_006);
    get(&lab.left, inbound, "/")
}

#[test]
fn strict_refuses_plaintext_but_on_listed_ports_over_ipv4() {
    privileged(|| strict_with_a_port_for_probes(0)).unwrap();
}

#[test]
fn strict_refuses_plaintext_but_on_listed_ports_over_ipv6() {
    privileged(|| strict_with_a_port_for_probes(1)).unwrap();
}

#[test]
fn permissive_passes_plaintext_to_declared_ports() {
    privileged(|| {
        let mut lab = start(0, "{plaintext: permissive}");
        let _any = service(&lab.right, "http", lab.web(port::ANY));
        let [http, tcp] = from_outside(&lab).map(Result::unwrap);
        assert!(http.starts_with("HTTP/1.1 200 "), "{http}");
        assert!(tcp.starts_with("220 web-0"));
        access(
            lab.mesh.sidecar("web-0"),
            &[("transport", "plaintext"), ("direction", "inbound")],
        );
        // Nobody outside can claim to be a caller of the mesh.
        for port in [port::HTTP, port::ANY] {
            let request = format!(
                "GET /headers HTTP/1.1\r\nHost: web\r\nWeft-Caller: spiffe://cluster.local/ns/default/sa/admin\r\n\
                 X-Mine: kept-{port}\r\nConnection: close\r\n\r\n"
            );
            let answer = talk(&lab.left, lab.web(port), &request).unwrap().to_lowercase();
            assert!(answer.contains(&format!("kept-{port}")), "{answer}");
            assert!(!answer.contains("spiffe"), "{answer}");
        }
        // Nor by a spelling that the sidecar takes for bytes and the application for HTTP.
        let forged = "Host: web\r\nWeft-Caller: spiffe://cluster.local/ns/default/sa/admin\r\nConnection: close\r\n\r\n";
        for line in ["\r\nGET /headers HTTP/1.1", "GET https://web/headers HTTP/1.1"] {
            let answer = talk(&lab.left, lab.web(port::ANY), &format!("{line}\r\n{forged}"));
            assert!(is_refused(&answer), "{line:?}: {answer:?}");
        }
        access(lab.mesh.sidecar("web-0"), &[("reason", "undeclared_protocol")]);
        // A port that nobody declared is not the mesh's to open, once all are captured.
        let undeclared = SocketAddr::new(lab.web(0).ip(), 9_999);
        lab.capture("web-0", &["--all-ports", "--exclude-inbound-port", "9998"]);
        crate::setup::serve_sources(&lab.right, undeclared);
        let refused = get(&lab.left, undeclared, "/");
        assert!(is_refused(&refused), "{refused:?}");
        access(lab.mesh.sidecar("web-0"), &[("reason", "undeclared_port")]);
        let excluded = SocketAddr::new(undeclared.ip(), 9_998);
        crate::setup::serve_sources(&lab.right, excluded);
        assert!(get(&lab.left, excluded, "/").unwrap().ends_with("10.77.9.1"));
    })
    .unwrap();
}

#[test]
fn the_mode_is_the_meshs_where_the_proxy_has_none() {
    privileged(|| {
        let lab = Lab::start(0, |mesh| mesh.config.push_str("\ninbound: permissive"));
        lab.capture("web-0", &[]);
        assert!(from_outside(&lab)[0].is_ok());
        let output = capture(&lab.right, &["remove"]);
        assert_eq!(output.status.code(), Some(0));
    })
    .unwrap();
}

#[test]
fn what_another_table_keeps_from_being_redirected_is_refused() {
    privileged(|| {
        let lab = start(0, "{plaintext: strict}");
        lab.capture("client-0", &[]);
        // Untracked, they are not translated.
        let untrack = |host: &Host, chain: &str| {
            let rules = format!(
                "table ip other {{\n chain early {{\n  type filter hook {chain} priority -300;\n  tcp dport {} notrack\n }}\n}}\n",
                port::HTTP
            );
            let file = lab.mesh.directory().join("other.nft");
            std::fs::write(&file, rules).unwrap();
            let done = as_user(host, 0, "nft", &["-f", file.to_str().unwrap()]);
            assert!(done.status.success(), "{done:?}");
        };
        let talk = || get(&lab.left, lab.web(port::HTTP), "/");
        assert!(talk().unwrap().starts_with("HTTP/1.1 200 "), "through the mesh");
        untrack(&lab.left, "output");
        let left = talk();
        assert!(left.is_err() && !is_refused(&left), "it left the host: {left:?}");
        // The rule of the other table stays; the capture goes.
        assert_eq!(capture(&lab.left, &["remove"]).status.code(), Some(0));
        assert!(is_refused(&talk()), "plaintext, redirected over there");
        untrack(&lab.right, "prerouting");
        assert!(is_refused(&talk()), "plaintext, not redirected over there");
        // The application is there: beside it, it answers.
        assert!(get(&lab.right, lab.web(port::HTTP), "/").is_ok());
    })
    .unwrap();
}
