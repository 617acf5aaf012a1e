//! The fields that end at a hop, and those that are the mesh's own.
//!
//! One pass over the names finds whether anything is to be removed at all: of most heads it is `host` alone.

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
};

use super::target::HeadError;

/// The one field of ours that an application may send: it counts hops, and can only harm its sender.
pub(crate) const WEFT_HOPS: HeaderName = HeaderName::from_static("weft-hops");

/// Makes the head of an application's request fit to travel: checks its transfer coding, removes what belongs to
/// this hop, Host (the authority is kept apart, see [`target`](super::target)) and `weft-*`.
///
/// # Errors
/// If its transfer coding is not one that we undo.
pub(crate) fn clean_request(headers: &mut HeaderMap) -> Result<(), HeadError> {
    check_transfer_coding(headers)?;
    remove_hop_by_hop(headers);
    headers.remove(HOST);
    Ok(())
}

/// Makes the head of an application's response fit to travel.
///
/// # Errors
/// If its transfer coding or its length cannot be told.
pub(crate) fn clean_response(headers: &mut HeaderMap) -> Result<(), HeadError> {
    check_transfer_coding(headers)?;
    if headers.contains_key(TRANSFER_ENCODING) {
        // It overrides the length (RFC 9112 section 6.3), which must not be forwarded.
        headers.remove(CONTENT_LENGTH);
    }
    merge_content_length(headers)?;
    remove_hop_by_hop(headers);
    Ok(())
}

/// Removes from trailers what may not be in them (RFC 9110 section 6.5.1) and `weft-*`.
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    remove_where(trailers, |name| {
        ends_here(name)
            || matches!(
                name.as_str(),
                "host"
                    | "content-length"
                    | "content-encoding"
                    | "content-type"
                    | "content-range"
                    | "trailer"
                    | "te"
            )
    });
}

/// Whether a `Connection` field has this option.
pub(crate) fn has_connection_option(headers: &HeaderMap, option: &str) -> bool {
    connection_options(headers).any(|token| token.eq_ignore_ascii_case(option))
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        // What Connection nominates ends here as well (RFC 9110 section 7.6.1). Options that are no field's name,
        // such as `close`, name nothing.
        let nominated: Vec<HeaderName> = connection_options(headers)
            .filter_map(|option| HeaderName::from_bytes(option.as_bytes()).ok())
            .collect();
        for name in nominated {
            // The coding and the length frame the message, whatever its sender says of them.
            if name != CONTENT_LENGTH {
                headers.remove(name);
            }
        }
    }
    keep_te_trailers(headers);
    remove_where(headers, ends_here);
}

/// Whether a field belongs to one hop, or is ours.
fn ends_here(name: &HeaderName) -> bool {
    match name.as_str() {
        "connection"
        | "keep-alive"
        | "proxy-connection"
        | "transfer-encoding"
        | "upgrade"
        | "http2-settings"
        | "proxy-authenticate"
        | "proxy-authorization"
        | "proxy-authentication-info" => true,
        other => other.starts_with("weft-") && *name != WEFT_HOPS,
    }
}

/// Of TE only `trailers` survives a hop (RFC 9113 section 8.2.2).
fn keep_te_trailers(headers: &mut HeaderMap) {
    if !headers.contains_key(TE) {
        return;
    }
    let trailers = headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|v| v.split(','));
    let wants = trailers
        .filter_map(|coding| coding.split(';').next())
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"));
    headers.remove(TE);
    if wants {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// The one transfer coding that hyper undoes is `chunked`, once. Any other would leave its encoded bytes as the
/// body, with nothing to say so (RFC 9112 section 6.1: 501).
pub(super) fn check_transfer_coding(headers: &HeaderMap) -> Result<(), HeadError> {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(()),
        (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(HeadError::TransferCoding),
    }
}

/// Several equal lengths become one (RFC 9110 section 8.6).
fn merge_content_length(headers: &mut HeaderMap) -> Result<(), HeadError> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else { return Ok(()) };
    if values.next().is_none() && first.as_bytes().iter().all(u8::is_ascii_digit) {
        return Ok(());
    }
    let mut merged = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        let value = value.to_str().map_err(|_| HeadError::ContentLength)?;
        for length in value.split(',').map(str::trim) {
            let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            let length: u64 = length
                .parse()
                .ok()
                .filter(|_| digits)
                .ok_or(HeadError::ContentLength)?;
            if *merged.get_or_insert(length) != length {
                return Err(HeadError::ContentLength);
            }
        }
    }
    let merged = merged.ok_or(HeadError::ContentLength)?;
    headers.insert(CONTENT_LENGTH, HeaderValue::from(merged));
    Ok(())
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|option| !option.is_empty())
}

