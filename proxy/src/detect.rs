//! What an application speaks on a connection: HTTP, which is routed by request, or bytes, which are tunnelled.
//!
//! [`Detector`] reads the first bytes that a client sends. [`Detection`] decides for a connection when to read them
//! and when to open a tunnel, since the far side may be the one to speak first (a database's greeting):
//!
//! - A declared protocol decides alone.
//! - Otherwise a tunnel is opened at once, and whichever side speaks first decides. If it is the client, with HTTP,
//!   the tunnel is abandoned; no byte has passed through it.
//! - Where the client was the first to speak the last time, a tunnel is opened only after [`SILENCE`].
//!
//! Both are plain state: they take bytes and events, and do no I/O.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::local::HttpVersion;

/// How long a client that is expected to speak first may be silent before a tunnel is opened for it. A client that
/// speaks first does so in the segment after its handshake; a server's greeting is late by this much.
pub(crate) const SILENCE: Duration = Duration::from_millis(50);

/// How long the first bytes may be the start of an HTTP head and nothing more. Then they are something else.
pub(crate) const HESITATION: Duration = Duration::from_secs(1);

/// The preface of HTTP/2 (RFC 9113 section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest registered method, BASELINE-CONTROL.
const MAX_METHOD: usize = 16;

/// A ClientHello is looked through for its name up to here. With post-quantum keys they have about 2 KiB.
const MAX_HELLO: usize = 16 * 1024;

/// What the first bytes of a client are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// They may become more than one thing.
    More,
    /// A request line.
    Http1,
    /// The preface of HTTP/2.
    Http2,
    /// A TLS ClientHello, and the server name in it, in lower case.
    Tls {
        /// Absent also where the hello is malformed or too large to be looked through.
        sni: Option<String>,
    },
    /// Anything else.
    Opaque,
}

/// Reads the first bytes of a client.
#[derive(Debug, Default)]
pub(crate) struct Detector {
    bytes: BytesMut,
    decided: Option<Verdict>,
}

impl Detector {
    /// Takes the next bytes. The verdict is the same however the bytes are split, and final unless it is
    /// [`Verdict::More`].
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Verdict {
        self.bytes.extend_from_slice(bytes);
        if let Some(verdict) = &self.decided {
            return verdict.clone();
        }
        let verdict = classify(&self.bytes);
        if verdict != Verdict::More {
            self.decided = Some(verdict.clone());
        }
        verdict
    }

    /// Whether no byte has come yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All the bytes taken: they are still to be served.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.bytes.freeze()
    }
}

/// What the configuration says of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Declared {
    /// Nothing: find out.
    Unknown,
    /// HTTP of either version.
    Http,
    /// TLS: the client speaks first, and its server name is worth waiting for.
    Tls,
    /// Bytes.
    Opaque,
}

/// Which side was first to speak on a service's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// The client: HTTP, TLS and most others.
    Client,
    /// The server, with a greeting.
    Server,
}

/// What happened on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event<'b> {
    /// The client sent bytes.
    Client(&'b [u8]),
    /// The client will send no more.
    ClientEnd,
    /// The far side sent its first byte through the tunnel, or ended it.
    Server,
    /// The tunnel could not be opened.
    TunnelFailed,
    /// The time that was asked for has passed.
    Timeout,
}

/// What to do next on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Wait for an event, and if none comes within the time, for [`Event::Timeout`].
    Wait(Option<Duration>),
    /// Open a tunnel, pass nothing through it, and wait as before. It may be abandoned: count and log it only with
    /// [`Step::Tunnel`].
    Open,
    /// Serve HTTP. A tunnel that is open is abandoned.
    Http(HttpVersion),
    /// Tunnel bytes, through the open tunnel if there is one.
    Tunnel {
        /// The server name of a TLS hello.
        sni: Option<String>,
    },
    /// Reset the client: it waits for a server that cannot be reached.
    Fail,
}

/// Decides what one connection carries. Begin with [`Detection::new`], do its step, and tell it each event until it
/// says what to do with the connection.
#[derive(Debug)]
pub(crate) struct Detection {
    detector: Detector,
    state: State,
    first: Option<First>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No tunnel; for a while if the client is likely to speak, or for ever if it is sure to.
    Expecting(Declared),
    /// A tunnel is open or about to be, and nothing has passed.
    Probing,
    /// There can be no tunnel.
    Unreachable,
    Decided,
}

