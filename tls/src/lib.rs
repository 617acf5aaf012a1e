//! X.509-SVIDs, trust bundles, and the TLS of every connection of the mesh.
//!
//! [`credentials`] is what a workload proves itself with and whom it believes. [`verify`] is the check of a
//! peer's chain. [`grpc`] is the TLS of the controller's port, where a caller may have no certificate yet, and
//! [`join`] that of a workload's first call there, which knows nothing but the hash of a root, from a [`token`].
//!
//! TLS 1.3 only, one cryptographic provider (aws-lc-rs), no resumption and no 0-RTT. The crate knows no QUIC and
//! does no I/O: what it makes are configurations of rustls, for whoever carries the bytes.

pub mod clock;
pub mod credentials;
pub mod grpc;
pub mod join;
mod provider;
#[cfg(test)]
mod test_pair;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod token;
pub mod verify;

pub use credentials::{Credentials, CredentialsError, Svid};
pub use verify::{PeerIdentity, Refusal, TrustBundle, TrustBundleError};
