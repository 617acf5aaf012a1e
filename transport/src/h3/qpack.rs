//! Field sections without a dynamic table (RFC 9204).
//!
//! The encoder appends fields to a buffer; the decoder hands each field to a visitor. Neither builds a list of them.
//!
//! Decoded values are reference-counted slices of a copy of the section, of its own size: a value that is kept for
//! long then pins a few hundred bytes of its own message, where a slice of the received chunk would pin a receive
//! buffer of up to 64 KiB, and a copy of each value would cost an allocation for each. Huffman-coded values share
//! an allocation in the same way, and values of the static table have none.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue};

use super::error::{H3Error, MessageError, QpackError};
use super::names::{Class, Known};
use super::{huffman, prefix_int, static_table};

/// RFC 9114 section 4.2.2: what a field counts beside its name and value.
pub(crate) const FIELD_OVERHEAD: u64 = 32;

/// Limits on one decoded field section, checked while it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldLimits {
    /// Size as in RFC 9114 section 4.2.2: names, values, and 32 for each field.
    pub max_section_size: u64,
    /// Number of fields, pseudo-header fields included.
    pub max_fields: usize,
}

impl Default for FieldLimits {
    /// 32 KiB and 200 fields: at least what common HTTP/1.1 servers accept, so that no request is refused here that
    /// would have passed without the mesh.
    fn default() -> FieldLimits {
        FieldLimits {
            max_section_size: 32 * 1024,
            max_fields: 200,
        }
    }
}

impl FieldLimits {
    /// The longest encoded section that can be within the limits, but for absurd codings: every field of at
    /// least 32 counted bytes takes fewer on the wire. For the limit of
    /// [`FrameDecoder`](super::frame::FrameDecoder).
    pub fn max_block(&self) -> usize {
        usize::try_from(self.max_section_size).unwrap_or(usize::MAX)
    }
}

/// Receives the fields of a section in their order.
pub(crate) trait FieldVisitor {
    /// An error ends the decoding.
    fn field(&mut self, name: Name<'_>, value: Value<'_>) -> Result<(), H3Error>;
}

/// A field's name as received.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Name<'a> {
    Known(Known),
    Other(&'a [u8]),
}

impl<'a> Name<'a> {
    fn new(bytes: &'a [u8]) -> Name<'a> {
        Known::find(bytes).map_or(Name::Other(bytes), Name::Known)
    }

    fn len(&self) -> usize {
        match self {
            Name::Known(known) => known.as_str().len(),
            Name::Other(bytes) => bytes.len(),
        }
    }

    /// The rules that apply to the name. An unknown name with a colon in front is a pseudo-header field, which
    /// the caller must refuse before it asks for a `HeaderName`.
    pub(crate) fn class(&self) -> Class {
        match self {
            Name::Known(known) => known.class(),
            Name::Other(_) => Class::Plain,
        }
    }

    pub(crate) fn is_unknown_pseudo(&self) -> bool {
        matches!(self, Name::Other([b':', ..]))
    }

    /// The name as a `HeaderName`: a token in lower case (RFC 9114 section 4.2).
    pub(crate) fn to_header_name(self) -> Result<HeaderName, MessageError> {
        match self {
            Name::Known(known) => known.header_name().cloned().ok_or(MessageError::InvalidName),
            Name::Other(bytes) => {
                check_name(bytes)?;
                HeaderName::from_lowercase(bytes).map_err(|_| MessageError::InvalidName)
            }
        }
    }
}

/// A field's value as received.
#[derive(Debug)]
pub(crate) struct Value<'a> {
    /// From the N bit: no later hop may put it into a table (RFC 9204 section 4.5.4).
    pub(crate) sensitive: bool,
    source: Source<'a>,
}

#[derive(Debug)]
enum Source<'a> {
    /// The value of a static entry.
    Static(usize),
    /// A part of the section.
    Plain { bytes: &'a [u8], section: &'a Bytes },
    /// Decoded into the arena already: all that is in it.
    Huffman(&'a mut BytesMut),
}

impl Value<'_> {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match &self.source {
            Source::Static(index) => static_table::value(*index).unwrap_or_default().as_bytes(),
            Source::Plain { bytes, .. } => bytes,
            Source::Huffman(arena) => arena,
        }
    }

    /// The value as a slice of an allocation that all values of the section share.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self.source {
            Source::Static(index) => {
                Bytes::from_static(static_table::value(index).unwrap_or_default().as_bytes())
            }
            Source::Plain { bytes, section } => section.slice_ref(bytes),
            Source::Huffman(arena) => arena.split().freeze(),
        }
    }

    /// The value as a `HeaderValue`: no control characters (RFC 9110 section 5.5), no white space around it.
    pub(crate) fn into_header_value(self) -> Result<HeaderValue, MessageError> {
        if let Source::Static(index) = self.source {
            return static_table::header_value(index)
                .cloned()
                .ok_or(MessageError::InvalidValue);
        }
        let sensitive = self.sensitive;
        let bytes = self.as_bytes();
        if is_blank(bytes.first()) || is_blank(bytes.last()) {
            return Err(MessageError::PaddedValue);
        }
        let mut value =
            HeaderValue::from_maybe_shared(self.into_bytes()).map_err(|_| MessageError::InvalidValue)?;
        value.set_sensitive(sensitive);
        Ok(value)
    }
}

