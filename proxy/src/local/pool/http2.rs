//! One HTTP/2 connection to an application, with prior knowledge, for all requests.

use std::cell::RefCell;
use std::error::Error as _;
use std::net::SocketAddr;
use std::rc::Rc;

use http::header::HOST;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;

use super::AppBody;
use crate::local::connect::Connector;
use crate::local::error::{AppError, AppErrorKind, Processed};
use crate::local::{HTTP2_CONNECTION_WINDOW, HTTP2_STREAM_WINDOW, LocalExecutor, MAX_HEAD};

/// How often a request is moved to a new connection because the one at hand had just gone.
const MOVES: usize = 3;

/// The connection to one application. It is replaced when it has gone.
pub(super) struct Slot<B: AppBody>(RefCell<State<B>>);

enum State<B: AppBody> {
    None,
    /// One task connects, however many wait.
    Connecting(Vec<oneshot::Sender<Result<SendRequest<B>, ConnectError>>>),
    Open(SendRequest<B>),
}

/// A connect error that all who waited are told.
#[derive(Debug, Clone)]
struct ConnectError {
    kind: AppErrorKind,
    cause: Rc<str>,
}

impl<B: AppBody> Default for Slot<B> {
    fn default() -> Self {
        Self(RefCell::new(State::None))
    }
}

/// Sends a request on the connection, or on a new one if it has gone.
pub(super) async fn send<B: AppBody>(
    connector: &Connector,
    slot: &Rc<Slot<B>>,
    address: SocketAddr,
    mut request: Request<B>,
) -> Result<Response<Incoming>, AppError> {
    *request.version_mut() = Version::HTTP_2;
    // `:authority` says it, and there is one authority.
    request.headers_mut().remove(HOST);
    for _ in 0..MOVES {
        let mut sender = slot.sender(connector, address).await?;
        let mut error = match sender.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        match error.take_message() {
            Some(unsent) => request = unsent,
            None => return Err(AppError::exchange(error.into_error())),
        }
    }
    Err(AppError::new(AppErrorKind::Closed, Processed::No))
}

impl<B: AppBody> Slot<B> {
    async fn sender(
        self: &Rc<Self>,
        connector: &Connector,
        address: SocketAddr,
    ) -> Result<SendRequest<B>, AppError> {
        let waiting = match self.join() {
            Ok(sender) => return Ok(sender),
            Err((waiting, is_first)) => {
                if is_first {
                    tokio::task::spawn_local(connect(self.clone(), connector.clone(), address));
                }
                waiting
            }
        };
        match waiting.await {
            Ok(Ok(sender)) => Ok(sender),
            Ok(Err(ConnectError { kind, cause })) => Err(AppError::new(kind, Processed::No).with(&*cause)),
            // The connecting task always answers, unless the worker ends.
            Err(_gone) => Err(AppError::new(AppErrorKind::Connect, Processed::No)),
        }
    }

    /// The open connection, or a place among those who wait for one, and whether it is the first.
    #[expect(clippy::type_complexity, reason = "used once, just above")]
    fn join(
        &self,
    ) -> Result<SendRequest<B>, (oneshot::Receiver<Result<SendRequest<B>, ConnectError>>, bool)> {
        let mut state = self.0.borrow_mut();
        match &mut *state {
            State::Open(sender) if !sender.is_closed() => return Ok(sender.clone()),
            State::Connecting(waiting) => {
                let (answer, receiver) = oneshot::channel();
                waiting.push(answer);
                return Err((receiver, false));
            }
            State::None | State::Open(_) => {}
        }
        let (answer, receiver) = oneshot::channel();
        *state = State::Connecting(vec![answer]);
        Err((receiver, true))
    }
}

/// Connects and tells all who wait.
async fn connect<B: AppBody>(slot: Rc<Slot<B>>, connector: Connector, address: SocketAddr) {
    let result = open(&connector, address).await;
    let next = match &result {
        Ok(sender) => State::Open(sender.clone()),
        Err(_) => State::None,
    };
    let State::Connecting(waiting) = slot.0.replace(next) else {
        return;
    };
    let result = result.map_err(|error| ConnectError {
        kind: error.kind,
        cause: error.source().map_or(String::new(), ToString::to_string).into(),
    });
    for answer in waiting {
        // One that waits no longer is no matter.
        let _ = answer.send(result.clone());
    }
}

async fn open<B: AppBody>(connector: &Connector, address: SocketAddr) -> Result<SendRequest<B>, AppError> {
    let stream = connector.connect(address).await?;
    let (sender, connection) = http2::Builder::new(LocalExecutor)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD as u32)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(AppError::exchange)?;
    // It ends with the last sender, or with the connection; its requests are told how.
    tokio::task::spawn_local(connection);
    Ok(sender)
}
