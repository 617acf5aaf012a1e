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
pub(super) struct Table(Box<[u16]>);

impl Table {
    /// For endpoints with these hashes. What there are beyond 65,535 gets no key.
    pub(super) fn new(hashes: &[u64]) -> Self {
        let mut order: Vec<(u64, u16)> = hashes
            .iter()
            .zip(0..u16::MAX)
            .map(|(hash, index)| (*hash, index))
            .collect();
        // The order decides who takes a place that several want.
        order.sort_unstable();
        let mut places = vec![u16::MAX; PLACES as usize];
        let mut steps: Vec<_> = order
            .iter()
            .map(|(hash, index)| (Steps::of(*hash), *index))
            .collect();
        let mut free = match steps.is_empty() {
            true => 0,
            false => PLACES,
        };
        while free > 0 {
            for (steps, index) in &mut steps {
                let Some(place) = steps.take_free(&mut places) else {
                    continue;
                };
                *place = *index;
                free -= 1;
                if free == 0 {
                    break;
                }
            }
        }
        Self(places.into())
    }

    /// `None`: there are no endpoints.
    pub(super) fn get(&self, key: u64) -> Option<usize> {
        let place = mix(key) % u64::from(PLACES);
        let index = *self.0.get(place as usize)?;
        (index != u16::MAX).then_some(usize::from(index))
    }
}

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
            if places.get(place) == Some(&u16::MAX) {
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