/// Whether `byte` is white space of RFC 9110 section 5.6.3.
pub(crate) fn is_blank(byte: Option<&u8>) -> bool {
    matches!(byte, Some(b' ' | b'\t'))
}

/// A token in lower case (RFC 9110 section 5.6.2, RFC 9114 section 4.2).
pub(crate) fn check_name(name: &[u8]) -> Result<(), MessageError> {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let allowed = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz";
        let mut index = 0;
        while index < allowed.len() {
            table[allowed[index] as usize] = true;
            index += 1;
        }
        table
    };
    static TABLE: [bool; 256] = TOKEN;
    if !name.is_empty() && name.iter().all(|byte| TABLE[usize::from(*byte)]) {
        return Ok(());
    }
    Err(if name.iter().any(u8::is_ascii_uppercase) {
        MessageError::UppercaseName
    } else {
        MessageError::InvalidName
    })
}

/// Decodes a whole field section.
pub(crate) fn decode<V: FieldVisitor>(
    block: &[u8],
    limits: &FieldLimits,
    visitor: &mut V,
) -> Result<(), H3Error> {
    let section = Bytes::copy_from_slice(block);
    let mut decoder = Decoder {
        section: &section,
        rest: &section,
        arena: BytesMut::new(),
        name: Vec::new(),
    };
    decoder.prefix()?;
    let mut size = 0;
    let mut count = 0;
    while !decoder.rest.is_empty() {
        let (name, value) = decoder.field()?;
        size += name.len() as u64 + value.as_bytes().len() as u64 + FIELD_OVERHEAD;
        count += 1;
        if size > limits.max_section_size || count > limits.max_fields {
            return Err(H3Error::FieldSectionTooLarge);
        }
        visitor.field(name, value)?;
    }
    Ok(())
}

struct Decoder<'a> {
    section: &'a Bytes,
    rest: &'a [u8],
    /// Holds a Huffman-coded value; one that is kept is split off.
    arena: BytesMut,
    /// Holds a Huffman-coded name.
    name: Vec<u8>,
}

impl<'a> Decoder<'a> {
    /// Required Insert Count and Base (RFC 9204 section 4.5.1). Without a dynamic table the count must be 0; then
    /// Base is Delta Base, which means nothing, or negative, which is an error.
    fn prefix(&mut self) -> Result<(), QpackError> {
        let first = self.byte()?;
        if prefix_int::decode(8, first, &mut self.rest)? != 0 {
            return Err(QpackError::DynamicReference);
        }
        let first = self.byte()?;
        if first & 0x80 != 0 {
            return Err(QpackError::NegativeBase);
        }
        prefix_int::decode(7, first, &mut self.rest)?;
        Ok(())
    }

    /// The field lines of RFC 9204 section 4.5.
    fn field(&mut self) -> Result<(Name<'_>, Value<'_>), QpackError> {
        self.arena.clear();
        let first = self.byte()?;
        match first {
            // Indexed: 1 T index(6).
            0xc0.. => {
                let index = self.static_index(6, first)?;
                let name = static_name(index)?;
                Ok((
                    name,
                    Value {
                        sensitive: false,
                        source: Source::Static(index),
                    },
                ))
            }
            // Literal with name reference: 01 N T index(4).
            0x50..0x60 | 0x70..0x80 => {
                let index = self.static_index(4, first)?;
                let name = static_name(index)?;
                let source = value_source(&mut self.rest, self.section, &mut self.arena)?;
                Ok((
                    name,
                    Value {
                        sensitive: first & 0x20 != 0,
                        source,
                    },
                ))
            }
            // Literal with literal name: 001 N H length(3).
            0x20..0x40 => {
                let raw = string(3, first, &mut self.rest)?;
                let name = if first & 0x08 != 0 {
                    self.name.resize(huffman::max_decoded_len(raw.len()), 0);
                    let length = huffman::decode(raw, &mut self.name)?;
                    self.name.get(..length).unwrap_or_default()
                } else {
                    raw
                };
                let source = value_source(&mut self.rest, self.section, &mut self.arena)?;
                Ok((
                    Name::new(name),
                    Value {
                        sensitive: first & 0x10 != 0,
                        source,
                    },
                ))
            }
            // The others refer to the dynamic table, before or after Base.
            _ => Err(QpackError::DynamicReference),
        }
    }

    fn static_index(&mut self, bits: u32, first: u8) -> Result<usize, QpackError> {
        let index = prefix_int::decode(bits, first, &mut self.rest)?;
        match usize::try_from(index) {
            Ok(small) if small < static_table::LEN => Ok(small),
            _ => Err(QpackError::StaticIndex(index)),
        }
    }

