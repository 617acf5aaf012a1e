//! Connection IDs of this process: fixed length, and readable to nobody but us and our successors.
//!
//! ```text
//! byte   0        1..7      7..9     9..12
//!        worker   random    epoch    check
//!        masked            masked
//! ```
//!
//! - `worker` says which worker owns the connection. A classic BPF program on the reuseport group reads it,
//!   so that a connection stays on its worker when the peer's address changes; its mask is therefore only an
//!   exclusive or with the first random byte and a byte of the key.
//! - `epoch` counts the starts of the process on one state directory: a later process tells the packets of a
//!   living predecessor from those of a dead one.
//! - `check` makes a random or foreign connection ID fail [`CidKey::open`], so that it is dropped without work.
//!
//! `epoch` and `check` are masked with an HMAC over the random bytes: RFC 9000 section 5.1 forbids connection
//! IDs that let an observer correlate two of them.

use aws_lc_rs::hmac;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use rand::{RngCore, SeedableRng, rngs::StdRng};

/// Length of every connection ID that this process issues, in bytes.
pub const CID_LEN: usize = 12;

const RANDOM: std::ops::Range<usize> = 1..7;

/// The secret of the layout; kept in the state directory so that it outlives the process.
#[derive(Clone)]
pub struct CidKey {
    mac: hmac::Key,
    /// Mask of the worker byte, known to the BPF program.
    worker_mask: u8,
}

/// What a connection ID of ours says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CidInfo {
    /// The worker that owns the connection.
    pub worker: u8,
    /// The start of the process that issued it.
    pub epoch: u16,
}

impl CidKey {
    /// A key from 32 secret bytes.
    pub fn new(secret: &[u8; 32]) -> Self {
        let mac = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let tag = hmac::sign(&mac, b"weft connection id worker mask");
        let worker_mask = tag.as_ref().first().copied().unwrap_or_default();
        Self { mac, worker_mask }
    }

    /// The byte that, with the first random byte, masks the worker: `worker = cid[0] ^ cid[1] ^ mask`.
    pub fn worker_mask(&self) -> u8 {
        self.worker_mask
    }

    /// Makes a connection ID around `random`.
    pub fn seal(&self, info: CidInfo, random: [u8; 6]) -> [u8; CID_LEN] {
        let [m0, m1, c0, c1, c2] = self.masks(info, &random);
        let [e0, e1] = info.epoch.to_be_bytes();
        let [r0, r1, r2, r3, r4, r5] = random;
        [
            info.worker ^ r0 ^ self.worker_mask,
            r0,
            r1,
            r2,
            r3,
            r4,
            r5,
            e0 ^ m0,
            e1 ^ m1,
            c0,
            c1,
            c2,
        ]
    }

    /// Reads a connection ID; `None` if this state directory never issued it.
    pub fn open(&self, cid: &[u8]) -> Option<CidInfo> {
        let cid: &[u8; CID_LEN] = cid.try_into().ok()?;
        let random: [u8; 6] = cid.get(RANDOM)?.try_into().ok()?;
        let worker = cid[0] ^ random[0] ^ self.worker_mask;
        let [m0, m1, ..] = self.masks(CidInfo { worker, epoch: 0 }, &random);
        let epoch = u16::from_be_bytes([cid[7] ^ m0, cid[8] ^ m1]);
        let info = CidInfo { worker, epoch };
        (self.seal(info, random) == *cid).then_some(info)
    }

    /// Two bytes of mask for the epoch, which depend on the random bytes alone, and three of check.
    fn masks(&self, info: CidInfo, random: &[u8; 6]) -> [u8; 5] {
        let mask = hmac::sign(&self.mac, random);
        let mut sealed = [0; 9];
        sealed[..6].copy_from_slice(random);
        sealed[6] = info.worker;
        sealed[7..].copy_from_slice(&info.epoch.to_be_bytes());
        let check = hmac::sign(&self.mac, &sealed);
        match (mask.as_ref(), check.as_ref()) {
            ([m0, m1, ..], [c0, c1, c2, ..]) => [*m0, *m1, *c0, *c1, *c2],
            _ => [0; 5],
        }
    }
}

impl std::fmt::Debug for CidKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CidKey(..)")
    }
}

/// Issues the connection IDs of one worker.
pub(crate) struct CidGenerator {
    key: CidKey,
    info: CidInfo,
    rng: StdRng,
}

impl CidGenerator {
    pub(crate) fn new(key: CidKey, info: CidInfo, seed: [u8; 32]) -> Self {
        Self {
            key,
            info,
            rng: StdRng::from_seed(seed),
        }
    }
}

impl ConnectionIdGenerator for CidGenerator {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut random = [0; 6];
        self.rng.fill_bytes(&mut random);
        ConnectionId::new(&self.key.seal(self.info, random))
    }

    /// Accepts every epoch: a packet for a connection that this process does not have belongs to a dead
    /// predecessor (or to a connection that ended), and earns a stateless reset (RFC 9000 section 10.3).
    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        self.key.open(cid).map(|_| ()).ok_or(InvalidCid)
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> CidKey {
        CidKey::new(&[7; 32])
    }

    proptest! {
        #[test]
        fn opens_what_it_sealed(worker: u8, epoch: u16, random: [u8; 6]) {
            let info = CidInfo { worker, epoch };
            let cid = key().seal(info, random);
            prop_assert_eq!(key().open(&cid), Some(info));
            prop_assert_eq!(cid[0] ^ cid[1] ^ key().worker_mask(), worker);
        }

        #[test]
        fn any_changed_bit_is_noticed(worker: u8, epoch: u16, random: [u8; 6], bit in 0..CID_LEN * 8) {
            let mut cid = key().seal(CidInfo { worker, epoch }, random);
            cid[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(key().open(&cid), None);
        }

        #[test]
        fn another_key_does_not_open_it(worker: u8, epoch: u16, random: [u8; 6]) {
            let cid = key().seal(CidInfo { worker, epoch }, random);
            prop_assert_eq!(CidKey::new(&[8; 32]).open(&cid), None);
        }
    }

    #[test]
    fn other_lengths_are_refused() {
        assert_eq!(key().open(&[]), None);
        assert_eq!(key().open(&[0; 11]), None);
        assert_eq!(key().open(&[0; 20]), None);
    }
}
