//! Connection IDs, as they come from a peer.

use weft_proto::fuzz::Target;

use super::MEMORY;
use crate::cid::{CID_LEN, CidInfo, CidKey};

pub(super) const TARGET: Target = Target {
    name: "connection_id",
    body,
    memory: MEMORY,
};

fn body(input: &[u8]) {
    let (secret, cid) = input.split_at(input.len().min(32));
    let mut padded = [0; 32];
    padded[..secret.len()].copy_from_slice(secret);
    let key = CidKey::new(&padded);
    if let Some(info) = key.open(cid) {
        is_ours(&key, cid, info);
    }
    // What was made from the same bytes is always ours, and with a changed check never.
    let mut bytes = [0; 9];
    let length = cid.len().min(9);
    bytes[..length].copy_from_slice(&cid[..length]);
    let [worker, first, second, random @ ..] = bytes;
    let info = CidInfo {
        worker,
        epoch: u16::from_be_bytes([first, second]),
    };
    let sealed = key.seal(info, random);
    assert_eq!(key.open(&sealed), Some(info));
    is_ours(&key, &sealed, info);
    for bit in 9 * 8..CID_LEN * 8 {
        let mut changed = sealed;
        changed[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(key.open(&changed), None);
    }
    assert_eq!(key.open(&sealed[..CID_LEN - 1]), None);
    assert_eq!(key.open(&[&sealed[..], &[0]].concat()), None);
}

/// It has the one form, and the kernel reads the same worker from it (`steer`).
fn is_ours(key: &CidKey, cid: &[u8], info: CidInfo) {
    assert_eq!(cid.len(), CID_LEN);
    assert_eq!(cid[0] ^ cid[1] ^ key.worker_mask(), info.worker);
    let random: [u8; 6] = cid[1..7].try_into().unwrap();
    assert_eq!(key.seal(info, random), cid);
}
