//! The head of a request as it is typed: a method, and fields.

use http::{HeaderName, HeaderValue, Method};

/// A method of HTTP. Tunnels are no requests.
///
/// # Errors
/// It is none, or CONNECT.
pub(crate) fn method(text: &str) -> Result<Method, String> {
    match text.parse() {
        Ok(Method::CONNECT) => Err("is for tunnels, which have no request".to_owned()),
        Ok(method) => Ok(method),
        Err(_) => Err("is not a method, such as GET".to_owned()),
    }
}

/// A field, as `NAME:VALUE`; spaces around the value are none of it.
///
/// # Errors
/// It is none, or one of the mesh's own.
pub(crate) fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| "is not NAME:VALUE".to_owned())?;
    let name: HeaderName = name
        .trim()
        .parse()
        .map_err(|_| format!("{:?} cannot be the name of a field", name.trim()))?;
    if name.as_str().starts_with("weft-") {
        return Err("weft- fields are the mesh's own".to_owned());
    }
    let value = value
        .trim()
        .parse()
        .map_err(|_| format!("the value of {name} has characters that no field may have"))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        for (text, name, value) in [
            ("x-a:1", "x-a", "1"),
            ("X-Tester:  yes ", "x-tester", "yes"),
            ("a:b:c", "a", "b:c"),
            ("a:", "a", ""),
        ] {
            let (found, content) = field(text).unwrap();
            assert_eq!((found.as_str(), content.to_str().unwrap()), (name, value));
        }
        for (text, why) in [
            ("x-a", "is not NAME:VALUE"),
            ("x a:1", "\"x a\" cannot be the name"),
            (":1", "\"\" cannot be the name"),
            ("x:a\nb", "the value of x has characters"),
            ("Weft-Port:1", "the mesh's own"),
        ] {
            assert!(field(text).unwrap_err().contains(why), "{text}");
        }
    }

    #[test]
    fn methods() {
        assert_eq!(method("PATCH"), Ok(Method::PATCH));
        assert!(method("CONNECT").is_err() && method("G T").is_err());
    }
}
