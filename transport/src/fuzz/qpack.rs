//! Field sections, as sequences of fields, and the Huffman code in them.

use bytes::{Bytes, BytesMut};
use weft_proto::fuzz::Target;

use super::MEMORY;
use crate::h3::error::{H3Error, QpackError};
use crate::h3::qpack::{BlockWriter, FieldLimits, FieldVisitor, Name, Value, decode};
use crate::h3::{huffman, static_table};

pub(super) const TARGET: Target = Target {
    name: "qpack",
    body,
    memory: MEMORY,
};

fn body(input: &[u8]) {
    huffman(input);
    let limits = FieldLimits::default();
    let fields = read(input, &limits);
    let expected = reference(input);
    match (&fields, &expected) {
        (Ok(fields), Some(expected)) => assert_eq!(fields, expected),
        // The limits are the one reason to refuse what can be decoded.
        (Err(H3Error::FieldSectionTooLarge), _) => {}
        (Err(H3Error::Qpack(_)), None) => {}
        other => panic!("{other:?}"),
    }
    if let Ok(fields) = fields {
        assert!(fields.len() <= limits.max_fields && size(&fields) <= limits.max_section_size);
        for huffman in [false, true] {
            written_again(&fields, huffman);
        }
        narrower_limits(input, &fields);
    }
}

/// Each string has one code: what can be decoded is what encoding gives.
fn huffman(input: &[u8]) {
    let mut decoded = vec![0; huffman::max_decoded_len(input.len())];
    if let Ok(length) = huffman::decode(input, &mut decoded) {
        decoded.truncate(length);
        let mut encoded = vec![0; huffman::encoded_len(&decoded)];
        huffman::encode(&decoded, &mut encoded);
        assert_eq!(encoded, input);
    }
    let mut encoded = vec![0; huffman::encoded_len(input)];
    huffman::encode(input, &mut encoded);
    let mut decoded = vec![0; huffman::max_decoded_len(encoded.len())];
    assert_eq!(huffman::decode(&encoded, &mut decoded), Ok(input.len()));
    assert_eq!(&decoded[..input.len()], input);
}

/// A name, a value, and whether it must never be indexed.
type Field = (Vec<u8>, Vec<u8>, bool);

fn written_again(fields: &[Field], huffman: bool) {
    let mut out = BytesMut::new();
    let mut writer = BlockWriter::new(&mut out, huffman);
    for (name, value, sensitive) in fields {
        writer.literal(name, value, *sensitive);
    }
    assert_eq!(writer.size(), size(fields));
    assert_eq!(read(&out, &FieldLimits::default()).as_deref(), Ok(fields));
}

/// One field fewer, or one byte less, is too little.
fn narrower_limits(input: &[u8], fields: &[Field]) {
    let exact = FieldLimits {
        max_section_size: size(fields),
        max_fields: fields.len(),
    };
    assert_eq!(read(input, &exact).as_deref(), Ok(fields));
    if fields.is_empty() {
        return;
    }
    for limits in [
        FieldLimits {
            max_section_size: exact.max_section_size - 1,
            ..exact
        },
        FieldLimits {
            max_fields: exact.max_fields - 1,
            ..exact
        },
    ] {
        assert_eq!(read(input, &limits), Err(H3Error::FieldSectionTooLarge));
    }
}

/// RFC 9114 section 4.2.2.
fn size(fields: &[Field]) -> u64 {
    fields
        .iter()
        .map(|(name, value, _)| (name.len() + value.len() + 32) as u64)
        .sum()
}

fn read(block: &[u8], limits: &FieldLimits) -> Result<Vec<Field>, H3Error> {
    struct Fields(Vec<Field>);
    impl FieldVisitor for Fields {
        fn field(&mut self, name: Name<'_>, value: Value<'_>) -> Result<(), H3Error> {
            let name = match name {
                Name::Known(known) => known.as_str().as_bytes(),
                Name::Other(bytes) => bytes,
            };
            let (sensitive, bytes) = (value.sensitive, value.as_bytes().to_vec());
            assert_eq!(value.into_bytes(), bytes);
            self.0.push((name.to_vec(), bytes, sensitive));
            Ok(())
        }
    }
    let mut fields = Fields(Vec::new());
    decode(block, limits, &mut fields)?;
    Ok(fields.0)
}

/// RFC 9204 sections 4.1.1, 4.1.2 and 4.5 for a static table alone, written a second time. `None` is an error.
fn reference(block: &[u8]) -> Option<Vec<Field>> {
    let mut input = block;
    if integer(8, &mut input)? != 0 || input.first()? & 0x80 != 0 {
        return None;
    }
    integer(7, &mut input)?;
    let mut fields = Vec::new();
    while let Some(first) = input.first().copied() {
        fields.push(if first & 0xc0 == 0xc0 {
            let (name, value) = static_table::entry(integer(6, &mut input)?.try_into().ok()?)?;
            (name.as_bytes().to_vec(), value.as_bytes().to_vec(), false)
        } else if first & 0xd0 == 0x50 {
            let (name, _) = static_table::entry(integer(4, &mut input)?.try_into().ok()?)?;
            (
                name.as_bytes().to_vec(),
                string(7, &mut input)?,
                first & 0x20 != 0,
            )
        } else if first & 0xe0 == 0x20 {
            let name = string(3, &mut input)?;
            (name, string(7, &mut input)?, first & 0x10 != 0)
        } else {
            return None;
        });
    }
    Some(fields)
}

fn integer(prefix: u32, input: &mut &[u8]) -> Option<u64> {
    let (first, mut rest) = input.split_first()?;
    let mask = (1u128 << prefix) - 1;
    let mut value = u128::from(*first) & mask;
    if value == mask {
        for shift in (0..).step_by(7) {
            let (byte, tail) = rest.split_first()?;
            rest = tail;
            // Nine bytes hold the 62 bits that there are.
            if shift > 56 {
                return None;
            }
            value += u128::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *input = rest;
    u64::try_from(value).ok().filter(|value| *value < 1 << 62)
}

fn string(prefix: u32, input: &mut &[u8]) -> Option<Vec<u8>> {
    let is_huffman = input.first()? >> prefix & 1 == 1;
    let length = usize::try_from(integer(prefix, input)?).ok()?;
    let (raw, rest) = input.split_at_checked(length)?;
    *input = rest;
    if !is_huffman {
        return Some(raw.to_vec());
    }
    let mut decoded = vec![0; huffman::max_decoded_len(raw.len())];
    let length: Result<usize, QpackError> = huffman::decode(raw, &mut decoded);
    decoded.truncate(length.ok()?);
    Some(Bytes::from(decoded).to_vec())
}
