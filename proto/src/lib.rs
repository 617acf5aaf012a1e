//! The vocabulary of the Weft mesh: identities, documents and what they mean.
//!
//! - [`identity`] reads and makes SPIFFE IDs.
//! - [`names`] holds names and labels in Kubernetes' syntax.
//! - [`kinds`] is the table of the kinds of documents, and what one document is called.
//! - [`model`] is what the documents of a mesh mean, with nothing invalid in it.
//! - [`parse`] turns documents into the model, or into all of their errors at once.
//! - [`attach`] is which routes and policies apply where, and what became of each.
//! - [`mesh_set`] keeps a mesh whose documents change one by one.
//! - [`document`] is a document as it is stored and sent, JSON, and as it is shown, YAML.
//! - [`render`] is the way back: from the model to a document.
//! - [`reader`] is how it reads YAML; other files of the project are read the same way.
//! - [`wire`] is what controller and proxies agree on beyond their messages (`mesh`, with the feature `grpc`).
//! - [`error`] is what is wrong with a document, and where.
//!
//! Nothing here does I/O, and nothing panics, whatever the input.

pub mod attach;
pub mod document;
pub mod error;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod identity;
pub mod kinds;
pub mod mesh_set;
pub mod model;
pub mod names;
pub mod parse;
pub mod pattern;
pub mod reader;
pub mod render;
mod scalar;
pub mod wire;
mod yaml;

pub use error::{DocumentError, Source};
pub use identity::{SpiffeId, TrustDomain};

/// The messages between controller, proxies and operators, with their gRPC stubs; made from `proto/mesh`.
#[cfg(feature = "grpc")]
pub mod mesh {
    /// The first version.
    #[allow(missing_docs, unreachable_pub, clippy::all)]
    pub mod v1 {
        tonic::include_proto!("weft.mesh.v1");
    }
}
