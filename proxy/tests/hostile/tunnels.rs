//! Idle tunnels: databases keep thousands of connections open, and each should cost next to nothing.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weft_lab::process::Usage;

use crate::{
    Size,
    common::{Mesh, eventually, port, soon},
    service, size,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Tunnels, and what they may cost a sidecar beyond what it costs with one.
struct Case {
    tunnels: usize,
    /// A build without optimisation has larger futures.
    each: u64,
}

#[tokio::test]
async fn an_idle_tunnel_costs_a_few_kilobytes() {
    let case = match size() {
        Size::Small => Case {
            tunnels: 500,
            each: 40 * KIB,
        },
        Size::Full => Case {
            tunnels: 10_000,
            each: 20 * KIB,
        },
    };
    raise_file_limit(case.tunnels as u64 + 500);
    let mut mesh = Mesh::of_web();
    let _echo = service("tcp-echo", mesh.named("web-0").at(port::TCP));
    mesh.start();
    let address = mesh.bind(port::BIND_TCP);
    let open = async || {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(b"x").await.expect("a write");
        soon("an echo", stream.read_u8()).await.expect("an echo");
        stream
    };
    let mut streams = vec![open().await];
    let before = usage(&mut mesh);
    while streams.len() < case.tunnels {
        streams.push(open().await);
    }
    let during = usage(&mut mesh);
    for (name, (before, during)) in ["client-0", "web-0"]
        .into_iter()
        .zip(before.into_iter().zip(during))
    {
        let each = during.rss.saturating_sub(before.rss) / case.tunnels as u64;
        println!(
            "{} idle tunnels: {name} holds {:.1} MiB (with one: {:.1}), {each} bytes each",
            case.tunnels,
            during.rss as f64 / MIB as f64,
            before.rss as f64 / MIB as f64,
        );
        assert!(each <= case.each, "{name}: {each} bytes a tunnel");
    }
    // All of them live.
    for stream in &mut streams {
        stream.write_all(b"y").await.expect("a write");
        assert_eq!(soon("an echo", stream.read_u8()).await.expect("an echo"), b'y');
    }
    drop(streams);
    let sidecar = mesh.sidecar("web-0");
    eventually("the end of the tunnels", async || {
        sidecar.metric("weft_tunnels_open", &[]).await == Some(0.0)
    })
    .await;
}

fn usage(mesh: &mut Mesh) -> [Usage; 2] {
    ["client-0", "web-0"].map(|name| Usage::of(mesh.sidecar(name).process.pid()).expect("a running sidecar"))
}

/// Each sidecar, which inherits it, and this process hold a file for each tunnel.
fn raise_file_limit(files: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    if soft < files {
        setrlimit(Resource::RLIMIT_NOFILE, files, hard.max(files)).unwrap_or_else(|error| {
            panic!("{files} open files (ulimit -Hn {files}), where {hard} are allowed: {error}")
        });
    }
}
