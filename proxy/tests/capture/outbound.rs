//! What an application sends.

use std::{
    io::Read,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
};

use weft_lab::{
    netns::{Sniffer, privileged},
    services::tcp::banner,
};

use crate::{
    common::{SOON, port},
    setup::{
        Lab, NEEDLE, STABLE, access, as_application, body, capture, curl, curl_args, has_users, is_refused,
        serve_sources, talk,
    },
};

fn an_application_that_knows_nothing_of_the_mesh(family: usize) {
    let mut lab = Lab::start(family, |_| {});
    serve_sources(&lab.right, lab.web(port::ANY));
    for workload in ["client-0", "web-0"] {
        lab.capture(workload, &[]);
    }
    let sniffer = Sniffer::start(&lab.right, lab.link.interface(), NEEDLE.as_bytes()).unwrap();
    // By the service's address and by the workload's own.
    let addresses = [lab.service(80), lab.web(port::HTTP)];
    for address in addresses {
        let answer = curl(&lab.left, &format!("http://{address}/echo?{NEEDLE}"));
        assert_eq!(answer, NEEDLE.repeat(100), "{address}");
    }
    for address in [lab.service(81), lab.web(port::ANY)] {
        let source = curl(&lab.left, &format!("http://{address}/{NEEDLE}"));
        let source: IpAddr = source.parse().unwrap();
        assert_ne!(
            source,
            lab.link.left()[family],
            "the far application sees its own sidecar"
        );
    }
    // A server that speaks first, and then hears the needle.
    let greeted = lab.left.run(|| {
        let mut stream = TcpStream::connect(lab.service(5432)).unwrap();
        let source = stream.local_addr().unwrap().ip();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let mut greeting = vec![0; banner("web-0").len()];
        stream.read_exact(&mut greeting).unwrap();
        (source.to_string(), String::from_utf8(greeting).unwrap())
    });
    assert_eq!(greeted.unwrap(), (STABLE[family].to_owned(), banner("web-0")));
    let seen = sniffer.finish().unwrap();
    assert!(seen.packets > 20, "nothing crossed the link: {seen:?}");
    assert_eq!((seen.matches, seen.missed), (0, 0), "{:?}", seen.first_match);
    let (client, web) = (
        lab.mesh.named("client-0").identity(),
        lab.mesh.named("web-0").identity(),
    );
    for path in ["/echo", &format!("/{NEEDLE}")] {
        let line = access(lab.mesh.sidecar("client-0"), &[("path", path)]);
        assert_eq!(
            (&line["peer"], &line["transport"]),
            (&web.clone().into(), &"h3".into())
        );
        let line = access(lab.mesh.sidecar("web-0"), &[("path", path)]);
        assert_eq!(line["caller"], client.clone());
    }
    // The sniffer would have seen it.
    for host in [&lab.left, &lab.right] {
        assert_eq!(capture(host, &["remove"]).status.code(), Some(0));
    }
    let sniffer = Sniffer::start(&lab.right, lab.link.interface(), NEEDLE.as_bytes()).unwrap();
    curl(&lab.left, &format!("http://{}/echo", lab.web(port::HTTP)));
    assert!(sniffer.finish().unwrap().matches > 0);
}

#[test]
fn an_application_is_carried_over_ipv4() {
    privileged(|| an_application_that_knows_nothing_of_the_mesh(0)).unwrap();
}

#[test]
fn an_application_is_carried_over_ipv6() {
    privileged(|| an_application_that_knows_nothing_of_the_mesh(1)).unwrap();
}

