//! The regular fields of a message, validated as they are decoded and before they are encoded
//! (RFC 9114 sections 4.2 and 4.3, RFC 9110 section 5).

use bytes::{BufMut, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};

use super::error::{H3Error, MessageError};
use super::names::{Class, Known};
use super::qpack::{self, BlockWriter, Name, Value};

/// Which section the fields are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldSection {
    Request,
    Response,
    Trailers,
}

/// Collects regular fields of a section that is being decoded.
#[derive(Debug)]
pub(crate) struct FieldMap {
    section: FieldSection,
    headers: HeaderMap,
    has_content_length: bool,
    cookies: usize,
}

impl FieldMap {
    /// For a section of `block` encoded bytes, from which the number of fields is guessed.
    pub(crate) fn new(section: FieldSection, block: usize) -> FieldMap {
        let capacity = match block {
            0..64 => 6,
            64..256 => 12,
            _ => 24,
        };
        FieldMap {
            section,
            headers: HeaderMap::with_capacity(capacity),
            has_content_length: false,
            cookies: 0,
        }
    }

    /// Whether no field came yet, so that pseudo-header fields are still in order.
    pub(crate) fn is_empty(&self) -> bool {
        self.headers.is_empty()
    }

    /// Takes a field. `host` of a request and pseudo-header fields are the caller's.
    pub(crate) fn append(&mut self, name: Name<'_>, value: Value<'_>) -> Result<(), H3Error> {
        let class = name.class();
        let mut sensitive = false;
        match class {
            Class::Plain => {}
            Class::Sensitive => sensitive = true,
            Class::Cookie => {
                sensitive = true;
                self.cookies += 1;
            }
            Class::Pseudo(pseudo) => return Err(MessageError::MisplacedPseudo(pseudo.as_str()).into()),
            Class::ConnectionSpecific => return Err(MessageError::ConnectionSpecific(known_str(name)).into()),
            Class::Te if self.section == FieldSection::Request && is_trailers(value.as_bytes()) => {}
            Class::Te => return Err(MessageError::Te.into()),
            Class::Host if self.section == FieldSection::Trailers => {
                return Err(MessageError::ForbiddenTrailer.into());
            }
            Class::Host => return Err(MessageError::HostInResponse.into()),
            Class::ContentLength => self.content_length(value.as_bytes())?,
        }
        let name = name.to_header_name()?;
        let mut value = value.into_header_value()?;
        if sensitive {
            value.set_sensitive(true);
        }
        // Past the map's own limit of 32,768 names.
        self.headers
            .try_append(name, value)
            .map_err(|_| H3Error::FieldSectionTooLarge)?;
        Ok(())
    }

    /// The fields, cookie crumbs joined (RFC 9114 section 4.2.1).
    pub(crate) fn finish(mut self) -> HeaderMap {
        if self.cookies > 1 && self.section == FieldSection::Request {
            let length = self
                .headers
                .get_all(header::COOKIE)
                .iter()
                .map(|crumb| crumb.len() + 2)
                .sum();
            let mut joined = BytesMut::with_capacity(length);
            // An empty crumb says nothing, and at the end it would leave white space behind.
            let crumbs = self.headers.get_all(header::COOKIE).iter();
            for crumb in crumbs.filter(|crumb| !crumb.is_empty()) {
                if !joined.is_empty() {
                    joined.put_slice(b"; ");
                }
                joined.put_slice(crumb.as_bytes());
            }
            // Valid values joined by visible characters are a valid value.
            if let Ok(mut cookie) = HeaderValue::from_maybe_shared(joined.freeze()) {
                cookie.set_sensitive(true);
                self.headers.insert(header::COOKIE, cookie);
            }
        }
        self.headers
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), MessageError> {
        if self.section == FieldSection::Trailers {
            return Err(MessageError::ForbiddenTrailer);
        }
        if self.has_content_length {
            return Err(MessageError::DuplicateContentLength);
        }
        self.has_content_length = true;
        parse_content_length(value).map(|_| ())
    }
}

/// The one `content-length` of a message.
pub(crate) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, MessageError> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(MessageError::DuplicateContentLength);
    }
    parse_content_length(value.as_bytes()).map(Some)
}

/// Decimal digits alone: no sign, list or white space (RFC 9110 section 8.6).
fn parse_content_length(value: &[u8]) -> Result<u64, MessageError> {
    if value.is_empty() {
        return Err(MessageError::InvalidContentLength);
    }
    value
        .iter()
        .try_fold(0u64, |length, byte| {
            let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
            length.checked_mul(10)?.checked_add(digit)
        })
        .ok_or(MessageError::InvalidContentLength)
}

/// Encodes the regular fields of a message of our own. What belongs to one HTTP/1.1 connection is left out, as
/// are `host`, which `:authority` replaces, and in trailers all that cannot be there: an application may have such
/// fields, but they never leave. `content_length` says whether that field may.
pub(crate) fn encode_fields(
    headers: &HeaderMap,
    section: FieldSection,
    content_length: bool,
    writer: &mut BlockWriter<'_>,
) -> Result<(), MessageError> {
    let mut has_content_length = false;
    for (name, value) in headers {
        let Some(known) = Known::find(name.as_str().as_bytes()) else {
            qpack::check_name(name.as_str().as_bytes())?;
            writer.literal(name.as_str().as_bytes(), trimmed(value), value.is_sensitive());
            continue;
        };
        match known.class() {
            Class::Plain => writer.known(known, trimmed(value), value.is_sensitive()),
            Class::Sensitive | Class::Cookie => writer.known(known, trimmed(value), true),
            Class::ConnectionSpecific | Class::Host | Class::Pseudo(_) => {}
            Class::Te if section == FieldSection::Request && lists_trailers(value.as_bytes()) => {
                writer.known(known, b"trailers", false);
            }
            Class::Te => {}
            Class::ContentLength if section == FieldSection::Trailers || !content_length => {}
            Class::ContentLength => {
                parse_content_length(value.as_bytes())?;
                if std::mem::replace(&mut has_content_length, true) {
                    return Err(MessageError::DuplicateContentLength);
                }
                writer.known(known, value.as_bytes(), value.is_sensitive());
            }
        }
    }
    Ok(())
}

/// White space around a value is not part of it (RFC 9110 section 5.5).
fn trimmed(value: &HeaderValue) -> &[u8] {
    let mut bytes = value.as_bytes();
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

fn is_trailers(value: &[u8]) -> bool {
    value.eq_ignore_ascii_case(b"trailers")
}

fn lists_trailers(value: &[u8]) -> bool {
    value
        .split(|byte| *byte == b',')
        .any(|member| is_trailers(member.trim_ascii()))
}

fn known_str(name: Name<'_>) -> &'static str {
    match name {
        Name::Known(known) => known.as_str(),
        Name::Other(_) => "",
    }
}
