//! The file of contexts: what is in it, read and written.
//!
//! ```yaml
//! current: prod
//! contexts:
//! - name: prod
//!   controller: 10.0.0.1:15010
//!   namespace: default
//!   certificate: |
//!     -----BEGIN CERTIFICATE-----
//!     ...
//!   key: ann.key
//!   trustBundle: roots.pem
//! ```
//!
//! Each of the last three is PEM, or the path of a file with it, relative to the file of contexts.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use weft_proto::{
    DocumentError, Source,
    reader::{Value, read_document},
};
use weft_tls::Credentials;

use super::{DEFAULT_NAMESPACE, store};
use crate::cli::failure::Failure;

/// How PEM begins, as no path does.
const PEM: &str = "-----BEGIN ";

/// All contexts of a file. No two have the same name, and the current one is among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contexts {
    pub(crate) current: Option<String>,
    pub(crate) contexts: Vec<Context>,
}

/// One controller, and as whom to call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) name: String,
    /// `HOST:PORT`.
    pub(crate) controller: String,
    /// Of commands that name none.
    pub(crate) namespace: String,
    pub(crate) certificate: Pem,
    pub(crate) key: Pem,
    pub(crate) trust_bundle: Pem,
}

/// PEM, or where it is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Pem {
    Inline(String),
    File(PathBuf),
}

impl fmt::Debug for Pem {
    /// It may be a private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Inline"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl Contexts {
    /// Reads them.
    ///
    /// # Errors
    /// All that is wrong, with its line.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, Vec<DocumentError>> {
        read_document(&Source::new(name, text), contexts)
    }

    /// The context of this name, or else the current one, or else the only one.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn choose(&self, name: Option<&str>) -> Result<Context, Failure> {
        let names = || self.contexts.iter().map(|context| context.name.clone()).collect();
        let name = match (name.or(self.current.as_deref()), self.contexts.as_slice()) {
            (Some(name), _) => name,
            (None, [only]) => return Ok(only.clone()),
            (None, _) => {
                return Err(Failure::Other(
                    "no context is the current one".to_owned(),
                    Some("Choose one: `weft context use NAME`, or --context NAME.".to_owned()),
                ));
            }
        };
        let context = self.contexts.iter().find(|context| context.name == name);
        context
            .cloned()
            .ok_or_else(|| Failure::UnknownContext(name.to_owned(), names()))
    }

    /// Adds a context, in place of the one of the same name.
    pub(crate) fn put(&mut self, context: Context) {
        match self.contexts.iter_mut().find(|known| known.name == context.name) {
            Some(known) => *known = context,
            None => self.contexts.push(context),
        }
    }

    /// The file's text.
    pub(super) fn to_yaml(&self) -> String {
        let mut text =
            String::from("# Contexts of weft. Whoever can read this file can act as its operators.\n");
        if let Some(current) = &self.current {
            text.push_str(&format!("current: {}\n", quoted(current)));
        }
        if self.contexts.is_empty() {
            text.push_str("contexts: []\n");
            return text;
        }
        text.push_str("contexts:\n");
        for context in &self.contexts {
            text.push_str(&format!("- name: {}\n", quoted(&context.name)));
            for (field, value) in [
                ("controller", &context.controller),
                ("namespace", &context.namespace),
            ] {
                text.push_str(&format!("  {field}: {}\n", quoted(value)));
            }
            for (field, pem) in [
                ("certificate", &context.certificate),
                ("key", &context.key),
                ("trustBundle", &context.trust_bundle),
            ] {
                pem.write(field, &mut text);
            }
        }
        text
    }
}

impl Context {
    /// Its credential, with which a controller is called. `file` is the file of contexts.
    ///
    /// # Errors
    /// A file cannot be read, or it is of no use.
    pub(crate) fn credentials(&self, file: &Path) -> Result<Credentials, Failure> {
        let read = |pem: &Pem| pem.read(file);
        let [chain, key, bundle] = [&self.certificate, &self.key, &self.trust_bundle].map(read);
        Credentials::from_pem(chain?.as_bytes(), key?.as_bytes(), bundle?.as_bytes())
            .map_err(|error| Failure::Credential(self.name.clone(), error.to_string()))
    }
}

impl Pem {
    /// The PEM. `file` is the file of contexts.
    ///
    /// # Errors
    /// The file with it cannot be read.
    pub(crate) fn read(&self, file: &Path) -> Result<String, Failure> {
        match self {
            Self::Inline(text) => Ok(text.clone()),
            Self::File(path) => {
                let path = beside(file, path);
                fs::read_to_string(&path).map_err(|source: io::Error| Failure::File {
                    doing: "read",
                    path,
                    source,
                })
            }
        }
    }

