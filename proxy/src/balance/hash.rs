//! Consistent hashing: Maglev's table, and what a key is hashed from.
//!
//! All proxies of a mesh come to the same table for the same endpoints, whatever order they know them in, and so send a key
//! to the same endpoint. Nothing here is secret or keyed: a caller who may choose the key may choose the endpoint.

use std::net::IpAddr;

use http::{HeaderMap, header::COOKIE};
use weft_proto::model::policy::HashKey;

/// Places in a table: a prime, so that every step visits all of them. A hundred for each of 655 endpoints keeps their shares
/// within a few percent; it costs 128 KiB. It never changes with the number of endpoints, as that would move every key.
const PLACES: u32 = 65_537;

/// Which endpoint a key belongs to, in one look.
#[derive(Debug)]
pub(super) struct Table {
    /// Indices of endpoints; none: there are no endpoints.
    places: Box<[u16]>,
    /// Of the endpoints.
    hashes: Vec<u64>,
}

impl Table {
    /// For endpoints with these hashes. What there are beyond 65,535 gets no key.
    pub(super) fn new(hashes: Vec<u64>) -> Self {
        let indices = hashes.iter().zip(0..u16::MAX);
        let mut order: Vec<(u64, u16)> = indices.map(|(hash, index)| (*hash, index)).collect();
        // The order decides who takes a place that several want.
        order.sort_unstable();
        Self {
            places: places(&order),
            hashes,
        }
    }

    /// Whether it is for endpoints with these hashes.
    pub(super) fn is_for(&self, hashes: &[u64]) -> bool {
        self.hashes == hashes
    }

    /// The index of the endpoint that a key belongs to. `None`: there are no endpoints.
    pub(super) fn get(&self, key: u64) -> Option<usize> {
        let place = mix(key).checked_rem(self.places.len() as u64)?;
        self.places.get(place as usize).copied().map(usize::from)
    }
}

/// Endpoints take turns, each with the next place that it wants and that is free.
fn places(order: &[(u64, u16)]) -> Box<[u16]> {
    if order.is_empty() {
        return Box::default();
    }
    let mut places = vec![FREE; PLACES as usize];
    let mut steps: Vec<_> = order
        .iter()
        .map(|(hash, index)| (Steps::of(*hash), *index))
        .collect();
    let mut free = PLACES;
    while free > 0 {
        for (steps, index) in steps.iter_mut().take(free as usize) {
            if let Some(place) = steps.take_free(&mut places) {
                *place = *index;
                free -= 1;
            }
        }
    }
    places.into()
}

/// A place that nobody has.
const FREE: u16 = u16::MAX;

/// The places of a table in the order in which one endpoint wants them.
struct Steps {
    next: u32,
    step: u32,
}

impl Steps {
    fn of(hash: u64) -> Self {
        let places = u64::from(PLACES);
        Self {
            next: (mix(hash) % places) as u32,
            step: (mix(!hash) % (places - 1)) as u32 + 1,
        }
    }

    fn take_free<'a>(&mut self, places: &'a mut [u16]) -> Option<&'a mut u16> {
        for _ in 0..PLACES {
            let place = self.next as usize;
            self.next = (self.next + self.step) % PLACES;
            if places.get(place) == Some(&FREE) {
                return places.get_mut(place);
            }
        }
        None
    }
}

/// The hash of an endpoint.
pub(super) fn endpoint(uid: &str, port: u16) -> u64 {
    let uid = bytes(FNV_OFFSET, uid.as_bytes());
    mix(bytes(uid, &port.to_be_bytes()))
}

/// How much a key belongs to an endpoint: that with the most has it, where the table's is not to be used.
pub(super) fn affinity(key: u64, endpoint: u64) -> u64 {
    mix(mix(key) ^ endpoint)
}

/// The same for the same key and purpose, as even between 0 and 1 as chance is.
pub(super) fn chance(key: u64, purpose: u64) -> f64 {
    (affinity(key, purpose) >> 11) as f64 / (1_u64 << 53) as f64
}

/// The key of a request. `None`: it has none, and may go anywhere.
pub(crate) fn key(of: &HashKey, headers: &HeaderMap, source: Option<IpAddr>) -> Option<u64> {
    match of {
        HashKey::Header(name) => header(headers, name),
        HashKey::Cookie(name) => cookie(headers, name.as_bytes()),
        HashKey::Source => source.map(|source| match source.to_canonical() {
            IpAddr::V4(ip) => bytes(FNV_OFFSET, &ip.octets()),
            IpAddr::V6(ip) => bytes(FNV_OFFSET, &ip.octets()),
        }),
    }
}

/// All lines of it: several are one value (RFC 9110 section 5.3).
fn header(headers: &HeaderMap, name: &str) -> Option<u64> {
    let mut lines = headers.get_all(name).iter();
    let first = bytes(FNV_OFFSET, lines.next()?.as_bytes());
    Some(lines.fold(first, |hash, line| bytes(bytes(hash, b", "), line.as_bytes())))
}

/// The first cookie of this name that has a value. HTTP/2 may have them in several lines (RFC 9113 section 8.2.3).
fn cookie(headers: &HeaderMap, name: &[u8]) -> Option<u64> {
    let lines = headers.get_all(COOKIE).iter();
    let mut pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name)?.strip_prefix(b"=")?;
        (!value.is_empty()).then(|| bytes(FNV_OFFSET, value))
    })
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a, which is the same in every version of every proxy.
fn bytes(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME)
    })
}

