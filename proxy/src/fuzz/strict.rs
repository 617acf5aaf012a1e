//! A second reader of HTTP/1.1 messages, written from RFC 9112 and stricter than any server: what it takes, every
//! server reads in the same way. Used to judge what a sidecar sends, never to serve.

/// A request or a response, read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The three parts of the first line.
    pub start: [String; 3],
    /// Names in lower case, values without the white space around them.
    pub fields: Vec<(String, Vec<u8>)>,
    /// Without its framing.
    pub content: Vec<u8>,
    /// Those of a chunked message.
    pub trailers: Vec<(String, Vec<u8>)>,
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They may become one.
    Incomplete,
    /// They break the rule of this name.
    Broken(&'static str),
}

/// What a message answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: it is a request.
    Request,
    /// A request with this method.
    ResponseTo(&'static str),
}

impl Message {
    /// All values of a field.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let fields = self.fields.iter().filter(move |(field, _)| field == name);
        fields.map(|(_, value)| value.as_slice())
    }

    /// Reads the message at the front of `input`: it, and the bytes that it took. A response that lasts until the
    /// connection ends takes all, as if that were its end.
    pub fn read(input: &[u8], kind: Kind) -> Result<(Message, usize), Fault> {
        let mut reader = Reader { input, at: 0 };
        let start = match kind {
            Kind::Request => request_line(reader.line()?)?,
            Kind::ResponseTo(_) => status_line(reader.line()?)?,
        };
        let mut message = Message {
            start,
            fields: reader.fields()?,
            content: Vec::new(),
            trailers: Vec::new(),
        };
        match framing(&message, kind)? {
            Framing::Length(length) => message.content = reader.take(length)?.to_vec(),
            Framing::Chunked => {
                message.content = reader.chunks()?;
                message.trailers = reader.fields()?;
                check_trailers(&message.trailers)?;
            }
            Framing::UntilClose => message.content = reader.take(input.len() - reader.at)?.to_vec(),
        }
        Ok((message, reader.at))
    }
}

enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

struct Reader<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let end = self.at.checked_add(length).ok_or(Fault::Incomplete)?;
        let taken = self.input.get(self.at..end).ok_or(Fault::Incomplete)?;
        self.at = end;
        Ok(taken)
    }

    /// A line that ends in CRLF and has no other control characters but tabs (sections 2.2 and 5.5).
    fn line(&mut self) -> Result<&'a [u8], Fault> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let is_control = |byte: &u8| matches!(byte, 0..=8 | 10..=31 | 127);
        let end = rest.iter().position(is_control).ok_or(Fault::Incomplete)?;
        match rest.get(end..) {
            Some([b'\r']) => return Err(Fault::Incomplete),
            Some([b'\r', b'\n', ..]) => {}
            _ => return Err(Fault::Broken("control character")),
        }
        self.at += end + 2;
        rest.get(..end).ok_or(Fault::Incomplete)
    }

    /// Fields up to the empty line (section 5).
    fn fields(&mut self) -> Result<Vec<(String, Vec<u8>)>, Fault> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(fields);
            }
            let colon = line.iter().position(|byte| *byte == b':');
            let (name, value) = line.split_at(colon.ok_or(Fault::Broken("no colon"))?);
            let name = token(name).ok_or(Fault::Broken("field name"))?;
            let value = value.get(1..).unwrap_or_default().trim_ascii();
            fields.push((name.to_ascii_lowercase(), value.to_vec()));
        }
    }

    /// Chunks without extensions, up to and with the last one (section 7.1).
    fn chunks(&mut self) -> Result<Vec<u8>, Fault> {
        let mut content = Vec::new();
        loop {
            let size = self.line()?;
            let is_size = (1..=8).contains(&size.len()) && size.iter().all(u8::is_ascii_hexdigit);
            let size = std::str::from_utf8(size).ok().filter(|_| is_size);
            let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
            match size.ok_or(Fault::Broken("chunk size"))? {
                0 => return Ok(content),
                size => content.extend_from_slice(self.take(size)?),
            }
            if self.take(2)? != b"\r\n" {
                return Err(Fault::Broken("end of a chunk"));
            }
        }
    }
}

fn token(bytes: &[u8]) -> Option<&str> {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let text = std::str::from_utf8(bytes).ok()?;
    (!bytes.is_empty() && bytes.iter().all(is_token)).then_some(text)
}

