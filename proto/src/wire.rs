//! What controller and proxies must agree on beyond the messages of `mesh/v1`.

/// What this program understands of resources. A resource that `requires` anything else is refused, and the last good
/// version of it stays.
pub const FEATURES: [&str; 1] = ["documents.v1alpha1"];

/// Whether all that a resource requires is understood; else what is not.
///
/// # Errors
/// The first feature that is not known here.
pub fn check_features<'a>(requires: impl IntoIterator<Item = &'a str>) -> Result<(), &'a str> {
    match requires.into_iter().find(|feature| !FEATURES.contains(feature)) {
        None => Ok(()),
        Some(unknown) => Err(unknown),
    }
}

/// Tells whether two sides hold the same versions of the same resources, in any order. It finds mistakes, not attackers:
/// both sides have proved who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    sum: u64,
    count: u64,
}

impl Digest {
    /// Adds a resource, or, with the same arguments, takes it away again by [`remove`](Self::remove).
    pub fn add(&mut self, key: impl std::fmt::Display, version: u64) {
        self.sum = self.sum.wrapping_add(hash(key, version));
        self.count = self.count.wrapping_add(1);
    }

    /// Takes away what was added.
    pub fn remove(&mut self, key: impl std::fmt::Display, version: u64) {
        self.sum = self.sum.wrapping_sub(hash(key, version));
        self.count = self.count.wrapping_sub(1);
    }

    /// Sixteen bytes for the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let (sum, count) = bytes.split_at_mut(8);
        sum.copy_from_slice(&self.sum.to_be_bytes());
        count.copy_from_slice(&self.count.to_be_bytes());
        bytes
    }
}

/// FNV-1a, with a finish that spreads it: sums of plain FNV would collide for swapped versions.
fn hash(key: impl std::fmt::Display, version: u64) -> u64 {
    struct Fnv(u64);
    impl std::fmt::Write for Fnv {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            self.write(text.as_bytes());
            Ok(())
        }
    }
    impl Fnv {
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    let mut fnv = Fnv(0xcbf2_9ce4_8422_2325);
    let _ = std::fmt::write(&mut fnv, format_args!("{key}"));
    fnv.write(&[0]);
    fnv.write(&version.to_be_bytes());
    let mixed = (fnv.0 ^ (fnv.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_that_of_the_set_whatever_the_order() {
        let (mut left, mut right) = (Digest::default(), Digest::default());
        left.add("Service default/web", 1);
        left.add("Workload default/web-0", 2);
        right.add("Workload default/web-0", 2);
        right.add("Service default/web", 7);
        assert_ne!(left.to_bytes(), right.to_bytes());
        right.remove("Service default/web", 7);
        right.add("Service default/web", 1);
        assert_eq!(left.to_bytes(), right.to_bytes());
    }

    #[test]
    fn swapped_versions_and_moved_names_are_another_set() {
        let of = |resources: [(&str, u64); 2]| {
            let mut digest = Digest::default();
            resources
                .into_iter()
                .for_each(|(key, version)| digest.add(key, version));
            digest.to_bytes()
        };
        assert_ne!(of([("a", 1), ("b", 2)]), of([("a", 2), ("b", 1)]));
        assert_ne!(of([("a", 1), ("b", 2)]), of([("ab", 1), ("", 2)]));
    }

    #[test]
    fn an_unknown_feature_is_named() {
        assert_eq!(check_features(["documents.v1alpha1"]), Ok(()));
        assert_eq!(check_features(["documents.v1alpha1", "magic"]), Err("magic"));
    }
}
