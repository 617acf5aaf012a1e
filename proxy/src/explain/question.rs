//! A request that is asked about, as an operator writes it: read within limits, and then as any request of the
//! application.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header::HOST, request::Parts, uri::Scheme,
};

/// The longest URL. Applications that have longer ones are told by the rest of them as well.
const MAX_URL: usize = 8 << 10;
/// The longest method, of which HTTP knows none of more than 17 letters.
const MAX_METHOD: usize = 32;
/// The most fields, and what names and values may have together: as much as many servers take.
const MAX_FIELDS: usize = 64;
const MAX_FIELDS_BYTES: usize = 32 << 10;

/// A request that nobody sends.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

/// Why a request cannot be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unclear {
    #[error("the method is none")]
    Method,
    #[error("CONNECT asks for a tunnel: what is explained is requests")]
    Connect,
    #[error("the URL has more than {MAX_URL} bytes")]
    LongUrl,
    #[error("the URL is not one of http://HOST[:PORT]/PATH")]
    Url,
    #[error("there are more than {MAX_FIELDS} headers")]
    ManyFields,
    #[error("the headers have more than {MAX_FIELDS_BYTES} bytes")]
    LongFields,
    #[error("header {0} is not NAME:VALUE")]
    Field(usize),
    #[error("Host is that of the URL")]
    Host,
}

impl Question {
    /// Reads it. The fields are `name: value` each.
    ///
    /// # Errors
    /// It is no request, or larger than any that is explained.
    pub(crate) fn parse<'a>(
        method: &str,
        url: &str,
        fields: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, Unclear> {
        if method.len() > MAX_METHOD {
            return Err(Unclear::Method);
        }
        let method = method.parse().map_err(|_| Unclear::Method)?;
        if method == Method::CONNECT {
            return Err(Unclear::Connect);
        }
        if url.len() > MAX_URL {
            return Err(Unclear::LongUrl);
        }
        let uri: Uri = url.parse().map_err(|_| Unclear::Url)?;
        if uri.scheme() != Some(&Scheme::HTTP) {
            return Err(Unclear::Url);
        }
        Ok(Self {
            method,
            uri,
            headers: headers(fields)?,
        })
    }

    /// The head, as the application would send it to its sidecar as a proxy.
    pub(super) fn into_head(self) -> Parts {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = self.method;
        head.headers = self.headers;
        let host = self.uri.authority().map(http::uri::Authority::as_str);
        if let Some(host) = host.and_then(|host| HeaderValue::from_str(host).ok()) {
            head.headers.insert(HOST, host);
        }
        head.uri = self.uri;
        head
    }
}

fn headers<'a>(fields: impl IntoIterator<Item = &'a str>) -> Result<HeaderMap, Unclear> {
    let mut headers = HeaderMap::new();
    let mut bytes = 0;
    for (index, field) in fields.into_iter().enumerate() {
        let wrong = || Unclear::Field(index + 1);
        bytes += field.len();
        if index >= MAX_FIELDS {
            return Err(Unclear::ManyFields);
        }
        if bytes > MAX_FIELDS_BYTES {
            return Err(Unclear::LongFields);
        }
        let (name, value) = field.split_once(':').ok_or_else(wrong)?;
        let name: HeaderName = name.trim().parse().map_err(|_| wrong())?;
        if name == HOST {
            return Err(Unclear::Host);
        }
        headers.append(name, value.trim().parse().map_err(|_| wrong())?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_as_the_application_would_send_it() {
        let question = Question::parse("GET", "http://Web:8080/a?b=c", ["X-A: 1", "x-a:2"]).unwrap();
        let head = question.into_head();
        assert_eq!(head.uri, "http://web:8080/a?b=c");
        assert_eq!(head.headers[HOST], "Web:8080");
        let values: Vec<_> = head.headers.get_all("x-a").iter().collect();
        assert_eq!(values, ["1", "2"]);
    }

    #[test]
    fn what_is_no_request_or_too_large_is_refused() {
        let url = "http://web/";
        let long = format!("http://web/{}", "x".repeat(MAX_URL));
        for (method, url, wanted) in [
            ("G T", url, Unclear::Method),
            ("", url, Unclear::Method),
            (&*"X".repeat(33), url, Unclear::Method),
            ("CONNECT", url, Unclear::Connect),
            ("GET", &*long, Unclear::LongUrl),
            ("GET", "web", Unclear::Url),
            ("GET", "/path", Unclear::Url),
            ("GET", "https://web/", Unclear::Url),
            ("GET", "http://", Unclear::Url),
            ("GET", "http://a b/", Unclear::Url),
        ] {
            assert_eq!(Question::parse(method, url, []).unwrap_err(), wanted, "{url}");
        }
        for (field, wanted) in [
            ("x", Unclear::Field(2)),
            ("x y:1", Unclear::Field(2)),
            ("x:\r\n", Unclear::Field(2)),
            ("x:a\nb", Unclear::Field(2)),
            ("Host:other", Unclear::Host),
            (
                &*format!("x:{}", "y".repeat(MAX_FIELDS_BYTES)),
                Unclear::LongFields,
            ),
        ] {
            let read = Question::parse("GET", url, ["a:b", field]);
            assert_eq!(read.err(), (field != "x:\r\n").then_some(wanted), "{field:.9}");
        }
        let read = Question::parse("GET", url, std::iter::repeat_n("a:b", MAX_FIELDS + 1));
        assert_eq!(read.unwrap_err(), Unclear::ManyFields);
    }
}
