//! The text of a join token: `weft1.`, then base64url of its name, its secret, and the hash of a root.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::{Zeroize, Zeroizing};

use crate::trust::RootId;

/// What every token begins with: its format.
const PREFIX: &str = "weft1.";
/// Bytes of the name.
const ID: usize = 16;
/// Bytes of the secret: nobody guesses it.
const SECRET: usize = 32;
/// Bytes of all: name, secret, hash of the root.
const BYTES: usize = ID + SECRET + 32;

/// A join token as its owner has it. The secret is wiped when it is dropped, and nothing shows it.
pub struct TokenText {
    id: [u8; ID],
    secret: [u8; SECRET],
    root: RootId,
}

impl TokenText {
    /// A new one, for joiners that are to trust this root first.
    pub fn generate(root: RootId) -> Self {
        Self {
            id: rand::random(),
            secret: rand::random(),
            root,
        }
    }

    /// Reads one. `None`: it is not a token.
    pub fn parse(text: &str) -> Option<Self> {
        let encoded = text.trim().strip_prefix(PREFIX)?;
        let mut bytes = Zeroizing::new([0; BYTES + 2]);
        let length = URL_SAFE_NO_PAD.decode_slice(encoded, bytes.as_mut_slice()).ok()?;
        if length != BYTES {
            return None;
        }
        let (id, rest) = bytes.split_first_chunk()?;
        let (secret, rest) = rest.split_first_chunk()?;
        Some(Self {
            id: *id,
            secret: *secret,
            root: RootId::from_slice(rest.get(..32)?)?,
        })
    }

    /// The text to give to a joiner.
    pub fn expose(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES));
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(self.root.as_bytes());
        let mut text = Zeroizing::new(String::with_capacity(PREFIX.len() + 2 * BYTES));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(&*bytes, &mut text);
        text
    }

    /// Its name in hexadecimal digits: no secret.
    pub fn id(&self) -> String {
        crate::hex::encode(&self.id)
    }

    /// The root that it names.
    pub fn root(&self) -> RootId {
        self.root
    }

    /// The SHA-256 of the secret: all that is stored of it.
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &self.secret).as_ref());
        hash
    }
}

impl Drop for TokenText {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenText")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}
