//! What a peer with a certificate of the mesh may try on HTTP/3's level.

use std::time::Duration;

use quinn::VarInt;
use rustls::crypto::aws_lc_rs::default_provider;

use crate::{
    common::{
        port,
        raw::{CONTROL, DATA, Ended, HEADERS, RawPeer, SETTINGS, frame, get, headers, varint},
        soon,
    },
    trial::{Attacker, run, trial},
};

/// Codes of RFC 9114 section 8.1.
const H3_EXCESSIVE_LOAD: u64 = 0x107;
const H3_REQUEST_CANCELLED: VarInt = VarInt::from_u32(0x10c);

/// A frame's beginning, of a length that nobody means.
fn endless(kind: u64) -> Vec<u8> {
    [varint(kind), varint(1 << 40)].concat()
}

/// A reserved type, which means nothing (RFC 9114 section 7.2.8).
const GREASE: u64 = 0x21 + 0x1f * 7;
/// PRIORITY_UPDATE (RFC 9218 section 7.2).
const PRIORITY_UPDATE: u64 = 0xf0700;
const MAX_PUSH_ID: u64 = 0xd;

/// Opens requests and gives each up in the way of `give_up`, until the connection is closed or `count` are made.
async fn give_up_each(
    peer: &RawPeer,
    count: usize,
    ends: bool,
    mut give_up: impl FnMut(&mut quinn::SendStream, &mut quinn::RecvStream),
) -> u64 {
    let head = get(port::HTTP, "/slow?ms=100");
    for made in 0..count {
        let Ok((mut send, mut recv)) = peer.connection.open_bi().await else {
            return made as u64;
        };
        if send.write_all(&head).await.is_err() {
            return made as u64;
        }
        if ends {
            let _ = send.finish();
        }
        give_up(&mut send, &mut recv);
    }
    count as u64
}

#[test]
fn rapid_reset() {
    run(trial("rapid reset", Some(H3_EXCESSIVE_LOAD), async |attacker| {
        for _ in 0..attacker.times(2, 20) {
            let peer = attacker.connect().await;
            let _control = peer.control().await;
            attacker.streams += give_up_each(&peer, 100_000, false, |send, recv| {
                let _ = send.reset(H3_REQUEST_CANCELLED);
                let _ = recv.stop(H3_REQUEST_CANCELLED);
            })
            .await;
            attacker.closed(&peer).await;
        }
    }));
}

#[test]
fn stop_sending() {
    run(trial("STOP_SENDING", Some(H3_EXCESSIVE_LOAD), async |attacker| {
        for _ in 0..attacker.times(2, 20) {
            let peer = attacker.connect().await;
            let _control = peer.control().await;
            attacker.streams += give_up_each(&peer, 100_000, true, |_, recv| {
                let _ = recv.stop(H3_REQUEST_CANCELLED);
            })
            .await;
            attacker.closed(&peer).await;
        }
    }));
}

