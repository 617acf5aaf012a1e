//! The cases. Each runs against every stack and in both directions: a case says what must be true of any client and
//! any server, and asks which is ours only where the two differ in what they can be made to do.
//!
//! What a stack can't do, or does wrong, stands beside the case. A fault that is no longer there fails the test.

use std::pin::Pin;

use crate::{
    call::{Call, End, Midway, Then, pattern},
    place::{Client, Direction, GoAway, Identity, Link, Place, Stack},
};
use Direction::{Dial, Listen};
use Exception::{Cannot, Known};
use Stack::{Aioquic, Envoy, H3Quinn};

const H3_NO_ERROR: u64 = 0x100;
const H3_INTERNAL_ERROR: u64 = 0x102;
const H3_REQUEST_REJECTED: u64 = 0x10b;
const H3_REQUEST_CANCELLED: u64 = 0x10c;
const H3_MESSAGE_ERROR: u64 = 0x10e;

/// A row of the table.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) run: fn(Place) -> Pin<Box<dyn Future<Output = ()>>>,
    pub(crate) exceptions: &'static [(Stack, Direction, Exception)],
}

/// Why a case is not like the others in one place.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Exception {
    /// The other side is at fault. The case fails, and says this.
    Known {
        fault: &'static str,
        shows: &'static str,
    },
    /// The other side, or ours, has no means to try it.
    Cannot(&'static str),
}

macro_rules! cases {
    ($($name:ident: $title:literal $(, $stack:ident $direction:ident: $exception:expr)*;)+) => {
        pub(crate) const CASES: &[Case] = &[$(
            Case {
                name: stringify!($name),
                title: $title,
                run: |place| Box::pin($name(place)),
                exceptions: &[$(($stack, $direction, $exception)),*],
            },
        )+];
    };
}

const ENVOY_IS_STRICT: Exception = Cannot("Envoy refuses it from its own application");
const ENVOY_CANCELS_WRONGLY: Exception = Known {
    fault: "cancels with H3_REQUEST_REJECTED, which a client must not (RFC 9114 section 4.1.1)",
    shows: "Reset(Some(267))",
};

cases! {
    identity: "GET; the application learns the caller's SPIFFE ID";
    post: "POST with a body";
    large_bodies: "16 MiB up and down at once";
    many_requests: "300 requests at once";
    trailers: "Trailers both ways";
    no_content: "HEAD, 204 and 304 without content",
        Aioquic Listen: Known {
            fault: "closes the connection when a response to HEAD has content-length (RFC 9114 section 4.1.2)",
            shows: "Closed(Some(270))",
        };
    interim: "103 before the response",
        H3Quinn Listen: Known {
            fault: "takes an interim response for the final one (RFC 9114 section 4.1)",
            shows: "not 200",
        };
    cancelled_download: "The client cancels a download",
        Envoy Listen: ENVOY_CANCELS_WRONGLY;
    cancelled_upload: "The client cancels an upload",
        Envoy Listen: ENVOY_CANCELS_WRONGLY;
    refused: "The server refuses a request as unprocessed";
    cut_short: "The server aborts: no half body passes for a whole one",
        Envoy Dial: Known {
            fault: "aborts a response that it has begun with H3_REQUEST_REJECTED, as if the request were \
                    unprocessed (RFC 9114 section 4.1.1)",
            shows: "Reset(Some(267))",
        };
    early_answer: "An answer before the request is read";
    content_length: "A content-length that lies",
        Envoy Dial: ENVOY_IS_STRICT, Envoy Listen: ENVOY_IS_STRICT;
    goaway: "GOAWAY: what was taken is finished",
        H3Quinn Dial: Known {
            fault: "its GOAWAY leaves out the last request that it took (RFC 9114 section 5.2)",
            shows: "Unprocessed",
        };
    goaway_excludes: "GOAWAY: what it leaves out is unprocessed",
        Envoy Dial: Cannot("Envoy never leaves out a request that came");
    connect: "CONNECT",
        H3Quinn Listen: Known {
            fault: "sends CONNECT with :scheme and :path (RFC 9114 section 4.4)",
            shows: "Reset(Some(270))",
        };
    extended_connect: "Extended CONNECT (WebSocket)",
        H3Quinn Dial: Cannot("h3 knows no :protocol but webtransport and connect-udp"),
        H3Quinn Listen: Cannot("h3 knows no :protocol but webtransport and connect-udp");
    large_head: "A head of 50 KB is refused, alone";
    empty_data: "An empty DATA frame",
        Envoy Dial: Cannot("Envoy sends none"), Envoy Listen: Cannot("Envoy sends none");
    unknown_frames: "Unknown frames, streams and settings",
        Envoy Dial: Cannot("Envoy sends none"), Envoy Listen: Cannot("Envoy sends none");
    no_certificate: "A client without a certificate is refused",
        H3Quinn Dial: Cannot("ours always has one"),
        Aioquic Dial: Cannot("ours always has one"),
        Envoy Dial: Cannot("ours always has one");
    stranger_calls: "A client of another trust domain is refused",
        Aioquic Dial: Cannot("aioquic's server checks no client certificate");
    stranger_serves: "A server of another trust domain is refused",
        Aioquic Listen: Cannot("aioquic's client insists on a host name, or checks nothing");
    key_update: "Key update by the other side",
        Envoy Dial: Cannot("Envoy has no means to ask for one"),
        Envoy Listen: Cannot("Envoy has no means to ask for one");
    rebind: "The client's port changes on the way",
        H3Quinn Dial: Cannot("ours: see the lab's tests of migration"),
        Aioquic Dial: Cannot("ours: see the lab's tests of migration"),
        Envoy Dial: Cannot("ours: see the lab's tests of migration"),
        Envoy Listen: Cannot("Envoy has no means to ask for one");
}

