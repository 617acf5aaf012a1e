//! Example applications. Each is a future that serves a listener until it is dropped, connections included.
//!
//! Bind the listener yourself (port 0 for a test), read its address, then spawn the service. A program that
//! serves one of them is `weft-lab services NAME --listen ADDRESS`.

mod breaker;
pub mod counts;
pub mod faults;
pub mod grpc;
pub mod http;
pub mod instant;
pub mod tcp;
pub mod websocket;

use bytes::Bytes;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The size of a [`small_answer`]: like that of a small JSON document, and of the peers' measurements.
pub const SMALL_ANSWER_LEN: usize = 200;

/// The body of a service's `/`: its name, padded to [`SMALL_ANSWER_LEN`] bytes.
pub fn small_answer(name: &str) -> Bytes {
    let greeting = format!("{name} says hello. ");
    let mut body = greeting.into_bytes();
    let padded = body.len().max(SMALL_ANSWER_LEN - 1);
    body.resize(padded, b'.');
    body.push(b'\n');
    Bytes::from(body)
}

/// Bytes of a known content for large bodies: byte `i` of a body is `i mod 251`. 251 is prime, so that a block
/// lost, doubled or swapped shows, whatever power of two its size is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pattern {
    offset: u64,
}

/// The period of the [`Pattern`].
const PATTERN_PERIOD: usize = 251;

/// The longest piece of the [`Pattern`] that [`Pattern::next`] gives at once.
const PATTERN_PIECE: usize = 256 * 1024;

static PATTERN: LazyLock<Bytes> = LazyLock::new(|| {
    let byte = |index: usize| u8::try_from(index % PATTERN_PERIOD).unwrap_or_default();
    (0..PATTERN_PIECE + PATTERN_PERIOD)
        .map(byte)
        .collect::<Vec<_>>()
        .into()
});

impl Pattern {
    /// The next at most `limit` bytes, without copying.
    pub fn next(&mut self, limit: u64) -> Bytes {
        let length = usize::try_from(limit).unwrap_or(usize::MAX).min(PATTERN_PIECE);
        let start = self.phase();
        self.offset += length as u64;
        PATTERN.slice(start..start + length)
    }

    /// Whether `bytes` go on where the last ones ended.
    #[must_use]
    pub fn matches(&mut self, bytes: &[u8]) -> bool {
        bytes
            .chunks(PATTERN_PIECE)
            .all(|piece| *piece == self.next(piece.len() as u64))
    }

    fn phase(self) -> usize {
        usize::try_from(self.offset % PATTERN_PERIOD as u64).unwrap_or_default()
    }
}

/// Accepts connections and serves each in a task of its own; ends only with an error of the listener.
async fn accept<F, Fut>(listener: TcpListener, mut serve: F) -> io::Result<()>
where
    F: FnMut(TcpStream, SocketAddr) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    /// Long enough for a connection to end when file descriptors have run out.
    const EXHAUSTED: Duration = Duration::from_millis(20);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    stream.set_nodelay(true).ok();
                    connections.spawn(serve(stream, peer));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if is_exhaustion(&error) => tokio::time::sleep(EXHAUSTED).await,
                Err(error) => return Err(error),
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_answers_are_of_one_size() {
        assert_eq!(small_answer("web").len(), SMALL_ANSWER_LEN);
        assert_eq!(small_answer("a-rather-long-name").len(), SMALL_ANSWER_LEN);
        assert_ne!(small_answer("web"), small_answer("db"));
        let long = "x".repeat(500);
        assert!(small_answer(&long).starts_with(long.as_bytes()));
    }

    #[test]
    fn the_pattern_goes_on_over_pieces_of_any_size() {
        let mut made = Vec::new();
        let mut pattern = Pattern::default();
        for limit in [1, 250, 251, 252, 65_536, u64::MAX, 7] {
            made.extend_from_slice(&pattern.next(limit));
        }
        assert!(
            made.iter()
                .enumerate()
                .all(|(index, byte)| usize::from(*byte) == index % 251)
        );
        assert!(Pattern::default().matches(&made));
    }

    #[test]
    fn the_pattern_shows_a_swap_of_blocks() {
        let mut pattern = Pattern::default();
        let (first, second) = (pattern.next(65_536), pattern.next(65_536));
        let mut check = Pattern::default();
        assert!(check.matches(&first));
        assert!(check.matches(&second));
        assert!(!Pattern::default().matches(&second));
    }
}
