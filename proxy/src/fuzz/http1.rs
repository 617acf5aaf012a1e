//! An application's HTTP/1.1 connection, from its bytes to what leaves the far sidecar: one well-formed request for
//! each that was understood, or nothing.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use weft_proto::SpiffeId;
use weft_proto::fuzz::{Memory, Target};
use weft_transport::h3::{
    Encoding, FieldLimits, MessageReader, Part, RequestHead, encode_data_header, encode_request,
    encode_trailers,
};

use super::split;
use super::strict::{Fault, Kind, Message};
use crate::forward::{count_hop, mesh_head};
use crate::inbound::{app_uri, set_mesh_fields};
use crate::local::body::RequestBody;
use crate::local::headers::{clean_request, clean_trailers};
use crate::local::target::Target as RequestTarget;
use crate::local::{HttpVersion, pool, server, websocket};
use crate::snapshot::Upstream;

pub(super) const TARGET: Target = Target {
    name: "http1",
    body,
    // Two connections of hyper with their buffers, a few copies of each message.
    memory: Memory {
        floor: 1 << 20,
        per_byte: 64,
    },
};

/// More than most messages, so that hardly anybody waits.
const PIPE: usize = 64 << 10;

fn body(input: &[u8]) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
    }
    let (how, bytes) = split(input);
    RUNTIME.with(|runtime| {
        let understood = runtime.block_on(near(bytes, usize::from(how)));
        compare(bytes, &understood);
        for request in understood.iter().filter(|request| request.is_whole) {
            if let Some(head) = travel(request) {
                let left = runtime.block_on(far(head, request));
                judge(request, &left);
            }
        }
    });
}

/// A request as the near sidecar understood it.
#[derive(Clone, Debug)]
struct Understood {
    method: Method,
    /// As it leaves; absent for what was refused, and for tunnels.
    head: Option<RequestHead>,
    content: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// Its content came to its end.
    is_whole: bool,
}

/// The near sidecar reads what an application sends, in pieces.
async fn near(bytes: &[u8], size: usize) -> Vec<Understood> {
    let (io, application) = tokio::io::duplex(PIPE);
    let understood = Rc::new(RefCell::new(Vec::new()));
    let seen = understood.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let request = understand(RequestBody::new(request)).await;
            let status = match request.head {
                Some(_) => StatusCode::OK,
                None => StatusCode::BAD_REQUEST,
            };
            seen.borrow_mut().push(request);
            Ok::<_, Infallible>(
                Response::builder()
                    .status(status)
                    .body(String::new())
                    .unwrap_or_default(),
            )
        }
    });
    let connection = server::http1_builder().serve_connection(TokioIo::new(io), service);
    let send = async move {
        let (mut reader, mut writer) = tokio::io::split(application);
        for piece in bytes.chunks(if size == 0 { usize::MAX } else { size }) {
            if writer.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        // The answers do not matter here, but they must be read.
        let _ = reader.read_to_end(&mut Vec::new()).await;
    };
    // Time passes at once when nobody has anything to do: a connection that waits for more has had it all.
    let end = tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(connection, send) });
    let _ = end.await;
    understood.take()
}

/// What `forward` makes of a request before it has a backend.
async fn understand(request: Request<RequestBody>) -> Understood {
    let (mut head, mut body) = request.into_parts();
    let mut understood = Understood {
        method: head.method.clone(),
        head: None,
        content: Vec::new(),
        trailers: None,
        is_whole: false,
    };
    let Ok(target) = RequestTarget::read(&head) else {
        return understood;
    };
    let is_tunnel = head.method == Method::CONNECT || !matches!(websocket::handshake(&head), Ok(None));
    if is_tunnel || count_hop(&mut head).is_err() || clean_request(&mut head.headers).is_err() {
        return understood;
    }
    let route = Upstream::External(([10, 0, 0, 1], 80).into());
    understood.head = Some(mesh_head(HttpVersion::Http1, &route, target, head));
    loop {
        match body.frame().await {
            None => {
                understood.is_whole = true;
                return understood;
            }
            Some(Err(_)) => return understood,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => understood.content.extend_from_slice(&data),
                Err(frame) => {
                    understood.trailers = frame.into_trailers().ok().map(|mut trailers| {
                        clean_trailers(&mut trailers);
                        trailers
                    });
                }
            },
        }
    }
}

/// Where the strict reader understands a message too, it is the same one.
fn compare(bytes: &[u8], understood: &[Understood]) {
    let mut rest = bytes;
    for request in understood {
        let (message, used) = match Message::read(rest, Kind::Request) {
            Ok(read) => read,
            Err(Fault::Incomplete) => {
                assert!(
                    !request.is_whole,
                    "what is not all there was taken for whole: {request:?}"
                );
                return;
            }
            Err(Fault::Broken(_)) => return,
        };
        assert_eq!(request.method.as_str(), message.start[0]);
        let Some(head) = &request.head else { return };
        assert!(request.is_whole);
        assert_eq!(request.content, message.content);
        if let Some(path) = head.path.as_ref().filter(|_| message.start[1].starts_with('/')) {
            // A fragment is no part of a target, and `http` leaves it out.
            let target = message.start[1].split('#').next();
            assert_eq!(Some(path.as_str()), target);
        }
        rest = &rest[used..];
    }
}

