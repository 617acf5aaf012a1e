//! The Huffman code of HPACK and QPACK (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: codes of one length are consecutive and in the order of their symbols. So the lengths
//! alone define it, and every other table is computed from them at compile time.

use super::error::QpackError;

/// Length in bits of each symbol's code.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

const MAX_LENGTH: usize = 30;

/// Longest code that the first step of the decoder resolves. Everything that is common in fields has 5 to 8 bits;
/// a wider table would only push other things out of the cache.
const FAST_BITS: u32 = 8;

/// Codes by symbol, not aligned.
static CODES: [u32; 256] = codes();

/// Symbol and length by the next [`FAST_BITS`] bits; length 0 where the code is longer.
static FAST: [(u8, u8); 1 << FAST_BITS] = fast();

/// Codes of one length.
#[derive(Clone, Copy)]
struct Run {
    length: u8,
    /// The first code, aligned to the left of 32 bits.
    first: u32,
    /// What precedes the first code of the next run.
    last: u32,
    /// Index into [`SORTED`] of its symbol.
    offset: u16,
}

/// The lengths above [`FAST_BITS`] that occur, shortest and so most frequent first.
static LONG: [Run; 17] = long_runs();

/// Symbols in the order of their codes.
static SORTED: [u8; 256] = sorted();

/// Bytes that `input` takes when coded.
pub fn encoded_len(input: &[u8]) -> usize {
    let bits: usize = input.iter().map(|byte| usize::from(length(*byte))).sum();
    bits.div_ceil(8)
}

/// Codes `input` into `out`, which must be [`encoded_len`] bytes long.
pub fn encode(input: &[u8], out: &mut [u8]) {
    let mut words = out.chunks_exact_mut(4);
    let mut pending = 0u64;
    let mut bits = 0u32;
    for byte in input {
        // Before this at most 31 bits are pending and a code has at most 30.
        pending = pending << length(*byte) | u64::from(code(*byte));
        bits += u32::from(length(*byte));
        if bits >= 32 {
            bits -= 32;
            if let Some(word) = words.next() {
                word.copy_from_slice(&((pending >> bits) as u32).to_be_bytes());
            }
        }
    }
    // The last byte is filled up with ones, the beginning of EOS.
    let last = ((pending << (32 - bits)) as u32 | u32::MAX.checked_shr(bits).unwrap_or(0)).to_be_bytes();
    // With fewer than 4 bytes left the iterator's remainder is what is missing; with 4 it is one more word.
    match words.next() {
        Some(word) => word.copy_from_slice(&last),
        None => words
            .into_remainder()
            .iter_mut()
            .zip(last)
            .for_each(|(out, byte)| *out = byte),
    }
}

/// Most bytes that `encoded` bytes can decode to: the shortest code has 5 bits.
pub const fn max_decoded_len(encoded: usize) -> usize {
    encoded * 8 / 5
}

/// Decodes `input` into the front of `out`, which must have [`max_decoded_len`] bytes, and returns the length.
///
/// Strict (RFC 7541 section 5.2): EOS, padding of more than 7 bits and padding with anything but ones are errors.
pub fn decode(input: &[u8], out: &mut [u8]) -> Result<usize, QpackError> {
    let mut input = input;
    let mut window = 0u64;
    let mut bits = 0u32;
    let mut written = 0;
    loop {
        (window, bits, input) = refill(window, bits, input);
        let (symbol, length) = match FAST.get((window >> (64 - FAST_BITS)) as usize) {
            Some((symbol, length)) if *length > 0 => (*symbol, u32::from(*length)),
            _ => match long_code((window >> 32) as u32) {
                Some(found) => found,
                // EOS, or what only looks like it because the input ends here.
                None => break,
            },
        };
        if length > bits {
            break;
        }
        *out.get_mut(written).ok_or(QpackError::Huffman)? = symbol;
        written += 1;
        window <<= length;
        bits -= length;
    }
    // What is left is padding: fewer than 8 bits, all ones.
    let ones = !(u64::MAX >> bits);
    if input.is_empty() && bits < 8 && window & ones == ones {
        Ok(written)
    } else {
        Err(QpackError::Huffman)
    }
}

