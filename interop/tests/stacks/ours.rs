//! Our ends: a listener with the service that every server here offers, and a pool.

use std::{cell::RefCell, future::poll_fn, net::SocketAddr, rc::Rc, sync::Arc};

use bytes::Bytes;
use http::{Method, StatusCode, uri};
use tokio::sync::mpsc;
use weft_transport::{
    Config, DialFailure, EndpointState, Error, ErrorKind, Incoming, Listener, ListenerOptions, Lost, PeerKey,
    Pool, PoolOptions, Processed, RecvStream, RequestStream, SendStream, TransportStats,
    credentials::Credentials,
    h3::{Code, Protocol, RequestHead, ResponseHead},
};

use crate::{
    call::{Call, Content, End, Gate, Midway, Outcome, Seen, Then, pattern, to_fields, to_headers},
    place::Identity,
};

/// How much content is handed over at once.
const PIECE: usize = 100_000;

/// Our listener.
pub(crate) struct Server {
    listener: RefCell<Option<Listener>>,
    pub(crate) address: SocketAddr,
    pub(crate) seen: mpsc::UnboundedReceiver<Seen>,
    pub(crate) gate: Rc<Gate>,
}

pub(crate) fn credentials(identity: &Identity) -> Credentials {
    let (chain, key) = identity.authority.issue(identity.account).unwrap();
    let bundle = identity.believes.as_bytes();
    Credentials::from_pem(chain.as_bytes(), key.as_bytes(), bundle).unwrap()
}

impl Server {
    pub(crate) fn listen(identity: &Identity) -> Self {
        let (saw, seen) = mpsc::unbounded_channel();
        let gate = Gate::new();
        let passing = gate.clone();
        let options = ListenerOptions {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            worker: 0,
            workers: 1,
            mark: None,
        };
        let listener = Listener::bind(
            &options,
            Arc::new(Config::default()),
            &EndpointState::ephemeral().unwrap(),
            &credentials(identity),
            Arc::default(),
            move |incoming| {
                let (saw, gate) = (saw.clone(), passing.clone());
                tokio::task::spawn_local(async move {
                    let caller = incoming.caller.to_string();
                    let mut target = String::new();
                    let result = serve(incoming, &gate, &mut target).await;
                    let end = result.map_or_else(|error| end_of(&error), |()| End::Complete);
                    let _ = saw.send(Seen { caller, target, end });
                });
            },
        );
        let listener = listener.unwrap();
        Self {
            address: listener.local_addr(),
            listener: RefCell::new(Some(listener)),
            seen,
            gate,
        }
    }

    /// Says GOAWAY, and takes no more.
    pub(crate) fn go_away(&self) {
        let mut listener = self.listener.take().unwrap();
        tokio::task::spawn_local(async move { listener.drain().await });
    }
}

async fn serve(incoming: Incoming, gate: &Gate, target: &mut String) -> Result<(), Error> {
    let mut stream = incoming.stream;
    let head = match stream.request_head().await {
        Ok(head) => head,
        Err(error) => {
            if matches!(error.kind(), ErrorKind::TooLarge) {
                let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                stream.send.queue_response(&ResponseHead::new(status))?;
                stream.send.queue_end()?;
                stream.send.flush().await?;
            }
            return Err(error);
        }
    };
    *target = match &head.path {
        Some(path) => path.to_string(),
        None => head
            .authority
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
    };
    match target.as_str() {
        "/refused" => {
            stream.reject();
            return Ok(());
        }
        "/denied" => return deny(stream.send).await,
        _ => {}
    }
    stream.mark_processed();
    if head.is_connect() {
        return echo(stream).await;
    }
    match target.as_str() {
        "/echo" => return echo(stream).await,
        "/endless" => return endless(stream).await,
        "/half" => {
            respond(&mut stream.send, StatusCode::OK, &[])?;
            stream.send.queue_data(pattern(1_000))?;
            stream.send.flush().await?;
            gate.pass().await;
            // The stream is dropped unfinished.
            return Ok(());
        }
        "/hold" => {
            respond(&mut stream.send, StatusCode::OK, &[])?;
            stream.send.flush().await?;
            gate.pass().await;
            stream.send.queue_data(Bytes::from_static(b"released"))?;
        }
        "/early" => {
            stream.recv.stop(Code::H3_NO_ERROR);
            respond(&mut stream.send, StatusCode::OK, &[])?;
            stream.send.queue_data(Bytes::from_static(b"early"))?;
        }
        target => answer(&mut stream.send, &head.method, target)?,
    }
    stream.send.queue_end()?;
    stream.send.flush().await
}

