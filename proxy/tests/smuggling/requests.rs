//! Applications that send what two parsers may read differently.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weft_proxy::fuzz::{
    smuggling::{Case, Expected, cases},
    strict::{Fault, Kind, Message},
};

use crate::{
    Answers,
    common::{Mesh, app, http::get, port},
    send,
};

/// What reached the application, by connection.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
struct Record {
    connections: Vec<Vec<u8>>,
    messages: Vec<Message>,
}

impl Recorder {
    /// Answers each message that is whole; a connection that brings something else is ended.
    async fn serve(self, mut stream: TcpStream) {
        let connection = {
            let mut record = self.0.lock().unwrap();
            record.connections.push(Vec::new());
            record.connections.len() - 1
        };
        let mut rest = Vec::new();
        loop {
            let before = rest.len();
            if !matches!(stream.read_buf(&mut rest).await, Ok(1..)) {
                return;
            }
            self.0.lock().unwrap().connections[connection].extend_from_slice(&rest[before..]);
            loop {
                match Message::read(&rest, Kind::Request) {
                    Ok((message, used)) => {
                        rest.drain(..used);
                        self.0.lock().unwrap().messages.push(message);
                    }
                    Err(Fault::Incomplete) => break,
                    Err(Fault::Broken(_)) => return,
                }
                let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    }

    /// The messages that came since the last call.
    fn take(&self) -> Vec<Message> {
        std::mem::take(&mut self.0.lock().unwrap().messages)
    }

    /// Every byte that came was a part of a well-formed request, also to a second parser.
    fn judge(&self) {
        for connection in &self.0.lock().unwrap().connections {
            let mut rest = &connection[..];
            while !rest.is_empty() {
                let shown = String::from_utf8_lossy(rest);
                let (message, used) = match Message::read(rest, Kind::Request) {
                    Ok(read) => read,
                    Err(Fault::Incomplete) => break,
                    Err(fault) => panic!("{fault:?}: {shown}"),
                };
                let mut fields = [httparse::EMPTY_HEADER; 128];
                let mut other = httparse::Request::new(&mut fields);
                assert!(
                    matches!(other.parse(rest), Ok(httparse::Status::Complete(_))),
                    "{shown}"
                );
                assert_eq!(other.method, Some(message.start[0].as_str()), "{shown}");
                assert_eq!(other.path, Some(message.start[1].as_str()), "{shown}");
                assert_eq!(other.headers.len(), message.fields.len(), "{shown}");
                rest = &rest[used..];
            }
        }
    }
}

/// Sends a case, reads what it is answered, and checks both.
async fn play(outbound: SocketAddr, identity: &str, recorder: &Recorder, case: &Case, size: usize) {
    let name = &case.name;
    let mut stream = TcpStream::connect(outbound).await.unwrap();
    stream.set_nodelay(true).unwrap();
    // A sidecar that has refused already takes no more.
    let _ = send(&mut stream, &case.bytes, size).await;
    let mut answers = Answers::default();
    let wanted = match case.expected {
        Expected::Served(wanted) => wanted,
        Expected::Answered => 1,
        Expected::Refused => usize::MAX,
        Expected::Unfinished => 0,
    };
    answers.read(&mut stream, "GET", wanted).await;
    if case.expected != Expected::Refused {
        // All that was sent has been looked at once the sidecar ends the connection too.
        let _ = stream.shutdown().await;
        answers.read(&mut stream, "GET", usize::MAX).await;
    }
    let mesh_answers = get(outbound, "web", "/good").await;
    assert_eq!(mesh_answers.status, 200, "{name}: a good request beside it");
    let arrived = recorder.take();
    let (good, arrived): (Vec<_>, Vec<_>) = arrived
        .into_iter()
        .partition(|message| message.start[1] == "/good");
    assert_eq!(good.len(), 1, "{name}");
    let statuses = answers.statuses();
    let (served, own) = statuses.split_at(statuses.iter().take_while(|status| **status == "200").count());
    assert!(
        own.len() <= 1 && own.iter().all(|status| status.starts_with(['4', '5'])),
        "{name}: {statuses:?}"
    );
    let expected = match case.expected {
        Expected::Served(count) => count,
        Expected::Answered => {
            assert_eq!(own.len(), 1, "{name}");
            0
        }
        Expected::Refused | Expected::Unfinished => 0,
    };
    assert_eq!(
        (served.len(), arrived.len()),
        (expected, expected),
        "{name}: {statuses:?} {arrived:?}"
    );
    for message in arrived {
        is_clean(name, identity, &message);
    }
}

/// A request that arrived says nothing of the hop before, and of the mesh only what the mesh says.
fn is_clean(name: &str, identity: &str, message: &Message) {
    assert_ne!(message.start[1], "/smuggled", "{name}");
    assert_eq!(
        message.values("weft-caller").collect::<Vec<_>>(),
        [identity.as_bytes()],
        "{name}"
    );
    let hosts: Vec<_> = message.values("host").collect();
    assert!(
        hosts.len() == 1 && hosts[0].starts_with(b"web"),
        "{name}: {message:?}"
    );
    for (field, _) in &message.fields {
        let is_ours = field.starts_with("weft-") && !matches!(field.as_str(), "weft-caller" | "weft-hops");
        let is_hop = matches!(
            field.as_str(),
            "connection" | "keep-alive" | "proxy-connection" | "upgrade" | "http2-settings" | "x-secret"
        );
        assert!(!is_ours && !is_hop, "{name}: {field}");
    }
    if name.starts_with("chunks-trailer") {
        assert_eq!(message.content, b"hello", "{name}");
        assert!(message.trailers.is_empty(), "{name}: {message:?}");
    }
}

/// Each case as a whole, and in small pieces: a parser that keeps its place must not lose it between them.
#[tokio::test]
async fn one_well_formed_request_leaves_or_nothing() {
    let mut mesh = Mesh::of_web();
    let recorder = Recorder::default();
    let (web, recording) = (mesh.named("web-0"), recorder.clone());
    app::serve_with(&web, port::HTTP, move |stream, _| recording.clone().serve(stream)).await;
    mesh.start();
    let identity = mesh.named("client-0").identity();
    let cases = cases();
    assert!(cases.len() >= 200, "{}", cases.len());
    let mut failed = Vec::new();
    for case in &cases {
        for size in [usize::MAX, 3] {
            // Hundreds of kilobytes in threes show no more than kilobytes.
            if size == 3 && case.bytes.len() > 4_096 {
                continue;
            }
            let playing = play(mesh.outbound(), &identity, &recorder, case, size);
            crate::case(&mut failed, &case.name, playing).await;
            recorder.take();
        }
    }
    recorder.judge();
    assert!(failed.is_empty(), "{failed:#?}");
    println!("{} cases", cases.len());
}
