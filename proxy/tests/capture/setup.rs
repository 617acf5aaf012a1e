//! Two hosts with a mesh between them, and what is run on them.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::{Command, Output},
};

use serde_json::Value;
use weft_lab::{
    netns::{Host, Link, LinkOptions},
    process::{Process, Ready, find_program},
};

use crate::common::{Mesh, PROXY, SOON, Sidecar, Workload, port};

/// What the sidecars mark their sockets with.
pub const MARK: &str = "capture: {mark: 4711}\n";
/// What must not be seen on the link.
pub const NEEDLE: &str = "needle-5b1e";
pub const NOBODY: u32 = 65_534;
/// Of the same families as [`Link::left`].
pub const STABLE: [&str; 2] = ["169.254.255.15", "fd5e:9a3c:71d4::1"];

/// Hosts `left` with the client and `right` with the service `web`.
pub struct Lab {
    pub left: Host,
    pub right: Host,
    pub link: Link,
    pub mesh: Mesh,
    pub family: usize,
    _services: Vec<Process>,
}

impl Lab {
    /// With addresses of a family (0: IPv4, 1: IPv6); `adapt` may change the workloads before they start.
    pub fn start(family: usize, adapt: impl FnOnce(&mut Mesh)) -> Self {
        let (left, right) = (Host::new("left").unwrap(), Host::new("right").unwrap());
        let link = Link::join(&left, &right, 9, LinkOptions::default()).unwrap();
        let mut mesh = Mesh::new();
        mesh.config =
            "meshRanges: [10.77.0.0/16, \"fd77::/32\"]\nserviceRanges: [10.96.0.0/16, \"fd96::/112\"]\n\
                       egress: allow"
                .to_owned();
        mesh.service(
            "web",
            &[
                ("http", 80, port::HTTP, "http"),
                ("any", 81, port::ANY, ""),
                ("tcp", 5432, port::TCP, ""),
            ],
        );
        mesh.cluster_ip("web", ["10.96.0.10", "fd96::10"][family].parse().unwrap());
        let at = |workload: Workload, address: IpAddr, host: &Host| Workload {
            address,
            host: Some(host.clone()),
            extra: MARK.to_owned(),
            ..workload
        };
        mesh.workload(at(
            Workload::new("client-0", "client"),
            link.left()[family],
            &left,
        ));
        let web = Workload::new("web-0", "web")
            .port("http", port::HTTP, "")
            .port("any", port::ANY, "")
            .port("tcp", port::TCP, "");
        let web = mesh.workload(at(web, link.right()[family], &right));
        adapt(&mut mesh);
        let services = vec![
            service(&right, "http", web.at(port::HTTP)),
            service(&right, "tcp-greeter", web.at(port::TCP)),
        ];
        mesh.start();
        Self {
            left,
            right,
            link,
            mesh,
            family,
            _services: services,
        }
    }

    /// An address of the service `web`.
    pub fn service(&self, port: u16) -> SocketAddr {
        let ip: IpAddr = ["10.96.0.10", "fd96::10"][self.family].parse().unwrap();
        SocketAddr::new(ip, port)
    }

    /// The workload's own.
    pub fn web(&self, port: u16) -> SocketAddr {
        self.mesh.named("web-0").at(port)
    }

