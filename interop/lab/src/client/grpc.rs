//! A gRPC client on HTTP/2 with prior knowledge that shows a call as it is: messages, status, trailers.

use crate::error::{Doing, Error, Result};
use crate::services::grpc::{Deframer, SERVICE, frame};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::unfold;
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Messages that wait between the caller and the connection.
const QUEUE: usize = 16;

/// One HTTP/2 connection.
pub struct Connection {
    authority: String,
    requests: SendRequest<UnsyncBoxBody<Bytes, Infallible>>,
}

/// The sending half of a call; dropping it closes the client's side.
pub struct Sender(mpsc::Sender<Bytes>);

/// The receiving half of a call.
pub struct Receiver {
    answer: Answer,
    deframer: Deframer,
    trailers: Option<HeaderMap>,
}

/// The answer's head may come before or after the caller's first message.
enum Answer {
    Awaited(Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>),
    Came(Box<Response<Incoming>>),
}

/// How a call ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// HTTP's status: 200, or something between here and the application answered.
    pub http_status: StatusCode,
    /// `grpc-status`, from the trailers or from a trailers-only answer; `None` when there was none.
    pub status: Option<u32>,
    /// `grpc-message`, or nothing.
    pub message: String,
    /// The answer's head.
    pub headers: HeaderMap,
    /// The trailers; `None` for a trailers-only answer.
    pub trailers: Option<HeaderMap>,
    /// The messages that were received.
    pub messages: Vec<Bytes>,
}

impl Connection {
    /// Connects to `address` and speaks to `authority`, as in `:authority`.
    ///
    /// # Errors
    /// The connection's, or that the other side does not speak HTTP/2.
    pub async fn open(address: SocketAddr, authority: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .doing(|| format!("connect to {address}"))?;
        let io = TokioIo::new(stream);
        let (requests, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
            .await
            .map_err(protocol)?;
        // Ends with the last handle to it.
        tokio::spawn(driver);
        Ok(Self {
            authority: authority.to_owned(),
            requests,
        })
    }

    /// Begins a call of a method of the lab's service.
    ///
    /// # Errors
    /// That the connection ended before an answer.
    pub async fn call(&mut self, method: &str, fields: HeaderMap) -> Result<(Sender, Receiver)> {
        let (sender, queue) = mpsc::channel(QUEUE);
        let messages = unfold(queue, async |mut queue: mpsc::Receiver<Bytes>| {
            queue.recv().await.map(|message| (message, queue))
        });
        let body = StreamBody::new(messages.map(|message| Ok(Frame::data(frame(&message)))));
        let mut request = Request::post(format!("http://{}/{SERVICE}/{method}", self.authority))
            .body(body.boxed_unsync())
            .map_err(|error| Error::Protocol(error.to_string()))?;
        request.headers_mut().extend(fields);
        request
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        request
            .headers_mut()
            .insert(TE, HeaderValue::from_static("trailers"));
        self.requests.ready().await.map_err(protocol)?;
        let answer = Answer::Awaited(Box::pin(self.requests.send_request(request)));
        Ok((
            Sender(sender),
            Receiver {
                answer,
                deframer: Deframer::default(),
                trailers: None,
            },
        ))
    }

    /// A whole call: sends `messages`, closes, and collects what comes.
    ///
    /// # Errors
    /// That the connection or the call ended without an outcome.
    pub async fn call_with(
        &mut self,
        method: &str,
        fields: HeaderMap,
        messages: Vec<Bytes>,
    ) -> Result<Outcome> {
        let (sender, receiver) = self.call(method, fields).await?;
        let send = async move {
            for message in messages {
                sender.send(message).await?;
            }
            Result::Ok(())
        };
        // A call may end before all is sent; its outcome says so.
        let (_, outcome) = tokio::join!(send, receiver.finish());
        outcome
    }
}

impl Sender {
    /// Sends a message.
    ///
    /// # Errors
    /// That the call has ended.
    pub async fn send(&self, message: impl Into<Bytes>) -> Result<()> {
        let ended = |_| Error::Protocol("the call has ended".to_owned());
        self.0.send(message.into()).await.map_err(ended)
    }
}

impl Receiver {
    /// The answer's head, once it has come.
    ///
    /// # Errors
    /// That the call ended without one.
    pub async fn head(&mut self) -> Result<&HeaderMap> {
        Ok(self.response().await?.headers())
    }

    async fn response(&mut self) -> Result<&mut Response<Incoming>> {
        if let Answer::Awaited(response) = &mut self.answer {
            self.answer = Answer::Came(Box::new(response.await.map_err(protocol)?));
        }
        match &mut self.answer {
            Answer::Came(response) => Ok(response),
            Answer::Awaited(_) => Err(Error::Protocol("no answer".to_owned())),
        }
    }

    /// The next message, or `None` at the end of the call.
    ///
    /// # Errors
    /// That the call was cut off, or its messages are not well formed.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let malformed = |status| Error::Protocol(format!("malformed message (status {status})"));
            if let Some(message) = self.deframer.next_message().map_err(malformed)? {
                return Ok(Some(message));
            }
            let Some(frame) = self.response().await?.body_mut().frame().await else {
                if self.deframer.is_cut_off() {
                    return Err(Error::Protocol("the answer ended within a message".to_owned()));
                }
                return Ok(None);
            };
            match frame.map_err(protocol)?.into_data() {
                Ok(data) => self.deframer.push(&data),
                Err(frame) => self.trailers = frame.into_trailers().ok(),
            }
        }
    }

    /// Collects the rest of the call.
    ///
    /// # Errors
    /// As [`Receiver::next`].
    pub async fn finish(mut self) -> Result<Outcome> {
        let mut messages = Vec::new();
        while let Some(message) = self.next().await? {
            messages.push(message);
        }
        let response = self.response().await?;
        let (http_status, headers) = (response.status(), response.headers().clone());
        let ending = self.trailers.as_ref().unwrap_or(&headers);
        let text = |name| {
            ending
                .get(name)
                .and_then(|value: &HeaderValue| value.to_str().ok())
        };
        Ok(Outcome {
            http_status,
            status: text("grpc-status").and_then(|status| status.parse().ok()),
            message: text("grpc-message").unwrap_or_default().to_owned(),
            headers,
            trailers: self.trailers,
            messages,
        })
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn protocol(error: hyper::Error) -> Error {
    use std::error::Error as _;
    match error.source() {
        Some(source) => Error::Protocol(format!("{error}: {source}")),
        None => Error::Protocol(error.to_string()),
    }
}
