//! Applications that answer in ways that two parsers may read differently.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weft_proxy::fuzz::strict::{Fault, Kind, Message};

use crate::{
    Answers,
    common::{Mesh, app, http::get, port},
};

/// What the caller gets.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// This status and content.
    Passed(&'static str, &'static str),
    /// 502.
    BadGateway,
    /// The head, and then the end before the end: what was cut short never looks complete. Or 502, where the end was
    /// known before the head was sent.
    Cut,
}

use Expected::{BadGateway, Cut, Passed};

/// Whether the application ends the connection after its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Close,
    Stay,
}

use Then::{Close, Stay};

struct Case {
    name: &'static str,
    method: &'static str,
    bytes: Vec<u8>,
    then: Then,
    expected: Expected,
}

fn case(name: &'static str, text: &str, then: Then, expected: Expected) -> Case {
    Case {
        name,
        method: "GET",
        bytes: text.as_bytes().to_vec(),
        then,
        expected,
    }
}

const CHUNKS: &str = "5\r\nhello\r\n0\r\n\r\n";

fn cases() -> Vec<Case> {
    let mut cases = framing();
    cases.extend(heads());
    cases.extend(bodiless());
    cases.extend(second_answers());
    cases
}

fn framing() -> Vec<Case> {
    let ok = |fields: &str, content: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n{content}");
    let coding = |value: &str| ok(&format!("Transfer-Encoding: {value}\r\n"), CHUNKS);
    let length = |value: &str| ok(&format!("Content-Length: {value}\r\n"), "hello");
    vec![
        case("length", &length("5"), Stay, Passed("200", "hello")),
        case("chunked", &coding("chunked"), Stay, Passed("200", "hello")),
        case("until the end", &ok("", "hello"), Close, Passed("200", "hello")),
        case(
            "coding and length",
            &ok("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", CHUNKS),
            Stay,
            Passed("200", "hello"),
        ),
        case(
            "length and coding",
            &ok("Content-Length: 50\r\nTransfer-Encoding: chunked\r\n", CHUNKS),
            Stay,
            Passed("200", "hello"),
        ),
        case(
            "two equal lengths",
            &ok("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
            Stay,
            Passed("200", "hello"),
        ),
        case(
            "two lengths",
            &ok("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!"),
            Close,
            BadGateway,
        ),
        case("a list of lengths", &length("5, 6"), Close, BadGateway),
        case("length with a plus", &length("+5"), Close, BadGateway),
        case("length with a minus", &length("-5"), Close, BadGateway),
        case("length in hex", &length("0x5"), Close, BadGateway),
        case(
            "length over 64 bits",
            &length("18446744073709551621"),
            Close,
            BadGateway,
        ),
        case("gzip, chunked", &coding("gzip, chunked"), Close, BadGateway),
        case("chunked, chunked", &coding("chunked, chunked"), Close, BadGateway),
        case("identity", &coding("identity"), Close, BadGateway),
        case("xchunked", &coding("xchunked"), Close, BadGateway),
        case("chunked with a tab", &coding("chunked\x0b"), Close, BadGateway),
        case(
            "chunked, identity",
            &coding("chunked, identity"),
            Close,
            BadGateway,
        ),
        case(
            "coding twice",
            &ok(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                CHUNKS,
            ),
            Close,
            BadGateway,
        ),
        case("length cut short", &length("10"), Close, Cut),
        case(
            "chunks cut short",
            &ok("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
            Close,
            Cut,
        ),
        case(
            "chunk cut short",
            &ok("Transfer-Encoding: chunked\r\n", "9\r\nhello"),
            Close,
            Cut,
        ),
        case(
            "last line cut short",
            &ok("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n"),
            Close,
            Cut,
        ),
        case(
            "chunk size overflows",
            &ok(
                "Transfer-Encoding: chunked\r\n",
                "10000000000000005\r\nhello\r\n0\r\n\r\n",
            ),
            Close,
            Cut,
        ),
        case(
            "chunk size with a sign",
            &ok("Transfer-Encoding: chunked\r\n", "+5\r\nhello\r\n0\r\n\r\n"),
            Close,
            Cut,
        ),
        case(
            "chunk longer than it says",
            &ok("Transfer-Encoding: chunked\r\n", "3\r\nhello\r\n0\r\n\r\n"),
            Close,
            Cut,
        ),
    ]
}

fn heads() -> Vec<Case> {
    let with = |line: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n{line}\r\n\r\nhello");
    let start = |line: &str| format!("{line}\r\nContent-Length: 5\r\n\r\nhello");
    vec![
        case("space before colon", &with("X : y"), Close, BadGateway),
        case("folded", &with("X: y\r\n z"), Close, BadGateway),
        case("no colon", &with("X"), Close, BadGateway),
        case("NUL in a value", &with("X: y\0z"), Close, BadGateway),
        case("bare CR in a value", &with("X: y\rz"), Close, BadGateway),
        case("NUL in a name", &with("X\0: y"), Close, BadGateway),
        case("no reason", &start("HTTP/1.1 200"), Stay, Passed("200", "hello")),
        case(
            "status of two digits",
            &start("HTTP/1.1 20 OK"),
            Close,
            BadGateway,
        ),
        case("status 600", &start("HTTP/1.1 600 OK"), Close, BadGateway),
        case("status 099", &start("HTTP/1.1 099 OK"), Close, BadGateway),
        case("HTTP/2.0", &start("HTTP/2.0 200 OK"), Close, BadGateway),
        case("HTTP/0.9", "hello", Close, BadGateway),
        case("nothing", "", Close, BadGateway),
        case(
            "a head cut short",
            "HTTP/1.1 200 OK\r\nContent-Le",
            Close,
            BadGateway,
        ),
        case(
            "70 KiB of head",
            &with(&format!("X: {}", "y".repeat(70_000))),
            Close,
            BadGateway,
        ),
        case(
            "200 fields",
            &with(["X: y"; 200].join("\r\n").as_str()),
            Close,
            BadGateway,
        ),
        case(
            "fields of the mesh",
            &with(
                "Weft-Unprocessed: draining\r\nWeft-Error: denied\r\nWeft-Caller: x\r\nConnection: x-hop\r\nX-Hop: 1",
            ),
            Stay,
            Passed("200", "hello"),
        ),
    ]
}

/// What has no content, whatever it says of it.
fn bodiless() -> Vec<Case> {
    let hidden = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled";
    let mut head = case(
        "HEAD with content",
        &format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{hidden}",
            hidden.len()
        ),
        Stay,
        Passed("200", ""),
    );
    head.method = "HEAD";
    vec![
        head,
        case(
            "204 with content",
            "HTTP/1.1 204 No Content\r\n\r\nhello",
            Stay,
            Passed("204", ""),
        ),
        case(
            "204 with a length",
            &format!(
                "HTTP/1.1 204 No Content\r\nContent-Length: {}\r\n\r\n{hidden}",
                hidden.len()
            ),
            Stay,
            Passed("204", ""),
        ),
        case(
            "204 with a coding",
            &format!("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKS}"),
            Stay,
            Passed("204", ""),
        ),
        case(
            "304 with content",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello",
            Stay,
            Passed("304", ""),
        ),
    ]
}

/// More answers than were asked for.
fn second_answers() -> Vec<Case> {
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    let hidden = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled";
    let hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
    vec![
        case(
            "a second answer",
            &format!("{ok}{hidden}"),
            Stay,
            Passed("200", "hello"),
        ),
        case(
            "a second answer after chunks",
            &format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKS}{hidden}"),
            Stay,
            Passed("200", "hello"),
        ),
        case(
            "interim answers",
            &format!("{hint}{hint}{ok}"),
            Stay,
            Passed("200", "hello"),
        ),
        case(
            "a flood of interim answers",
            &(hint.repeat(5_000) + ok),
            Stay,
            Passed("200", "hello"),
        ),
        case(
            "100 unasked",
            &format!("HTTP/1.1 100 Continue\r\n\r\n{ok}"),
            Stay,
            Passed("200", "hello"),
        ),
        case(
            "an interim answer with a length",
            &format!("HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n{ok}"),
            Stay,
            Passed("200", "hello"),
        ),
        case(
            "101 unasked",
            &format!("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n{hidden}"),
            Close,
            BadGateway,
        ),
    ]
}