/// A legitimate proxy whose clients go away in storms: it is not cut.
#[test]
fn storms_of_cancelled_requests() {
    run(trial("cancel storms of a good proxy", None, async |attacker| {
        let peer = attacker.connect().await;
        let _control = peer.control().await;
        let head = get(port::HTTP, "/slow?ms=20000");
        for _ in 0..attacker.times(3, 20) {
            let mut streams = Vec::new();
            for _ in 0..600 {
                let (mut send, recv) = soon("a stream", peer.connection.open_bi())
                    .await
                    .expect("a stream");
                send.write_all(&head).await.expect("a write");
                streams.push((send, recv));
            }
            // Those of the storm before may still be on their way out.
            attacker.streams = 1_200;
            // They wait, as requests do whose client then gives up.
            tokio::time::sleep(Duration::from_millis(100)).await;
            for (send, recv) in &mut streams {
                let _ = send.reset(H3_REQUEST_CANCELLED);
                let _ = recv.stop(H3_REQUEST_CANCELLED);
            }
            // Until the next client comes, and goes.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let (mut send, recv) = peer.connection.open_bi().await.expect("a stream");
        send.write_all(&get(port::HTTP, "/")).await.expect("a write");
        let _ = send.finish();
        let answer = soon("an answer", peer.answer(recv)).await;
        assert_eq!(answer.expect("an answer").status, 200);
        attacker.done(&peer);
    }));
}

/// Heads that never become whole end after their 10 seconds; as many streams as are allowed may wait so.
#[test]
fn slow_heads() {
    run(trial("slow heads", None, async |attacker| {
        let peer = attacker.connect().await;
        let _control = peer.control().await;
        let head = get(port::HTTP, "/");
        let mut streams = Vec::new();
        let wanted = attacker.times(300, 10_000);
        while streams.len() < wanted {
            // Allowed streams follow the use; those that are not allowed yet are waited for.
            let (mut send, recv) = soon("a stream", peer.connection.open_bi())
                .await
                .expect("a stream");
            send.write_all(&head[..1]).await.expect("a write");
            streams.push((send, recv));
        }
        attacker.streams = streams.len() as u64;
        let ended = async {
            for (_, recv) in &mut streams {
                match recv.read_chunk(1, true).await {
                    Err(quinn::ReadError::Reset(_)) => {}
                    other => panic!("not reset: {other:?}"),
                }
            }
        };
        soon("the end of every stream", ended).await;
        attacker.done(&peer);
    }));
}

/// Answers that nobody reads: what is held for each is small, however long they are.
#[test]
fn answers_that_are_never_read() {
    run(trial("never-read responses", None, async |attacker| {
        let mut peers = Vec::new();
        for _ in 0..attacker.times(2, 4) {
            let peer = attacker.connect_without_window().await;
            let control = peer.control().await;
            let head = get(port::HTTP, "/bytes?n=4000000");
            let mut streams = Vec::new();
            for _ in 0..attacker.times(100, 1_000) {
                let (mut send, recv) = soon("a stream", peer.connection.open_bi())
                    .await
                    .expect("a stream");
                send.write_all(&head).await.expect("a write");
                let _ = send.finish();
                streams.push((send, recv));
                // Each takes a connection of the application's, whose backlog is not what is tried here.
                if streams.len() % 50 == 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            attacker.streams += streams.len() as u64;
            peers.push((peer, control, streams));
        }
        // As long as answers may come.
        tokio::time::sleep(Duration::from_secs(attacker.times(1, 10) as u64)).await;
        for (peer, ..) in &peers {
            attacker.done(peer);
        }
    }));
}

/// A frame that declares 2^40 bytes, and as much of it as is taken.
async fn pour(send: &mut quinn::SendStream, first: &[u8], limit: usize) {
    if send.write_all(first).await.is_err() {
        return;
    }
    let zeroes = vec![0; 64 << 10];
    for _ in 0..limit / zeroes.len() {
        if send.write_all(&zeroes).await.is_err() {
            return;
        }
    }
}

#[test]
fn frames_of_endless_length() {
    run(trial(
        "frames of 2^40 bytes",
        Some(H3_EXCESSIVE_LOAD),
        async |attacker| {
            let limit = attacker.times(2 << 20, 16 << 20);
            let peer = attacker.connect().await;
            let mut control = peer.connection.open_uni().await.expect("a stream");
            pour(
                &mut control,
                &[varint(CONTROL), endless(SETTINGS)].concat(),
                limit,
            )
            .await;
            attacker.closed(&peer).await;
            let peer = attacker.connect().await;
            let mut control = peer.control().await;
            pour(&mut control, &endless(GREASE), limit).await;
            attacker.closed(&peer).await;
        },
    ));
}

/// What may be of any length is not kept: unknown frames on request streams, and streams of unknown types.
#[test]
fn unknown_frames_of_endless_length() {
    run(trial("unknown frames of 2^40 bytes", None, async |attacker| {
        let peer = attacker.connect().await;
        let _control = peer.control().await;
        let limit = attacker.times(2 << 20, 16 << 20);
        // HEADERS of such a length are too large, which is that stream's fault alone.
        let (mut send, recv) = peer.connection.open_bi().await.expect("a stream");
        pour(&mut send, &endless(HEADERS), limit).await;
        let answer = soon("an answer", peer.answer(recv)).await;
        assert!(matches!(&answer, Ok(head) if head.status == 431), "{answer:?}");
        let (mut send, _recv) = peer.connection.open_bi().await.expect("a stream");
        pour(&mut send, &endless(GREASE), limit).await;
        let (mut send, _recv) = peer.connection.open_bi().await.expect("a stream");
        pour(
            &mut send,
            &[get(port::HTTP, "/digest"), endless(GREASE)].concat(),
            limit,
        )
        .await;
        let mut unknown = peer.connection.open_uni().await.expect("a stream");
        pour(&mut unknown, &varint(0x21 + 0x1f * 9), limit).await;
        attacker.streams = 4;
        attacker.done(&peer);
    }));
}

/// Heads and trailers beyond the caps are answered with 431 or reset, one by one; a flood of them is an overload.
#[test]
fn fields_too_large_or_too_many() {
    const TOO_LARGE: u16 = 431;
    run(trial(
        "fields too large or too many",
        Some(H3_EXCESSIVE_LOAD),
        async |attacker| {
            let peer = attacker.connect().await;
            let _control = peer.control().await;
            let port = port::HTTP.to_string();
            let base: [(&str, &[u8]); 5] = [
                (":method", b"GET"),
                (":scheme", b"http"),
                (":authority", b"web"),
                (":path", b"/"),
                ("weft-port", port.as_bytes()),
            ];
            let with = |name: &'static str, value: Vec<u8>, count: usize| {
                let more = vec![(name, value); count];
                let fields: Vec<(&str, &[u8])> = base
                    .iter()
                    .copied()
                    .chain(more.iter().map(|(name, value)| (*name, value.as_slice())))
                    .collect();
                headers(&fields)
            };
            let bombs = [
                with("x", b"y".to_vec(), 1_000),
                with("cookie", b"a=b".to_vec(), 1_000),
                with("x-long", vec![b'v'; 40_000], 1),
            ];
            for bomb in &bombs {
                let (mut send, recv) = peer.connection.open_bi().await.expect("a stream");
                let _ = send.write_all(bomb).await;
                let answer = soon("an answer", peer.answer(recv)).await;
                assert!(
                    matches!(&answer, Ok(head) if head.status == TOO_LARGE)
                        || matches!(answer, Err(Ended::Reset(_))),
                    "{answer:?}"
                );
            }
            // Trailers.
            let (mut send, recv) = peer.connection.open_bi().await.expect("a stream");
            let mut message = headers(
                &[
                    &[(":method", &b"POST"[..])],
                    &base[1..3],
                    &[(":path", &b"/slow?ms=5000"[..])],
                    &base[4..],
                ]
                .concat(),
            );
            message.extend(frame(DATA, b"content"));
            message.extend(headers(&vec![("x", &b"y"[..]); 1_000]));
            let _ = send.write_all(&message).await;
            match soon("the end", peer.answer(recv)).await {
                Err(Ended::Reset(_)) => {}
                Ok(head) if head.status != 200 => {}
                other => panic!("{other:?}"),
            }
            // As many as it takes.
            attacker.streams = 3_000;
            for _ in 0..3_000 {
                let Ok((mut send, _recv)) = peer.connection.open_bi().await else {
                    break;
                };
                if send.write_all(&bombs[0]).await.is_err() {
                    break;
                }
            }
            attacker.closed(&peer).await;
        },
    ));
}

#[test]
fn empty_data_frames() {
    run(trial(
        "empty DATA frames",
        Some(H3_EXCESSIVE_LOAD),
        async |attacker| {
            let peer = attacker.connect().await;
            let _control = peer.control().await;
            let (mut send, _recv) = peer.connection.open_bi().await.expect("a stream");
            let empty = frame(DATA, b"").repeat(10_000);
            let _ = send
                .write_all(&[get(port::HTTP, "/digest"), empty].concat())
                .await;
            attacker.streams = 1;
            attacker.closed(&peer).await;
        },
    ));
}

/// Legal, and what interactive programs do; it must not cost more than it is worth.
#[test]
fn data_frames_of_one_byte() {
    run(trial("DATA frames of one byte", None, async |attacker| {
        let peer = attacker.connect().await;
        let _control = peer.control().await;
        let port = port::HTTP.to_string();
        let head = headers(&[
            (":method", b"POST"),
            (":scheme", b"http"),
            (":authority", b"web"),
            (":path", b"/digest"),
            ("weft-port", port.as_bytes()),
        ]);
        let (mut send, recv) = peer.connection.open_bi().await.expect("a stream");
        send.write_all(&head).await.expect("a write");
        let bytes = frame(DATA, b"x").repeat(10_000);
        for _ in 0..attacker.times(10, 560) {
            send.write_all(&bytes).await.expect("a write");
        }
        let _ = send.finish();
        attacker.streams = 1;
        let answer = soon("an answer", peer.answer(recv)).await;
        assert_eq!(answer.expect("an answer").status, 200);
        attacker.done(&peer);
    }));
}

/// Frames and streams that mean nothing, each in its own connection.
#[test]
fn useless_frames() {
    run(trial(
        "useless frames and streams",
        Some(H3_EXCESSIVE_LOAD),
        async |attacker| {
            for kind in [GREASE, PRIORITY_UPDATE] {
                let peer = attacker.connect().await;
                let mut control = peer.control().await;
                let frames = frame(kind, b"\0u=1").repeat(20_000);
                let _ = control.write_all(&frames).await;
                attacker.closed(&peer).await;
            }
            let peer = attacker.connect().await;
            let mut control = peer.control().await;
            for id in 0..20_000_u64 {
                if control.write_all(&frame(MAX_PUSH_ID, &varint(id))).await.is_err() {
                    break;
                }
            }
            attacker.closed(&peer).await;
            // Streams that end before or after they say what they are.
            for first in [&b""[..], &[0x40, 0x21]] {
                let peer = attacker.connect().await;
                let _control = peer.control().await;
                while let Ok(mut stream) = peer.connection.open_uni().await {
                    let _ = stream.write_all(first).await;
                    let _ = stream.finish();
                }
                attacker.closed(&peer).await;
            }
            // QPACK's streams.
            for (kind, byte) in [(2, 0x20), (3, 0x40)] {
                let peer = attacker.connect().await;
                let _control = peer.control().await;
                let mut stream = peer.connection.open_uni().await.expect("a stream");
                let _ = stream
                    .write_all(&[vec![kind], vec![byte; 100_000]].concat())
                    .await;
                attacker.closed(&peer).await;
            }
        },
    ));
}

impl Attacker {
    async fn connect_without_window(&mut self) -> RawPeer {
        self.connections += 1;
        let endpoint = RawPeer::endpoint_with(&self.directory, "mallory", default_provider(), |transport| {
            transport.stream_receive_window(VarInt::from_u32(1));
        });
        let connecting = endpoint
            .connect(self.web.at(15_008), "weft.invalid")
            .expect("a connection");
        let connection = soon("a handshake", connecting).await.expect("a handshake");
        RawPeer { connection, endpoint }
    }
}
