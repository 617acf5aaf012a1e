//! Request heads: strict decoding and encoding (RFC 9114 sections 4.3.1 and 4.4, RFC 9220).

use std::net::Ipv6Addr;

use bytes::{Bytes, BytesMut};
use http::Method;
use http::uri::{Authority, PathAndQuery, Scheme};

use super::error::{EncodeError, H3Error, MessageError};
use super::field_map::{FieldMap, FieldSection, encode_fields};
use super::message::{Protocol, RequestHead};
use super::names::{Class, Known, Pseudo};
use super::qpack::{self, BlockWriter, FieldLimits, FieldVisitor, Name, Value};
use super::section::{Encoding, headers_frame};

/// Static table entries of RFC 9204 appendix A.
mod index {
    pub(super) const AUTHORITY: u8 = 0;
    pub(super) const PATH: u8 = 1;
    pub(super) const METHOD_CONNECT: u8 = 15;
    pub(super) const METHOD_DELETE: u8 = 16;
    pub(super) const METHOD_GET: u8 = 17;
    pub(super) const METHOD_HEAD: u8 = 18;
    pub(super) const METHOD_OPTIONS: u8 = 19;
    pub(super) const METHOD_POST: u8 = 20;
    pub(super) const METHOD_PUT: u8 = 21;
    pub(super) const SCHEME_HTTP: u8 = 22;
    pub(super) const SCHEME_HTTPS: u8 = 23;
}

/// Decodes and validates the payload of the HEADERS frame that begins a request.
///
/// The outcomes beside malformed messages: [`H3Error::FieldSectionTooLarge`] (to be answered with 431),
/// [`H3Error::UnsupportedProtocol`] (501), and [`H3Error::Qpack`], which ends the connection.
pub fn decode_request(block: &[u8], limits: &FieldLimits) -> Result<RequestHead, H3Error> {
    let mut parts = Parts {
        method: None,
        scheme: None,
        authority: None,
        path: None,
        protocol: None,
        host: None,
        fields: FieldMap::new(FieldSection::Request, block.len()),
    };
    qpack::decode(block, limits, &mut parts)?;
    parts.finish()
}

/// Appends a request's whole HEADERS frame. On an error nothing is appended.
///
/// Fields that belong to one HTTP/1.1 connection are left out; `host` is left out in favour of `authority`, or
/// takes its place where that is `None`.
pub fn encode_request(head: &RequestHead, encoding: Encoding, out: &mut BytesMut) -> Result<(), EncodeError> {
    headers_frame(out, encoding, |writer| {
        encode_pseudo(head, writer)?;
        // Plain and extended CONNECT have no content (RFC 9110 section 9.3.6).
        encode_fields(&head.headers, FieldSection::Request, !head.is_connect(), writer)
    })
}

/// A request whose fields arrive one by one.
struct Parts {
    method: Option<Method>,
    scheme: Option<Scheme>,
    authority: Option<Authority>,
    path: Option<Path>,
    protocol: Option<Option<Protocol>>,
    host: Option<Authority>,
    fields: FieldMap,
}

/// `*` is a path for OPTIONS only, and the method may come later.
enum Path {
    Slash(PathAndQuery),
    Asterisk,
}

impl FieldVisitor for Parts {
    fn field(&mut self, name: Name<'_>, value: Value<'_>) -> Result<(), H3Error> {
        match name.class() {
            Class::Pseudo(_) if !self.is_pseudo_time() => Err(MessageError::LatePseudo.into()),
            Class::Pseudo(pseudo) => Ok(self.pseudo(pseudo, value)?),
            _ if name.is_unknown_pseudo() => Err(MessageError::UnknownPseudo.into()),
            Class::Host if self.host.is_some() => Err(MessageError::DuplicateHost.into()),
            Class::Host => {
                self.host = Some(parse_authority(value.into_bytes())?);
                Ok(())
            }
            _ => self.fields.append(name, value),
        }
    }
}

impl Parts {
    fn is_pseudo_time(&self) -> bool {
        self.fields.is_empty() && self.host.is_none()
    }

