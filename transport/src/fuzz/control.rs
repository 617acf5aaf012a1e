//! A peer's unidirectional streams, and what GOAWAY makes of requests.

use bytes::{Bytes, BytesMut};
use weft_proto::fuzz::Target;

use super::{MEMORY, split};
use crate::h3::control::encode_control_stream;
use crate::h3::goaway::Admission;
use crate::h3::{Code, ControlEvent, ControlIn, GoAwayReceiver, GoAwaySender, H3Error, Role, Settings};

pub(super) const TARGET: Target = Target {
    name: "control",
    body,
    memory: MEMORY,
};

/// As many unidirectional streams as a peer may have open, or so.
const STREAMS: u8 = 8;

fn body(input: &[u8]) {
    let (how, rest) = split(input);
    if how & 2 != 0 {
        return drain(rest);
    }
    let role = if how & 1 == 0 { Role::Client } else { Role::Server };
    let whole = feed(rest, role, usize::MAX);
    assert_eq!(feed(rest, role, 1), whole, "in single bytes");
    let (events, _) = whole;
    check_events(&events, role);
}

/// An input is a sequence of: what to do with which stream, and for data a length and the bytes.
fn feed(input: &[u8], role: Role, size: usize) -> (Vec<ControlEvent>, Result<(), H3Error>) {
    let mut control = ControlIn::new(role);
    let mut events = Vec::new();
    let mut rest = input;
    while let [what, tail @ ..] = rest {
        rest = tail;
        let stream = u64::from(what % STREAMS) * 4 + 3;
        control.on_open(stream);
        let result = match what / STREAMS {
            30 => control.on_end(stream),
            31 => control.on_reset(stream),
            length => {
                // Short pieces have their length here, long ones in the next byte.
                let length = match (length, rest) {
                    (29, [length, tail @ ..]) => {
                        rest = tail;
                        usize::from(*length)
                    }
                    _ => usize::from(length),
                };
                let (data, tail) = rest.split_at(length.min(rest.len()));
                rest = tail;
                data.chunks(size.min(data.len().max(1)))
                    .try_for_each(|piece| control.on_data(stream, Bytes::copy_from_slice(piece), &mut events))
            }
        };
        if let Err(error) = result {
            return (events, Err(error));
        }
    }
    assert_eq!(
        control.has_settings(),
        events
            .iter()
            .any(|event| matches!(event, ControlEvent::Settings(_)))
    );
    (events, Ok(()))
}

/// RFC 9114 sections 5.2, 6.2.1 and 7.2.4.
fn check_events(events: &[ControlEvent], role: Role) {
    let mut settings = None;
    let mut receiver = GoAwayReceiver::default();
    let mut last = None;
    for event in events {
        match event {
            ControlEvent::Settings(read) => {
                assert_eq!(settings.replace(*read), None);
                comes_back(read);
            }
            ControlEvent::GoAway(id) => {
                assert!(settings.is_some() && last.is_none_or(|last| *id <= last));
                last = Some(*id);
                if role == Role::Client {
                    assert_eq!(receiver.on_goaway(*id), Ok(()));
                    assert!(receiver.is_unprocessed(*id));
                    assert!(*id == 0 || !receiver.is_unprocessed(*id - 4));
                }
            }
            ControlEvent::StopStream(stream, code) => {
                assert_eq!((stream % 4, *code), (3, Code::H3_STREAM_CREATION_ERROR));
            }
        }
    }
}

fn comes_back(settings: &Settings) {
    let mut out = BytesMut::new();
    encode_control_stream(settings, 0, &mut out);
    let mut control = ControlIn::new(Role::Client);
    control.on_open(3);
    let mut events = Vec::new();
    assert_eq!(control.on_data(3, out.freeze(), &mut events), Ok(()));
    assert_eq!(events, [ControlEvent::Settings(*settings)]);
}

/// A server takes requests and drains in any order: the client never takes for unprocessed what was taken, and all
/// that was refused it may send again in the end.
fn drain(input: &[u8]) {
    let mut server = GoAwaySender::default();
    let mut client = GoAwayReceiver::default();
    let (mut taken, mut refused) = (Vec::new(), Vec::new());
    for what in input {
        let announced = match what {
            0xff => server.finish(),
            0xfe => server.announce(),
            _ => {
                let stream = u64::from(*what) * 4;
                match server.on_request(stream) {
                    Admission::Accept => taken.push(stream),
                    Admission::Reject => refused.push(stream),
                }
                None
            }
        };
        if let Some(id) = announced {
            assert_eq!(client.on_goaway(id), Ok(()));
        }
        assert_eq!(server.is_draining(), client.is_draining());
        assert!(!taken.iter().any(|stream| client.is_unprocessed(*stream)));
        assert!(refused.iter().all(|stream| client.is_unprocessed(*stream)));
    }
}
