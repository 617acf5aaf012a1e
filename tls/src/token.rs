//! Join tokens: `weft1.`, then base64url of a name, a secret, and the hash of a root.
//!
//! The controller makes them and looks at name and secret; the joiner looks at the root, by which alone it knows the
//! controller ([`join`](crate::join)).

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::{Zeroize, Zeroizing};

use crate::join::RootHash;

/// What every token begins with: its format.
const PREFIX: &str = "weft1.";
/// Bytes of the name.
const ID: usize = 16;
/// Bytes of the secret: nobody guesses it.
const SECRET: usize = 32;
/// Bytes of all: name, secret, hash of the root.
const BYTES: usize = ID + SECRET + 32;

/// A join token as its owner has it. The secret is wiped when it is dropped, and nothing shows it.
pub struct JoinToken {
    id: [u8; ID],
    secret: [u8; SECRET],
    root: RootHash,
}

impl JoinToken {
    /// A new one, for joiners that are to trust this root first.
    #[must_use]
    pub fn generate(root: RootHash) -> Self {
        Self {
            id: rand::random(),
            secret: rand::random(),
            root,
        }
    }

    /// Reads one. `None`: it is not a token.
    #[must_use]
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
            root: RootHash::new(*rest.first_chunk()?),
        })
    }

    /// The text to give to a joiner.
    #[must_use]
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
    #[must_use]
    pub fn id(&self) -> String {
        self.id.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The root that it names.
    #[must_use]
    pub fn root(&self) -> RootHash {
        self.root
    }

    /// The SHA-256 of the secret: all that is stored of it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &self.secret).as_ref());
        hash
    }
}

impl Drop for JoinToken {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_from_its_text_and_from_no_other() {
        let token = JoinToken::generate(RootHash::new([9; 32]));
        let text = token.expose();
        let read = JoinToken::parse(&text).unwrap();
        assert_eq!((read.id(), read.hash()), (token.id(), token.hash()));
        assert_eq!(read.root(), RootHash::new([9; 32]));
        let shown = format!("{token:?}");
        assert!(shown.contains(&token.id()) && shown.len() < 80, "{shown}");
        for bad in [
            "",
            "weft1.",
            "weft2.AAAA",
            "weft1.!!!",
            &text[..text.len() - 1],
            &format!("{}A", *text),
        ] {
            assert!(JoinToken::parse(bad).is_none(), "{bad}");
        }
    }
}
