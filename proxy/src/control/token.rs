//! What a proxy reads of a join token: which root the controller must prove itself by. The rest is the controller's.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use weft_tls::join::RootHash;
use zeroize::Zeroizing;

/// What every token begins with: its version.
const PREFIX: &str = "weft1.";
/// 16 bytes of id, 32 of secret, 32 of the root's hash.
const LENGTH: usize = 80;
const HASH_AT: usize = 48;

/// A join token.
pub(crate) struct JoinToken {
    /// As it was given out.
    pub(crate) text: Zeroizing<String>,
    /// The SHA-256 of the root.
    pub(crate) root: RootHash,
}

/// It is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no join token: `weft token create` prints one, which begins with {PREFIX}")]
pub(crate) struct NoToken;

impl JoinToken {
    /// Reads a token. What is wrong with one is not told in detail, lest it be shown.
    ///
    /// # Errors
    /// It is none.
    pub(crate) fn parse(text: &str) -> Result<Self, NoToken> {
        let encoded = text.strip_prefix(PREFIX).ok_or(NoToken)?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).map_err(|_| NoToken)?);
        if bytes.len() != LENGTH {
            return Err(NoToken);
        }
        let hash = bytes.get(HASH_AT..).and_then(|hash| hash.try_into().ok());
        Ok(Self {
            text: Zeroizing::new(text.to_owned()),
            root: RootHash::new(hash.ok_or(NoToken)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_the_hash_of_its_root() {
        let mut bytes = [7; LENGTH];
        bytes[HASH_AT..].fill(9);
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
        assert_eq!(JoinToken::parse(&text).unwrap().root, RootHash::new([9; 32]));
        for bad in [
            "",
            "weft1.",
            "weft2.AAAA",
            "weft1.!!!",
            &text[..text.len() - 1],
            &format!("{text}A"),
        ] {
            assert_eq!(JoinToken::parse(bad).err(), Some(NoToken), "{bad}");
        }
    }
}
