//! QUIC variable-length integers (RFC 9000 section 16).

use bytes::{BufMut, BytesMut};

/// The largest value: 2^62 - 1.
pub const MAX: u64 = (1 << 62) - 1;

/// Length in bytes of the shortest form of `value`.
pub const fn len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

/// Appends `value` in its shortest form. Values above [`MAX`] do not exist in QUIC and are cut to it.
pub fn encode(value: u64, out: &mut BytesMut) {
    let value = value.min(MAX);
    match len(value) {
        1 => out.put_u8(value as u8),
        2 => out.put_u16(value as u16 | 0x4000),
        4 => out.put_u32(value as u32 | 0x8000_0000),
        _ => out.put_u64(value | 0xc000_0000_0000_0000),
    }
}

/// Reads one integer from the front of `input`: the value and the bytes it took, or `None` if there are too few.
pub fn decode(input: &[u8]) -> Option<(u64, usize)> {
    let first = *input.first()?;
    let len = 1usize << (first >> 6);
    let rest = input.get(1..len)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, byte| {
        value << 8 | u64::from(*byte)
    });
    Some((value, len))
}

/// Reads one integer whose bytes arrive in pieces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Incremental {
    value: u64,
    missing: u8,
    started: bool,
}

impl Incremental {
    /// Takes bytes from the front of `input` until the integer is whole.
    pub fn decode(&mut self, input: &mut &[u8]) -> Option<u64> {
        while let Some((first, rest)) = input.split_first() {
            *input = rest;
            if self.started {
                self.value = self.value << 8 | u64::from(*first);
                self.missing -= 1;
            } else {
                *self = Incremental {
                    value: u64::from(first & 0x3f),
                    missing: (1u8 << (first >> 6)) - 1,
                    started: true,
                };
            }
            if self.missing == 0 {
                return Some(std::mem::take(self).value);
            }
        }
        None
    }

    /// Whether a part of an integer has been read.
    pub fn is_partial(&self) -> bool {
        self.started
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn examples_of_rfc_9000_appendix_a1() {
        for (bytes, value) in [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..],
                151_288_809_941_952_652,
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d][..], 494_878_333),
            (&[0x7b, 0xbd][..], 15_293),
            (&[0x25][..], 37),
        ] {
            assert_eq!(decode(bytes), Some((value, bytes.len())));
            let mut out = BytesMut::new();
            encode(value, &mut out);
            assert_eq!(&out[..], bytes);
        }
        assert_eq!(decode(&[0x40, 0x25]), Some((37, 2)), "longer forms are legal");
    }

    proptest! {
        #[test]
        fn roundtrip_whole_and_in_pieces(value in (0..=MAX, 0u32..62).prop_map(|(v, s)| v >> s)) {
            let mut out = BytesMut::new();
            encode(value, &mut out);
            prop_assert_eq!(out.len(), len(value));
            prop_assert_eq!(decode(&out), Some((value, out.len())));
            for cut in 0..out.len() {
                prop_assert_eq!(decode(&out[..cut]), None);
            }
            let mut reader = Incremental::default();
            let (last, head) = out.split_last().unwrap();
            for byte in head {
                prop_assert_eq!(reader.decode(&mut &[*byte][..]), None);
                prop_assert!(reader.is_partial());
            }
            prop_assert_eq!(reader.decode(&mut &[*last][..]), Some(value));
            prop_assert!(!reader.is_partial());
        }
    }
}
