//! HTTP/3 without I/O (RFC 9114, static QPACK of RFC 9204, extended CONNECT of RFC 9220).
//!
//! Bytes go in, frames and validated heads come out, and the reverse; nothing here waits, spawns or knows a
//! socket. The whole of what a peer can say is checked here, before anything else sees it, and each rule that it
//! can break is a variant of [`H3Error`] with its code and scope.
//!
//! - A request stream, receiving: [`MessageReader`], which joins [`FrameDecoder`], the
//!   heads' decoders, [`MessageState`] and [`BodyLength`].
//! - A request stream, sending: [`encode_request`], [`encode_response`], [`encode_trailers`] append whole HEADERS
//!   frames, [`encode_data_header`] what precedes content.
//! - Unidirectional streams: [`ControlIn`] receives, [`encode_control_stream`](control::encode_control_stream)
//!   makes what we send.
//! - [`GoAwaySender`] and [`GoAwayReceiver`] know which requests are certainly unprocessed.

pub mod control;
pub mod error;
mod field_map;
pub mod fields;
pub mod frame;
pub mod goaway;
pub mod huffman;
pub mod message;
mod names;
mod prefix_int;
pub mod qpack;
pub mod reader;
pub mod request;
pub mod response;
mod section;
pub mod settings;
pub(crate) mod static_table;
mod uni;
pub mod varint;

pub use control::{ControlEvent, ControlIn};
pub use error::{Code, EncodeError, H3Error, MessageError, QpackError, Scope, SettingsError};
pub use frame::{Frame, FrameDecoder, encode_data_header};
pub use goaway::{GoAwayReceiver, GoAwaySender};
pub use message::{
    BodyLength, HeadKind, MessageKind, MessageState, Protocol, RequestHead, ResponseHead, Section,
};
pub use qpack::FieldLimits;
pub use reader::{MessageReader, Part};
pub use request::{decode_request, encode_request};
pub use response::{decode_response, decode_trailers, encode_response, encode_trailers};
pub use section::Encoding;
pub use settings::Settings;

/// Which end of the connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// We dialled: we send requests.
    Client,
    /// We listen: we answer them.
    Server,
}

/// A reserved identifier of frames, settings and streams, `0x1f * N + 0x21` (RFC 9114 section 7.2.8).
pub(crate) const fn grease(seed: u64) -> u64 {
    // Small enough for every N to stay below 2^62.
    0x1f * (seed >> 8) + 0x21
}

#[cfg(test)]
mod tests;