    /// Installs the capture of a workload's host.
    pub fn capture(&self, workload: &str, args: &[&str]) {
        let workload = self.mesh.named(workload);
        let file = self.mesh.directory().join(format!("{}.yaml", workload.name));
        let config = ["install", "--config", file.to_str().unwrap()];
        let output = capture(&workload.host.unwrap(), &[&config, args].concat());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}

/// Starts a service of the laboratory in a host.
pub fn service(host: &Host, kind: &str, listen: SocketAddr) -> Process {
    let mut command: Command = host.command(&*PROXY);
    command.args([
        "lab",
        "services",
        kind,
        "--name",
        "web-0",
        "--listen",
        &listen.to_string(),
    ]);
    Process::spawn_ready(kind, command, &Ready::Port(listen.port()), SOON).expect("a service")
}

/// Runs `weft-proxy capture` in a host.
pub fn capture(host: &Host, args: &[&str]) -> Output {
    let mut command = host.command(&*PROXY);
    command.arg("capture").args(args);
    command.output().expect("run weft-proxy capture")
}

/// Runs a program in a host, as another user than root where there is one.
pub fn as_application(host: &Host, program: &str, args: &[&str]) -> Output {
    let user = if has_users() { NOBODY } else { 0 };
    as_user(host, user, program, args)
}

/// Runs a program in a host as a user.
pub fn as_user(host: &Host, uid: u32, program: &str, args: &[&str]) -> Output {
    let program = find_program(program, program_package(program)).unwrap();
    let mut command = match uid {
        0 => host.command(&program),
        uid => {
            let mut command = host.command(find_program("setpriv", "util-linux").unwrap());
            let uid = uid.to_string();
            command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"]);
            command.arg(&program);
            command
        }
    };
    command.args(args).output().expect("run a program")
}

fn program_package(program: &str) -> &'static str {
    match program {
        "nft" => "nftables",
        "ip" => "iproute2",
        "sh" => "dash",
        _ => "curl",
    }
}

/// Whether there are other users here than root: not in a user namespace of one's own.
pub fn has_users() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    map.lines().any(|line| {
        let fields: Vec<u32> = line
            .split_whitespace()
            .map(|field| field.parse().unwrap())
            .collect();
        (fields[0]..fields[0].saturating_add(fields[2])).contains(&NOBODY)
    })
}

/// `curl`, as an application; the body of its answer.
pub fn curl(host: &Host, url: &str) -> String {
    let output = as_application(host, "curl", &curl_args(url, &NEEDLE.repeat(100)));
    body(output)
}

pub fn curl_args<'a>(url: &'a str, data: &'a str) -> [&'a str; 12] {
    let common = [
        "-sS",
        "-g",
        "--fail",
        "--noproxy",
        "*",
        "--max-time",
        "20",
        "-H",
        "X-Needle: needle-5b1e",
    ];
    let [a, b, c, d, e, f, g, h, i] = common;
    [a, b, c, d, e, f, g, h, i, "--data", data, url]
}

pub fn body(output: Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// Connects in a host, sends, and reads to the end.
pub fn talk(host: &Host, address: SocketAddr, text: &str) -> std::io::Result<String> {
    host.run(|| {
        let mut stream = TcpStream::connect_timeout(&address, SOON)?;
        stream.set_read_timeout(Some(SOON))?;
        stream.write_all(text.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
    .expect("a thread in the host")
}

/// One GET in a host, as root.
pub fn get(host: &Host, address: SocketAddr, path: &str) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    talk(host, address, &request)
}

/// A server in a host that answers each request with the address it came from.
pub fn serve_sources(host: &Host, listen: SocketAddr) {
    let listener = host.run(|| TcpListener::bind(listen).expect("bind")).unwrap();
    // Ends with the test's process.
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
                head.push(byte[0]);
            }
            let body = peer.ip().to_string();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).ok();
        }
    });
}

/// Whether a connection ended with a reset or was refused, and not with an answer.
pub fn is_refused(result: &std::io::Result<String>) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset};
    matches!(result, Err(error) if [ConnectionReset, ConnectionRefused, BrokenPipe].contains(&error.kind()))
}

/// The first line of a sidecar's access log, past or to come, with these texts.
pub fn access(sidecar: &Sidecar, fields: &[(&str, &str)]) -> Value {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(sidecar.access(fields))
}

/// Looks until a condition holds that has no event.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let looked = crate::common::eventually(what, async || condition());
    runtime.expect("a runtime").block_on(looked);
}