    fn byte(&mut self) -> Result<u8, QpackError> {
        let (first, rest) = self.rest.split_first().ok_or(QpackError::Truncated)?;
        self.rest = rest;
        Ok(*first)
    }
}

fn static_name<'a>(index: usize) -> Result<Name<'a>, QpackError> {
    Known::of_static(index)
        .map(Name::Known)
        .ok_or(QpackError::StaticIndex(index as u64))
}

/// The bytes of a string literal whose first byte, with a length prefix of `bits`, has been taken already.
fn string<'a>(bits: u32, first: u8, rest: &mut &'a [u8]) -> Result<&'a [u8], QpackError> {
    let length = prefix_int::decode(bits, first, rest)?;
    let length = usize::try_from(length).map_err(|_| QpackError::Truncated)?;
    let (string, tail) = rest.split_at_checked(length).ok_or(QpackError::Truncated)?;
    *rest = tail;
    Ok(string)
}

/// A value: H length(7) bytes.
fn value_source<'a, 'b: 'a>(
    rest: &mut &'b [u8],
    section: &'b Bytes,
    arena: &'a mut BytesMut,
) -> Result<Source<'a>, QpackError> {
    let (first, tail) = rest.split_first().ok_or(QpackError::Truncated)?;
    *rest = tail;
    let raw = string(7, *first, rest)?;
    if first & 0x80 == 0 {
        return Ok(Source::Plain { bytes: raw, section });
    }
    if arena.capacity() == 0 {
        // Enough for this value and all that follow.
        arena.reserve(huffman::max_decoded_len(raw.len() + rest.len()));
    }
    arena.resize(huffman::max_decoded_len(raw.len()), 0);
    let length = huffman::decode(raw, arena)?;
    arena.truncate(length);
    Ok(Source::Huffman(arena))
}

/// Appends field lines to a buffer.
pub(crate) struct BlockWriter<'a> {
    out: &'a mut BytesMut,
    huffman: bool,
    /// RFC 9114 section 4.2.2.
    size: u64,
}

impl<'a> BlockWriter<'a> {
    /// Begins a section. With `huffman`, strings are Huffman-coded where that is shorter.
    pub(crate) fn new(out: &'a mut BytesMut, huffman: bool) -> BlockWriter<'a> {
        // Required Insert Count 0, Base 0.
        out.put_slice(&[0, 0]);
        BlockWriter {
            out,
            huffman,
            size: 0,
        }
    }

    /// The size so far as in RFC 9114 section 4.2.2.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// A field that is in the static table with its value.
    pub(crate) fn indexed(&mut self, index: u8) {
        if let Some((name, value)) = static_table::entry(usize::from(index)) {
            self.count(name.len(), value.len());
            prefix_int::encode(6, 0xc0, u64::from(index), self.out);
        }
    }

    /// A field with a known name.
    pub(crate) fn known(&mut self, known: Known, value: &[u8], sensitive: bool) {
        let Some(first) = known.static_index() else {
            return self.literal(known.as_str().as_bytes(), value, sensitive);
        };
        if !sensitive && let Some(index) = static_table::find_value(first, value) {
            return self.indexed(index);
        }
        self.count(known.as_str().len(), value.len());
        let never_index = if sensitive { 0x20 } else { 0 };
        prefix_int::encode(4, 0x50 | never_index, u64::from(first), self.out);
        self.string(7, 0, value);
    }

    /// A field with the name of the static entry `index` and another value.
    pub(crate) fn with_name_of(&mut self, index: u8, value: &[u8]) {
        if let Some((name, _)) = static_table::entry(usize::from(index)) {
            self.count(name.len(), value.len());
            prefix_int::encode(4, 0x50, u64::from(index), self.out);
            self.string(7, 0, value);
        }
    }

    /// A field whose name is not in the static table.
    pub(crate) fn literal(&mut self, name: &[u8], value: &[u8], sensitive: bool) {
        self.count(name.len(), value.len());
        let never_index = if sensitive { 0x10 } else { 0 };
        self.string(3, 0x20 | never_index, name);
        self.string(7, 0, value);
    }

    fn count(&mut self, name: usize, value: usize) {
        self.size += name as u64 + value as u64 + FIELD_OVERHEAD;
    }

    /// A string literal; the H bit lies above the length.
    fn string(&mut self, bits: u32, flags: u8, value: &[u8]) {
        if self.huffman {
            let length = huffman::encoded_len(value);
            if length < value.len() {
                prefix_int::encode(bits, flags | 1 << bits, length as u64, self.out);
                let start = self.out.len();
                self.out.resize(start + length, 0);
                huffman::encode(value, self.out.get_mut(start..).unwrap_or_default());
                return;
            }
        }
        prefix_int::encode(bits, flags, value.len() as u64, self.out);
        self.out.put_slice(value);
    }
}