/// Section 3.
fn request_line(line: &[u8]) -> Result<[String; 3], Fault> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Fault::Broken("request line"));
    };
    let method = token(method).ok_or(Fault::Broken("method"))?;
    let target = std::str::from_utf8(target)
        .ok()
        .filter(|target| !target.is_empty());
    let target = target.filter(|target| !target.bytes().any(|byte| byte.is_ascii_control()));
    let version = match version {
        b"HTTP/1.1" => "HTTP/1.1",
        b"HTTP/1.0" => "HTTP/1.0",
        _ => return Err(Fault::Broken("version")),
    };
    let target = target.ok_or(Fault::Broken("target"))?;
    Ok([method.into(), target.into(), version.into()])
}

/// Section 4.
fn status_line(line: &[u8]) -> Result<[String; 3], Fault> {
    let (version, rest) = line.split_at_checked(9).ok_or(Fault::Broken("status line"))?;
    let (status, reason) = rest.split_at_checked(3).ok_or(Fault::Broken("status line"))?;
    let is_sound = matches!(version, b"HTTP/1.1 " | b"HTTP/1.0 ")
        && status.iter().all(u8::is_ascii_digit)
        && (reason.is_empty() || reason.first() == Some(&b' '));
    if !is_sound {
        return Err(Fault::Broken("status line"));
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok([text(version), text(status), text(reason)])
}

/// Section 6.3, where whatever two servers might see differently is refused.
fn framing(message: &Message, kind: Kind) -> Result<Framing, Fault> {
    let [method, status, _] = &message.start;
    let version = match kind {
        Kind::Request => &message.start[2],
        Kind::ResponseTo(_) => &message.start[0],
    };
    let (mut codings, mut lengths) = (
        message.values("transfer-encoding"),
        message.values("content-length"),
    );
    let framing = match (codings.next(), lengths.next()) {
        (Some(_), Some(_)) => return Err(Fault::Broken("coding and length")),
        (Some(_), None) if version == "HTTP/1.0" => return Err(Fault::Broken("coding of HTTP/1.0")),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") && codings.next().is_none() => {
            Framing::Chunked
        }
        (Some(_), None) => return Err(Fault::Broken("coding")),
        (None, Some(length)) if lengths.next().is_none() => Framing::Length(decimal(length)?),
        (None, Some(_)) => return Err(Fault::Broken("two lengths")),
        (None, None) if kind == Kind::Request => Framing::Length(0),
        (None, None) => Framing::UntilClose,
    };
    match kind {
        Kind::Request => {
            let hosts = message.values("host").count();
            if hosts > 1 || hosts == 0 && version == "HTTP/1.1" {
                return Err(Fault::Broken("not one host"));
            }
            if method == "CONNECT" && !matches!(framing, Framing::Length(0)) {
                return Err(Fault::Broken("content of CONNECT"));
            }
            Ok(framing)
        }
        Kind::ResponseTo(method) => {
            let is_bodiless = status.starts_with('1') || matches!(status.as_str(), "204" | "304");
            let is_framed = !matches!(framing, Framing::UntilClose);
            if is_framed && (status.starts_with('1') || status == "204") {
                return Err(Fault::Broken("framing of nothing"));
            }
            let is_tunnel = method == "CONNECT" && status.starts_with('2');
            Ok(if is_bodiless || is_tunnel || method == "HEAD" {
                Framing::Length(0)
            } else {
                framing
            })
        }
    }
}

fn decimal(digits: &[u8]) -> Result<usize, Fault> {
    let text = std::str::from_utf8(digits).ok();
    let text = text.filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    text.and_then(|text| text.parse().ok())
        .ok_or(Fault::Broken("length"))
}

/// RFC 9110 section 6.5.1: what frames or routes a message is no trailer.
fn check_trailers(trailers: &[(String, Vec<u8>)]) -> Result<(), Fault> {
    let is_forbidden = |name: &str| {
        matches!(
            name,
            "content-length" | "transfer-encoding" | "host" | "connection" | "te" | "trailer" | "upgrade"
        )
    };
    if trailers.iter().any(|(name, _)| is_forbidden(name)) {
        return Err(Fault::Broken("trailer"));
    }
    Ok(())
}