async fn identity(place: Place) {
    let mut link = place.link().await;
    let outcome = link.call(Call::get("/hello")).await;
    outcome.assert_is(200, b"hello");
    assert_eq!(outcome.headers["content-length"], "5");
    let seen = link.seen().await;
    assert_eq!(
        (seen.caller.as_str(), seen.target.as_str(), seen.end),
        (
            "spiffe://example.org/ns/default/sa/client",
            "/hello",
            End::Complete
        )
    );
    let nowhere = link.call(Call::get("/nowhere")).await;
    nowhere.assert_is(404, b"");
    link.assert_well().await;
}

async fn post(place: Place) {
    let link = place.link().await;
    let outcome = link.call(Call::post("/echo", 1_000)).await;
    outcome.assert_is(200, &pattern(1_000));
    link.call(Call::post("/echo", 0)).await.assert_is(200, b"");
    link.assert_well().await;
}

async fn large_bodies(place: Place) {
    let link = place.link().await;
    let outcome = link.call(Call::post("/echo", 16 << 20)).await;
    outcome.assert_is(200, &pattern(16 << 20));
    link.assert_well().await;
}

/// More than either side allows at once: quinn 100, aioquic 128, ours 256 at first.
async fn many_requests(place: Place) {
    let link = place.link().await;
    let calls = (0..300).map(|_| link.call(Call::get("/hello")));
    for outcome in futures_util::future::join_all(calls).await {
        outcome.assert_is(200, b"hello");
    }
    link.assert_well().await;
}

async fn trailers(place: Place) {
    let link = place.link().await;
    let call = Call::post("/echo", 10).header("te", "trailers");
    let outcome = link
        .call(call.trailer("grpc-status", "0").trailer("checksum", "abc"))
        .await;
    outcome.assert_is(200, &pattern(10));
    let trailers: Vec<_> = outcome
        .trailers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    assert_eq!(trailers, [("checksum", "abc"), ("grpc-status", "0")]);
    link.assert_well().await;
}

async fn no_content(place: Place) {
    let link = place.link().await;
    let head = link.call(Call::new("HEAD", "/hello")).await;
    head.assert_is(200, b"");
    assert_eq!(head.headers["content-length"], "5");
    for (target, status) in [("/empty", 204), ("/unchanged", 304)] {
        let outcome = link.call(Call::get(target)).await;
        outcome.assert_is(status, b"");
        assert_eq!(outcome.headers["etag"], "\"1\"");
    }
    link.assert_well().await;
}

async fn interim(place: Place) {
    let link = place.link().await;
    let outcome = link.call(Call::get("/interim")).await;
    outcome.assert_is(200, b"hello");
    assert_eq!(outcome.interim, [103]);
    link.assert_well().await;
}

async fn cancelled_download(place: Place) {
    let mut link = place.link().await;
    let outcome = link.call(Call::get("/endless").then(Then::CancelDownload)).await;
    assert_eq!(outcome.end, End::Cancelled, "{outcome:?}");
    assert_cancelled(&mut link, "/endless").await;
}

async fn cancelled_upload(place: Place) {
    let mut link = place.link().await;
    let outcome = link
        .call(Call::post("/echo", 1_000).then(Then::CancelUpload))
        .await;
    assert_eq!(outcome.end, End::Cancelled, "{outcome:?}");
    assert_cancelled(&mut link, "/echo").await;
}

