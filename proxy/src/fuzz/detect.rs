//! What a client's first bytes are, and what becomes of its connection.

use weft_proto::fuzz::{Memory, Target};

use super::split;
use crate::detect::{Declared, Detection, Detector, Event, First, Step, Verdict};
use crate::local::HttpVersion;

pub(super) const TARGET: Target = Target {
    name: "detect",
    body,
    memory: Memory {
        floor: 128 << 10,
        per_byte: 20,
    },
};

fn body(input: &[u8]) {
    let (how, events) = split(input);
    let declared = match how & 3 {
        0 => Declared::Unknown,
        1 => Declared::Http,
        2 => Declared::Tls,
        _ => Declared::Opaque,
    };
    let remembered = match how >> 2 & 3 {
        0 | 3 => None,
        1 => Some(First::Client),
        _ => Some(First::Server),
    };
    let sent = play(declared, remembered, events);
    classify(&sent, usize::from(how >> 4) + 1);
}

/// The verdict is the same for every split, and stays.
fn classify(bytes: &[u8], size: usize) {
    let whole = Detector::default().push(bytes);
    let mut detector = Detector::default();
    let mut last = Verdict::More;
    for piece in bytes.chunks(size) {
        let verdict = detector.push(piece);
        assert!(
            last == Verdict::More || last == verdict,
            "{last:?} became {verdict:?}"
        );
        last = verdict;
    }
    assert_eq!(last, whole, "in pieces of {size}");
    assert_eq!(detector.into_bytes(), bytes);
    match whole {
        Verdict::Http1 => is_request_line(bytes),
        Verdict::Http2 => assert!(bytes.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
        Verdict::Tls { sni } => {
            assert!(bytes.starts_with(&[0x16, 3]));
            if let Some(name) = sni {
                assert!((1..=253).contains(&name.len()) && name == name.to_ascii_lowercase());
                assert!(
                    name.bytes()
                        .all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'@')
                );
            }
        }
        Verdict::More => assert!(bytes.len() <= 16 << 10),
        Verdict::Opaque => {}
    }
}

/// Only what an HTTP server takes for a request line may be given to one.
fn is_request_line(bytes: &[u8]) {
    let space = bytes.iter().position(|byte| *byte == b' ').expect("a space");
    let (method, target) = (&bytes[..space], &bytes[space + 1..]);
    assert!(
        !method.is_empty()
            && method
                .iter()
                .all(|byte| byte.is_ascii_uppercase() || *byte == b'-')
    );
    let is_absolute = target.len() >= 7 && target[..7].eq_ignore_ascii_case(b"http://");
    let is_connect = method == b"CONNECT" && target[0] != b'/';
    assert!(target[0] == b'/' || is_absolute || is_connect || target.starts_with(b"* HTTP/1."));
}

/// Plays the events that can happen, and returns what the client sent before the decision.
fn play(declared: Declared, remembered: Option<First>, events: &[u8]) -> Vec<u8> {
    let (detection, step) = Detection::new(declared, remembered);
    let mut game = Game {
        declared,
        detection,
        sent: Vec::new(),
        has_tunnel: false,
        has_timer: false,
        client_ended: false,
        decided: false,
    };
    game.on_step(&step);
    let mut rest = events;
    while !game.decided
        && let Some((what, tail)) = rest.split_first()
    {
        rest = tail;
        let mut bytes = &[][..];
        if *what < END {
            (bytes, rest) = rest.split_at(usize::from(*what).min(rest.len()));
        }
        if let Some(event) = game.event(*what, bytes) {
            let step = game.detection.on_event(event);
            game.on_step(&step);
        }
    }
    if game.decided {
        // Whatever comes now is not ours to look at.
        assert_eq!(game.detection.on_event(Event::Timeout), Step::Wait(None));
    }
    assert_eq!(
        game.detection.into_bytes(),
        game.sent,
        "every byte is still to be served"
    );
    game.sent
}

/// Events from here on; numbers below are lengths of what the client sends.
const END: u8 = 0xf0;

/// One connection, and what can happen on it.
struct Game {
    declared: Declared,
    detection: Detection,
    sent: Vec<u8>,
    has_tunnel: bool,
    has_timer: bool,
    client_ended: bool,
    decided: bool,
}

impl Game {
    /// The event, unless it cannot be.
    fn event<'a>(&mut self, what: u8, bytes: &'a [u8]) -> Option<Event<'a>> {
        match what {
            END if !self.client_ended => {
                self.client_ended = true;
                Some(Event::ClientEnd)
            }
            0xf1 if self.has_tunnel => Some(Event::Server),
            0xf2 if self.has_tunnel => {
                self.has_tunnel = false;
                Some(Event::TunnelFailed)
            }
            0xf3 if self.has_timer => Some(Event::Timeout),
            ..END if !self.client_ended && !bytes.is_empty() => {
                self.sent.extend_from_slice(bytes);
                Some(Event::Client(bytes))
            }
            _ => None,
        }
    }

    fn on_step(&mut self, step: &Step) {
        match step {
            Step::Wait(time) => self.has_timer = time.is_some(),
            Step::Open => {
                assert!(!self.has_tunnel && self.declared == Declared::Unknown);
                assert!(self.sent.is_empty(), "a tunnel is opened for a client that spoke");
                (self.has_tunnel, self.has_timer) = (true, false);
            }
            decision => {
                self.decided = true;
                is_sound(self.declared, decision, &self.sent);
            }
        }
    }
}

fn is_sound(declared: Declared, step: &Step, sent: &[u8]) {
    match (declared, step) {
        (Declared::Opaque | Declared::Tls, Step::Fail)
        | (Declared::Http, Step::Fail | Step::Tunnel { .. }) => {
            panic!("{declared:?} became {step:?}");
        }
        (Declared::Opaque, Step::Http(_)) => panic!("declared bytes became HTTP"),
        (Declared::Unknown | Declared::Tls, Step::Http(HttpVersion::Http1)) => is_request_line(sent),
        (_, Step::Http(HttpVersion::Http2)) => assert!(sent.starts_with(b"PRI * HTTP/2.0")),
        (_, Step::Fail) => assert!(sent.is_empty(), "a client that spoke is reset"),
        (_, Step::Tunnel { sni: Some(_) }) => assert!(sent.starts_with(&[0x16])),
        _ => {}
    }
}
