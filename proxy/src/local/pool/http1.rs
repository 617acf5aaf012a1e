//! HTTP/1.1 connections to one application.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::{AppBody, IDLE, IDLE_UNREPEATABLE, UpgradeAnswer};
use crate::local::MAX_HEAD;
use crate::local::connect::Connector;
use crate::local::error::{AppError, AppErrorKind, Processed, ended_early};
use crate::local::io::LocalStream;

/// Idle connections beyond this are closed: an application that has served a burst need not hold its sockets.
const MAX_IDLE: usize = 1_024;

/// How often idle connections are looked through for those that are past their time.
const SWEEP: Duration = Duration::from_millis(500);

/// The idle connections to one application, the longest idle first.
pub(super) struct Idle<B: AppBody> {
    connections: RefCell<VecDeque<Rc<AppConnection<B>>>>,
    sweeping: Cell<bool>,
}

/// One connection. Its task owns it; this is what requests need of it.
struct AppConnection<B: AppBody> {
    stream: Weak<RefCell<LocalStream>>,
    /// Absent once the connection is to close.
    sender: RefCell<Option<SendRequest<B>>>,
    state: Cell<State>,
    /// How long it may be idle.
    limit: Cell<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No request yet.
    New,
    Busy,
    Idle(Instant),
}

/// Why an exchange gave no response, and the request if it was never written.
struct Failed<B> {
    unsent: Option<Request<B>>,
    error: Option<hyper::Error>,
}

/// Whether a request may be sent again after it may have been seen.
enum Repeat {
    /// Its head; the body is empty.
    Head(Box<http::request::Parts>),
    Never,
}

/// Sends a request on an idle connection or a new one.
pub(super) async fn send<B: AppBody>(
    connector: &Connector,
    idle: &Rc<Idle<B>>,
    address: SocketAddr,
    mut request: Request<B>,
) -> Result<Response<Incoming>, AppError> {
    prepare(&mut request);
    let repeatable = is_repeatable(&request);
    while let Some(connection) = idle.take(repeatable) {
        let repeat = if repeatable {
            Repeat::of(&mut request)
        } else {
            Repeat::Never
        };
        match connection.exchange(request).await {
            Ok(response) => return Ok(response),
            // Never written: the connection had ended, and the next one may do.
            Err(Failed {
                unsent: Some(unsent), ..
            }) => request = unsent,
            Err(failed) => match repeat {
                Repeat::Head(head) if failed.error.as_ref().is_some_and(ended_early) => {
                    request = Request::from_parts(*head, B::default());
                    break;
                }
                _ => return Err(failed.into()),
            },
        }
    }
    // Boxed: what is rare must not make the future of every request larger.
    Box::pin(send_fresh(connector, idle, address, request)).await
}

async fn send_fresh<B: AppBody>(
    connector: &Connector,
    idle: &Rc<Idle<B>>,
    address: SocketAddr,
    request: Request<B>,
) -> Result<Response<Incoming>, AppError> {
    let connection = open(idle, connector.connect(address).await?).await?;
    Ok(connection.exchange(request).await?)
}

/// Sends a request that asks for an upgrade.
pub(super) async fn upgrade<B: AppBody>(
    connector: &Connector,
    address: SocketAddr,
    mut request: Request<B>,
) -> Result<UpgradeAnswer, AppError> {
    prepare(&mut request);
    let stream = connector.connect(address).await?;
    let (mut sender, mut connection) = builder()
        .handshake(TokioIo::new(stream))
        .await
        .map_err(AppError::exchange)?;
    let mut response = pin!(sender.try_send_request(request));
    let mut ended = None;
    let response = std::future::poll_fn(|cx| {
        if ended.is_none()
            && let Poll::Ready(result) = connection.poll_without_shutdown(cx)
        {
            ended = Some(result);
        }
        response.as_mut().poll(cx)
    })
    .await
    .map_err(|error| AppError::exchange(error.into_error()))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        if ended.is_none() {
            // Its body is still to come. The sender is dropped with this future, so the task ends with the body.
            tokio::task::spawn_local(connection);
        }
        return Ok(UpgradeAnswer::Declined(response));
    }
    let ended = match ended {
        Some(ended) => ended,
        None => std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await,
    };
    ended.map_err(AppError::exchange)?;
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner();
    stream.unread(parts.read_buf);
    Ok(UpgradeAnswer::Switched(response.into_parts().0, stream))
}