/// Answers for the application, which never sees the request, and reads no more of it.
async fn deny(mut send: SendStream) -> Result<(), Error> {
    respond(&mut send, StatusCode::FORBIDDEN, &[])?;
    send.queue_data(Bytes::from_static(b"denied"))?;
    send.queue_end()?;
    send.flush().await
}

/// Answers that are ready at once.
fn answer(send: &mut SendStream, method: &Method, target: &str) -> Result<(), Error> {
    match target {
        "/hello" | "/interim" => {
            if target == "/interim" {
                respond(
                    send,
                    StatusCode::EARLY_HINTS,
                    &[("link", "</style>; rel=preload")],
                )?;
            }
            respond(send, StatusCode::OK, &[("content-length", "5")])?;
            if *method != Method::HEAD {
                send.queue_data(Bytes::from_static(b"hello"))?;
            }
            Ok(())
        }
        "/empty" => respond(send, StatusCode::NO_CONTENT, &[("etag", "\"1\"")]),
        "/unchanged" => respond(
            send,
            StatusCode::NOT_MODIFIED,
            &[("etag", "\"1\""), ("content-length", "5")],
        ),
        _ => respond(send, StatusCode::NOT_FOUND, &[]),
    }
}

fn respond(send: &mut SendStream, status: StatusCode, headers: &[(&str, &str)]) -> Result<(), Error> {
    let mut head = ResponseHead::new(status);
    let fields = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    head.headers = to_headers(&fields.collect());
    send.queue_response(&head)
}

async fn echo(mut stream: RequestStream) -> Result<(), Error> {
    respond(&mut stream.send, StatusCode::OK, &[])?;
    stream.send.flush().await?;
    while let Some(data) = poll_fn(|cx| stream.recv.poll_data(cx)).await? {
        stream.send.queue_data(data)?;
        stream.send.flush().await?;
    }
    if let Some(trailers) = stream.recv.trailers() {
        stream.send.queue_trailers(&trailers)?;
    }
    stream.send.queue_end()?;
    stream.send.flush().await
}

async fn endless(mut stream: RequestStream) -> Result<(), Error> {
    respond(&mut stream.send, StatusCode::OK, &[])?;
    loop {
        stream.send.queue_data(pattern(PIECE))?;
        stream.send.flush().await?;
    }
}

/// Our pool, and the peer that it calls.
pub(crate) struct Client {
    pool: Pool,
    peer: PeerKey,
    stats: Arc<TransportStats>,
}

impl Client {
    pub(crate) fn dial(identity: &Identity, address: SocketAddr, peer: &str) -> Self {
        let stats = Arc::<TransportStats>::default();
        let pool = Pool::new(
            &PoolOptions::default(),
            Arc::new(Config::default()),
            &EndpointState::ephemeral().unwrap(),
            Arc::new(credentials(identity)),
            stats.clone(),
        );
        let peer = PeerKey {
            uid: "default/server".into(),
            address,
            identity: peer.parse().unwrap(),
        };
        Self {
            pool: pool.unwrap(),
            peer,
            stats,
        }
    }

    /// How many connections it has made.
    pub(crate) fn connections(&self) -> u64 {
        self.stats.handshakes.get()
    }

    pub(crate) async fn call(&self, call: Call) -> Outcome {
        assert_eq!(call.midway, Midway::Nothing, "ours does nothing of the kind");
        let mut outcome = Outcome::default();
        outcome.end = match self.exchange(&call, &mut outcome).await {
            Ok(end) => end,
            Err(error) => end_of(&error),
        };
        outcome
    }