impl Detection {
    /// For a connection to a port that is declared, and that remembers who spoke first the last time.
    pub(crate) fn new(declared: Declared, remembered: Option<First>) -> (Self, Step) {
        let (state, step) = match (declared, remembered) {
            (Declared::Opaque, _) => (State::Decided, Step::Tunnel { sni: None }),
            (Declared::Http | Declared::Tls, _) => (State::Expecting(declared), Step::Wait(None)),
            (Declared::Unknown, Some(First::Client)) => {
                (State::Expecting(declared), Step::Wait(Some(SILENCE)))
            }
            (Declared::Unknown, _) => (State::Probing, Step::Open),
        };
        (
            Self {
                detector: Detector::default(),
                state,
                first: None,
            },
            step,
        )
    }

    /// Takes an event and says what to do next. After the decision it repeats [`Step::Wait`].
    pub(crate) fn on_event(&mut self, event: Event<'_>) -> Step {
        let step = match (self.state, event) {
            (State::Decided, _) => Step::Wait(None),
            (_, Event::Client(bytes)) => {
                self.first.get_or_insert(First::Client);
                self.on_bytes(bytes)
            }
            (State::Expecting(Declared::Http), Event::ClientEnd) => Step::Http(HttpVersion::Http1),
            (_, Event::ClientEnd) => Step::Tunnel { sni: None },
            (_, Event::Server) => {
                self.first.get_or_insert(First::Server);
                Step::Tunnel { sni: None }
            }
            (State::Unreachable, Event::TunnelFailed | Event::Timeout) if self.detector.is_empty() => {
                Step::Fail
            }
            (State::Expecting(_) | State::Probing, Event::TunnelFailed) => {
                self.state = State::Unreachable;
                Step::Wait(Some(SILENCE))
            }
            (State::Expecting(Declared::Unknown), Event::Timeout) if self.detector.is_empty() => {
                self.state = State::Probing;
                Step::Open
            }
            (_, Event::Timeout) if !self.detector.is_empty() => self.on_hesitation(),
            (_, Event::Timeout | Event::TunnelFailed) => Step::Wait(None),
        };
        if matches!(step, Step::Http(_) | Step::Tunnel { .. } | Step::Fail) {
            self.state = State::Decided;
        }
        step
    }

    /// Who spoke first, to be remembered for the port.
    pub(crate) fn first(&self) -> Option<First> {
        self.first
    }

    /// The bytes that the client has sent: they are still to be served.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.detector.into_bytes()
    }

    fn on_bytes(&mut self, bytes: &[u8]) -> Step {
        let declared_http = self.state == State::Expecting(Declared::Http);
        match self.detector.push(bytes) {
            Verdict::More => Step::Wait(Some(HESITATION)),
            Verdict::Http2 => Step::Http(HttpVersion::Http2),
            Verdict::Http1 => Step::Http(HttpVersion::Http1),
            // It gets its 400.
            _ if declared_http => Step::Http(HttpVersion::Http1),
            Verdict::Tls { sni } => Step::Tunnel { sni },
            Verdict::Opaque => Step::Tunnel { sni: None },
        }
    }

    /// The bytes so far might be the start of HTTP, but no more came.
    fn on_hesitation(&self) -> Step {
        match self.state {
            State::Expecting(Declared::Http) => Step::Http(HttpVersion::Http1),
            _ => Step::Tunnel { sni: None },
        }
    }
}

/// The verdict on all bytes so far. For every longer input it is the same, or was [`Verdict::More`].
fn classify(bytes: &[u8]) -> Verdict {
    match bytes.first() {
        None => Verdict::More,
        Some(0x16) => client_hello(bytes),
        Some(_) if bytes.starts_with(HTTP2_PREFACE) => Verdict::Http2,
        Some(_) if HTTP2_PREFACE.starts_with(bytes) => Verdict::More,
        Some(_) => request_line(bytes),
    }
}