/// Takes over a fresh connection as an idle one.
pub(super) fn adopt<B: AppBody>(idle: &Rc<Idle<B>>, stream: LocalStream) {
    // The handshake of HTTP/1.1 sends nothing, so it never waits. Its task will find the connection done with.
    if let Some(Ok(connection)) = open(idle, stream).now_or_never() {
        connection.state.set(State::Busy);
    }
}

impl<B: AppBody> Default for Idle<B> {
    fn default() -> Self {
        Self {
            connections: RefCell::default(),
            sweeping: Cell::new(false),
        }
    }
}

impl<B: AppBody> Idle<B> {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.connections.borrow().len()
    }

    /// The connection that was used last, if it may carry a request now.
    fn take(&self, repeatable: bool) -> Option<Rc<AppConnection<B>>> {
        let now = Instant::now();
        let mut connections = self.connections.borrow_mut();
        loop {
            let connection = connections.back()?;
            if !repeatable && connection.idle_for(now) >= IDLE_UNREPEATABLE {
                // The others have been idle for longer still; requests that can be repeated may have them.
                return None;
            }
            let connection = connections.pop_back()?;
            if connection.is_usable(now, repeatable) {
                connection.state.set(State::Busy);
                return Some(connection);
            }
            connection.close();
        }
    }

    fn put(self: &Rc<Self>, connection: Rc<AppConnection<B>>) {
        let mut connections = self.connections.borrow_mut();
        if connections.len() >= MAX_IDLE
            && let Some(oldest) = connections.pop_front()
        {
            oldest.close();
        }
        connections.push_back(connection);
        drop(connections);
        if !self.sweeping.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(self)));
        }
    }

    /// Closes the connections that are past their time. Returns whether any are left.
    fn prune(&self, now: Instant) -> bool {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| {
            let keep = connection.is_usable(now, true);
            if !keep {
                connection.close();
            }
            keep
        });
        !connections.is_empty()
    }
}

impl<B: AppBody> Drop for Idle<B> {
    /// Each connection's task holds the connection, so dropping the list alone would close none.
    fn drop(&mut self) {
        for connection in self.connections.get_mut() {
            connection.close();
        }
    }
}

/// Runs while there are idle connections.
async fn sweep<B: AppBody>(idle: Weak<Idle<B>>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(idle) = idle.upgrade() else { return };
        if !idle.prune(Instant::now()) {
            idle.sweeping.set(false);
            return;
        }
    }
}

impl<B: AppBody> AppConnection<B> {
    /// Sends a request and waits for the response's head.
    async fn exchange(&self, request: Request<B>) -> Result<Response<Incoming>, Failed<B>> {
        self.state.set(State::Busy);
        let response = match &mut *self.sender.borrow_mut() {
            Some(sender) => Ok(sender.try_send_request(request)),
            None => Err(Failed {
                unsent: Some(request),
                error: None,
            }),
        };
        match response?.await {
            Ok(response) => {
                self.on_response(&response);
                Ok(response)
            }
            Err(mut error) => Err(Failed {
                unsent: error.take_message(),
                error: Some(error.into_error()),
            }),
        }
    }

    fn on_response(&self, response: &Response<Incoming>) {
        let headers = response.headers();
        // A response with both was framed by its coding, or by someone who sees it differently: whatever follows on
        // the connection is not to be trusted (RFC 9112 section 6.3).
        let ambiguous = headers.contains_key(TRANSFER_ENCODING) && headers.contains_key(CONTENT_LENGTH);
        match keep_alive_timeout(headers) {
            _ if ambiguous => self.limit.set(Duration::ZERO),
            Some(timeout) => self.limit.set(IDLE.min(timeout * 4 / 5)),
            None => {}
        }
    }

    fn idle_for(&self, now: Instant) -> Duration {
        match self.state.get() {
            State::Idle(since) => now.saturating_duration_since(since),
            State::New | State::Busy => Duration::ZERO,
        }
    }

    /// The look at the socket costs a system call; a request that can be repeated does without.
    fn is_usable(&self, now: Instant, repeatable: bool) -> bool {
        self.idle_for(now) < self.limit.get()
            && self
                .sender
                .borrow()
                .as_ref()
                .is_some_and(|sender| !sender.is_closed())
            && (repeatable
                || self
                    .stream
                    .upgrade()
                    .is_some_and(|stream| stream.borrow().is_quiet()))
    }

