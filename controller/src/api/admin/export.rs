//! The store as text, in parts as they are written.

use std::{
    io::{self, Write},
    pin::Pin,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tonic::Status;
use weft_proto::mesh::v1 as mesh;

/// Writes the whole export.
pub type Export = Arc<dyn Fn(&mut dyn Write) -> io::Result<()> + Send + Sync>;

/// The parts of one export.
pub(super) type Parts = Pin<Box<dyn Stream<Item = Result<mesh::ExportPart, Status>> + Send>>;

/// The bytes of a part.
const PART: usize = 64 * 1024;
/// Parts that may wait for a slow reader.
const QUEUE: usize = 4;

/// Writes on a thread of its own, which waits for the reader and ends with it.
pub(super) fn parts(export: Export) -> Parts {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        let mut writer = io::BufWriter::with_capacity(PART, PartWriter(sender.clone()));
        if let Err(error) = export(&mut writer).and_then(|()| writer.flush()) {
            let _ = sender.blocking_send(Err(Status::unavailable(format!(
                "the export was cut short: {error}"
            ))));
        }
    });
    stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    })
    .boxed()
}

struct PartWriter(mpsc::Sender<Result<mesh::ExportPart, Status>>);

impl Write for PartWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = Bytes::copy_from_slice(bytes);
        match self.0.blocking_send(Ok(mesh::ExportPart { part })) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