    /// Puts other PEM in its place: here, or in its file.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn replace(&mut self, file: &Path, pem: &str) -> Result<(), Failure> {
        match self {
            Self::Inline(text) => pem.clone_into(text),
            Self::File(path) => {
                let path = beside(file, path);
                store::write(&path, pem).map_err(|source| Failure::File {
                    doing: "write",
                    path,
                    source,
                })?;
            }
        }
        Ok(())
    }

    fn write(&self, field: &str, to: &mut String) {
        match self {
            Self::Inline(pem) => {
                to.push_str(&format!("  {field}: |\n"));
                for line in pem.lines().filter(|line| !line.is_empty()) {
                    to.push_str(&format!("    {line}\n"));
                }
            }
            Self::File(path) => to.push_str(&format!("  {field}: {}\n", quoted(&path.to_string_lossy()))),
        }
    }
}

/// A path of the file of contexts, which is relative to it.
fn beside(file: &Path, path: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

/// Plain where nothing could be taken for anything else. A string of JSON is one of YAML.
fn quoted(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/'))
        && !["true", "false", "null", "yes", "no", "on", "off"].contains(&text.to_ascii_lowercase().as_str());
    if is_plain {
        text.to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

fn contexts(root: &Value<'_>) -> Option<Contexts> {
    root.mapping(|fields| {
        let contexts = fields.required("contexts", |value| {
            let mut names = Vec::new();
            value.list(|value| context(value, &mut names))
        });
        let names: Vec<String> = contexts
            .iter()
            .flatten()
            .map(|context| context.name.clone())
            .collect();
        let is_whole = contexts.is_some();
        let current = fields.optional("current", |value| {
            let name = value.string()?;
            if is_whole && !names.iter().any(|known| known == name) {
                value.error(format_args!("{name:?} is none of the contexts"));
            }
            Some(name.to_owned())
        });
        Some(Contexts {
            current,
            contexts: contexts?,
        })
    })
}

fn context(value: &Value<'_>, names: &mut Vec<String>) -> Option<Context> {
    value.mapping(|fields| {
        let name = fields.required("name", |value| {
            let name = value.parse(context_name)?;
            if names.contains(&name) {
                value.error(format_args!("there is a context {name} already"));
            }
            names.push(name.clone());
            Some(name)
        });
        let controller = fields.required("controller", |value| value.parse(controller_address));
        let namespace = fields.optional("namespace", |value| {
            value.parse(|text| weft_proto::names::DnsLabel::parse(text).map(|label| label.to_string()))
        });
        let certificate = fields.required("certificate", pem);
        let key = fields.required("key", pem);
        let trust_bundle = fields.required("trustBundle", pem);
        Some(Context {
            name: name?,
            controller: controller?,
            namespace: namespace.unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            certificate: certificate?,
            key: key?,
            trust_bundle: trust_bundle?,
        })
    })
}

fn pem(value: &Value<'_>) -> Option<Pem> {
    let text = value.string()?;
    if text.is_empty() {
        value.error("neither PEM nor the path of a file");
        return None;
    }
    Some(if text.trim_start().starts_with(PEM) {
        Pem::Inline(text.to_owned())
    } else {
        Pem::File(text.into())
    })
}

/// A name for a context: visible characters that need no quotes in a shell.
///
/// # Errors
/// It is none.
pub(crate) fn context_name(text: &str) -> Result<String, String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@');
    if (1..=64).contains(&text.len()) && text.bytes().all(is_allowed) && !text.starts_with('-') {
        Ok(text.to_owned())
    } else {
        Err("is not a name for a context (1 to 64 of letters, digits, '-', '_', '.' and '@')".to_owned())
    }
}

/// `HOST:PORT`; with the port of controllers if there is none.
///
/// # Errors
/// It is none.
pub(crate) fn controller_address(text: &str) -> Result<String, String> {
    /// Where a controller listens unless it is told otherwise.
    const PORT: u16 = 15010;
    let wrong = || "is not a host and port, such as mesh.example:15010, 10.0.0.1 or [::1]:15010".to_owned();
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok(format!("[{text}]:{PORT}"));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, port.parse::<u16>().ok()),
        _ => (text, Some(PORT)),
    };
    let is_v6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    let is_name = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    match port {
        Some(port) if port > 0 && (is_v6 || is_name) => Ok(format!("{host}:{port}")),
        _ => Err(wrong()),
    }
}
