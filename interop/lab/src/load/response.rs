//! Reading HTTP/1.1 answers (RFC 9112): just what a judge of answers to GET needs.

use super::connection::Failure;
use std::borrow::Cow;

/// More fields than this are an error.
const MAX_FIELDS: usize = 64;

/// The head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Its bytes, the empty line included.
    pub(super) length: usize,
    pub(super) content_length: Option<u64>,
    pub(super) chunked: bool,
    /// Whether the server ends the connection after this answer.
    pub(super) close: bool,
}

/// A whole answer.
pub(super) struct Answer<'a> {
    pub(super) head: Head,
    pub(super) body: Cow<'a, [u8]>,
}

/// The head at the start of `received`, if it is whole.
pub(super) fn head(received: &[u8]) -> Result<Option<Head>, Failure> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let length = match response.parse(received).map_err(|_| Failure::Malformed)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let status = response.code.ok_or(Failure::Malformed)?;
    let mut head = Head {
        status,
        length,
        content_length: None,
        chunked: false,
        close: response.version != Some(1),
    };
    for field in response.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            let value = std::str::from_utf8(field.value)
                .ok()
                .and_then(|text| text.parse().ok());
            head.content_length = Some(value.ok_or(Failure::Malformed)?);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            head.chunked = field.value.eq_ignore_ascii_case(b"chunked");
        } else if field.name.eq_ignore_ascii_case("connection") {
            head.close = field.value.eq_ignore_ascii_case(b"close");
        }
    }
    Ok(Some(head))
}

/// The answer that is `received`, if it is whole; more than one answer is an error. `ended` says that no more comes.
pub(super) fn whole(received: &[u8], ended: bool) -> Result<Option<Answer<'_>>, Failure> {
    let Some(head) = head(received)? else {
        return Ok(None);
    };
    let rest = received.get(head.length..).unwrap_or_default();
    let body = if head.chunked {
        match unchunk(rest)? {
            None => return Ok(None),
            Some(body) => Cow::Owned(body),
        }
    } else {
        let Some(length) = head.content_length else {
            // Without a length the body ends with the connection (RFC 9112 section 6.3).
            return Ok(ended.then_some(Answer {
                head: Head { close: true, ..head },
                body: Cow::Borrowed(rest),
            }));
        };
        match (rest.len() as u64).cmp(&length) {
            std::cmp::Ordering::Less => return Ok(None),
            std::cmp::Ordering::Equal => Cow::Borrowed(rest),
            std::cmp::Ordering::Greater => return Err(Failure::Malformed),
        }
    };
    Ok(Some(Answer { head, body }))
}

/// The content of a whole chunked body that is all of `wire`; trailers are skipped.
fn unchunk(mut wire: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let mut body = Vec::new();
    loop {
        let (start, size) = match httparse::parse_chunk_size(wire).map_err(|_| Failure::Malformed)? {
            httparse::Status::Complete(found) => found,
            httparse::Status::Partial => return Ok(None),
        };
        let size = usize::try_from(size).map_err(|_| Failure::Malformed)?;
        wire = wire.get(start..).unwrap_or_default();
        if size == 0 {
            return match wire {
                b"\r\n" => Ok(Some(body)),
                _ if wire.ends_with(b"\r\n\r\n") => Ok(Some(body)),
                _ => Ok(None),
            };
        }
        let Some(chunk) = wire.get(..size) else {
            return Ok(None);
        };
        body.extend_from_slice(chunk);
        match wire.get(size..).and_then(|rest| rest.split_at_checked(2)) {
            None => return Ok(None),
            Some((b"\r\n", rest)) => wire = rest,
            Some(_) => return Err(Failure::Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body_of(wire: &[u8], ended: bool) -> Result<Option<Vec<u8>>, Failure> {
        Ok(whole(wire, ended)?.map(|answer| answer.body.into_owned()))
    }

    #[test]
    fn an_answer_is_whole_at_its_last_byte_and_not_before() {
        for wire in [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"[..],
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\na: b\r\n\r\n",
        ] {
            for cut in 0..wire.len() {
                assert_eq!(body_of(&wire[..cut], false), Ok(None), "{cut} bytes");
            }
            assert_eq!(body_of(wire, false).unwrap().unwrap(), b"hello");
        }
    }

    #[test]
    fn bytes_after_an_answer_are_an_error() {
        let wire = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello!";
        assert_eq!(body_of(wire, false), Err(Failure::Malformed));
    }

    #[test]
    fn a_body_without_a_length_ends_with_the_connection() {
        let wire = b"HTTP/1.1 200 OK\r\n\r\nhello";
        assert_eq!(body_of(wire, false), Ok(None));
        assert_eq!(body_of(wire, true).unwrap().unwrap(), b"hello");
    }
}
