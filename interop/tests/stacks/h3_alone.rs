//! What can be tried with h3 on quinn alone: it lets requests out that other stacks do not make, and gives the bare
//! QUIC connection.

use crate::{
    call::{Call, End},
    place::{Client, Direction, Link, Place, Stack},
    run,
};

const LISTEN: Place = Place {
    stack: Stack::H3Quinn,
    direction: Direction::Listen,
};

#[test]
fn malformed_requests_end_their_streams_alone() {
    run(|| async {
        let mut link = LISTEN.link().await;
        for (name, value) in [
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip"),
            ("content-length", "+5"),
        ] {
            let outcome = link.call(Call::get("/hello").header(name, value)).await;
            // An answer of REQUEST_REJECTED would send it to the next endpoint.
            outcome.assert_reset(0x10e);
            let seen = link.seen().await;
            assert_eq!(
                (seen.target.as_str(), seen.end),
                ("", End::Malformed),
                "the application must not see {name}: {value}"
            );
        }
        link.assert_well().await;
    });
}

/// A HEADERS frame of a terabyte, on a bare QUIC stream.
#[test]
fn an_endless_frame_is_not_buffered() {
    run(|| async {
        let link: Link = LISTEN.link().await;
        let Client::H3Quinn(client) = &link.client else {
            unreachable!("h3 dials here")
        };
        let connection = client.connection.as_ref().unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        let mut head = vec![0x01, 0xc0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff];
        head.resize(20_000, 0);
        let mut sent = 0usize;
        let stopped = loop {
            match send.write(&head).await {
                Ok(written) => sent += written,
                Err(error) => break error,
            }
            assert!(sent < 4 << 20, "it is being buffered");
        };
        assert!(matches!(stopped, quinn::WriteError::Stopped(_)), "{stopped:?}");
        // The answer is 431, and whole.
        assert!(!recv.read_to_end(100).await.unwrap().is_empty());
        link.assert_well().await;
    });
}
