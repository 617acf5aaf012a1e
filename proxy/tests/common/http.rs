//! Clients that show an answer as it is.

use std::{convert::Infallible, io, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::soon;

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

/// A connection of one version of HTTP.
pub enum Connection {
    Http1(conn::http1::SendRequest<Body>),
    Http2(conn::http2::SendRequest<Body>),
}

impl Answer {
    /// A field's only value.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().expect("text");
        assert!(values.next().is_none(), "several {name}");
        Some(value)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }
}

impl Connection {
    pub async fn http1(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connect");
        stream.set_nodelay(true).expect("set an option");
        let (sender, connection) = conn::http1::handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/1.1");
        tokio::spawn(connection.with_upgrades());
        Self::Http1(sender)
    }

    pub async fn http2(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("connect");
        let executor = TokioExecutor::new();
        let (sender, connection) = conn::http2::handshake(executor, TokioIo::new(stream))
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        Self::Http2(sender)
    }

    /// Sends a request, and gives the answer with its body to come.
    pub async fn begin(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    /// Sends a request and collects the answer; an error is the connection's.
    pub async fn try_send(&mut self, request: Request<Body>) -> hyper::Result<Answer> {
        let response = self.begin(request).await?;
        let (parts, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned();
        Ok(Answer {
            status: parts.status,
            headers: parts.headers,
            body: collected.to_bytes(),
            trailers,
        })
    }

    pub async fn send(&mut self, request: Request<Body>) -> Answer {
        soon("an answer", self.try_send(request))
            .await
            .expect("an answer")
    }
}

pub fn empty() -> Body {
    Empty::new().boxed_unsync()
}

pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// A body of unknown length: over HTTP/1.1 it is chunked.
pub fn pieces(pieces: Vec<Bytes>, trailers: Option<HeaderMap>) -> Body {
    let data = pieces.into_iter().map(Frame::data);
    let frames: Vec<_> = data.chain(trailers.map(Frame::trailers)).map(Ok).collect();
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

/// One GET on a connection of its own.
pub async fn get(address: SocketAddr, host: &str, path: &str) -> Answer {
    let request = Request::get(path)
        .header("host", host)
        .body(empty())
        .expect("a request");
    Connection::http1(address).await.send(request).await
}

/// Sends bytes and reads to the end of the connection.
pub async fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> String {
    soon("an answer", async {
        let mut stream = TcpStream::connect(address).await.expect("connect");
        stream.write_all(bytes.as_ref()).await.expect("send");
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer).await {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        String::from_utf8_lossy(&answer).into_owned()
    })
    .await
}

/// Reads a head, up to its empty line.
pub async fn read_head(stream: &mut TcpStream) -> String {
    soon("a head", async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(error) => panic!("{error} after {:?}", String::from_utf8_lossy(&head)),
            }
        }
        String::from_utf8(head).expect("text")
    })
    .await
}

/// Expects that a connection, which nobody serves, ends with a reset, however early.
pub async fn assert_reset(address: SocketAddr) {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        ping(&mut stream).await
    };
    assert_is_reset(soon("a reset", exchange).await);
}

/// Sends a byte and reads one.
pub async fn ping(stream: &mut TcpStream) -> io::Result<u8> {
    stream.write_all(b"x").await?;
    stream.read_u8().await
}

/// Expects a reset, of which a write or a read hears first.
pub fn assert_is_reset(exchange: io::Result<u8>) {
    let error = exchange.expect_err("a reset");
    assert!(
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        ),
        "{error}"
    );
}