/// The application learns that its caller has cancelled, and the connection goes on.
async fn assert_cancelled(link: &mut Link, target: &str) {
    let seen = link.seen().await;
    assert_eq!(seen.target, target);
    let is_right = match seen.end {
        End::Reset(code) => code.is_none_or(|code| code == H3_REQUEST_CANCELLED),
        _ => false,
    };
    assert!(is_right, "{seen:?}");
    link.assert_well().await;
}

async fn refused(place: Place) {
    let link = place.link().await;
    let outcome = link.call(Call::get("/refused")).await;
    if place
        == (Place {
            stack: Envoy,
            direction: Dial,
        })
    {
        // Its application's refusal is Envoy's own answer.
        assert_eq!((outcome.end, outcome.status), (End::Complete, Some(503)));
    } else {
        outcome.assert_reset(H3_REQUEST_REJECTED);
    }
    link.assert_well().await;
}

async fn cut_short(place: Place) {
    let link = place.link().await;
    link.assert_well().await;
    let (half, ()) = tokio::join!(link.call(Call::get("/half")), async {
        // What was sent before this answer has come before it.
        link.assert_well().await;
        link.release().await;
    });
    half.assert_reset(H3_INTERNAL_ERROR);
    assert_eq!((half.status, half.length), (Some(200), 1_000));
    link.assert_well().await;
}

async fn early_answer(place: Place) {
    let link = place.link().await;
    for (target, status) in [("/early", 200), ("/denied", 403)] {
        let call = Call::post(target, 0).then(Then::SendUntilStopped);
        let outcome = link.call(call).await;
        outcome.assert_is(status, &target.as_bytes()[1..]);
        assert_eq!(outcome.stopped, Some(H3_NO_ERROR), "{outcome:?}");
    }
    link.assert_well().await;
}

/// In requests to us, and in responses to us: ours sends none.
async fn content_length(place: Place) {
    let mut link = place.link().await;
    for (target, length) in [("/short", 9), ("/long", 11)] {
        if place.direction == Dial {
            let outcome = link.call(Call::get(target)).await;
            assert_eq!(outcome.end, End::Malformed, "{target}: {outcome:?}");
            continue;
        }
        let call = Call::post("/echo", length).header("content-length", "10");
        let outcome = link.call(call).await;
        outcome.assert_reset(H3_MESSAGE_ERROR);
        let seen = link.seen().await;
        assert_eq!(seen.end, End::Malformed, "{length}: {seen:?}");
    }
    link.assert_well().await;
}

async fn goaway(place: Place) {
    let link = place.link().await;
    link.assert_well().await;
    let held = async {
        let outcome = link.call(Call::get("/hold")).await;
        outcome.assert_is(200, b"released");
    };
    let goes_away = async {
        link.someone_waits().await;
        link.go_away(GoAway::NewOnes).await;
        match &link.client {
            Client::Aioquic(client) => {
                assert_eq!(client.goaway().await, 8, "the first that is not taken");
            }
            // No request is lost on the way to the next connection.
            Client::Ours(client) => {
                while client.connections() < 2 {
                    let outcome = link.call(Call::get("/hello")).await;
                    if outcome.end != End::Unprocessed {
                        outcome.assert_is(200, b"hello");
                    }
                }
            }
            Client::H3Quinn(_) | Client::Envoy(_) => {}
        }
        link.release().await;
    };
    tokio::join!(held, goes_away);
}

async fn goaway_excludes(place: Place) {
    let link = place.link().await;
    if place.direction == Listen {
        return assert_late_is_unprocessed(link).await;
    }
    link.assert_well().await;
    let (held, ()) = tokio::join!(link.call(Call::get("/hold")), async {
        link.someone_waits().await;
        link.go_away(GoAway::TheLast).await;
    });
    assert_eq!(held.end, End::Unprocessed, "{held:?}");
}

/// Ours goes away: each later request is either answered or neither seen by the application nor lost.
async fn assert_late_is_unprocessed(mut link: Link) {
    let (held, (answered, late)) = tokio::join!(link.call(Call::get("/hold")), async {
        link.someone_waits().await;
        link.go_away(GoAway::NewOnes).await;
        let mut answered = 0;
        let late = loop {
            let late = link.call(Call::get("/hello")).await;
            if late.end != End::Complete {
                break late;
            }
            answered += 1;
        };
        link.release().await;
        (answered, late)
    });
    held.assert_is(200, b"released");
    // h3 heeds the GOAWAY; aioquic knows none, and Envoy dials again.
    if late.end != End::Unprocessed {
        late.assert_reset(H3_REQUEST_REJECTED);
    }
    for _ in 0..answered {
        assert_eq!(link.seen().await.target, "/hello");
    }
    assert_eq!(link.seen().await.target, "/hold");
    link.assert_unseen();
}