/// Over the mesh: what one sidecar sends, the other takes, and it is the same.
fn travel(request: &Understood) -> Option<RequestHead> {
    let head = request.head.as_ref()?;
    let mut out = BytesMut::new();
    encode_request(head, Encoding::default(), &mut out).expect("what we accept we can send");
    if !request.content.is_empty() {
        encode_data_header(request.content.len() as u64, &mut out);
        out.extend_from_slice(&request.content);
    }
    if let Some(trailers) = &request.trailers {
        encode_trailers(trailers, Encoding::default(), &mut out).expect("trailers that we can send");
    }
    let mut reader = MessageReader::request(FieldLimits::default());
    reader.push(out.freeze());
    let (mut received, mut content) = (None, Vec::new());
    loop {
        match reader.next() {
            Ok(None) => break,
            Ok(Some(Part::Request(head))) => received = Some(head),
            Ok(Some(Part::Data(piece))) => content.extend_from_slice(&piece),
            Ok(Some(_)) => {}
            // More fields than a sidecar takes: 431.
            Err(error) if error.status() == Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => return None,
            Err(error) => panic!("{error}: {head:?}"),
        }
    }
    reader.finish().expect("a whole message");
    assert_eq!(content, request.content);
    received
}

/// The far sidecar writes the request to its application.
async fn far(mut head: RequestHead, request: &Understood) -> Vec<u8> {
    let caller: SpiffeId = "spiffe://mesh.test/ns/default/sa/web"
        .parse()
        .expect("an identity");
    set_mesh_fields(&mut head.headers, &caller);
    let mut frames: Vec<Result<Frame<Bytes>, Infallible>> = Vec::new();
    if !request.content.is_empty() {
        frames.push(Ok(Frame::data(Bytes::copy_from_slice(&request.content))));
    }
    frames.extend(
        request
            .trailers
            .clone()
            .map(|trailers| Ok(Frame::trailers(trailers))),
    );
    let is_empty = frames.is_empty();
    let content = StreamBody::new(futures_util::stream::iter(frames));
    let content = if is_empty {
        http_body_util::Either::Left(http_body_util::Empty::new())
    } else {
        http_body_util::Either::Right(content)
    };
    let mut sent = Request::new(content);
    *sent.method_mut() = head.method;
    *sent.uri_mut() = app_uri(head.authority, head.path).unwrap_or_else(|_| panic!("a URI"));
    *sent.headers_mut() = head.headers;
    pool::http1::prepare(&mut sent);
    let (io, application) = tokio::io::duplex(PIPE);
    let (mut sender, connection) = pool::http1::builder()
        .handshake(TokioIo::new(io))
        .await
        .expect("no I/O");
    let exchange = async move {
        let answer = sender.send_request(sent).await;
        assert!(answer.is_ok(), "{answer:?}");
        drop((answer, sender));
    };
    let (left, _, ()) = tokio::join!(receive(application), connection, exchange);
    left
}

/// The application behind the far sidecar: takes what comes, and answers when a request is whole.
async fn receive(mut application: DuplexStream) -> Vec<u8> {
    let mut received = Vec::new();
    while let Err(Fault::Incomplete) = Message::read(&received, Kind::Request) {
        if !matches!(application.read_buf(&mut received).await, Ok(1..)) {
            break;
        }
    }
    let _ = application
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .await;
    // Whatever else is sent before the connection ends.
    let _ = application.read_to_end(&mut received).await;
    received
}

/// What left is that request, once, and nothing else.
fn judge(request: &Understood, left: &[u8]) {
    let shown = String::from_utf8_lossy(left);
    let (message, used) = match Message::read(left, Kind::Request) {
        Ok(read) => read,
        Err(fault) => panic!("{fault:?} left: {shown}"),
    };
    assert_eq!(used, left.len(), "something follows: {shown}");
    let head = request.head.as_ref().expect("only what has a head leaves");
    assert_eq!(message.start[0], request.method.as_str());
    assert_eq!(
        Some(message.start[1].as_str()),
        head.path.as_ref().map(|path| path.as_str())
    );
    let hosts: Vec<_> = message.values("host").collect();
    assert_eq!(
        hosts,
        [head.authority.as_ref().expect("an authority").as_str().as_bytes()]
    );
    assert_eq!(message.content, request.content);
    for (name, _) in message.fields.iter().chain(&message.trailers) {
        let is_hop = matches!(
            name.as_str(),
            "connection" | "keep-alive" | "upgrade" | "proxy-connection"
        );
        let is_ours = name.starts_with("weft-") && !matches!(name.as_str(), "weft-caller" | "weft-hops");
        assert!(!is_hop && !is_ours, "{shown}");
    }
    assert_eq!(message.values("weft-caller").count(), 1, "{shown}");
}