    async fn exchange(&self, call: &Call, outcome: &mut Outcome) -> Result<End, Error> {
        let RequestStream { mut send, mut recv } = {
            let mut stream = self.pool.stream(&self.peer).await?;
            stream.queue_request(&head_of(call))?;
            stream
        };
        if call.method == "CONNECT" {
            send.flush().await?;
            read_head(&mut recv, outcome).await?;
        }
        if call.then == Then::CancelUpload {
            upload(&mut send, call).await?;
            read_head(&mut recv, outcome).await?;
            send.reset(Code::H3_REQUEST_CANCELLED);
            return Ok(End::Cancelled);
        }
        let mut read = Outcome::default();
        let (sent, received) = tokio::join!(upload(&mut send, call), async {
            if call.method != "CONNECT" {
                read_head(&mut recv, &mut read).await?;
            }
            download(&mut recv, call, &mut read).await
        });
        if let Err(error) = sent {
            match error.kind() {
                ErrorKind::Reset(code) => read.stopped = Some(code.value()),
                _ => received.as_ref().map(drop).map_err(Clone::clone)?,
            }
        }
        if call.method == "CONNECT" {
            (read.status, read.headers) = (outcome.status, std::mem::take(&mut outcome.headers));
        }
        *outcome = read;
        received
    }
}

fn head_of(call: &Call) -> RequestHead {
    let mut head = if call.is_plain_connect() {
        RequestHead::connect(call.target.parse().unwrap())
    } else {
        RequestHead::new(
            call.method.parse().unwrap(),
            uri::Scheme::HTTPS,
            uri::Authority::from_static("server"),
            call.target.parse().unwrap(),
        )
    };
    head.protocol = call.protocol.map(|_| Protocol::WebSocket);
    head.headers = to_headers(&call.headers);
    head
}

async fn upload(send: &mut SendStream, call: &Call) -> Result<(), Error> {
    let content = pattern(call.content);
    for start in (0..content.len()).step_by(PIECE) {
        send.queue_data(content.slice(start..content.len().min(start + PIECE)))?;
        send.flush().await?;
    }
    match call.then {
        Then::CancelUpload => return Ok(()),
        Then::SendUntilStopped => loop {
            send.queue_data(pattern(PIECE))?;
            send.flush().await?;
        },
        Then::Finish | Then::CancelDownload => {}
    }
    if !call.trailers.is_empty() {
        send.queue_trailers(&to_headers(&call.trailers))?;
    }
    send.queue_end()?;
    send.flush().await
}

async fn read_head(recv: &mut RecvStream, outcome: &mut Outcome) -> Result<(), Error> {
    loop {
        let head = recv.response_head().await?;
        if !head.is_interim() {
            outcome.status = Some(head.status.as_u16());
            outcome.headers = to_fields(&head.headers);
            return Ok(());
        }
        outcome.interim.push(head.status.as_u16());
    }
}

async fn download(recv: &mut RecvStream, call: &Call, outcome: &mut Outcome) -> Result<End, Error> {
    let mut content = Content::new();
    let end = loop {
        match poll_fn(|cx| recv.poll_data(cx)).await {
            Ok(Some(data)) => content.push(&data),
            Ok(None) => break Ok(End::Complete),
            Err(error) => break Err(error),
        }
        if call.then == Then::CancelDownload {
            recv.stop(Code::H3_REQUEST_CANCELLED);
            break Ok(End::Cancelled);
        }
    };
    content.tell(outcome);
    if let Some(trailers) = recv.trailers() {
        outcome.trailers = to_fields(&trailers);
    }
    end
}

fn end_of(error: &Error) -> End {
    match error.kind() {
        ErrorKind::GoAway => End::Unprocessed,
        ErrorKind::Reset(code) => {
            let is_proof = *code == Code::H3_REQUEST_REJECTED;
            assert_eq!(is_proof, error.processed() == Processed::No, "{error:?}");
            End::Reset(Some(code.value()))
        }
        ErrorKind::Malformed(_) => End::Malformed,
        ErrorKind::TooLarge => End::TooLarge,
        ErrorKind::Dial(DialFailure::PeerRefused(_)) => End::PeerRefused,
        // RFC 9001 section 4.8.
        ErrorKind::Dial(DialFailure::Alert(alert)) => End::Closed(Some(0x100 + u64::from(*alert))),
        ErrorKind::Lost(Lost::PeerClosed(code)) => End::Closed(Some(code.value())),
        ErrorKind::Lost(Lost::Transport(code)) => End::Closed(Some(*code)),
        _ => End::Closed(None),
    }
}
