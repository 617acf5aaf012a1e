//! Prefixed integers of QPACK (RFC 9204 section 4.1.1, RFC 7541 section 5.1).

use bytes::{BufMut, BytesMut};

use super::error::QpackError;
use super::varint;

/// Appends `value` with a prefix of `bits` bits; `flags` are the bits above the prefix.
pub(crate) fn encode(bits: u32, flags: u8, value: u64, out: &mut BytesMut) {
    let mask = (1u64 << bits) - 1;
    if value < mask {
        out.put_u8(flags | value as u8);
        return;
    }
    out.put_u8(flags | mask as u8);
    let mut rest = value - mask;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// Reads an integer whose first byte, with a prefix of `bits` bits, has been taken from `rest` already.
pub(crate) fn decode(bits: u32, first: u8, rest: &mut &[u8]) -> Result<u64, QpackError> {
    match Incremental::start(bits, first) {
        Ok(value) => Ok(value),
        Err(mut reader) => loop {
            let (byte, tail) = rest.split_first().ok_or(QpackError::Truncated)?;
            *rest = tail;
            if let Some(value) = reader.next(*byte)? {
                return Ok(value);
            }
        },
    }
}

/// An integer whose bytes arrive in pieces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incremental {
    value: u64,
    shift: u32,
}

impl Incremental {
    /// Takes the first byte: the value, or a reader for the bytes that follow.
    pub(crate) fn start(bits: u32, first: u8) -> Result<u64, Incremental> {
        let mask = ((1u32 << bits) - 1) as u8;
        match first & mask {
            value if value < mask => Ok(u64::from(value)),
            value => Err(Incremental {
                value: u64::from(value),
                shift: 0,
            }),
        }
    }

    /// Takes a further byte.
    pub(crate) fn next(&mut self, byte: u8) -> Result<Option<u64>, QpackError> {
        // Values are limited to 62 bits; nine continuation bytes carry 63, so a tenth is padding with zeros at
        // best, and an endless run of them must not be followed.
        if self.shift > 56 {
            return Err(QpackError::IntegerOverflow);
        }
        self.value = self
            .value
            .checked_add(u64::from(byte & 0x7f) << self.shift)
            .filter(|value| *value <= varint::MAX)
            .ok_or(QpackError::IntegerOverflow)?;
        self.shift += 7;
        Ok((byte & 0x80 == 0).then_some(self.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn examples_of_rfc_7541_appendix_c1() {
        for (bits, value, bytes) in [
            (5, 10, &[0x0a][..]),
            (5, 1337, &[0x1f, 0x9a, 0x0a]),
            (8, 42, &[0x2a]),
        ] {
            let mut out = BytesMut::new();
            encode(bits, 0, value, &mut out);
            assert_eq!(&out[..], bytes);
            assert_eq!(decode(bits, bytes[0], &mut &bytes[1..]), Ok(value));
        }
    }

    #[test]
    fn overflow_and_truncation_are_errors() {
        let mut endless: &[u8] = &[0x80; 64];
        assert_eq!(decode(7, 0xff, &mut endless), Err(QpackError::IntegerOverflow));
        let mut big: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(decode(7, 0xff, &mut big), Err(QpackError::IntegerOverflow));
        assert_eq!(decode(7, 0x7f, &mut &[0x80][..]), Err(QpackError::Truncated));
        assert_eq!(decode(7, 0x7f, &mut &[][..]), Err(QpackError::Truncated));
    }

    proptest! {
        #[test]
        fn roundtrip(bits in 3u32..=8, value in (0..=varint::MAX, 0u32..62).prop_map(|(v, s)| v >> s)) {
            let mut out = BytesMut::new();
            encode(bits, 0, value, &mut out);
            let mut rest = &out[1..];
            prop_assert_eq!(decode(bits, out[0], &mut rest), Ok(value));
            prop_assert!(rest.is_empty());
        }
    }
}
