//! The buffers of receive calls.

use std::{
    io::IoSliceMut,
    task::{Context, Poll},
};

use bytes::BytesMut;
use quinn_udp::RecvMeta;

use crate::socket::DatagramSocket;

/// Buffers of one receive call: more than 8 gain nothing, and each is written only when it is used.
const RECEIVE_BATCH: usize = 8;
/// A GRO buffer never exceeds the largest UDP payload.
pub(super) const RECEIVE_BUFFER: usize = 64 << 10;

pub(super) struct ReceiveBuffers {
    storage: Box<[u8]>,
    meta: [RecvMeta; RECEIVE_BATCH],
}

impl ReceiveBuffers {
    pub(super) fn new() -> Self {
        Self {
            storage: vec![0; RECEIVE_BATCH * RECEIVE_BUFFER].into_boxed_slice(),
            meta: [RecvMeta::default(); RECEIVE_BATCH],
        }
    }

    pub(super) fn poll(
        &mut self,
        socket: &mut dyn DatagramSocket,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<usize>> {
        let mut buffers: [IoSliceMut<'_>; RECEIVE_BATCH] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        for (slot, chunk) in buffers.iter_mut().zip(self.storage.chunks_mut(RECEIVE_BUFFER)) {
            *slot = IoSliceMut::new(chunk);
        }
        socket.poll_recv(cx, &mut buffers, &mut self.meta)
    }

    /// Copies buffer `index` out: what streams keep of it must not pin 64 KiB for a hundred bytes.
    pub(super) fn take(&self, index: usize) -> Option<(RecvMeta, BytesMut)> {
        let meta = *self.meta.get(index)?;
        let start = index * RECEIVE_BUFFER;
        let bytes = self.storage.get(start..start + meta.len)?;
        Some((meta, BytesMut::from(bytes)))
    }
}