/// Fills the window, whose next bit is the highest one, while it has less than a code's length.
#[inline]
fn refill(mut window: u64, mut bits: u32, input: &[u8]) -> (u64, u32, &[u8]) {
    if bits >= MAX_LENGTH as u32 {
        return (window, bits, input);
    }
    if let Some((word, rest)) = input.split_first_chunk::<4>() {
        window |= u64::from(u32::from_be_bytes(*word)) << (32 - bits);
        return (window, bits + 32, rest);
    }
    for byte in input {
        window |= u64::from(*byte) << (56 - bits);
        bits += 8;
    }
    (window, bits, &[])
}

/// The symbol and length of a code longer than [`FAST_BITS`] at the top of `window`; `None` for EOS.
fn long_code(window: u32) -> Option<(u8, u32)> {
    // Only codes longer than FAST_BITS come here, so the first run begins at or below `window`.
    let run = LONG.iter().find(|run| window <= run.last)?;
    let index =
        usize::from(run.offset) + (window.checked_sub(run.first)? >> (32 - u32::from(run.length))) as usize;
    SORTED.get(index).map(|symbol| (*symbol, u32::from(run.length)))
}

#[inline]
fn length(byte: u8) -> u8 {
    static TABLE: [u8; 256] = LENGTHS;
    TABLE[usize::from(byte)]
}

#[inline]
fn code(byte: u8) -> u32 {
    CODES[usize::from(byte)]
}

