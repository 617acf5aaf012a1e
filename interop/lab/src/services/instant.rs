//! An HTTP/1.1 responder so cheap that it is never the bottleneck of a measurement: one task a connection, one
//! read and one write a request, an answer made once.
//!
//! `GET /bytes?n=N` streams `N` bytes of the [`Pattern`]; every other request gets the small answer. Bodies of
//! requests are read and dropped.

use super::{Pattern, accept, small_answer};
use bytes::Bytes;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request head longer than this ends its connection.
const MAX_HEAD: usize = 16 * 1024;

/// More header fields than this end the connection; sidecars add a dozen.
const MAX_FIELDS: usize = 64;

/// Serves small answers in the given name until dropped.
///
/// # Errors
/// Only when the listener fails.
pub async fn serve(listener: TcpListener, name: &str) -> io::Result<()> {
    let body = small_answer(name);
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = Bytes::from([head.as_bytes(), &body].concat());
    accept(listener, |stream, _| {
        let connection = Connection {
            stream,
            buffer: vec![0; MAX_HEAD],
            filled: 0,
            answer: answer.clone(),
        };
        async move {
            // The client's disconnection is the normal end.
            connection.run().await.ok();
        }
    })
    .await
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    filled: usize,
    answer: Bytes,
}

/// What a request asks for.
struct Asked {
    head_len: usize,
    body_len: u64,
    bytes: Option<u64>,
    close: bool,
}

impl Connection {
    async fn run(mut self) -> io::Result<()> {
        loop {
            let Some(asked) = parse(self.buffer.get(..self.filled).unwrap_or_default())? else {
                if !self.fill().await? {
                    return Ok(());
                }
                continue;
            };
            self.buffer.copy_within(asked.head_len..self.filled, 0);
            self.filled -= asked.head_len;
            self.skip(asked.body_len).await?;
            match asked.bytes {
                Some(count) => self.send_bytes(count).await?,
                None => self.stream.write_all(&self.answer).await?,
            }
            if asked.close {
                return self.stream.shutdown().await;
            }
        }
    }

    async fn fill(&mut self) -> io::Result<bool> {
        let free = self.buffer.get_mut(self.filled..).unwrap_or_default();
        if free.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let count = self.stream.read(free).await?;
        self.filled += count;
        Ok(count > 0)
    }

    async fn skip(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            if self.filled == 0 && !self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let skipped = usize::try_from(count).unwrap_or(usize::MAX).min(self.filled);
            self.buffer.copy_within(skipped..self.filled, 0);
            self.filled -= skipped;
            count -= skipped as u64;
        }
        Ok(())
    }

    async fn send_bytes(&mut self, count: u64) -> io::Result<()> {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {count}\r\n\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        let (mut pattern, mut left) = (Pattern::default(), count);
        while left > 0 {
            let piece = pattern.next(left);
            self.stream.write_all(&piece).await?;
            left -= piece.len() as u64;
        }
        Ok(())
    }
}

fn parse(buffer: &[u8]) -> io::Result<Option<Asked>> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
    let httparse::Status::Complete(head_len) = request.parse(buffer).map_err(invalid)? else {
        return Ok(None);
    };
    let mut asked = Asked {
        head_len,
        body_len: 0,
        bytes: None,
        close: false,
    };
    asked.bytes = request
        .path
        .and_then(|path| path.strip_prefix("/bytes?n="))
        .and_then(|n| n.parse().ok());
    for field in request.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(field.value)
                .ok()
                .and_then(|text| text.parse().ok());
            asked.body_len = length.ok_or(io::ErrorKind::InvalidData)?;
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(io::ErrorKind::Unsupported.into());
        } else if field.name.eq_ignore_ascii_case("connection") {
            asked.close = field.value.eq_ignore_ascii_case(b"close");
        }
    }
    Ok(Some(asked))
}