/// A method in capitals, a space, and the start of a target (RFC 9112 section 3): a path, an absolute URI, an
/// authority after CONNECT, an asterisk after OPTIONS. That is strict: protocols with similar lines (IRC, NATS, RTSP,
/// SIP, memcached) have other words or other targets, and what is mistaken for bytes still arrives, while what is
/// mistaken for HTTP does not.
fn request_line(bytes: &[u8]) -> Verdict {
    let is_method = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'-';
    let method = bytes.iter().take_while(|byte| is_method(byte)).count();
    let (method, rest) = bytes.split_at(method);
    let target = match rest {
        [] if method.len() <= MAX_METHOD => return Verdict::More,
        [b' ', target @ ..] if (1..=MAX_METHOD).contains(&method.len()) => target,
        _ => return Verdict::Opaque,
    };
    let Some(first) = target.first() else {
        return Verdict::More;
    };
    match (method, first) {
        (b"CONNECT", byte) if byte.is_ascii_alphanumeric() || *byte == b'[' => Verdict::Http1,
        (b"CONNECT" | b"PRI", _) => Verdict::Opaque,
        (_, b'/') => Verdict::Http1,
        (b"OPTIONS", b'*') => options_asterisk(target),
        _ => absolute_uri(target),
    }
}

/// RTSP has this line too, with its own version.
fn options_asterisk(target: &[u8]) -> Verdict {
    prefix(target, b"* HTTP/1.")
}

fn absolute_uri(target: &[u8]) -> Verdict {
    let scheme = target.get(..b"http://".len()).unwrap_or(target);
    prefix(&scheme.to_ascii_lowercase(), b"http://")
}

/// HTTP/1 if `bytes` begin with `expected`, undecided while they may.
fn prefix(bytes: &[u8], expected: &[u8]) -> Verdict {
    match bytes {
        _ if bytes.starts_with(expected) => Verdict::Http1,
        _ if expected.starts_with(bytes) => Verdict::More,
        _ => Verdict::Opaque,
    }
}

/// A TLS handshake record that begins with a ClientHello (RFC 8446 sections 4.1.2 and 5.1). Once it is known to be
/// one it is TLS, whatever follows.
fn client_hello(bytes: &[u8]) -> Verdict {
    for (index, expected) in [|byte| byte == 0x16, |byte| byte == 3, |byte| byte <= 4]
        .iter()
        .enumerate()
    {
        match bytes.get(index) {
            None => return Verdict::More,
            Some(&byte) if !expected(byte) => return Verdict::Opaque,
            Some(_) => {}
        }
    }
    // Type and length of the record, then the type of the message.
    match bytes.get(5) {
        None => return Verdict::More,
        Some(1) => {}
        Some(_) => return Verdict::Opaque,
    }
    match hello_body(bytes) {
        Hello::More if bytes.len() < MAX_HELLO => Verdict::More,
        Hello::Body(body) => Verdict::Tls {
            sni: server_name(&body),
        },
        Hello::More | Hello::Malformed => Verdict::Tls { sni: None },
    }
}

enum Hello {
    More,
    Body(Vec<u8>),
    Malformed,
}

/// Joins the records that a ClientHello is spread over.
fn hello_body(bytes: &[u8]) -> Hello {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        let mut reader = Reader(rest);
        let (Some(header), Some(length)) = (reader.take(3), reader.u16()) else {
            return Hello::More;
        };
        // A record has at most 2^14 bytes, and one of a handshake is never empty.
        if header.first() != Some(&0x16) || length == 0 || length > MAX_HELLO {
            return Hello::Malformed;
        }
        let available = reader.0.len().min(length);
        message.extend_from_slice(reader.take(available).unwrap_or_default());
        // Type and length of the message, then its body.
        let mut body = Reader(&message);
        if let (Some(_), Some(length)) = (body.take(1), body.u24()) {
            if length > MAX_HELLO {
                return Hello::Malformed;
            }
            if let Some(body) = body.take(length) {
                return Hello::Body(body.to_vec());
            }
        }
        if available < length {
            return Hello::More;
        }
        rest = reader.0;
    }
}

/// The name in the `server_name` extension (RFC 6066 section 3), if it is a DNS name.
fn server_name(hello: &[u8]) -> Option<String> {
    let mut reader = Reader(hello);
    // Version and random, then session id, cipher suites and compression methods with their lengths.
    reader.take(34)?;
    let session = reader.u8()?;
    reader.take(session)?;
    let suites = reader.u16()?;
    reader.take(suites)?;
    let compression = reader.u8()?;
    reader.take(compression)?;
    let length = reader.u16()?;
    let mut extensions = Reader(reader.take(length)?);
    loop {
        let (kind, length) = (extensions.u16()?, extensions.u16()?);
        let extension = extensions.take(length)?;
        if kind == 0 {
            let mut names = Reader(extension);
            let (_, kind, length) = (names.u16()?, names.u8()?, names.u16()?);
            return dns_name(names.take(length)?).filter(|_| kind == 0);
        }
    }
}

