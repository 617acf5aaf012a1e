//! TCP applications: one for each way in which a tunnel can be wrong about opaque bytes.

use super::accept;
use super::breaker::reset_on_close;
use aws_lc_rs::digest::{Context, SHA256};
use std::fmt::Write as _;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const BUFFER: usize = 64 * 1024;

/// Sends back what it receives; after the client's FIN it sends the rest, then its own.
///
/// # Errors
/// Only when the listener fails.
pub async fn echo(listener: TcpListener) -> io::Result<()> {
    accept(listener, |stream, _| async move {
        echo_one(stream).await.ok();
    })
    .await
}

/// Speaks first: sends [`banner`], then is an [`echo`].
///
/// # Errors
/// Only when the listener fails.
pub async fn greeter(listener: TcpListener, name: &str) -> io::Result<()> {
    let banner = banner(name);
    accept(listener, |mut stream, _| {
        let banner = banner.clone();
        async move {
            if stream.write_all(banner.as_bytes()).await.is_ok() {
                echo_one(stream).await.ok();
            }
        }
    })
    .await
}

/// The line that a [`greeter`] sends first.
pub fn banner(name: &str) -> String {
    format!("220 {name} ready\r\n")
}

/// Reads until the client's FIN, then answers with [`receipt`] and ends: the answer comes only where half-close works.
///
/// # Errors
/// Only when the listener fails.
pub async fn sink(listener: TcpListener) -> io::Result<()> {
    accept(listener, |mut stream, _| async move {
        let (mut receipt, mut buffer) = (Receipt::default(), vec![0; BUFFER]);
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) => break,
                Ok(count) => receipt.add(buffer.get(..count).unwrap_or_default()),
                Err(_) => return,
            }
        }
        stream.write_all(receipt.finish().as_bytes()).await.ok();
        stream.shutdown().await.ok();
    })
    .await
}

/// What a [`sink`] answers to `bytes`: their count and SHA-256, as `COUNT HEX\n`.
pub fn receipt(bytes: &[u8]) -> String {
    let mut receipt = Receipt::default();
    receipt.add(bytes);
    receipt.finish()
}

/// Reads one byte, then resets the connection (RST, no FIN).
///
/// # Errors
/// Only when the listener fails.
pub async fn resetter(listener: TcpListener) -> io::Result<()> {
    accept(listener, |mut stream, _| async move {
        stream.read_u8().await.ok();
        reset_on_close(&stream);
    })
    .await
}

async fn echo_one(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(buffer.get(..count).unwrap_or_default()).await?;
    }
}

/// The running count and digest of received bytes.
pub(super) struct Receipt {
    count: u64,
    digest: Context,
}

impl Default for Receipt {
    fn default() -> Self {
        Self {
            count: 0,
            digest: Context::new(&SHA256),
        }
    }
}

impl Receipt {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.count += bytes.len() as u64;
        self.digest.update(bytes);
    }

    pub(super) fn finish(self) -> String {
        let mut line = format!("{} ", self.count);
        for byte in self.digest.finish().as_ref() {
            // Writing to a String cannot fail.
            let _ = write!(line, "{byte:02x}");
        }
        line.push('\n');
        line
    }
}
