//! A WebSocket client that shows the handshake and every frame.

use crate::error::{Doing, Error, Result};
use crate::services::websocket::{Frame, Opcode, accept_value};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// RFC 6455 section 1.3's example: nothing here depends on its randomness.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Any mask will do; proxies are not to understand it.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A longer head of an answer is none.
const MAX_HEAD: usize = 16 * 1024;

/// An open WebSocket.
pub struct WebSocket {
    stream: BufReader<TcpStream>,
}

/// An answer to the handshake that opens nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Its status, not 101.
    pub status: u16,
    /// Its whole head.
    pub head: String,
}

impl WebSocket {
    /// Connects to `address` and asks `host` for a WebSocket at `path`. A non-101 answer is the inner `Err`.
    ///
    /// # Errors
    /// The connection's, or that an answer with 101 breaks RFC 6455.
    pub async fn open(
        address: SocketAddr,
        host: &str,
        path: &str,
    ) -> Result<std::result::Result<Self, Refusal>> {
        let stream = TcpStream::connect(address)
            .await
            .doing(|| format!("connect to {address}"))?;
        let mut stream = BufReader::new(stream);
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        stream
            .write_all(request.as_bytes())
            .await
            .doing(|| "send the handshake".to_owned())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
            head.push(
                stream
                    .read_u8()
                    .await
                    .doing(|| "read the answer to the handshake".to_owned())?,
            );
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        match status(&head)? {
            (101, Some(accept)) if accept == accept_value(KEY.as_bytes()) => Ok(Ok(Self { stream })),
            (101, _) => Err(Error::Protocol(format!(
                "Sec-WebSocket-Accept is missing or wrong: {text}"
            ))),
            (code, _) => Ok(Err(Refusal {
                status: code,
                head: text,
            })),
        }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The connection's.
    pub async fn send(&mut self, frame: &Frame) -> Result<()> {
        self.stream
            .write_all(&frame.encode(Some(MASK)))
            .await
            .doing(|| "send a frame".to_owned())
    }

    /// The next frame, or `None` when the server closed the connection.
    ///
    /// # Errors
    /// The connection's, or that the frame breaks RFC 6455.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        Frame::read(&mut self.stream)
            .await
            .doing(|| "read a frame".to_owned())
    }

    /// Sends CLOSE and waits for the server's and for the end of the connection.
    ///
    /// # Errors
    /// The connection's, or that something else came.
    pub async fn close(mut self) -> Result<()> {
        self.send(&Frame::whole(Opcode::Close, 1000_u16.to_be_bytes()))
            .await?;
        match (self.next().await?, self.next().await?) {
            (
                Some(Frame {
                    opcode: Opcode::Close,
                    ..
                }),
                None,
            ) => Ok(()),
            other => Err(Error::Protocol(format!(
                "expected CLOSE and the end, got {other:?}"
            ))),
        }
    }
}

fn status(head: &[u8]) -> Result<(u16, Option<String>)> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut fields);
    response
        .parse(head)
        .map_err(|error| Error::Protocol(format!("malformed answer: {error}")))?;
    let accept = response
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("sec-websocket-accept"))
        .map(|field| String::from_utf8_lossy(field.value).into_owned());
    Ok((response.code.unwrap_or_default(), accept))
}
