//! Response heads and trailers: strict decoding and encoding (RFC 9114 sections 4.1 and 4.3.2).

use bytes::BytesMut;
use http::HeaderMap;
use http::StatusCode;

use super::error::{EncodeError, H3Error, MessageError};
use super::field_map::{FieldMap, FieldSection, content_length, encode_fields};
use super::message::{ResponseHead, forbids_content_length};
use super::names::{Class, Pseudo};
use super::qpack::{self, BlockWriter, FieldLimits, FieldVisitor, Name, Value};
use super::section::{Encoding, headers_frame};

/// Decodes and validates the payload of a HEADERS frame that begins a response, interim or final.
pub fn decode_response(block: &[u8], limits: &FieldLimits) -> Result<ResponseHead, H3Error> {
    let mut parts = Parts {
        status: None,
        fields: FieldMap::new(FieldSection::Response, block.len()),
    };
    qpack::decode(block, limits, &mut parts)?;
    let status = parts.status.ok_or(MessageError::MissingPseudo(":status"))?;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(MessageError::SwitchingProtocols.into());
    }
    let headers = parts.fields.finish();
    // Zero is a common slip that says nothing wrong; any other length could desynchronise an HTTP/1.1 reader.
    if forbids_content_length(status) && content_length(&headers)?.is_some_and(|length| length > 0) {
        return Err(MessageError::MisplacedContentLength.into());
    }
    Ok(ResponseHead { status, headers })
}

/// Appends a response's whole HEADERS frame. On an error nothing is appended.
///
/// Fields that belong to one HTTP/1.1 connection are left out, and `content-length` of 1xx and 204. In a successful
/// response to CONNECT the caller must leave it out.
pub fn encode_response(
    head: &ResponseHead,
    encoding: Encoding,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    headers_frame(out, encoding, |writer| {
        encode_status(head.status, writer)?;
        let content_length = !forbids_content_length(head.status);
        encode_fields(&head.headers, FieldSection::Response, content_length, writer)
    })
}

/// Decodes and validates the payload of a HEADERS frame that ends a message.
pub fn decode_trailers(block: &[u8], limits: &FieldLimits) -> Result<HeaderMap, H3Error> {
    let mut trailers = Trailers(FieldMap::new(FieldSection::Trailers, block.len()));
    qpack::decode(block, limits, &mut trailers)?;
    Ok(trailers.0.finish())
}

/// Appends the whole HEADERS frame of trailers. What cannot be a trailer is left out.
pub fn encode_trailers(
    trailers: &HeaderMap,
    encoding: Encoding,
    out: &mut BytesMut,
) -> Result<(), EncodeError> {
    headers_frame(out, encoding, |writer| {
        encode_fields(trailers, FieldSection::Trailers, false, writer)
    })
}

struct Parts {
    status: Option<StatusCode>,
    fields: FieldMap,
}

impl FieldVisitor for Parts {
    fn field(&mut self, name: Name<'_>, value: Value<'_>) -> Result<(), H3Error> {
        match name.class() {
            Class::Pseudo(_) if !self.fields.is_empty() => Err(MessageError::LatePseudo.into()),
            Class::Pseudo(Pseudo::Status) if self.status.is_some() => {
                Err(MessageError::DuplicatePseudo(":status").into())
            }
            Class::Pseudo(Pseudo::Status) => {
                self.status = Some(parse_status(value.as_bytes())?);
                Ok(())
            }
            _ if name.is_unknown_pseudo() => Err(MessageError::UnknownPseudo.into()),
            _ => self.fields.append(name, value),
        }
    }
}

struct Trailers(FieldMap);

impl FieldVisitor for Trailers {
    fn field(&mut self, name: Name<'_>, value: Value<'_>) -> Result<(), H3Error> {
        if name.is_unknown_pseudo() {
            return Err(MessageError::UnknownPseudo.into());
        }
        self.0.append(name, value)
    }
}

/// Three digits, of a class that exists (RFC 9110 section 15).
fn parse_status(value: &[u8]) -> Result<StatusCode, MessageError> {
    match StatusCode::from_bytes(value) {
        Ok(status) if status.as_u16() < 600 => Ok(status),
        _ => Err(MessageError::InvalidStatus),
    }
}

fn encode_status(status: StatusCode, writer: &mut BlockWriter<'_>) -> Result<(), MessageError> {
    // Static table entries of RFC 9204 appendix A.
    match status.as_u16() {
        100 => writer.indexed(63),
        101 => return Err(MessageError::SwitchingProtocols),
        103 => writer.indexed(24),
        200 => writer.indexed(25),
        204 => writer.indexed(64),
        206 => writer.indexed(65),
        302 => writer.indexed(66),
        304 => writer.indexed(26),
        400 => writer.indexed(67),
        403 => writer.indexed(68),
        404 => writer.indexed(27),
        421 => writer.indexed(69),
        425 => writer.indexed(70),
        500 => writer.indexed(71),
        503 => writer.indexed(28),
        600.. => return Err(MessageError::InvalidStatus),
        _ => writer.with_name_of(24, status.as_str().as_bytes()),
    }
    Ok(())
}