    fn pseudo(&mut self, pseudo: Pseudo, value: Value<'_>) -> Result<(), MessageError> {
        let duplicate = match pseudo {
            Pseudo::Method => {
                let method = Method::from_bytes(value.as_bytes()).map_err(|_| MessageError::InvalidMethod)?;
                self.method.replace(method).is_some()
            }
            Pseudo::Scheme => {
                let scheme = match value.as_bytes() {
                    b"http" => Scheme::HTTP,
                    b"https" => Scheme::HTTPS,
                    _ => return Err(MessageError::InvalidScheme),
                };
                self.scheme.replace(scheme).is_some()
            }
            Pseudo::Authority => self
                .authority
                .replace(parse_authority(value.into_bytes())?)
                .is_some(),
            Pseudo::Path => self.path.replace(parse_path(value)?).is_some(),
            Pseudo::Protocol => {
                if value.as_bytes().is_empty() || !value.as_bytes().iter().all(u8::is_ascii_graphic) {
                    return Err(MessageError::InvalidValue);
                }
                self.protocol
                    .replace(Protocol::from_bytes(value.as_bytes()))
                    .is_some()
            }
            Pseudo::Status => return Err(MessageError::MisplacedPseudo(pseudo.as_str())),
        };
        if duplicate {
            Err(MessageError::DuplicatePseudo(pseudo.as_str()))
        } else {
            Ok(())
        }
    }

    fn finish(self) -> Result<RequestHead, H3Error> {
        let method = self.method.ok_or(MessageError::MissingPseudo(":method"))?;
        if let (Some(authority), Some(host)) = (&self.authority, &self.host)
            && authority != host
        {
            return Err(MessageError::HostDisagrees.into());
        }
        let path = match self.path {
            Some(Path::Slash(path)) => Some(path),
            Some(Path::Asterisk) if method == Method::OPTIONS => Some(PathAndQuery::from_static("*")),
            Some(Path::Asterisk) => return Err(MessageError::InvalidPath.into()),
            None => None,
        };
        let headers = self.fields.finish();
        let authority = self.authority.or(self.host);
        let protocol = self.protocol.flatten();
        let head = RequestHead {
            method,
            scheme: self.scheme,
            authority,
            path,
            protocol,
            headers,
        };
        check_shape(&head, self.protocol.is_some())?;
        if head.is_connect() && head.headers.contains_key(http::header::CONTENT_LENGTH) {
            return Err(MessageError::MisplacedContentLength.into());
        }
        if self.protocol == Some(None) {
            return Err(H3Error::UnsupportedProtocol);
        }
        Ok(head)
    }
}

/// Which pseudo-header fields a request must and must not have (the table at [`RequestHead`]).
fn check_shape(head: &RequestHead, has_protocol: bool) -> Result<(), MessageError> {
    let Some(authority) = &head.authority else {
        return Err(MessageError::MissingPseudo(":authority"));
    };
    if has_protocol && !head.is_connect() {
        return Err(MessageError::ProtocolWithoutConnect);
    }
    if head.is_connect() && !has_protocol {
        return match (&head.scheme, &head.path) {
            (Some(_), _) => Err(MessageError::ConnectWith(":scheme")),
            (_, Some(_)) => Err(MessageError::ConnectWith(":path")),
            _ if authority.port_u16().is_none() => Err(MessageError::ConnectPort),
            _ => Ok(()),
        };
    }
    match (&head.scheme, &head.path) {
        (None, _) => Err(MessageError::MissingPseudo(":scheme")),
        (_, None) => Err(MessageError::MissingPseudo(":path")),
        _ => Ok(()),
    }
}

/// An authority in canonical form: valid, and in lower case.
fn parse_authority(bytes: Bytes) -> Result<Authority, MessageError> {
    check_authority(&bytes)?;
    let bytes = if bytes.iter().any(u8::is_ascii_uppercase) {
        Bytes::from(bytes.to_ascii_lowercase())
    } else {
        bytes
    };
    Authority::from_maybe_shared(bytes).map_err(|_| MessageError::InvalidAuthority)
}

/// A host name or address, with a port or without. Narrower than RFC 3986: no sub-delimiters and no percent
/// encoding in names, no zone, no empty or zero-padded port, so that one host has one spelling.
fn check_authority(bytes: &[u8]) -> Result<(), MessageError> {
    if bytes.is_empty() {
        return Err(MessageError::EmptyAuthority);
    }
    if bytes.contains(&b'@') {
        return Err(MessageError::UserInfo);
    }
    let (host, port) = split_port(bytes).ok_or(MessageError::InvalidAuthority)?;
    let host_is_valid = match host {
        [b'[', address @ .., b']'] => {
            str::from_utf8(address).is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok())
        }
        [] => return Err(MessageError::EmptyAuthority),
        name => name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')),
    };
    let port_is_valid = port.is_none_or(|port| match port {
        [] | [b'0', _, ..] => false,
        digits => digits.iter().all(u8::is_ascii_digit) && matches!(decimal(digits), Some(0..=0xffff)),
    });
    if host_is_valid && port_is_valid {
        Ok(())
    } else {
        Err(MessageError::InvalidAuthority)
    }
}

