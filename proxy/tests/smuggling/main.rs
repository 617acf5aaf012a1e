//! What leaves a sidecar is one well-formed message or nothing, whatever the applications on either side send.
//!
//! Both sidecars are real processes, and both applications are bare sockets. What leaves is judged by a reader that
//! takes nothing lenient, and by httparse.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests"
)]

#[path = "../common/mod.rs"]
mod common;

mod requests;
mod responses;

use std::{io, panic::AssertUnwindSafe};

use futures_util::FutureExt;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use weft_proxy::fuzz::strict::{Fault, Kind, Message};

/// The answers on a connection, and what is left of its bytes.
#[derive(Debug, Default)]
struct Answers {
    whole: Vec<Message>,
    rest: Vec<u8>,
    /// The connection came to its end.
    ended: bool,
}

impl Answers {
    /// Reads until there are `wanted` final answers, or the end.
    async fn read(&mut self, stream: &mut TcpStream, method: &'static str, wanted: usize) {
        while self.whole.len() < wanted && !self.ended {
            let read = stream.read_buf(&mut self.rest).await;
            self.ended = matches!(read, Ok(0) | Err(_));
            // A response until the end of the connection is whole only then.
            while !self.rest.is_empty() {
                match Message::read(&self.rest, Kind::ResponseTo(method)) {
                    Ok((answer, used)) => {
                        self.rest.drain(..used);
                        if !answer.start[1].starts_with('1') {
                            self.whole.push(answer);
                        }
                    }
                    Err(Fault::Incomplete) => break,
                    Err(fault) => panic!("{fault:?}: {}", String::from_utf8_lossy(&self.rest)),
                }
            }
        }
    }

    fn statuses(&self) -> Vec<&str> {
        self.whole.iter().map(|answer| answer.start[1].as_str()).collect()
    }
}

/// Plays a case of a table; what fails is told in the end, with all others that did.
async fn case(failed: &mut Vec<String>, name: &str, play: impl Future<Output = ()>) {
    if AssertUnwindSafe(common::soon(name, play))
        .catch_unwind()
        .await
        .is_err()
    {
        failed.push(name.to_owned());
    }
}

/// Sends bytes in pieces, as far as they are taken.
async fn send(stream: &mut TcpStream, bytes: &[u8], size: usize) -> io::Result<()> {
    for piece in bytes.chunks(size) {
        stream.write_all(piece).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}