fn dns_name(name: &[u8]) -> Option<String> {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let is_name = (1..=253).contains(&name.len()) && name.iter().all(is_allowed);
    std::str::from_utf8(name)
        .ok()
        .filter(|_| is_name)
        .map(str::to_ascii_lowercase)
}

/// Reads big-endian numbers and slices, never beyond the end.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, length: usize) -> Option<usize> {
        Some(
            self.take(length)?
                .iter()
                .fold(0, |number, &byte| number << 8 | usize::from(byte)),
        )
    }

    fn u8(&mut self) -> Option<usize> {
        self.number(1)
    }

    fn u16(&mut self) -> Option<usize> {
        self.number(2)
    }

    fn u24(&mut self) -> Option<usize> {
        self.number(3)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn verdict(bytes: &[u8]) -> Verdict {
        Detector::default().push(bytes)
    }

    /// A ClientHello, its message split into records of at most `record` bytes.
    fn hello(sni: Option<&[u8]>, padding: usize, record: usize) -> Vec<u8> {
        let mut extensions = vec![0, 21];
        extensions.extend((padding as u16).to_be_bytes());
        extensions.extend(vec![0; padding]);
        if let Some(name) = sni {
            let length = name.len() as u16;
            extensions.extend([0, 0]);
            extensions.extend((length + 5).to_be_bytes());
            extensions.extend((length + 3).to_be_bytes());
            extensions.push(0);
            extensions.extend(length.to_be_bytes());
            extensions.extend(name);
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let mut message = vec![1, 0];
        message.extend((body.len() as u16).to_be_bytes());
        message.extend(body);
        message
            .chunks(record)
            .flat_map(|chunk| {
                let mut record = vec![0x16, 3, 1];
                record.extend((chunk.len() as u16).to_be_bytes());
                record.extend(chunk);
                record
            })
            .collect()
    }

    fn tls(sni: Option<&str>) -> Verdict {
        Verdict::Tls {
            sni: sni.map(str::to_owned),
        }
    }

    #[test]
    fn request_lines() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "GET /",
            "POST /a?b HTTP/1.0",
            "M-SEARCH /",
            "BASELINE-CONTROL /",
            "CONNECT db:5432",
            "CONNECT [::1]:80",
            "CONNECT 10.0.0.1:80",
            "OPTIONS * HTTP/1.1",
            "GET http://web/",
            "GET HTTP://web/",
            "BASELINE-CONTROL http://",
        ] {
            assert_eq!(verdict(line.as_bytes()), Verdict::Http1, "{line}");
        }
    }

    #[test]
    fn other_lines_are_bytes() {
        for line in [
            "get / HTTP/1.1",
            "PING\r\n",
            "SET key value",
            "get key\r\n",
            "NICK weft\r\n",
            "JOIN #weft\r\n",
            "CONNECT {\"verbose\":false}",
            "CONNECT /",
            "PRI * HTTP/1.1",
            "PRI /",
            "OPTIONS rtsp://camera/",
            "OPTIONS * RTSP/1.0",
            "OPTIONS *\r\n",
            "REGISTER sip:weft",
            "GET ftp://web/",
            "GET https://web/",
            "BASELINE-CONTROLS /",
            " GET /",
            "\r\n",
            "SSH-2.0-OpenSSH",
            "*1\r\n$4\r\nPING\r\n",
            "\0\0\0\x08\x04",
            "\u{80}",
        ] {
            assert_eq!(verdict(line.as_bytes()), Verdict::Opaque, "{line}");
        }
    }

    #[test]
    fn http_is_decided_within_24_bytes() {
        assert_eq!(verdict(HTTP2_PREFACE), Verdict::Http2);
        assert_eq!(verdict(&HTTP2_PREFACE[..23]), Verdict::More);
        assert_eq!(verdict(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r!"), Verdict::Opaque);
        for bytes in [
            "A".repeat(24),
            "BASELINE-CONTROL http:/!".into(),
            "OPTIONS * HTTP/1.1 and mo".into(),
        ] {
            assert_ne!(verdict(&bytes.as_bytes()[..24]), Verdict::More);
        }
    }

    #[test]
    fn the_name_in_a_hello() {
        assert_eq!(
            verdict(&hello(Some(b"Web.Example.com"), 0, 20_000)),
            tls(Some("web.example.com"))
        );
        assert_eq!(
            verdict(&hello(Some(b"web"), 3000, 500)),
            tls(Some("web")),
            "over several records"
        );
        assert_eq!(
            verdict(&hello(Some(b"web"), 10, 1)),
            tls(Some("web")),
            "a byte a record"
        );
        assert_eq!(verdict(&hello(None, 100, 20_000)), tls(None));
        for name in [&b""[..], b"a b", b"\x1b[31m", b"\xff", &[b'a'; 254]] {
            assert_eq!(verdict(&hello(Some(name), 0, 20_000)), tls(None), "{name:?}");
        }
    }

    #[test]
    fn a_hello_that_never_ends_is_still_tls() {
        let mut endless = hello(Some(b"web"), 0, 20_000);
        endless[6..9].copy_from_slice(&[0, 0x3f, 0xff]);
        let mut detector = Detector::default();
        assert_eq!(detector.push(&endless), Verdict::More);
        let mut taken = endless.len();
        while detector.push(&[0x16, 3, 1, 0, 1, 0]) == Verdict::More {
            taken += 6;
            assert!(taken < MAX_HELLO);
        }
        assert_eq!(detector.push(b""), tls(None));
        endless[6] = 1;
        assert_eq!(verdict(&endless), tls(None), "longer than we look");
    }

    #[test]
    fn what_only_looks_like_tls_is_bytes() {
        for bytes in [
            &b"\x16\x02"[..],
            b"\x16\x03\x05",
            b"\x16\x03\x01\x00\x05\x02",
            b"\x17\x03\x03",
            b"\x15\x03\x01",
        ] {
            assert_eq!(verdict(bytes), Verdict::Opaque, "{bytes:?}");
        }
    }

    fn decide(declared: Declared, remembered: Option<First>, events: &[Event<'_>]) -> Vec<Step> {
        let (mut detection, step) = Detection::new(declared, remembered);
        let mut steps = vec![step];
        steps.extend(events.iter().map(|&event| detection.on_event(event)));
        steps
    }

    const BYTES: Step = Step::Tunnel { sni: None };
    const HTTP: Step = Step::Http(HttpVersion::Http1);

    #[test]
    fn a_declared_protocol_needs_no_detection() {
        assert_eq!(decide(Declared::Opaque, None, &[]), [BYTES]);
        let steps = decide(
            Declared::Http,
            Some(First::Server),
            &[Event::Timeout, Event::Client(b"\x16\x03\x01")],
        );
        assert_eq!(
            steps,
            [Step::Wait(None), Step::Wait(None), Step::Wait(Some(HESITATION))]
        );
        assert_eq!(
            decide(Declared::Http, None, &[Event::Client(b"nonsense")])[1],
            HTTP
        );
        assert_eq!(
            decide(Declared::Http, None, &[Event::Client(b"GE"), Event::Timeout])[2],
            HTTP
        );
        assert_eq!(
            decide(Declared::Http, None, &[Event::Client(HTTP2_PREFACE)])[1],
            Step::Http(HttpVersion::Http2)
        );
        let hello = hello(Some(b"web"), 0, 100);
        assert_eq!(
            decide(Declared::Tls, None, &[Event::Client(&hello)])[1],
            Step::Tunnel {
                sni: Some("web".into())
            }
        );
    }

    #[test]
    fn whichever_side_speaks_first_decides() {
        assert_eq!(
            decide(Declared::Unknown, None, &[Event::Server]),
            [Step::Open, BYTES]
        );
        assert_eq!(
            decide(Declared::Unknown, None, &[Event::Client(b"GET /")]),
            [Step::Open, HTTP]
        );
        assert_eq!(
            decide(Declared::Unknown, None, &[Event::Client(b"\0")]),
            [Step::Open, BYTES]
        );
        // A greeting that crosses the start of a line: bytes have passed, so it is a tunnel.
        assert_eq!(
            decide(Declared::Unknown, None, &[Event::Client(b"GE"), Event::Server]),
            [Step::Open, Step::Wait(Some(HESITATION)), BYTES]
        );
        assert_eq!(
            decide(Declared::Unknown, None, &[Event::ClientEnd]),
            [Step::Open, BYTES]
        );
    }

    #[test]
    fn after_client_first_a_tunnel_waits_for_silence() {
        let steps = decide(
            Declared::Unknown,
            Some(First::Client),
            &[Event::Timeout, Event::Server],
        );
        assert_eq!(steps, [Step::Wait(Some(SILENCE)), Step::Open, BYTES]);
        let steps = decide(Declared::Unknown, Some(First::Client), &[Event::Client(b"GET /")]);
        assert_eq!(steps, [Step::Wait(Some(SILENCE)), HTTP], "no tunnel was opened");
        assert_eq!(decide(Declared::Unknown, Some(First::Server), &[])[0], Step::Open);
    }

    #[test]
    fn a_hesitating_client_sends_bytes() {
        let steps = decide(Declared::Unknown, None, &[Event::Client(b"GE"), Event::Timeout]);
        assert_eq!(steps, [Step::Open, Step::Wait(Some(HESITATION)), BYTES]);
    }

    #[test]
    fn without_a_tunnel_the_client_may_still_speak_http() {
        let unknown = |events: &[Event<'_>]| decide(Declared::Unknown, None, events);
        let failed = Event::TunnelFailed;
        assert_eq!(
            unknown(&[failed, Event::Client(b"GET /")]),
            [Step::Open, Step::Wait(Some(SILENCE)), HTTP]
        );
        assert_eq!(
            unknown(&[failed, Event::Client(b"\0")])[2],
            BYTES,
            "opened again, to fail for all to see"
        );
        assert_eq!(unknown(&[failed, Event::Timeout])[2], Step::Fail);
        assert_eq!(unknown(&[Event::Client(b"GE"), failed, Event::Timeout])[3], BYTES);
    }

    #[test]
    fn what_was_spoken_is_remembered_and_the_bytes_are_kept() {
        let (mut detection, _) = Detection::new(Declared::Unknown, None);
        assert_eq!(detection.first(), None);
        detection.on_event(Event::Client(b"GE"));
        detection.on_event(Event::Client(b"T /x"));
        assert_eq!(detection.first(), Some(First::Client));
        assert_eq!(detection.on_event(Event::Server), Step::Wait(None), "decided");
        assert_eq!(detection.into_bytes(), "GET /x");
        let (mut detection, _) = Detection::new(Declared::Unknown, None);
        detection.on_event(Event::Server);
        assert_eq!(detection.first(), Some(First::Server));
    }

    /// Inputs near the borders between verdicts.
    fn input() -> impl Strategy<Value = Vec<u8>> {
        let mutated = prop_oneof![
            Just(hello(Some(b"web.default"), 100, 64)),
            Just(hello(Some(b"web"), 0, 20_000)),
            Just(HTTP2_PREFACE.to_vec()),
            Just(b"OPTIONS * HTTP/1.1\r\n".to_vec()),
            Just(b"GET http://web/ HTTP/1.1\r\n".to_vec()),
            Just(b"CONNECT db:5432 HTTP/1.1\r\n".to_vec()),
            prop::collection::vec(any::<u8>(), 0..64),
        ];
        (
            mutated,
            prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        )
            .prop_map(|(mut bytes, changes)| {
                for (index, byte) in changes {
                    if !bytes.is_empty() {
                        let index = index.index(bytes.len());
                        bytes[index] = byte;
                    }
                }
                bytes
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn any_split_of_the_bytes_gives_the_same_verdict(bytes in input(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let mut detector = Detector::default();
            let (mut from, mut last) = (0, Verdict::More);
            for to in cuts {
                let next = detector.push(&bytes[from..to]);
                prop_assert!(last == Verdict::More || next == last, "a verdict is final");
                (from, last) = (to, next);
            }
            prop_assert_eq!(last, verdict(&bytes));
            prop_assert_eq!(detector.into_bytes(), bytes);
        }

        #[test]
        fn detection_decides_once(
            declared in prop_oneof![Just(Declared::Unknown), Just(Declared::Http), Just(Declared::Tls)],
            remembered in prop_oneof![Just(None), Just(Some(First::Client)), Just(Some(First::Server))],
            events in prop::collection::vec((0..5u8, prop::collection::vec(any::<u8>(), 1..4)), 0..12),
        ) {
            let (mut detection, mut step) = Detection::new(declared, remembered);
            let mut decided = false;
            for (event, bytes) in &events {
                let event = [Event::Client(bytes), Event::ClientEnd, Event::Server, Event::TunnelFailed, Event::Timeout][usize::from(*event)];
                let next = detection.on_event(event);
                prop_assert!(!decided || next == Step::Wait(None));
                prop_assert!(!(step == Step::Open && next == Step::Open), "one tunnel at most");
                decided |= matches!(next, Step::Http(_) | Step::Tunnel { .. } | Step::Fail);
                step = next;
            }
        }
    }
}