fn remove_where(headers: &mut HeaderMap, doomed: impl Fn(&HeaderName) -> bool) {
    // Most heads have nothing to remove, and then this allocates nothing.
    let found: Vec<HeaderName> = headers.keys().filter(|name| doomed(name)).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn what_connection_nominates_ends_here() {
        let mut head = headers(&[
            ("Connection", "keep-alive, X-Private"),
            ("connection", "close,,Cookie2 , not a name"),
            ("X-Private", "1"),
            ("Cookie2", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("Proxy-Authorization", "Basic eDp5"),
            ("Upgrade", "h2c"),
            ("HTTP2-Settings", "AAMAAABkAAQCAAAAAAIAAAAA"),
            ("Transfer-Encoding", "chunked"),
            ("Host", "web"),
            ("Accept", "*/*"),
        ]);
        clean_request(&mut head).unwrap();
        assert_eq!(names(&head), ["accept"]);
    }

    #[test]
    fn the_length_cannot_be_nominated() {
        let mut head = headers(&[
            ("connection", "content-length, te, authorization"),
            ("content-length", "5"),
        ]);
        clean_request(&mut head).unwrap();
        assert_eq!(names(&head), ["content-length"]);
    }

    #[test]
    fn fields_of_the_mesh_are_not_the_applications_to_send() {
        for clean in [
            (|head: &mut HeaderMap| clean_request(head).unwrap()) as fn(&mut HeaderMap),
            |head| clean_response(head).unwrap(),
            clean_trailers,
        ] {
            let mut head = headers(&[
                ("Weft-Caller", "spiffe://a/ns/b/sa/c"),
                ("weft-error", "x"),
                ("weft-unprocessed", "x"),
                ("weft-", "x"),
                ("weft-hops", "3"),
                ("weftless", "x"),
            ]);
            clean(&mut head);
            assert_eq!(names(&head), ["weft-hops", "weftless"]);
        }
    }

    #[test]
    fn te_keeps_trailers_alone() {
        for (value, kept) in [
            ("trailers", Some("trailers")),
            ("gzip;q=0.5, Trailers;q=1", Some("trailers")),
            ("gzip", None),
            ("xtrailers", None),
        ] {
            let mut head = headers(&[("te", value), ("connection", "x")]);
            clean_request(&mut head).unwrap();
            assert_eq!(head.get(TE).map(|te| te.to_str().unwrap()), kept, "{value}");
        }
    }

    #[test]
    fn a_transfer_coding_that_is_not_undone_is_refused() {
        for refused in [
            "gzip, chunked",
            "chunked, chunked",
            "gzip",
            "identity",
            "chunked;q=1",
            "chunked,",
            "",
        ] {
            assert_eq!(
                clean_request(&mut headers(&[("te", "x"), ("transfer-encoding", refused)])),
                Err(HeadError::TransferCoding),
                "{refused}"
            );
        }
        let twice = [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        assert_eq!(
            clean_response(&mut headers(&twice)),
            Err(HeadError::TransferCoding)
        );
        assert_eq!(
            clean_request(&mut headers(&[("transfer-encoding", "Chunked")])),
            Ok(())
        );
    }

    #[test]
    fn a_response_has_one_length() {
        let mut head = headers(&[("content-length", "5, 5"), ("content-length", "5")]);
        clean_response(&mut head).unwrap();
        assert_eq!(head.get_all(CONTENT_LENGTH).iter().collect::<Vec<_>>(), ["5"]);

        let mut head = headers(&[("transfer-encoding", "chunked"), ("content-length", "5")]);
        clean_response(&mut head).unwrap();
        assert_eq!(names(&head), [""; 0], "the coding overrides the length");

        for wrong in ["5, 6", "+5", "5,", "0x5", "99999999999999999999"] {
            let result = clean_response(&mut headers(&[
                ("content-length", wrong),
                ("content-length", "5"),
            ]));
            assert_eq!(result, Err(HeadError::ContentLength), "{wrong}");
        }
    }

    #[test]
    fn trailers_frame_and_route_nothing() {
        let mut trailers = headers(&[
            ("grpc-status", "0"),
            ("content-length", "5"),
            ("host", "web"),
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
            ("checksum", "x"),
        ]);
        clean_trailers(&mut trailers);
        assert_eq!(names(&trailers), ["checksum", "grpc-status"]);
    }

    proptest! {
        #[test]
        fn nothing_of_the_hop_or_the_mesh_survives(
            fields in prop::collection::vec(("(connection|upgrade|te|keep-alive|weft-[a-z]{0,5}|x-[a-z]{1,3})", "[ -~]{0,20}"), 0..12)
        ) {
            let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.trim())).collect();
            let mut head = headers(&fields);
            let nominated: Vec<_> = connection_options(&head).map(str::to_ascii_lowercase).collect();
            clean_request(&mut head).unwrap();
            for name in head.keys() {
                prop_assert!(!ends_here(name));
                prop_assert!(name == CONTENT_LENGTH || !nominated.iter().any(|nominated| nominated == name.as_str()));
            }
        }
    }
}