    /// Puts the connection among the idle ones if hyper has done with its request and response.
    fn check_in(self: &Rc<Self>, idle: &Rc<Idle<B>>) {
        let is_done = self.state.get() == State::Busy
            && self.sender.borrow().as_ref().is_some_and(SendRequest::is_ready);
        if !is_done {
            return;
        }
        if self.limit.get().is_zero() {
            return self.close();
        }
        self.state.set(State::Idle(Instant::now()));
        idle.put(self.clone());
    }

    /// Without a sender hyper ends the connection.
    fn close(&self) {
        self.sender.borrow_mut().take();
    }
}

impl<B> From<Failed<B>> for AppError {
    fn from(failed: Failed<B>) -> Self {
        match (failed.unsent, failed.error) {
            (None, Some(error)) => Self::exchange(error),
            (_, Some(error)) => Self::new(AppErrorKind::Closed, Processed::No).with(error),
            (_, None) => Self::new(AppErrorKind::Closed, Processed::No),
        }
    }
}

impl Repeat {
    /// Keeps the head of a request whose body is empty. It costs about as much as a system call.
    fn of<B>(request: &mut Request<B>) -> Self {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = request.method().clone();
        head.uri = request.uri().clone();
        head.version = request.version();
        head.headers = request.headers().clone();
        Self::Head(Box::new(head))
    }
}

/// Whether a client may send a request twice: it has no body and its method is idempotent (RFC 9110 section 9.2.2).
fn is_repeatable<B: AppBody>(request: &Request<B>) -> bool {
    request.body().is_end_stream() && request.method().is_idempotent()
}

/// The length of the `timeout` parameter.
fn keep_alive_timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("keep-alive")?.to_str().ok()?;
    let mut parameters = value.split(',').filter_map(|parameter| parameter.split_once('='));
    let (_, seconds) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// Gives a request the form of HTTP/1.1.
pub(crate) fn prepare<B: Body>(request: &mut Request<B>) {
    *request.version_mut() = Version::HTTP_11;
    let parts = std::mem::take(request.uri_mut()).into_parts();
    if let Some(host) = parts
        .authority
        .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok())
    {
        request.headers_mut().insert(HOST, host);
    }
    *request.uri_mut() = Uri::from(parts.path_and_query.unwrap_or(PathAndQuery::from_static("/")));
    // hyper sends no body of unknown length with these unless it is told to.
    let bodiless = matches!(*request.method(), Method::GET | Method::HEAD | Method::CONNECT);
    if bodiless
        && !request.body().is_end_stream()
        && request.body().size_hint().exact().is_none()
        && !request.headers().contains_key(CONTENT_LENGTH)
    {
        request
            .headers_mut()
            .insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// As every connection to an application is set up.
pub(crate) fn builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD).max_header_size(MAX_HEAD);
    builder
}

/// Starts HTTP/1.1 on a connection, in a task of its own.
async fn open<B: AppBody>(idle: &Rc<Idle<B>>, stream: LocalStream) -> Result<Rc<AppConnection<B>>, AppError> {
    let stream = Rc::new(RefCell::new(stream));
    let weak = Rc::downgrade(&stream);
    let (sender, connection) = builder()
        .handshake(TokioIo::new(SharedStream(stream)))
        .await
        .map_err(AppError::exchange)?;
    let shared = Rc::new(AppConnection {
        stream: weak,
        sender: RefCell::new(Some(sender)),
        state: Cell::new(State::New),
        limit: Cell::new(IDLE),
    });
    tokio::task::spawn_local(Task {
        connection,
        shared: shared.clone(),
        idle: Rc::downgrade(idle),
    });
    Ok(shared)
}

/// Drives a connection, and puts it back when it is idle.
struct Task<B: AppBody> {
    connection: Connection<TokioIo<SharedStream>, B>,
    shared: Rc<AppConnection<B>>,
    idle: Weak<Idle<B>>,
}

impl<B: AppBody> Future for Task<B> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match Pin::new(&mut self.connection).poll(cx) {
            // How it ended is what its request was told.
            Poll::Ready(_) => {
                self.shared.close();
                Poll::Ready(())
            }
            Poll::Pending => {
                match self.idle.upgrade() {
                    Some(idle) => self.shared.check_in(&idle),
                    None => self.shared.close(),
                }
                Poll::Pending
            }
        }
    }
}

/// A stream that hyper drives and that can be looked at while it is idle.
struct SharedStream(Rc<RefCell<LocalStream>>);

impl AsyncRead for SharedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_read(cx, buffer)
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(cx)
    }
}
