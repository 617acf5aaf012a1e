//! The WebSocket handshake of RFC 6455 on either side of a mesh that carries extended CONNECT (RFC 9220).
//!
//! The handshake's key proves to one client that one server read its request; it means nothing beyond a hop. So the
//! calling side answers its application's key itself, and the called side sends a key of its own and checks the
//! application's answer.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::request::Parts;
use http::{Method, Version};

use super::headers::has_connection_option;
use super::target::HeadError;

/// RFC 6455 section 1.3.
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The key of one handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WebSocketKey(HeaderValue);

impl WebSocketKey {
    /// A fresh key, for a handshake with the application.
    pub(crate) fn generate() -> Self {
        let nonce: [u8; 16] = rand::random();
        // Base64 is always a valid value.
        Self(HeaderValue::try_from(STANDARD.encode(nonce)).unwrap_or(HeaderValue::from_static("")))
    }

    /// The `Sec-WebSocket-Accept` that answers this key.
    pub(crate) fn accept(&self) -> HeaderValue {
        let mut input = self.0.as_bytes().to_vec();
        input.extend_from_slice(MAGIC);
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &input);
        HeaderValue::try_from(STANDARD.encode(hash)).unwrap_or(HeaderValue::from_static(""))
    }

    /// Adds what makes a GET a WebSocket handshake with this key. The other `Sec-WebSocket-*` fields are end to end
    /// and already there.
    pub(crate) fn add_to_request(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_KEY, self.0.clone());
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }

    /// Adds what makes a 101 the answer to a handshake with this key.
    pub(crate) fn add_to_response(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, self.accept());
    }

    /// Whether the head of a 101 answers this key (RFC 6455 section 4.1).
    pub(crate) fn is_answered_by(&self, headers: &HeaderMap) -> bool {
        let mut accepts = headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
        upgrades_to_websocket(headers) && accepts.next() == Some(&self.accept()) && accepts.next().is_none()
    }
}

/// The key, if a request is a WebSocket handshake. Other upgrades, `h2c` among them, and other versions of the
/// protocol are not taken: the request is then served as it is (RFC 9110 section 7.8).
///
/// # Errors
/// If it asks for a WebSocket and does it wrongly.
pub(crate) fn handshake(head: &Parts) -> Result<Option<WebSocketKey>, HeadError> {
    let is_current = head
        .headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_some_and(|version| version == "13");
    if head.version != Version::HTTP_11 || !is_current || !upgrades_to_websocket(&head.headers) {
        return Ok(None);
    }
    let mut keys = head.headers.get_all(SEC_WEBSOCKET_KEY).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else {
        return Err(HeadError::WebSocket);
    };
    let nonce = STANDARD
        .decode(key.as_bytes())
        .map_err(|_| HeadError::WebSocket)?;
    if nonce.len() != 16 || head.method != Method::GET {
        return Err(HeadError::WebSocket);
    }
    Ok(Some(WebSocketKey(key.clone())))
}

/// Removes the fields that belong to one handshake alone, from a request or a response.
pub(crate) fn remove_handshake(headers: &mut HeaderMap) {
    headers.remove(SEC_WEBSOCKET_KEY);
    headers.remove(SEC_WEBSOCKET_ACCEPT);
}

fn upgrades_to_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = headers
        .get_all(UPGRADE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    protocols.any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
        && has_connection_option(headers, "upgrade")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::get("/chat").header(SEC_WEBSOCKET_VERSION, "13");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");

    #[test]
    fn the_example_of_the_rfc() {
        let head = request(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            KEY,
        ]);
        let key = handshake(&head).unwrap().unwrap();
        assert_eq!(key.accept(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let mut answer = HeaderMap::new();
        key.add_to_response(&mut answer);
        assert!(key.is_answered_by(&answer));
    }

    #[test]
    fn a_key_of_ours_is_answered_by_its_accept_alone() {
        let (ours, other) = (WebSocketKey::generate(), WebSocketKey::generate());
        assert_ne!(ours, other);
        let mut head = request(&[]);
        ours.add_to_request(&mut head.headers);
        assert_eq!(handshake(&head), Ok(Some(ours.clone())));

        let mut answer = HeaderMap::new();
        other.add_to_response(&mut answer);
        assert!(!ours.is_answered_by(&answer));
        answer.append(SEC_WEBSOCKET_ACCEPT, ours.accept());
        assert!(!ours.is_answered_by(&answer), "two answers are none");
        assert!(!ours.is_answered_by(&HeaderMap::new()));
    }

    #[test]
    fn other_upgrades_are_not_taken() {
        for fields in [
            &[("connection", "upgrade"), ("upgrade", "h2c")][..],
            &[("upgrade", "websocket"), KEY],
            &[("connection", "upgrade"), KEY],
        ] {
            assert_eq!(handshake(&request(fields)), Ok(None), "{fields:?}");
        }
        let mut draft = request(&[("connection", "upgrade"), ("upgrade", "websocket"), KEY]);
        draft
            .headers
            .insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("8"));
        assert_eq!(handshake(&draft), Ok(None));
        let mut old = request(&[("connection", "upgrade"), ("upgrade", "websocket"), KEY]);
        old.version = Version::HTTP_10;
        assert_eq!(handshake(&old), Ok(None));
    }

    #[test]
    fn a_malformed_handshake_is_refused() {
        let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
        for keys in [
            &[][..],
            &[KEY, KEY],
            &[("sec-websocket-key", "short")],
            &[("sec-websocket-key", "AAAA")],
        ] {
            let fields: Vec<_> = upgrade.iter().chain(keys).copied().collect();
            assert_eq!(
                handshake(&request(&fields)),
                Err(HeadError::WebSocket),
                "{keys:?}"
            );
        }
        let mut post = request(&[upgrade[0], upgrade[1], KEY]);
        post.method = Method::POST;
        assert_eq!(handshake(&post), Err(HeadError::WebSocket));
    }
}
