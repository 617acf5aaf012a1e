//! HEADERS frames: a field section with the frame around it.

use bytes::{BufMut, BytesMut};

use super::error::{EncodeError, MessageError};
use super::frame::kind;
use super::qpack::BlockWriter;
use super::varint;

/// How a message is encoded for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// The peer's SETTINGS_MAX_FIELD_SECTION_SIZE; a larger message is not encoded (RFC 9114 section 4.2.2).
    pub max_section_size: u64,
    /// Whether strings are Huffman-coded where that is shorter.
    pub huffman: bool,
}

impl Default for Encoding {
    /// No limit, as before the peer's SETTINGS, and plain strings: Huffman coding makes a typical head a quarter
    /// (some 70 bytes) shorter, but nearly doubles what encoding and decoding it cost, about a microsecond of CPU a
    /// request. Between sidecars the CPU is what is scarce.
    fn default() -> Encoding {
        Encoding {
            max_section_size: varint::MAX,
            huffman: false,
        }
    }
}

/// The frame's length is written in this many bytes, so that it can be filled in after the section. Up to 16,383
/// bytes fit, and a longer form than needed is legal (RFC 9000 section 16).
const LENGTH_BYTES: usize = 2;

/// Appends a HEADERS frame whose section `encode` writes. On an error `out` is as before.
pub(crate) fn headers_frame(
    out: &mut BytesMut,
    encoding: Encoding,
    encode: impl FnOnce(&mut BlockWriter<'_>) -> Result<(), MessageError>,
) -> Result<(), EncodeError> {
    let start = out.len();
    // What most heads need: one reservation instead of several while it grows.
    out.reserve(512);
    out.put_slice(&[kind::HEADERS as u8, 0, 0]);
    let mut writer = BlockWriter::new(out, encoding.huffman);
    let result = encode(&mut writer);
    let size = writer.size();
    let result = match result {
        Ok(()) if size > encoding.max_section_size => Err(EncodeError::TooLarge),
        Ok(()) => Ok(()),
        Err(error) => Err(EncodeError::Malformed(error)),
    };
    match result {
        Ok(()) => backfill(out, start),
        Err(_) => out.truncate(start),
    }
    result
}

/// Fills in the length of the frame at `start`.
fn backfill(out: &mut BytesMut, start: usize) {
    let length_at = start + 1;
    let block_at = length_at + LENGTH_BYTES;
    let length = (out.len() - block_at) as u64;
    if length < 1 << 14 {
        if let Some(bytes) = out.get_mut(length_at..block_at) {
            bytes.copy_from_slice(&(length as u16 | 0x4000).to_be_bytes());
        }
        return;
    }
    // Rare: a longer length field moves the section.
    let block = out.split_off(block_at);
    out.truncate(length_at);
    varint::encode(length, out);
    out.extend_from_slice(&block);
}