/// Answers `/N` with the bytes of case N, and `/good` well.
async fn serve(mut stream: TcpStream) {
    let cases = cases();
    let mut received = Vec::new();
    loop {
        let (message, used) = match Message::read(&received, Kind::Request) {
            Ok(read) => read,
            Err(Fault::Incomplete) => match stream.read_buf(&mut received).await {
                Ok(1..) => continue,
                _ => return,
            },
            Err(_) => return,
        };
        received.drain(..used);
        let case = message.start[1][1..]
            .parse()
            .ok()
            .and_then(|index: usize| cases.get(index));
        let (bytes, then) = match case {
            Some(case) => (case.bytes.as_slice(), case.then),
            None => (&b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"[..], Stay),
        };
        if stream.write_all(bytes).await.is_err() || then == Close {
            return;
        }
    }
}

async fn play(outbound: SocketAddr, index: usize, case: &Case) {
    let name = case.name;
    let mut stream = TcpStream::connect(outbound).await.unwrap();
    let request = format!(
        "{} /{index} HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n",
        case.method
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answers = Answers::default();
    answers.read(&mut stream, case.method, usize::MAX).await;
    match case.expected {
        Passed(status, content) => {
            let [answer] = &answers.whole[..] else {
                panic!("{name}: {answers:?}")
            };
            assert_eq!(
                (answer.start[1].as_str(), answer.content.as_slice()),
                (status, content.as_bytes()),
                "{name}"
            );
            assert!(answers.rest.is_empty(), "{name}: {answers:?}");
            for (field, value) in &answer.fields {
                let is_close = field == "connection" && value == b"close";
                let is_hop = matches!(field.as_str(), "connection" | "x-hop" | "keep-alive") && !is_close;
                assert!(!field.starts_with("weft-") && !is_hop, "{name}: {field}");
            }
        }
        BadGateway => {
            assert_eq!(answers.statuses(), ["502"], "{name}");
            assert!(
                answers.rest.is_empty() && answers.whole[0].values("weft-error").count() == 1,
                "{name}"
            );
        }
        Cut => {
            let is_passed = answers.statuses().iter().any(|status| *status != "502");
            assert!(!is_passed, "{name}: looks complete: {answers:?}");
            assert!(
                answers.rest.is_empty() || answers.rest.starts_with(b"HTTP/1.1 200 OK\r\n"),
                "{name}"
            );
        }
    }
}

#[tokio::test]
async fn one_well_formed_answer_comes_back_or_a_clean_error() {
    let mut mesh = Mesh::of_web();
    app::serve_with(&mesh.named("web-0"), port::HTTP, |stream, _| serve(stream)).await;
    mesh.start();
    let cases = cases();
    let mut failed = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        crate::case(&mut failed, case.name, play(mesh.outbound(), index, case)).await;
        // What is left of the answer is nobody's: the next requests get their own.
        for _ in 0..2 {
            let answer = get(mesh.outbound(), "web", "/good").await;
            assert_eq!(
                (answer.status.as_u16(), answer.text()),
                (200, "good"),
                "after {}",
                case.name
            );
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
    println!("{} cases", cases.len());
}