const fn sorted() -> [u8; 256] {
    let mut sorted = [0; 256];
    let mut count = 0;
    let mut length = 1;
    while length <= MAX_LENGTH {
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] as usize == length {
                sorted[count] = symbol as u8;
                count += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    sorted
}

const fn codes() -> [u32; 256] {
    let sorted = sorted();
    let mut codes = [0; 256];
    let mut next = 0u32;
    let mut index = 0;
    while index < 256 {
        let symbol = sorted[index] as usize;
        codes[symbol] = next;
        // The next code is one more, with zeros appended if it is longer.
        if index + 1 < 256 {
            let following = LENGTHS[sorted[index + 1] as usize];
            next = (next + 1) << (following - LENGTHS[symbol]);
        }
        index += 1;
    }
    codes
}

const fn fast() -> [(u8, u8); 1 << FAST_BITS] {
    let codes = codes();
    let mut fast = [(0, 0); 1 << FAST_BITS];
    let mut symbol = 0;
    while symbol < 256 {
        let length = LENGTHS[symbol] as u32;
        if length <= FAST_BITS {
            let spare = FAST_BITS - length;
            let first = (codes[symbol] << spare) as usize;
            let mut index = 0;
            while index < 1 << spare {
                fast[first + index] = (symbol as u8, length as u8);
                index += 1;
            }
        }
        symbol += 1;
    }
    fast
}

const fn long_runs() -> [Run; 17] {
    let (sorted, codes) = (sorted(), codes());
    let mut runs = [Run {
        length: 0,
        first: 0,
        last: u32::MAX,
        offset: 0,
    }; 17];
    let mut count = 0;
    let mut index = 0;
    while index < 256 {
        let symbol = sorted[index] as usize;
        let length = LENGTHS[symbol];
        let begins = index == 0 || LENGTHS[sorted[index - 1] as usize] != length;
        if length as u32 > FAST_BITS && begins {
            let first = codes[symbol] << (32 - length);
            if count > 0 {
                runs[count - 1].last = first - 1;
            }
            runs[count] = Run {
                length,
                first,
                last: u32::MAX,
                offset: index as u16,
            };
            count += 1;
        }
        index += 1;
    }
    assert!(count == runs.len());
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(input: &[u8]) -> Vec<u8> {
        let mut out = vec![0; encoded_len(input)];
        encode(input, &mut out);
        out
    }

    fn decoded(input: &[u8]) -> Result<Vec<u8>, QpackError> {
        let mut out = vec![0; max_decoded_len(input.len())];
        let length = decode(input, &mut out)?;
        out.truncate(length);
        Ok(out)
    }

    /// Bits of `codes` (value, length), filled up with ones.
    fn bits(codes: &[(u32, u8)]) -> Vec<u8> {
        let text: String = codes
            .iter()
            .map(|(code, len)| format!("{code:0len$b}", len = *len as usize))
            .collect();
        text.as_bytes()
            .chunks(8)
            .map(|byte| {
                (0..8).fold(0, |value, bit| {
                    value << 1 | u8::from(byte.get(bit) != Some(&b'0'))
                })
            })
            .collect()
    }

    #[test]
    fn examples_of_rfc_7541_appendix_c4_and_c6() {
        for (text, code) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("custom-key", "25a849e95ba97d7f"),
            ("custom-value", "25a849e95bb8e8b4bf"),
            ("302", "6402"),
            ("private", "aec3771a4b"),
            (
                "Mon, 21 Oct 2013 20:13:21 GMT",
                "d07abe941054d444a8200595040b8166e082a62d1bff",
            ),
            ("https://www.example.com", "9d29ad171863c78f0b97c8e9ae82ae43d3"),
            (
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
                "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
            ),
        ] {
            let hex: String = encoded(text.as_bytes())
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            assert_eq!(hex, code, "{text}");
            assert_eq!(decoded(&encoded(text.as_bytes())).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn codes_of_rfc_7541_appendix_b() {
        for (symbol, code, length) in [
            (0u8, 0x1ff8, 13),
            (9, 0xffffea, 24),
            (10, 0x3ffffffc, 30),
            (b'0', 0x0, 5),
            (b'z', 0x7b, 7),
            (b'\\', 0x7fff0, 19),
            (b'~', 0x1ffd, 13),
            (127, 0xffffffc, 28),
            (249, 0xffffffe, 28),
            (255, 0x3ffffee, 26),
        ] {
            assert_eq!(
                (CODES[symbol as usize], LENGTHS[symbol as usize]),
                (code, length),
                "{symbol}"
            );
        }
        // With EOS, of 30 bits, the code is complete.
        let sum: u64 = LENGTHS
            .iter()
            .chain(&[30])
            .map(|length| 1u64 << (30 - length))
            .sum();
        assert_eq!(sum, 1 << 30);
    }

    #[test]
    fn every_symbol_alone_and_beside_every_other() {
        for a in 0..=255u8 {
            assert_eq!(decoded(&encoded(&[a])).unwrap(), [a]);
            for b in 0..=255u8 {
                assert_eq!(decoded(&encoded(&[a, b])).unwrap(), [a, b]);
            }
        }
    }

    #[test]
    fn bad_padding_and_eos_are_errors() {
        assert_eq!(decoded(&[]).unwrap(), b"");
        // '0' is 00000, 'a' is 00011.
        assert_eq!(decoded(&[0b0000_0111]).unwrap(), b"0");
        assert_eq!(
            decoded(&[0b0000_0110]),
            Err(QpackError::Huffman),
            "padding with a zero"
        );
        assert_eq!(
            decoded(&[0b0000_0000]),
            Err(QpackError::Huffman),
            "padding with zeros"
        );
        assert_eq!(
            decoded(&[0b0000_0111, 0xff]),
            Err(QpackError::Huffman),
            "padding of 11 bits"
        );
        assert_eq!(decoded(&[0xff]), Err(QpackError::Huffman), "padding of 8 bits");
        assert_eq!(decoded(&[0xff; 4]), Err(QpackError::Huffman), "EOS");
        let eos = (0x3fff_ffff, 30);
        assert_eq!(
            decoded(&bits(&[(0, 5), eos])),
            Err(QpackError::Huffman),
            "EOS after a symbol"
        );
        assert_eq!(
            decoded(&bits(&[eos, (0, 5), (0, 5)])),
            Err(QpackError::Huffman),
            "EOS before symbols"
        );
        assert_eq!(decoded(&bits(&[(0x3f8, 10), (0, 5)])).unwrap(), b"!0");
        assert_eq!(
            decoded(&[0xfe]),
            Err(QpackError::Huffman),
            "8 bits of a longer code"
        );
    }

    proptest! {
        #[test]
        fn roundtrip(input in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(decoded(&encoded(&input)).unwrap(), input);
        }

        #[test]
        fn roundtrip_of_text(input in "[ -~]{0,200}") {
            prop_assert_eq!(decoded(&encoded(input.as_bytes())).unwrap(), input.as_bytes());
        }

        /// The code is complete and padding is strict, so whatever decodes is the only coding of its text.
        #[test]
        fn what_decodes_was_encoded(input in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(text) = decoded(&input) {
                prop_assert_eq!(encoded(&text), input);
            }
        }
    }
}