async fn connect(place: Place) {
    let mut link = place.link().await;
    let mut call = Call::new("CONNECT", "db.example:5432");
    call.content = 100_000;
    link.call(call).await.assert_is(200, &pattern(100_000));
    assert_eq!(link.seen().await.target, "db.example:5432");
    link.assert_well().await;
}

async fn extended_connect(place: Place) {
    let mut link = place.link().await;
    // Both sides' settings are known after a request.
    link.assert_well().await;
    link.seen().await;
    let mut call = Call::new("CONNECT", "/chat");
    call.protocol = Some("websocket");
    call.content = 100_000;
    link.call(call).await.assert_is(200, &pattern(100_000));
    assert_eq!(link.seen().await.target, "/chat");
    link.assert_well().await;
}

async fn large_head(place: Place) {
    let mut link = place.link().await;
    link.assert_well().await;
    link.seen().await;
    if place.direction == Dial {
        let outcome = link.call(Call::get("/large-head")).await;
        // h3 knows our limit and heeds it.
        if outcome.end != End::TooLarge {
            assert_eq!(link.seen().await.end, End::TooLarge, "{outcome:?}");
        }
    } else {
        let large = "x".repeat(50_000);
        let outcome = link.call(Call::get("/hello").header("x-large", &large)).await;
        // As h3 does here.
        if outcome.end != End::TooLarge {
            outcome.assert_is(431, b"");
            // Not an error: the answer is to be read.
            assert!(
                outcome.stopped.is_none_or(|code| code == H3_NO_ERROR),
                "{outcome:?}"
            );
        }
    }
    link.assert_well().await;
}

async fn empty_data(place: Place) {
    midway(place, Midway::EmptyData, "/empty-data").await;
}

async fn unknown_frames(place: Place) {
    midway(place, Midway::UnknownFrame, "/unknown-frame").await;
}

async fn key_update(place: Place) {
    midway(place, Midway::KeyUpdate, "/key-update").await;
}

async fn rebind(place: Place) {
    midway(place, Midway::Rebind, "").await;
}

/// What the other side does in the midst of its message: of the request, or of the response to `target`.
async fn midway(place: Place, midway: Midway, target: &str) {
    let link = place.link().await;
    for _ in 0..3 {
        if place.direction == Dial {
            link.call(Call::get(target)).await.assert_is(200, b"hello");
        } else {
            let outcome = link.call(Call::post("/echo", 100_000).midway(midway)).await;
            outcome.assert_is(200, &pattern(100_000));
        }
    }
    link.assert_well().await;
}

async fn no_certificate(place: Place) {
    let mesh = Identity::of_mesh("example.org");
    let client = Identity {
        shows: false,
        ..mesh("client")
    };
    assert_refused(place.link_of(&client, &mesh("server")).await).await;
}

async fn stranger_calls(place: Place) {
    let server = Identity::of_mesh("example.org")("server");
    let mut client = stranger(place.direction == Dial)("client");
    // It would go on: it knows the server's authority.
    client.believes += server.authority.pem();
    assert_refused(place.link_of(&client, &server).await).await;
}

async fn stranger_serves(place: Place) {
    let client = Identity::of_mesh("example.org")("client");
    let mut server = stranger(place.direction == Listen)("server");
    server.believes += client.authority.pem();
    assert_refused(place.link_of(&client, &server).await).await;
}

/// Another trust domain; if it is to be ours, which believes no foreign authority, one that only calls itself by
/// the same name.
fn stranger(is_ours: bool) -> impl Fn(&'static str) -> Identity {
    Identity::of_mesh(if is_ours {
        "example.org"
    } else {
        "stranger.example"
    })
}

/// No connection comes about, and the application is not called.
async fn assert_refused(mut link: Link) {
    let outcome = link.call(Call::get("/hello")).await;
    match (&outcome.end, link.place.stack, link.place.direction) {
        (End::PeerRefused, ..) => {}
        // A TLS alert (RFC 9001 section 4.8); Envoy tells its client of a failure alone.
        (End::Closed(Some(code)), ..) if code & !0xff == 0x100 => {}
        (End::Reset(None), Envoy, Listen) => {}
        _ => panic!("not refused: {outcome:?}"),
    }
    link.assert_unseen();
}
