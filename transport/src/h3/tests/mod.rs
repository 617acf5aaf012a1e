//! Tests of the codec as a whole: heads, malformed messages, frames at any chunking, known answers.

mod frames;
mod heads;
mod known_answers;
mod malformed;

use bytes::{Bytes, BytesMut};

use super::qpack::BlockWriter;
use crate::fuzz::chunks;

/// A field section of literal fields, in which nothing is checked.
fn block(fields: &[(&str, &str)]) -> Bytes {
    raw_block(
        fields
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes())),
        false,
    )
}

fn raw_block<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>, huffman: bool) -> Bytes {
    let mut out = BytesMut::new();
    let mut writer = BlockWriter::new(&mut out, huffman);
    fields.for_each(|(name, value)| writer.literal(name, value, false));
    out.freeze()
}