/// The finaliser of splitmix64: every bit of what comes in changes half of what goes out.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn hashes(count: u16) -> Vec<u64> {
        (0..count)
            .map(|number| endpoint(&format!("w{number}"), 80))
            .collect()
    }

    fn shares(table: &Table, endpoints: usize) -> Vec<usize> {
        let mut shares = vec![0; endpoints];
        for index in &table.places {
            shares[usize::from(*index)] += 1;
        }
        shares
    }

    #[test]
    fn places_are_even_and_taken_all() {
        for count in [1, 2, 3, 10, 100, 655] {
            let table = Table::new(hashes(count));
            let fair = f64::from(PLACES) / f64::from(count);
            for places in shares(&table, count.into()) {
                assert!(
                    (places as f64 / fair - 1.0).abs() < 0.02,
                    "{places} of {fair} ({count})"
                );
            }
        }
        assert_eq!(Table::new(Vec::new()).get(7), None);
    }

    #[test]
    fn the_same_hash_twice_is_two_endpoints_of_which_both_have_places() {
        let places = shares(&Table::new(vec![5, 5]), 2);
        assert!(places.iter().all(|places| *places > 0), "{places:?}");
    }

    #[test]
    fn the_order_of_endpoints_does_not_matter() {
        let hashes = hashes(20);
        let reversed: Vec<_> = hashes.iter().rev().copied().collect();
        let (one, other) = (Table::new(hashes.clone()), Table::new(reversed.clone()));
        for key in 0..10_000 {
            assert_eq!(hashes[one.get(key).unwrap()], reversed[other.get(key).unwrap()]);
        }
    }

    #[test]
    fn when_one_goes_hardly_any_key_of_the_others_moves() {
        for count in [2_u16, 3, 10, 100] {
            let all = hashes(count);
            let table = Table::new(all.clone());
            for gone in [0, usize::from(count) / 2] {
                let mut left = all.clone();
                let gone = left.remove(gone);
                let after = Table::new(left.clone());
                let moved = (0..100_000_u64).filter(|key| {
                    let before = all[table.get(*key).unwrap()];
                    before != gone && before != left[after.get(*key).unwrap()]
                });
                let moved = moved.count();
                assert!(
                    moved < 3_000,
                    "{moved} of 100,000 keys moved needlessly ({count})"
                );
            }
        }
    }

    fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        headers
    }

    fn cookie_of(lines: &[&[u8]]) -> Option<u64> {
        let lines: Vec<_> = lines.iter().map(|line| ("cookie", *line)).collect();
        key(&HashKey::Cookie("id".to_owned()), &headers(&lines), None)
    }

    #[test]
    fn a_cookie_is_found_wherever_it_is_and_only_by_its_whole_name() {
        let expected = cookie_of(&[b"id=7"]);
        assert!(expected.is_some());
        let same: [&[&[u8]]; 6] = [
            &[b"a=1; id=7; b=2"],
            &[b"a=1;id=7"],
            &[b"  id=7  "],
            &[b"a=1", b"id=7"],
            &[b"id=7; id=8"],
            &[b"id=; xid=9; id=7"],
        ];
        for lines in same {
            assert_eq!(cookie_of(lines), expected, "{lines:?}");
        }
        let none: [&[&[u8]]; 8] = [
            &[],
            &[b""],
            &[b"id"],
            &[b"id="],
            &[b"xid=7"],
            &[b"ID=7"],
            &[b"a=id=7"],
            &[b"id =7"],
        ];
        for lines in none {
            assert_eq!(cookie_of(lines), None, "{lines:?}");
        }
        assert_ne!(cookie_of(&[b"id=8"]), expected);
        assert_ne!(
            cookie_of(&[b"id=7=7"]),
            expected,
            "the value may contain anything"
        );
    }

    #[test]
    fn a_header_is_all_of_its_lines() {
        let of = HashKey::Header("x-user".to_owned());
        let hash = |lines: &[(&'static str, &[u8])]| key(&of, &headers(lines), None);
        assert_eq!(hash(&[]), None);
        assert!(hash(&[("x-user", b"")]).is_some());
        assert_eq!(
            hash(&[("x-user", b"a"), ("x-user", b"b")]),
            hash(&[("x-user", b"a, b")])
        );
        assert_ne!(
            hash(&[("x-user", b"a"), ("x-user", b"b")]),
            hash(&[("x-user", b"a")])
        );
    }

    #[test]
    fn a_source_is_an_address_in_either_form() {
        let of = |ip: &str| key(&HashKey::Source, &HeaderMap::new(), Some(ip.parse().unwrap()));
        assert_eq!(of("10.0.0.1"), of("::ffff:10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_ne!(of("fd00::1"), of("fd00::2"));
        assert_eq!(key(&HashKey::Source, &HeaderMap::new(), None), None);
    }

    #[test]
    fn hashes_stay_what_they_are() {
        // Proxies of two versions of this program are in one mesh.
        assert_eq!(bytes(FNV_OFFSET, b"foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(mix(1), 0x5692_161d_100b_05e5);
    }

    proptest! {
        #[test]
        fn no_cookie_breaks_it(lines in prop::collection::vec(prop::collection::vec(0x20_u8..=0x7e, 0..40), 0..4)) {
            let lines: Vec<_> = lines.iter().map(Vec::as_slice).collect();
            cookie_of(&lines);
        }

        #[test]
        fn chance_is_between_0_and_1(key in any::<u64>(), purpose in any::<u64>()) {
            prop_assert!((0.0..1.0).contains(&chance(key, purpose)));
        }
    }
}