fn nothing_unknown_leaves(family: usize) {
    let mut lab = Lab::start(family, |_| {});
    lab.capture("client-0", &["--exclude-port", "7070"]);
    let sniffer = Sniffer::start(&lab.right, lab.link.interface(), NEEDLE.as_bytes()).unwrap();
    let nowhere: IpAddr = ["10.77.9.2", "fd77:0:0:9::2"][family].parse().unwrap();
    let no_service: IpAddr = ["10.96.0.99", "fd96::99"][family].parse().unwrap();
    for address in [SocketAddr::new(nowhere, 9), SocketAddr::new(no_service, 80)] {
        assert!(is_refused(&talk(&lab.left, address, NEEDLE)), "{address}");
    }
    access(lab.mesh.sidecar("client-0"), &[("reason", "unknown_in_mesh")]);
    // The sidecar itself is not to be reached through itself.
    let own = lab.mesh.named("client-0").at(15_020);
    assert!(
        talk(&lab.left, own, "GET /metrics HTTP/1.0\r\n\r\n")
            .unwrap()
            .contains("200 OK")
    );
    // Datagrams into the mesh are rejected, and the sender hears of it.
    let send = |port: u16| {
        lab.left.run(|| {
            let unspecified: IpAddr = ["0.0.0.0", "::"][family].parse().unwrap();
            let socket = UdpSocket::bind((unspecified, 0)).unwrap();
            socket.connect((nowhere, port)).unwrap();
            socket.send(NEEDLE.as_bytes()).is_ok()
        })
    };
    assert!(!send(9).unwrap(), "a datagram into the mesh");
    assert!(!send(443).unwrap(), "HTTP/3 past the mesh");
    assert_eq!(sniffer.finish().unwrap().matches, 0);
    // What is let pass is seen: the sniffer works.
    let sniffer = Sniffer::start(&lab.right, lab.link.interface(), NEEDLE.as_bytes()).unwrap();
    for port in [53, 15_008, 7070] {
        assert!(send(port).unwrap(), "{port}");
    }
    assert!(sniffer.finish().unwrap().matches >= 3, "errors quote them, too");
}

#[test]
fn what_the_mesh_does_not_know_never_leaves_over_ipv4() {
    privileged(|| nothing_unknown_leaves(0)).unwrap();
}

#[test]
fn what_the_mesh_does_not_know_never_leaves_over_ipv6() {
    privileged(|| nothing_unknown_leaves(1)).unwrap();
}

#[test]
fn a_destination_outside_of_the_mesh_is_passed_through() {
    privileged(|| {
        let mut lab = Lab::start(0, |mesh| {
            mesh.config = "meshRanges: [\"fd77::/32\", 10.77.9.1/32, 10.77.9.2/32]\negress: allow".to_owned();
        });
        lab.capture("client-0", &[]);
        let output = lab
            .right
            .command("ip")
            .args(["address", "add", "192.0.2.9/32", "dev", "lo"])
            .output();
        assert!(output.unwrap().status.success());
        let route = ["route", "add", "192.0.2.9", "via", "10.77.9.2"];
        assert!(
            lab.left
                .command("ip")
                .args(route)
                .output()
                .unwrap()
                .status
                .success()
        );
        serve_sources(&lab.right, "192.0.2.9:8080".parse().unwrap());
        let source = curl(&lab.left, "http://192.0.2.9:8080/");
        assert_eq!(source, lab.link.left()[0].to_string());
        let line = access(lab.mesh.sidecar("client-0"), &[("direction", "outbound")]);
        assert_eq!(line["transport"], "plaintext");
    })
    .unwrap();
}

#[test]
fn the_sidecar_is_let_pass_by_its_user_without_a_mark() {
    privileged(|| {
        assert!(
            has_users(),
            "this test needs a second user: run it as root, or map subordinate users"
        );
        let mut lab = Lab::start(0, |mesh| {
            for workload in &mut mesh.workloads {
                workload.extra = "capture: {}\n".to_owned();
            }
        });
        for workload in ["client-0", "web-0"] {
            lab.capture(workload, &["--proxy-uid", "0"]);
        }
        let answer = curl(&lab.left, &format!("http://{}/echo", lab.service(80)));
        assert_eq!(answer, NEEDLE.repeat(100));
        access(
            lab.mesh.sidecar("client-0"),
            &[("path", "/echo"), ("transport", "h3")],
        );
    })
    .unwrap();
}

#[test]
fn a_sidecar_that_is_not_let_pass_is_refused_and_not_a_loop() {
    privileged(|| {
        // Its rules let another mark pass than it sets: what it opens itself comes back to it.
        let mut lab = Lab::start(0, |mesh| {
            mesh.config = "meshRanges: [\"fd77::/32\", 10.77.9.1/32, 10.77.9.2/32]\negress: allow".to_owned();
        });
        lab.capture("client-0", &["--proxy-mark", "1"]);
        let url = "http://10.77.9.7:8080/";
        let output = as_application(&lab.left, "curl", &curl_args(url, "x"));
        assert!(!output.status.success(), "{}", body(output));
        let sidecar = lab.mesh.sidecar("client-0");
        assert!(sidecar.process.wait_line("own_socket", SOON).is_ok());
    })
    .unwrap();
}

#[test]
fn a_capture_of_everything_is_refused_without_a_way_for_the_sidecar() {
    privileged(|| {
        let host = weft_lab::netns::Host::new("alone").unwrap();
        let output = capture(&host, &["install"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("--proxy-uid"));
        assert_eq!(capture(&host, &["show"]).status.code(), Some(1));
    })
    .unwrap();
}