/// Host, and what follows its colon.
fn split_port(bytes: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let host_end = match bytes {
        [b'[', ..] => bytes.iter().position(|byte| *byte == b']')? + 1,
        _ => bytes.iter().position(|byte| *byte == b':').unwrap_or(bytes.len()),
    };
    let (host, rest) = bytes.split_at_checked(host_end)?;
    match rest {
        [] => Some((host, None)),
        [b':', port @ ..] => Some((host, Some(port))),
        _ => None,
    }
}

fn decimal(digits: &[u8]) -> Option<u32> {
    str::from_utf8(digits).ok()?.parse().ok()
}

fn parse_path(value: Value<'_>) -> Result<Path, MessageError> {
    match value.as_bytes() {
        b"/" => return Ok(Path::Slash(PathAndQuery::from_static("/"))),
        b"*" => return Ok(Path::Asterisk),
        // `PathAndQuery` would cut a fragment off in silence.
        bytes if bytes.first() != Some(&b'/') || bytes.contains(&b'#') => {
            return Err(MessageError::InvalidPath);
        }
        _ => {}
    }
    // Refuses control characters, white space and what is not UTF-8.
    PathAndQuery::from_maybe_shared(value.into_bytes())
        .map(Path::Slash)
        .map_err(|_| MessageError::InvalidPath)
}

fn encode_pseudo(head: &RequestHead, writer: &mut BlockWriter<'_>) -> Result<(), MessageError> {
    encode_method(&head.method, writer);
    let is_plain_connect = head.is_connect() && head.protocol.is_none();
    if head.protocol.is_some() && !head.is_connect() {
        return Err(MessageError::ProtocolWithoutConnect);
    }
    if let Some(protocol) = head.protocol
        && let Some(name) = Known::find(b":protocol")
    {
        writer.known(name, protocol.as_str().as_bytes(), false);
    }
    match &head.scheme {
        None if is_plain_connect => {}
        None => return Err(MessageError::MissingPseudo(":scheme")),
        Some(_) if is_plain_connect => return Err(MessageError::ConnectWith(":scheme")),
        Some(scheme) if *scheme == Scheme::HTTP => writer.indexed(index::SCHEME_HTTP),
        Some(scheme) if *scheme == Scheme::HTTPS => writer.indexed(index::SCHEME_HTTPS),
        Some(_) => return Err(MessageError::InvalidScheme),
    }
    encode_authority(head, is_plain_connect, writer)?;
    match &head.path {
        None if is_plain_connect => Ok(()),
        None => Err(MessageError::MissingPseudo(":path")),
        Some(_) if is_plain_connect => Err(MessageError::ConnectWith(":path")),
        Some(path) => encode_path(&head.method, path, writer),
    }
}

fn encode_method(method: &Method, writer: &mut BlockWriter<'_>) {
    match *method {
        Method::GET => writer.indexed(index::METHOD_GET),
        Method::POST => writer.indexed(index::METHOD_POST),
        Method::PUT => writer.indexed(index::METHOD_PUT),
        Method::DELETE => writer.indexed(index::METHOD_DELETE),
        Method::HEAD => writer.indexed(index::METHOD_HEAD),
        Method::OPTIONS => writer.indexed(index::METHOD_OPTIONS),
        Method::CONNECT => writer.indexed(index::METHOD_CONNECT),
        _ => writer.with_name_of(index::METHOD_GET, method.as_str().as_bytes()),
    }
}

fn encode_authority(
    head: &RequestHead,
    needs_port: bool,
    writer: &mut BlockWriter<'_>,
) -> Result<(), MessageError> {
    let bytes = match &head.authority {
        Some(authority) => authority.as_str().as_bytes(),
        None => {
            let mut hosts = head.headers.get_all(http::header::HOST).iter();
            let host = hosts.next().ok_or(MessageError::MissingPseudo(":authority"))?;
            if hosts.next().is_some() {
                return Err(MessageError::DuplicateHost);
            }
            host.as_bytes()
        }
    };
    check_authority(bytes)?;
    if needs_port && split_port(bytes).is_none_or(|(_, port)| port.is_none()) {
        return Err(MessageError::ConnectPort);
    }
    writer.with_name_of(index::AUTHORITY, bytes);
    Ok(())
}

fn encode_path(
    method: &Method,
    path: &PathAndQuery,
    writer: &mut BlockWriter<'_>,
) -> Result<(), MessageError> {
    match path.as_str().as_bytes() {
        b"/" => writer.indexed(index::PATH),
        bytes @ [b'/', ..] => writer.with_name_of(index::PATH, bytes),
        b"*" if *method == Method::OPTIONS => writer.with_name_of(index::PATH, b"*"),
        // A URI without a path has the path "/" (RFC 9114 section 4.3.1).
        query @ [b'?', ..] => writer.with_name_of(index::PATH, &[b"/", query].concat()),
        _ => return Err(MessageError::InvalidPath),
    }
    Ok(())
}
